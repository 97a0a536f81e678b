"""What is measured: the work of each workload, said once in PyTorch steps, once as a call of the library, once for JAX.

A workload is a sequence that carries a state: ``step`` functions map (parameters, state, drive of one step) to (output,
next state), and everything that a rival needs is built from them. Another network is another subclass of
:class:`Workload`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

import plastikern.functional as PF

from .floor import Traffic

Parameters = dict[str, Tensor]
State = tuple[Tensor, ...]
Step = Callable[[Parameters, State, Tensor], tuple[Tensor, State]]

FORWARD, FORWARD_BACKWARD = PASSES = ("forward", "forward_backward")


@dataclass(frozen=True)
class Inputs:
    """One sequence and everything that its gradients depend on.

    ``drive`` and ``upstream`` (the gradient of the loss with respect to every output) are time-major (T, B, ...);
    tensors of ``state`` begin with B. Gradients are taken for the drive and for every parameter.
    """

    parameters: Parameters
    state: State
    drive: Tensor
    upstream: Tensor

    def differentiated(self) -> tuple[Tensor, ...]:
        return (self.drive, *self.parameters.values())

    def gradient_names(self) -> tuple[str, ...]:
        return ("drive", *self.parameters)

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        parameters = {name: function(tensor) for name, tensor in self.parameters.items()}
        state = tuple(function(tensor) for tensor in self.state)
        return Inputs(parameters, state, function(self.drive), function(self.upstream))

    def first_steps(self, steps: int) -> Inputs:
        """The beginning of the sequence, with a drive of its own to differentiate."""
        drive = self.drive[:steps].detach().requires_grad_(self.drive.requires_grad)
        return dataclasses.replace(self, drive=drive, upstream=self.upstream[:steps])

    def element(self, index: int) -> Inputs:
        """The sequence of one element of the batch."""
        one = slice(index, index + 1)
        state = tuple(tensor[one] for tensor in self.state)
        return Inputs(self.parameters, state, self.drive[:, one], self.upstream[:, one])


@dataclass(frozen=True)
class Workload(ABC):
    """One row group of the table; sizes are those of the network that the papers train."""

    name: str
    batch: int
    steps: int
    passes: ClassVar[tuple[str, ...]] = PASSES

    @abstractmethod
    def inputs(self) -> Inputs:
        """Random inputs in fp32, the same ones in every process."""

    @abstractmethod
    def eager_steps(self) -> dict[str, Step]:
        """One step as a careful user of eager PyTorch would write it, in each way that is the fastest somewhere."""

    @abstractmethod
    def compiled_steps(self) -> dict[str, Step]:
        """The same for ``torch.compile``, which fuses what eager PyTorch would write to memory."""

    @abstractmethod
    def library(self, parameters: Parameters, state: State, drive: Tensor, backend: str) -> tuple[Tensor, State]:
        """The whole sequence by a backend of the library: outputs (T, B, ...) and last state."""

    @abstractmethod
    def traffic(self, kernel: str) -> Traffic:
        """Bytes that the kernel, ``"forward"`` or ``"backward"``, must move."""

    def jax_step(self, jnp: ModuleType) -> Callable[[Any, Any, Any], Any] | None:
        """One step for ``jax.lax.scan`` with the signature of :data:`Step`; None leaves JAX out."""
        return None


@dataclass(frozen=True)
class PlasticRNNWorkload(Workload):
    """Plastic RNN, rule decay, alpha per connection, learned eta, drive added, tanh, loss on every output."""

    neurons: int

    def inputs(self) -> Inputs:
        generator = torch.Generator().manual_seed(20)
        shape, square = (self.steps, self.batch, self.neurons), (self.neurons, self.neurons)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator)

        parameters = {"weight": 0.01 * normal(*square), "alpha": 0.01 * normal(*square), "eta": torch.tensor(0.01)}
        state = (torch.zeros(shape[1:]), torch.zeros(self.batch, *square))
        return Inputs(parameters, state, normal(*shape), normal(*shape))

    def eager_steps(self) -> dict[str, Step]:
        return {"addcmul": _step_addcmul, "baddbmm": _step_baddbmm, "linear": _step_linear}

    def compiled_steps(self) -> dict[str, Step]:
        return {"addcmul": _step_addcmul, "pointwise": _step_pointwise}

    def library(self, parameters: Parameters, state: State, drive: Tensor, backend: str) -> tuple[Tensor, State]:
        hidden, trace = state
        weight, alpha, eta = parameters["weight"], parameters["alpha"], parameters["eta"]
        output, hidden, trace = PF.plastic_rnn_sequence(drive, hidden, trace, weight, alpha, eta, backend=backend)
        return output, (hidden, trace)

    def traffic(self, kernel: str) -> Traffic:
        size = self.neurons**2
        steps = self.steps * self.batch * size
        if kernel == "forward":
            # Reads weight, alpha and trace, writes the trace. Once: the last trace of each element.
            return Traffic(reads=3, writes=1, synapse_steps=steps, once=self.batch * size, arrays=3, length=size)
        # Reads weight, alpha, trace and its gradient, writes the last two. Once: the gradients of weight and alpha, and
        # the trace of each element from which the backward pass starts.
        return Traffic(reads=4, writes=2, synapse_steps=steps, once=(2 + self.batch) * size, arrays=4, length=size)

    def jax_step(self, jnp: ModuleType) -> Callable[[Any, Any, Any], Any]:
        def step(parameters: Any, state: Any, drive: Any) -> Any:
            hidden, trace = state
            eta = parameters["eta"]
            effective = parameters["weight"] + parameters["alpha"] * trace
            active = jnp.tanh(drive + jnp.einsum("boi,bi->bo", effective, hidden))
            return active, (active, (1 - eta) * trace + eta * active[:, :, None] * hidden[:, None, :])

        return step


def _step_addcmul(parameters: Parameters, state: State, drive: Tensor) -> tuple[Tensor, State]:
    hidden, trace = state
    eta = parameters["eta"]
    active = _read_by_bmm(parameters, state, drive)
    trace = torch.addcmul((1 - eta) * trace, (eta * active).unsqueeze(2), hidden.unsqueeze(1))
    return active, (active, trace)


def _step_baddbmm(parameters: Parameters, state: State, drive: Tensor) -> tuple[Tensor, State]:
    active = _read_by_bmm(parameters, state, drive)
    return active, (active, _update_by_bmm(parameters["eta"], active, *state))


def _step_linear(parameters: Parameters, state: State, drive: Tensor) -> tuple[Tensor, State]:
    # The weight is read once for the whole batch.
    hidden, trace = state
    plastic = torch.bmm(parameters["alpha"] * trace, hidden.unsqueeze(2)).squeeze(2)
    active = torch.tanh(F.linear(hidden, parameters["weight"]) + plastic + drive)
    return active, (active, _update_by_bmm(parameters["eta"], active, *state))


def _step_pointwise(parameters: Parameters, state: State, drive: Tensor) -> tuple[Tensor, State]:
    # Without a matrix product a compiler can fuse the read with what surrounds it.
    hidden, trace = state
    eta = parameters["eta"]
    effective = parameters["weight"] + parameters["alpha"] * trace
    active = torch.tanh(drive + (effective * hidden.unsqueeze(1)).sum(2))
    trace = (1 - eta) * trace + (eta * active).unsqueeze(2) * hidden.unsqueeze(1)
    return active, (active, trace)


def _read_by_bmm(parameters: Parameters, state: State, drive: Tensor) -> Tensor:
    hidden, trace = state
    effective = torch.addcmul(parameters["weight"], parameters["alpha"], trace)
    return torch.tanh(torch.baddbmm(drive.unsqueeze(2), effective, hidden.unsqueeze(2)).squeeze(2))


def _update_by_bmm(eta: Tensor, active: Tensor, hidden: Tensor, trace: Tensor) -> Tensor:
    return torch.baddbmm((1 - eta) * trace, (eta * active).unsqueeze(2), hidden.unsqueeze(1))


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        PlasticRNNWorkload("patterns", batch=1, steps=106, neurons=1001),
        PlasticRNNWorkload("images", batch=1, steps=201, neurons=1025),
        PlasticRNNWorkload("images-b8", batch=8, steps=60, neurons=1025),
        # Nothing that is measured on it means anything: it shows in seconds that a rival or the harness works.
        PlasticRNNWorkload("tiny", batch=2, steps=9, neurons=17),
    )
}


def workload_named(name: str) -> Workload:
    """A workload by its name in the table.

    Raises:
        ValueError: there is no such workload.
    """
    if name not in WORKLOADS:
        raise ValueError(f"workload must be one of {', '.join(WORKLOADS)}; got {name!r}")
    return WORKLOADS[name]
