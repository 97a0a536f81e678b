"""The plastic GRU beside the LSTM of language models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

import plastikern.functional as PF
from plastikern import PlasticGRU

from .base import Drives, Parameters, State, Step
from .formulations import Formulation
from .lstm import PlasticLSTMWorkload
from .modulator import jax_rates, library_modulator, rates


@dataclass(frozen=True)
class PlasticGRUWorkload(PlasticLSTMWorkload):
    """The same rule, modulation and sizes, of a GRU whose drive is given."""

    gates: ClassVar[int] = 2

    def first(self) -> State:
        zero = torch.zeros(self.batch, self.neurons)
        return zero, torch.zeros(self.batch, self.neurons, self.neurons)

    def step(self, formulation: Formulation) -> Step:
        _, apply, add, clamp = formulation
        clip, recurrent = self.clip, 3 * self.neurons

        def step(parameters: Parameters, state: State, drives: Drives) -> tuple[Tensor, State]:
            hidden, trace = state
            (drive,) = drives
            # One product and its drives: the blocks of the drive that have recurrent sums lie side by side.
            sums = torch.addmm(drive[:, :recurrent], hidden, parameters["weight"].mT)
            reset, update, inner = sums.chunk(3, 1)
            inner = torch.addcmul(inner, parameters["alpha"], apply(trace, hidden))
            candidate = torch.tanh(torch.addcmul(drive[:, recurrent:], torch.sigmoid(reset), inner))
            active = torch.lerp(candidate, hidden, torch.sigmoid(update))
            trace = clamp(add(trace, rates(parameters, active) * candidate, hidden), -clip, clip)
            return active, (active, trace)

        return step

    def library(
        self, parameters: Parameters, state: State, drives: Drives, backend: str
    ) -> tuple[Tensor, State]:
        (hidden, trace), (drive,) = state, drives
        output, hidden, trace = PF.plastic_gru_sequence(
            drive, hidden, trace, parameters["weight"], parameters["alpha"], None,
            modulator=library_modulator(parameters), plasticity=self.plasticity, backend=backend,
        )  # fmt: skip
        return output, (hidden, trace)

    def module(self) -> PlasticGRU:  # type: ignore[override]
        return PlasticGRU(1, self.neurons, plasticity=self.plasticity, device="meta")

    def jax_step(self, jnp: ModuleType) -> Callable[[Any, Any, Any], Any]:
        from jax.nn import sigmoid

        def step(parameters: Any, state: Any, drives: Any) -> Any:
            hidden, trace = state
            (drive,) = drives
            *of_sums, of_candidate = jnp.split(drive, 4, axis=1)
            recurrent = jnp.split(hidden @ parameters["weight"].T, 3, axis=1)
            reset, update, inner = (u + s for u, s in zip(of_sums, recurrent, strict=True))
            inner = inner + parameters["alpha"] * jnp.einsum("boi,bi->bo", trace, hidden)
            candidate = jnp.tanh(of_candidate + sigmoid(reset) * inner)
            keep = sigmoid(update)
            active = (1 - keep) * candidate + keep * hidden
            column = jax_rates(jnp, parameters, active) * candidate
            trace = jnp.clip(trace + column[:, :, None] * hidden[:, None, :], -self.clip, self.clip)
            return active, (active, trace)

        return step
