"""The plastic layer behind a convolutional network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

import plastikern.functional as PF
from plastikern import Plasticity, PlasticLinear

from ..floor import Traffic, connection_traffic
from .base import Drives, Inputs, Normal, Parameters, State, Step, Workload
from .formulations import ADDCMUL, BADDBMM, POINTWISE, Formulation, Formulations

# Drive of the neuron of an image's class while the label is shown: it forces the output.
LABEL = 1000.0
PLASTICITY = Plasticity(rule="oja", constraint="none")


@dataclass(frozen=True)
class PlasticLinearWorkload(Workload):
    """Oja's rule, softmax, alpha per connection, learned eta; labels at every step but the last, which is the query."""

    features: int
    classes: int
    eager: ClassVar[Formulations] = {"addcmul": ADDCMUL, "baddbmm": BADDBMM, "pointwise": POINTWISE}

    def inputs(self) -> Inputs:
        normal, matrix = Normal(), (self.classes, self.features)
        parameters = {
            "weight": 0.1 * normal(*matrix),
            "alpha": 0.1 * normal(*matrix),
            "eta": torch.tensor(0.1),
        }
        features = normal(self.steps, self.batch, self.features)
        # Every class once, in an order of each element's own; the query has none.
        order = normal(self.steps, self.batch).argsort(0) % self.classes
        labels = LABEL * F.one_hot(order, self.classes).float()
        labels[-1] = 0
        state = (torch.zeros(self.batch, *matrix),)
        return Inputs(
            parameters, state, (features, labels), normal(self.steps, self.batch, self.classes)
        )

    def begin(self, parameters: Any, state: Any, drives: Any) -> tuple[Any, Any]:
        # What does not depend on the trace is computed for all steps at once.
        features, labels = drives
        return state, (features, labels + features @ parameters["weight"].T)

    def step(self, formulation: Formulation) -> Step:
        _, apply, add, _ = formulation

        def step(parameters: Parameters, state: State, drives: Drives) -> tuple[Tensor, State]:
            (trace,), (features, drive), eta = state, drives, parameters["eta"]
            active = torch.softmax(drive + apply(parameters["alpha"] * trace, features), 1)
            column = eta * active
            return active, (add((1 - column * active).unsqueeze(2) * trace, column, features),)

        return step

    def library(
        self, parameters: Parameters, state: State, drives: Drives, backend: str
    ) -> tuple[Tensor, State]:
        (trace,), (features, labels) = state, drives
        weight, alpha, eta = parameters["weight"], parameters["alpha"], parameters["eta"]
        output, trace = PF.plastic_linear_sequence(
            features,
            trace,
            weight,
            alpha,
            eta,
            drive=labels,
            plasticity=PLASTICITY,
            backend=backend,
        )
        return output, (trace,)

    def module(self) -> PlasticLinear:
        return PlasticLinear(self.features, self.classes, plasticity=PLASTICITY, device="meta")

    def traffic(self, kernel: str) -> Traffic:
        synapses = self.features * self.classes
        return connection_traffic(kernel, self.steps, self.batch, synapses, element_per_thread=True)

    def jax_step(self, jnp: ModuleType) -> Callable[[Any, Any, Any], Any]:
        from jax.nn import softmax

        def step(parameters: Any, state: Any, drives: Any) -> Any:
            (trace,), (features, drive), eta = state, drives, parameters["eta"]
            active = softmax(
                drive + jnp.einsum("boi,bi->bo", parameters["alpha"] * trace, features), axis=1
            )
            column = eta * active
            trace = (1 - column * active)[:, :, None] * trace + column[:, :, None] * features[
                :, None, :
            ]
            return active, (trace,)

        return step
