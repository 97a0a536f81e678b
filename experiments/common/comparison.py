"""The speed of the backend in use beside the pure PyTorch path, measured side by side."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from experiments.common.experiment import Experiment, stream
from experiments.common.run import backend_in_use

REFERENCE = "reference"


@dataclass(frozen=True)
class Comparison:
    """Median seconds of one update on each path: making its episodes, acting where an agent acts, learning."""

    backend: str
    seconds: float
    reference_seconds: float
    updates: int

    def __str__(self) -> str:
        ratio = self.reference_seconds / self.seconds
        return (
            f"speed-up over pure PyTorch: {ratio:.1f} times ({self.seconds:.4f} s an update on backend {self.backend} "
            f"against {self.reference_seconds:.4f} s, medians of {self.updates} interleaved updates)"
        )


def compare(experiment: Experiment[Any], model: nn.Module, updates: int = 5) -> Comparison | None:
    """Time updates on copies of ``model``; None where the reference path is itself the one in use."""
    backend = backend_in_use(experiment.backend, experiment.device)
    if backend == REFERENCE:
        return None
    contenders = {name: experiment.build(name) for name in (backend, REFERENCE)}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender.load_state_dict(copy.deepcopy(model.state_dict()))
    optimizers = {name: experiment.optimizer(contender) for name, contender in contenders.items()}
    generator = stream(0, "comparison")
    for turn in range(updates + 1):
        before = generator.get_state()
        for name, contender in contenders.items():
            generator.set_state(before)
            start = perf_counter()
            episode = experiment.episode(generator, held_out=False)
            experiment.update(contender, optimizers[name], episode)
            if experiment.device.type == "cuda":
                torch.cuda.synchronize(experiment.device)
            if turn > 0:  # the first turn warms up
                seconds[name].append(perf_counter() - start)
    return Comparison(backend, median(seconds[backend]), median(seconds[REFERENCE]), updates)
