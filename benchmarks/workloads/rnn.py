"""Plastic RNNs: alpha per connection, drive added, tanh, loss on every output."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

import plastikern.functional as PF
from plastikern import Plasticity, PlasticRNN

from ..floor import Traffic, connection_traffic
from .base import FORWARD, Drives, Inputs, Normal, Parameters, State, Step, Workload
from .formulations import LINEAR_IN_PLACE, POINTWISE_IN_PLACE, Formulation, Formulations
from .modulator import jax_rates, jax_signal, library_modulator, modulator_parameters, rates, signal

# From parameters, activity after and before the step (B, N) and traces (B, N, N): the next traces.
Change = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class RNNWorkload(Workload):
    """What all of them share; a subclass says how the traces change."""

    neurons: int
    # Traces of a connection: one, or one and its eligibility.
    traces: ClassVar[int] = 1

    @property
    def plasticity(self) -> Plasticity:
        return Plasticity()

    def module(self) -> PlasticRNN:
        return PlasticRNN(None, self.neurons, plasticity=self.plasticity, device="meta")

    @abstractmethod
    def change(self, formulation: Formulation) -> Change:
        """The change of the traces in one of the ways."""

    @abstractmethod
    def jax_change(self, jnp: ModuleType) -> Callable[..., tuple[Any, ...]]:
        """The same for JAX."""

    def step(self, formulation: Formulation) -> Step:
        read, change = formulation.read, self.change(formulation)

        def step(parameters: Parameters, state: State, drives: Drives) -> tuple[Tensor, State]:
            hidden, *traces = state
            (drive,) = drives
            active = torch.tanh(
                read(parameters["weight"], parameters["alpha"], traces[0], hidden, drive)
            )
            return active, (active, *change(parameters, active, hidden, *traces))

        return step

    def traffic(self, kernel: str) -> Traffic:
        return connection_traffic(
            kernel, self.steps, self.batch, self.neurons**2, traces=self.traces
        )

    def jax_step(self, jnp: ModuleType) -> Callable[[Any, Any, Any], Any] | None:
        change = self.jax_change(jnp)

        def step(parameters: Any, state: Any, drives: Any) -> Any:
            hidden, *traces = state
            (drive,) = drives
            effective = parameters["weight"] + parameters["alpha"] * traces[0]
            active = jnp.tanh(drive + jnp.einsum("boi,bi->bo", effective, hidden))
            return active, (active, *change(parameters, active, hidden, *traces))

        return step

    def _inputs(self, normal: Normal, parameters: Parameters) -> Inputs:
        shape = (self.steps, self.batch, self.neurons)
        traces = (torch.zeros(self.batch, self.neurons, self.neurons) for _ in range(self.traces))
        return Inputs(
            parameters, (torch.zeros(shape[1:]), *traces), (normal(*shape),), normal(*shape)
        )


@dataclass(frozen=True)
class PlasticRNNWorkload(RNNWorkload):
    """Rule decay, learned eta."""

    def inputs(self) -> Inputs:
        normal, square = Normal(), (self.neurons, self.neurons)
        parameters = {
            "weight": 0.01 * normal(*square),
            "alpha": 0.01 * normal(*square),
            "eta": torch.tensor(0.01),
        }
        return self._inputs(normal, parameters)

    def change(self, formulation: Formulation) -> Change:
        add = formulation.add

        def change(
            parameters: Parameters, active: Tensor, hidden: Tensor, trace: Tensor
        ) -> tuple[Tensor]:
            eta = parameters["eta"]
            return (add((1 - eta) * trace, eta * active, hidden),)

        return change

    def library(
        self, parameters: Parameters, state: State, drives: Drives, backend: str
    ) -> tuple[Tensor, State]:
        hidden, trace = state
        (drive,) = drives
        weight, alpha, eta = parameters["weight"], parameters["alpha"], parameters["eta"]
        output, hidden, trace = PF.plastic_rnn_sequence(
            drive, hidden, trace, weight, alpha, eta, backend=backend
        )
        return output, (hidden, trace)

    def jax_change(self, jnp: ModuleType) -> Callable[..., tuple[Any, ...]]:
        def change(parameters: Any, active: Any, hidden: Any, trace: Any) -> tuple[Any]:
            eta = parameters["eta"]
            return ((1 - eta) * trace + eta * active[:, :, None] * hidden[:, None, :],)

        return change


@dataclass(frozen=True)
class ModulatedRNNWorkload(RNNWorkload):
    """Rule clip with simple modulation: M from the new activities, a trained fan-out per neuron."""

    clip: float

    @property
    def plasticity(self) -> Plasticity:
        return Plasticity(constraint="clip", clip=self.clip, modulation="simple", fan_out="neuron")

    def inputs(self) -> Inputs:
        normal = Normal()
        return self._inputs(
            normal,
            self._connection(normal) | modulator_parameters(normal, self.neurons, fan_out=True),
        )

    def _connection(self, normal: Normal) -> Parameters:
        square = (self.neurons, self.neurons)
        # Weak enough not to be chaotic, so that fp32 and fp64 stay together.
        return {
            "weight": 0.3 / math.sqrt(self.neurons) * normal(*square),
            "alpha": 0.01 * normal(*square),
        }

    def change(self, formulation: Formulation) -> Change:
        add, clamp, clip = formulation.add, formulation.clamp, self.clip

        def change(
            parameters: Parameters, active: Tensor, hidden: Tensor, trace: Tensor
        ) -> tuple[Tensor]:
            return (clamp(add(trace, rates(parameters, active) * active, hidden), -clip, clip),)

        return change

    def library(
        self, parameters: Parameters, state: State, drives: Drives, backend: str
    ) -> tuple[Tensor, State]:
        hidden, trace, *_ = state
        (drive,) = drives
        weight, alpha, options = (
            parameters["weight"],
            parameters["alpha"],
            self._options(parameters, state, backend),
        )
        output, *after = PF.plastic_rnn_sequence(
            drive, hidden, trace, weight, alpha, None, **options
        )
        return output, tuple(after)

    def _options(self, parameters: Parameters, state: State, backend: str) -> dict[str, Any]:
        return {
            "modulator": library_modulator(parameters),
            "plasticity": self.plasticity,
            "backend": backend,
        }

    def traffic(self, kernel: str) -> Traffic:
        return connection_traffic(
            kernel,
            self.steps,
            self.batch,
            self.neurons**2,
            traces=self.traces,
            element_per_thread=True,
        )

    def jax_change(self, jnp: ModuleType) -> Callable[..., tuple[Any, ...]]:
        def change(parameters: Any, active: Any, hidden: Any, trace: Any) -> tuple[Any]:
            column = jax_rates(jnp, parameters, active) * active
            return (
                jnp.clip(trace + column[:, :, None] * hidden[:, None, :], -self.clip, self.clip),
            )

        return change


@dataclass(frozen=True)
class RetroactiveRNNWorkload(ModulatedRNNWorkload):
    """Rule clip with retroactive modulation: M from the new activities, a learned rate of the eligibility trace."""

    traces: ClassVar[int] = 2

    @property
    def plasticity(self) -> Plasticity:
        return Plasticity(constraint="clip", clip=self.clip, modulation="retroactive")

    def inputs(self) -> Inputs:
        normal = Normal()
        parameters = self._connection(normal) | modulator_parameters(
            normal, self.neurons, fan_out=False
        )
        return self._inputs(normal, parameters | {"eligibility_eta": torch.tensor(0.01)})

    def change(self, formulation: Formulation) -> Change:
        add, clamp, clip = formulation.add, formulation.clamp, self.clip

        def change(
            parameters: Parameters,
            active: Tensor,
            hidden: Tensor,
            trace: Tensor,
            eligibility: Tensor,
        ) -> tuple[Tensor, Tensor]:
            modulation, eta = (
                signal(parameters, active)[:, None, None],
                parameters["eligibility_eta"],
            )
            trace = clamp(torch.addcmul(trace, modulation, eligibility), -clip, clip)
            return trace, add((1 - eta) * eligibility, eta * active, hidden)

        return change

    def _options(self, parameters: Parameters, state: State, backend: str) -> dict[str, Any]:
        eligibility = {"eligibility": state[2], "eligibility_eta": parameters["eligibility_eta"]}
        return super()._options(parameters, state, backend) | eligibility

    def jax_change(self, jnp: ModuleType) -> Callable[..., tuple[Any, ...]]:
        def change(
            parameters: Any, active: Any, hidden: Any, trace: Any, eligibility: Any
        ) -> tuple[Any, Any]:
            modulation, eta = (
                jax_signal(jnp, parameters, active)[:, None, None],
                parameters["eligibility_eta"],
            )
            trace = jnp.clip(trace + modulation * eligibility, -self.clip, self.clip)
            return trace, (1 - eta) * eligibility + eta * active[:, :, None] * hidden[:, None, :]

        return change


@dataclass(frozen=True)
class ActingRNNWorkload(ModulatedRNNWorkload):
    """The same network acting: single steps without gradients, each answered before the next drive is known."""

    passes: ClassVar[tuple[str, ...]] = (FORWARD,)
    eager: ClassVar[Formulations] = {
        **ModulatedRNNWorkload.eager,
        "linear in place": LINEAR_IN_PLACE,
    }
    compiled: ClassVar[Formulations] = {
        **ModulatedRNNWorkload.compiled,
        "pointwise in place": POINTWISE_IN_PLACE,
    }
    without: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("compile-chunk", "jax", "plastikern-graph"),
        "each step must be answered before the next input is known",
    )

    @property
    def steps_of_call(self) -> int:
        return 1

    def begin(self, parameters: Any, state: Any, drives: Any) -> tuple[Any, Any]:
        # What steps change in place is not the caller's.
        return tuple(tensor.clone() for tensor in state), drives

    def library(
        self, parameters: Parameters, state: State, drives: Drives, backend: str
    ) -> tuple[Tensor, State]:
        if torch.is_grad_enabled():  # the truth is asked for gradients, too
            return super().library(parameters, state, drives, backend)
        (drive,), (hidden, trace) = drives, state
        network = PlasticRNN(
            None,
            self.neurons,
            bias=False,
            plasticity=self.plasticity,
            backend=backend,
            dtype=drive.dtype,
        )
        names = {"weight": "weight_hh_l0", "alpha": "alpha_l0"}
        for name, parameter in parameters.items():
            network.get_parameter(names.get(name, f"{name}_l0")).copy_(parameter)
        rollout = network.rollout(
            drive.shape[0], drive.shape[1], (hidden.unsqueeze(0), trace.unsqueeze(0))
        )
        outputs = [rollout.step(step_drive) for step_drive in drive.unbind(0)]
        last = rollout.state()
        return torch.stack(outputs), (last.hidden[0], last.trace[0])

    def traffic(self, kernel: str) -> Traffic:
        size = self.neurons**2
        # Reads weight, alpha and trace, writes the trace. Every step passes over the traces of all elements.
        steps = self.steps * self.batch * size
        return Traffic(
            reads=3, writes=1, synapse_steps=steps, once=0, arrays=2 + self.batch, length=size
        )
