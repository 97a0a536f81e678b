"""One seeded run of an experiment: all that a checkpoint must hold."""

from __future__ import annotations

import math
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import plastikern
from experiments.common import own_rules, parallel
from experiments.common.config import ExperimentError, defaults
from experiments.common.experiment import Experiment, stream, stream_seed
from experiments.common.metrics import Line

MAY_CHANGE = ("episodes",)
"""Settings that may differ from the checkpoint's on resuming: nothing before the checkpoint depended on them."""


def backend_in_use(backend: str | None, device: torch.device) -> str:
    """Name of the plastikern backend that serves; a clear error where the one asked for cannot."""
    try:
        return plastikern.backends.select(backend, torch.empty(0, device=device))
    except (ValueError, RuntimeError) as error:
        raise ExperimentError(str(error)) from error


def _built(experiment: Experiment[Any]) -> nn.Module:
    """The experiment's model; a clear error where a rule of one's own does not go with its network."""
    try:
        return experiment.build(experiment.backend)
    except (ValueError, TypeError) as error:
        if experiment.config.own_rule is None:
            raise
        raise ExperimentError(f"rule={experiment.config.rule}: {error}") from error


class Run:
    """Model, optimiser, random numbers and counters of one seed.

    Attributes:
        identity: what must be equal for a run to be resumed.
        surroundings: what its last digits depend on besides.
        update: updates so far.
        seconds: time of the training loop so far, evaluations apart.
        update_seconds: the part of it in forward, backward and optimiser.
    """

    def __init__(self, experiment: Experiment[Any], seed: int):
        torch.manual_seed(stream_seed(seed, "model"))
        experiment.prepare(seed)
        self.experiment = experiment
        self.model = _built(experiment)
        self.optimizer = experiment.optimizer(self.model)
        self.generator = stream(seed, "episodes")
        self.update = 0
        self.seconds = 0.0
        self.update_seconds = 0.0
        self._logged = 0
        config = experiment.config
        # The metrics of the last updates stay on the device: an update does not wait until its numbers are read.
        self._recent = torch.zeros(
            max(config.window, config.log_every),
            len(experiment.metrics),
            dtype=torch.float64,
            device=experiment.device,
        )
        fixed = {key: value for key, value in asdict(config).items() if key not in MAY_CHANGE}
        self.identity = {
            "experiment": experiment.name,
            "seed": seed,
            "data": experiment.describe_data(),
            **fixed,
            **own_rules.described(config.own_rule),
        }
        self.surroundings = {
            "plastikern": plastikern.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "backend": own_rules.backend(
                config.own_rule, backend_in_use(experiment.backend, experiment.device)
            ),
            "device": str(experiment.device),
            "threads": torch.get_num_threads(),
            "processes": parallel.size(),
        }

    @property
    def episode(self) -> float:
        """Episodes trained so far."""
        return self.experiment.done(self.update)

    @property
    def finished(self) -> bool:
        """Whether all episodes of the settings are trained."""
        return self.episode >= self.experiment.config.episodes

    @property
    def trained_parameters(self) -> int:
        """Numbers that are learned."""
        return sum(
            parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad
        )

    def train_update(self) -> None:
        """The episodes of one update, and the update."""
        experiment = self.experiment
        episode = experiment.episode(self.generator, held_out=False)
        for group in self.optimizer.param_groups:
            group["lr"] = experiment.learning_rate(self.episode)
        start = time.perf_counter()
        if self.update < experiment.config.burn_in:
            with torch.no_grad():
                values = experiment.loss(self.model, episode)
        else:
            values = experiment.update(self.model, self.optimizer, episode)
        if experiment.device.type == "cuda":
            torch.cuda.synchronize(experiment.device)
        self.update_seconds += time.perf_counter() - start
        row = parallel.average(torch.stack([values[name].detach() for name in experiment.metrics]))
        self._recent[self.update % len(self._recent)] = row
        self.update += 1

    def means(self, updates: int) -> dict[str, float]:
        """Means of the metrics over the last ``updates`` updates, as far as there are as many."""
        first = max(self.update - updates, 0)
        rows = [index % len(self._recent) for index in range(first, self.update)]
        return dict(zip(self.experiment.metrics, self._recent[rows].mean(0).tolist(), strict=True))

    def window_means(self) -> dict[str, float]:
        """Means over the window of the settings, under names that say so."""
        window = self.experiment.config.window
        return {f"{name}_last_{window}": value for name, value in self.means(window).items()}

    def header(self, command: str) -> Line:
        """The first line of the metrics; ``command`` is what the user typed."""
        names = ("experiment", "seed", "data")
        return {
            "kind": "run",
            "command": command,
            **{name: self.identity[name] for name in names},
            "config": asdict(self.experiment.config),
            **own_rules.described(self.experiment.config.own_rule),
            "trained_parameters": self.trained_parameters,
            "published": [asdict(number) for number in self.experiment.published()],
            **self.surroundings,
        }

    def line(self) -> Line:
        """The metrics of the updates since the last line."""
        means = self.means(self.update - self._logged)
        if not math.isfinite(means["loss"]):
            raise ExperimentError(
                f"the loss is {means['loss']} at episode {self.episode}: try a smaller learning_rate"
            )
        self._logged = self.update
        observed = self.experiment.observe(self.model)
        return {
            "kind": "train", "episode": self.episode, **means, **self.window_means(), **observed,
            "seconds": round(self.seconds, 3),
        }  # fmt: skip

    def result(self) -> Line:
        """The last line: test metrics, running means, time."""
        return {
            "kind": "result",
            "episode": self.episode,
            **self.experiment.final_metrics(self.model),
            **self.window_means(),
            "seconds_per_episode": self.seconds / self.episode,
            "update_share": self.update_seconds / self.seconds,
        }

    def state(self) -> dict[str, Any]:
        """The checkpoint, but for the position in the metrics file; all processes call it, process 0 writes it."""
        return {
            "identity": self.identity,
            "surroundings": self.surroundings,
            "model": self.model.state_dict(),
            "carried": self.experiment.carried(),
            "optimizer": self.optimizer.state_dict(),
            "episode_rng": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all()
            if self.experiment.device.type == "cuda"
            else [],
            "update": self.update,
            "logged": self._logged,
            "recent": self._recent,
            "seconds": self.seconds,
            "update_seconds": self.update_seconds,
        }

    def restore(self, state: dict[str, Any], path: Path) -> int:
        """Continue from a checkpoint read from ``path``; the position in the metrics file that belongs to it."""
        try:
            # A checkpoint from before there was a setting belongs to a run that was as its default says.
            former = {**defaults(type(self.experiment.config)), **state["identity"]}
            changed = [f"{key} {former.get(key)} (now {value})"
                       for key, value in self.identity.items() if former.get(key) != value]  # fmt: skip
            if changed:
                raise ExperimentError(
                    f"{path} belongs to a run with {', '.join(changed)}: use the same settings or another --out"
                )
            for key, value in self.surroundings.items():
                if state["surroundings"].get(key) != value:
                    was = state["surroundings"].get(key)
                    print(
                        f"note: {key} was {was} and is {value} now, last digits may differ",
                        file=sys.stderr,
                    )
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.experiment.carry(self.model, state.get("carried", {}))
            self.generator.set_state(state["episode_rng"])
            torch.set_rng_state(state["torch_rng"])
            if state["cuda_rng"] and self.experiment.device.type == "cuda":
                torch.cuda.set_rng_state_all(state["cuda_rng"])
            self._recent.copy_(state["recent"])
            self.update, self._logged = state["update"], state["logged"]
            self.seconds, self.update_seconds = state["seconds"], state["update_seconds"]
            return int(state["position"])
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise ExperimentError(
                f"{path} is not a checkpoint of this experiment: {error!r}"
            ) from error
