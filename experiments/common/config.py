"""Settings of an experiment: one frozen record, overridden field by field."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar, get_type_hints

MAX_SEEDS = 10_000


class ExperimentError(Exception):
    """Something the user can put right; shown as one line, without a traceback."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings that every experiment has; an experiment adds its own in a subclass.

    Args:
        net: the network, one of those that the experiment knows.
        episodes: training episodes.
        learning_rate: of Adam.
        log_every: episodes between two lines of the metrics.
        window: episodes that the running means of a line cover (``loss_last_<window>``).
        checkpoint_every: episodes between two checkpoints.
        evaluate_every: episodes between two evaluations during training; 0 evaluates at the end only.
        evaluation_episodes: episodes of one evaluation, the same ones each time.
    """

    net: str
    episodes: int
    learning_rate: float
    log_every: int = 10
    window: int = 20
    checkpoint_every: int = 100
    evaluate_every: int = 0
    evaluation_episodes: int = 20

    def __post_init__(self) -> None:
        for name in ("episodes", "log_every", "window", "checkpoint_every", "evaluation_episodes"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")
        for name, value in asdict(self).items():
            require(not isinstance(value, float) or math.isfinite(value), f"{name} must be finite; got {value}")
        require(self.learning_rate > 0, f"learning_rate must be positive; got {self.learning_rate}")
        require(self.evaluate_every >= 0, f"evaluate_every must not be negative; got {self.evaluate_every}")


ConfigT = TypeVar("ConfigT", bound=Config)
Presets = Mapping[str, Mapping[str, ConfigT]]
"""Preset name, then network name, to settings; the first network of a preset is its default."""


def require(condition: bool, message: str) -> None:
    """Refuse a setting with a message that names it."""
    if not condition:
        raise ExperimentError(message)


def select(presets: Presets[ConfigT], preset: str, net: str | None) -> ConfigT:
    """The settings of a preset for one of its networks."""
    require(preset in presets, f"no preset {preset!r}; there are: {', '.join(presets)}")
    nets = presets[preset]
    if net is None:
        return next(iter(nets.values()))
    require(net in nets, f"preset {preset!r} has no network {net!r}; it has: {', '.join(nets)}")
    return nets[net]


def override(config: ConfigT, assignments: Iterable[str]) -> ConfigT:
    """``config`` with ``key=value`` texts applied, each read as the type of its field."""
    types = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        require(bool(equals), f"--set {assignment}: expected key=value")
        require(key in types, f"--set {key}: no such setting; there are: {', '.join(f.name for f in fields(config))}")
        changes[key] = _read(key, text, types[key])
    return replace(config, **changes)


def _read(key: str, text: str, kind: type) -> Any:
    if kind is bool:
        values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        require(text.lower() in values, f"--set {key}: expected true or false; got {text!r}")
        return values[text.lower()]
    try:
        return kind(text)
    except ValueError:
        expected = {int: "a whole number", float: "a number"}[kind]
        raise ExperimentError(f"--set {key}: expected {expected}; got {text!r}") from None


def parse_seeds(text: str) -> list[int]:
    """Seeds from ``0-9`` or ``0,3,5-7``: sorted, each once."""
    seeds: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        require(match is not None, f"--seeds: expected seeds such as 0-9 or 0,3,5-7; got {text!r}")
        assert match is not None
        first, last = int(match[1]), int(match[2] or match[1])
        require(first <= last, f"--seeds: the range {part.strip()} runs backwards")
        require(last - first < MAX_SEEDS, f"--seeds: {part.strip()} is more than {MAX_SEEDS} seeds")
        seeds.update(range(first, last + 1))
    return sorted(seeds)
