"""What a workload is: the work said once in PyTorch steps, once as a call of the library, once for JAX.

A workload is a sequence that carries a state: ``step`` functions map (parameters, state, what one step is given) to
(output, next state), and everything that a rival needs is built from them. Another network is another subclass of
:class:`Workload`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..floor import Traffic
from .formulations import ADDCMUL, BADDBMM, LINEAR, POINTWISE, Formulation, Formulations

if TYPE_CHECKING:
    from plastikern.nn.base import PlasticModule

Parameters = dict[str, Tensor]
State = tuple[Tensor, ...]
Drives = tuple[Tensor, ...]
Step = Callable[[Parameters, State, Drives], tuple[Tensor, State]]

FORWARD, FORWARD_BACKWARD = PASSES = ("forward", "forward_backward")


@dataclass(frozen=True)
class Inputs:
    """One sequence and everything that its gradients depend on.

    ``drives`` (what the steps are given) and ``upstream`` (the gradient of the loss with respect to every output) are
    time-major (T, B, ...); tensors of ``state`` begin with B. Gradients are taken for the drives and every parameter.
    """

    parameters: Parameters
    state: State
    drives: Drives
    upstream: Tensor

    def differentiated(self) -> tuple[Tensor, ...]:
        return (*self.drives, *self.parameters.values())

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        parameters = {name: function(tensor) for name, tensor in self.parameters.items()}
        state = tuple(function(tensor) for tensor in self.state)
        return Inputs(parameters, state, tuple(map(function, self.drives)), function(self.upstream))

    def first_steps(self, steps: int) -> Inputs:
        """The beginning of the sequence, with drives of its own to differentiate."""
        drives = tuple(
            drive[:steps].detach().requires_grad_(drive.requires_grad) for drive in self.drives
        )
        return dataclasses.replace(self, drives=drives, upstream=self.upstream[:steps])

    def element(self, index: int) -> Inputs:
        """The sequence of one element of the batch."""
        one = slice(index, index + 1)
        state = tuple(tensor[one] for tensor in self.state)
        return Inputs(
            self.parameters,
            state,
            tuple(drive[:, one] for drive in self.drives),
            self.upstream[:, one],
        )


@dataclass(frozen=True)
class Workload(ABC):
    """One row group of the table; sizes are those of the network that the papers train."""

    name: str
    batch: int
    steps: int
    passes: ClassVar[tuple[str, ...]] = PASSES
    eager: ClassVar[Formulations] = {"addcmul": ADDCMUL, "baddbmm": BADDBMM, "linear": LINEAR}
    compiled: ClassVar[Formulations] = {"addcmul": ADDCMUL, "pointwise": POINTWISE}
    # Families of variants that make no sense for it, each with the reason.
    without: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def inputs(self) -> Inputs:
        """Random inputs in fp32, the same ones in every process."""

    @abstractmethod
    def step(self, formulation: Formulation) -> Step:
        """One step of a loop over the steps, written in one of the ways."""

    def eager_steps(self) -> dict[str, Step]:
        """One step as a careful user of eager PyTorch would write it, in each way that is the fastest somewhere."""
        return {name: self.step(formulation) for name, formulation in self.eager.items()}

    def compiled_steps(self) -> dict[str, Step]:
        """The same for ``torch.compile``, which fuses what eager PyTorch would write to memory."""
        return {name: self.step(formulation) for name, formulation in self.compiled.items()}

    @abstractmethod
    def library(
        self, parameters: Parameters, state: State, drives: Drives, backend: str
    ) -> tuple[Tensor, State]:
        """The whole sequence by a backend of the library: outputs (T, B, ...) and last state."""

    @abstractmethod
    def module(self) -> PlasticModule:
        """The network as a module on the meta device, from which plans are made."""

    @property
    def steps_of_call(self) -> int:
        """Steps that one call of the library takes."""
        return self.steps

    @abstractmethod
    def traffic(self, kernel: str) -> Traffic:
        """Bytes that the kernel, ``"forward"`` or ``"backward"``, must move."""

    def begin(self, parameters: Any, state: Any, drives: Any) -> tuple[Any, Any]:
        """State and drives of a rival's loop over the steps, from those of the sequence: the work outside of the loop.

        It is given tensors, or arrays of JAX.
        """
        return state, drives

    def jax_step(self, jnp: ModuleType) -> Callable[[Any, Any, Any], Any] | None:
        """One step for ``jax.lax.scan`` with the signature of :data:`Step`; None leaves JAX out."""
        return None


class Normal:
    """Standard normal tensors, the same ones in every process."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(20)

    def __call__(self, *size: int) -> Tensor:
        return torch.randn(size, generator=self._generator)
