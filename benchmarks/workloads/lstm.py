"""Plastic LSTMs of language models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

import plastikern.functional as PF
from plastikern import Plasticity, PlasticLSTM

from ..floor import Traffic, connection_traffic
from .base import Drives, Inputs, Normal, Parameters, State, Step, Workload
from .formulations import ADDCMUL, BADDBMM, Formulation, Formulations
from .modulator import jax_rates, library_modulator, modulator_parameters, rates

# Values (512 KiB) that a core's own cache holds: where an element's weight and trace fit, its thread can keep them.
CORE_CACHE = 2**17


@dataclass(frozen=True)
class PlasticLSTMWorkload(Workload):
    """Rule clip with simple modulation: M from the new activities, alpha and a trained fan-out per neuron.

    ``features`` is the size of the input whose projection to the gates is part of the work; None: the drive is given.
    """

    neurons: int
    clip: float
    features: int | None = None
    # Recurrent sums beside the plastic one.
    gates: ClassVar[int] = 3
    # The weight is shared by the batch in both; they differ in how the traces change.
    eager: ClassVar[Formulations] = {"addcmul": ADDCMUL, "baddbmm": BADDBMM}

    def inputs(self) -> Inputs:
        normal, neurons = Normal(), self.neurons
        parameters = {
            "weight": 0.5 / math.sqrt(neurons) * normal((1 + self.gates) * neurons, neurons),
            "alpha": 0.01 * normal(neurons),
        }
        parameters |= modulator_parameters(normal, neurons, fan_out=True)
        if self.features is not None:
            parameters["input_weight"] = normal(4 * neurons, self.features) / math.sqrt(
                self.features
            )
        sequence = (self.steps, self.batch)
        return Inputs(
            parameters,
            self.first(),
            (normal(*sequence, self.features or 4 * neurons),),
            normal(*sequence, neurons),
        )

    def first(self) -> State:
        """What the sequence starts from."""
        zero = torch.zeros(self.batch, self.neurons)
        return zero, zero.clone(), torch.zeros(self.batch, self.neurons, self.neurons)

    def begin(self, parameters: Any, state: Any, drives: Any) -> tuple[Any, Any]:
        if self.features is None:
            return state, drives
        # All steps are projected at once.
        (features,) = drives
        return state, (features @ parameters["input_weight"].T,)

    def step(self, formulation: Formulation) -> Step:
        _, apply, add, clamp = formulation
        clip = self.clip

        def step(parameters: Parameters, state: State, drives: Drives) -> tuple[Tensor, State]:
            hidden, cell, trace = state
            (drive,) = drives
            gates = drive + F.linear(hidden, parameters["weight"])
            input_gate, forget_gate, candidate, output_gate = gates.chunk(4, 1)
            candidate = torch.tanh(
                torch.addcmul(candidate, parameters["alpha"], apply(trace, hidden))
            )
            cell = torch.addcmul(
                torch.sigmoid(forget_gate) * cell, torch.sigmoid(input_gate), candidate
            )
            active = torch.sigmoid(output_gate) * torch.tanh(cell)
            trace = clamp(add(trace, rates(parameters, active) * candidate, hidden), -clip, clip)
            return active, (active, cell, trace)

        return step

    def library(
        self, parameters: Parameters, state: State, drives: Drives, backend: str
    ) -> tuple[Tensor, State]:
        (hidden, cell, trace), (drive,) = self.begin(parameters, state, drives)
        weight, alpha, modulator = (
            parameters["weight"],
            parameters["alpha"],
            library_modulator(parameters),
        )
        output, hidden, cell, trace = PF.plastic_lstm_sequence(
            drive, hidden, cell, trace, weight, alpha, None, modulator=modulator, plasticity=self.plasticity,
            backend=backend,
        )  # fmt: skip
        return output, (hidden, cell, trace)

    @property
    def plasticity(self) -> Plasticity:
        return Plasticity(
            constraint="clip", clip=self.clip, alpha="neuron", modulation="simple", fan_out="neuron"
        )

    def module(self) -> PlasticLSTM:
        # The size of the input is no matter of the kernels.
        return PlasticLSTM(
            self.features or 1, self.neurons, plasticity=self.plasticity, device="meta"
        )

    def traffic(self, kernel: str) -> Traffic:
        size = self.neurons**2
        # Per synapse the candidate's weight and its trace; per step the weights of the gates, for all elements.
        traffic = connection_traffic(
            kernel, self.steps, self.batch, size, matrices=1, element_per_thread=True
        )
        # Once: the input layer, and in the backward pass its gradient and those of the gates.
        once = 4 * self.neurons * (self.features or 0)
        if kernel == "backward":
            once = 2 * once + self.gates * size
        traffic = dataclasses.replace(
            traffic, shared=self.gates * size * self.steps, once=traffic.once + once
        )
        if traffic.arrays * size <= CORE_CACHE:
            return traffic
        # Else a step goes over all weights and the traces of all elements.
        per_element = traffic.arrays - 1
        return dataclasses.replace(
            traffic, arrays=1 + self.gates + self.batch * per_element, element_per_thread=False
        )

    def jax_step(self, jnp: ModuleType) -> Callable[[Any, Any, Any], Any]:
        from jax.nn import sigmoid

        def step(parameters: Any, state: Any, drives: Any) -> Any:
            hidden, cell, trace = state
            (drive,) = drives
            gates = jnp.split(drive + hidden @ parameters["weight"].T, 4, axis=1)
            input_gate, forget_gate, output_gate = (sigmoid(gates[k]) for k in (0, 1, 3))
            candidate = jnp.tanh(
                gates[2] + parameters["alpha"] * jnp.einsum("boi,bi->bo", trace, hidden)
            )
            cell = forget_gate * cell + input_gate * candidate
            active = output_gate * jnp.tanh(cell)
            column = jax_rates(jnp, parameters, active) * candidate
            trace = jnp.clip(trace + column[:, :, None] * hidden[:, None, :], -self.clip, self.clip)
            return active, (active, cell, trace)

        return step
