"""Settings of an experiment: one frozen record, overridden field by field."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_type_hints

from experiments.common import own_rules
from plastikern import RulePlasticity

MAX_SEEDS = 10_000


class ExperimentError(Exception):
    """Something the user can put right; shown as one line, without a traceback."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings that every experiment has; an experiment adds its own in a subclass.

    Args:
        net: the network, one of those that the experiment knows.
        rule: of the plasticity: ``hebb``, ``oja``, or MODULE:NAME for a rule of one's own
            (:func:`experiments.common.own_rules.load`). That one brings its coefficients and their initial values, and
            settings about the plasticity of the library's rules are without meaning then.
        episodes: training episodes; the last update may bring some more, up to a whole batch.
        batch: episodes of one update, whose mean loss is differentiated.
        learning_rate, adam_epsilon: of Adam.
        learning_rate_factor, learning_rate_episodes: the rate is multiplied by the factor every so many episodes; 0
            leaves it as it is.
        clip_gradient: largest norm of the gradient, a longer one is shortened to it; 0 is no limit.
        burn_in: updates at the start that change nothing.
        log_every: updates between two lines of the metrics.
        window: updates that the running means of a line cover (``loss_last_<window>``).
        checkpoint_every: updates between two checkpoints.
        evaluate_every: updates between two evaluations during training; 0 evaluates at the end only.
        evaluation_episodes: episodes of one evaluation, the same ones each time, in whole batches.
    """

    own_rule_net: ClassVar[str] = "plastic"
    """The network that a rule of one's own is for."""
    net: str
    episodes: int
    learning_rate: float
    rule: str = "hebb"
    batch: int = 1
    adam_epsilon: float = 1e-8
    learning_rate_factor: float = 1.0
    learning_rate_episodes: int = 0
    clip_gradient: float = 0.0
    burn_in: int = 0
    log_every: int = 10
    window: int = 20
    checkpoint_every: int = 100
    evaluate_every: int = 0
    evaluation_episodes: int = 20

    def __post_init__(self) -> None:
        try:
            own_rules.check(self.rule)
        except ValueError as error:
            require(False, str(error))
        require(
            self.own_rule is None or self.net == self.own_rule_net,
            f"net must be {self.own_rule_net} with rule={self.rule}, which says itself what is plastic and what "
            f"modulates it; got {self.net!r}",
        )
        for name in (
            "episodes",
            "batch",
            "log_every",
            "window",
            "checkpoint_every",
            "evaluation_episodes",
        ):
            self.require_at_least(name, 1)
        for name in (
            "learning_rate_factor",
            "learning_rate_episodes",
            "clip_gradient",
            "burn_in",
            "evaluate_every",
        ):
            self.require_at_least(name, 0)
        for name, value in asdict(self).items():
            require(
                not isinstance(value, float) or math.isfinite(value),
                f"{name} must be finite; got {value}",
            )
        for name in ("learning_rate", "adam_epsilon"):
            require(getattr(self, name) > 0, f"{name} must be positive; got {getattr(self, name)}")

    @property
    def own_rule(self) -> RulePlasticity | None:
        """The user's rule as it is used; None where the rule is one of the library's."""
        return own_rules.load(self.rule) if own_rules.is_own(self.rule) else None

    def require_at_least(self, name: str, least: float) -> None:
        """Refuse a number that is too small."""
        require(
            getattr(self, name) >= least,
            f"{name} must be at least {least}; got {getattr(self, name)}",
        )

    def require_one_of(self, name: str, allowed: Iterable[str]) -> None:
        """Refuse a choice that does not exist."""
        value = getattr(self, name)
        require(value in allowed, f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def defaults(kind: type[Config]) -> dict[str, Any]:
    """The settings' defaults, of those that have one."""
    return {each.name: each.default for each in fields(kind) if each.default is not MISSING}


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
        require(
            key in types,
            f"--set {key}: no such setting; there are: {', '.join(f.name for f in fields(config))}",
        )
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


def assigned(assignments: Iterable[str], experiments: Iterable[str]) -> dict[str, Path]:
    """The data of each experiment, from ``EXPERIMENT=PATH`` texts."""
    data, known = {}, tuple(experiments)
    for assignment in assignments:
        name, equals, path = assignment.partition("=")
        require(bool(equals), f"--data {assignment}: expected EXPERIMENT=PATH")
        require(
            name in known,
            f"--data {assignment}: no experiment {name!r}; there are: {', '.join(known)}",
        )
        data[name] = Path(path)
    return data


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
