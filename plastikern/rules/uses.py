"""A rule of one's own where it is used: granularities and initial values of its coefficients, and what the network
reads out for it."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..checks import check_finite
from ..plasticity import Plasticity
from .cells import ACTIVITIES
from .decorator import GIVEN, GRANULARITIES, Rule, Value, granular_shape
from .firing import HIDDEN
from .operations import over_post
from .twins import twin_of
from .variants import source_of

READOUTS = ("tanh", "sigmoid", "linear")
"""Nonlinearities of a signal that the network reads out."""
RUNNING = "_running"
"""The signal that an element's steps go on; see :func:`with_lengths`."""
DROPPED = "_dropped"
"""What pre-synaptic activities are multiplied by; see :func:`with_dropout`."""


@dataclass(frozen=True)
class Coefficient:
    """A coefficient of a rule, where the rule is used.

    Attributes:
        granularity: ``"layer"``, one number (1,); ``"pre"`` (I,), one a pre-synaptic neuron; ``"post"`` (O,), one a
            post-synaptic neuron; ``"connection"`` (O, I).
        init: mean of the initial values.
        std: their standard deviation; 0: all are ``init``.
        learned: False makes it a buffer, which keeps its value.

    Raises:
        ValueError: another granularity, a number that is not finite, a negative deviation.
    """

    granularity: str = "layer"
    _: KW_ONLY
    init: float = 0.01
    std: float = 0.0
    learned: bool = True

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise ValueError(
                f"Coefficient: granularity must be one of {', '.join(GRANULARITIES)}; got {self.granularity!r}"
            )
        for name in ("init", "std"):
            object.__setattr__(self, name, check_finite("Coefficient", name, getattr(self, name)))
        if self.std < 0:
            raise ValueError(f"Coefficient: std must not be negative; got {self.std!r}")
        if not isinstance(self.learned, bool):
            raise ValueError(f"Coefficient: learned must be True or False; got {self.learned!r}")

    def shape(self, posts: int, pres: int) -> tuple[int, ...]:
        """Of its tensor in a layer of these sizes; one number has the shape ()."""
        return granular_shape(self.granularity, posts, pres)


@dataclass(frozen=True)
class Readout:
    r"""A signal that the network reads out of its own activities after the step, a neuromodulator.

    :math:`M = \psi(v \cdot h + b)` of the activities :math:`h`, for a signal of kind ``"element"``; for one of kind
    ``"post"`` it fans out, as :math:`f_j M + g_j`. The layer has ``NAME_weight`` :math:`v` (O,) and ``NAME_bias``
    :math:`b` (1,), and with a fan-out ``NAME_fan_out_weight`` :math:`f` and ``NAME_fan_out_bias`` :math:`g` (O,); they
    start as those of ``torch.nn.Linear(O, 1)`` and ``torch.nn.Linear(1, O)``. Source: Backpropamine (ICLR 2019),
    section 3.2.

    Attributes:
        nonlinearity: :math:`\psi`: ``"tanh"``, ``"sigmoid"`` or ``"linear"``.
    """

    nonlinearity: str = "tanh"

    def __post_init__(self) -> None:
        if self.nonlinearity not in READOUTS:
            raise ValueError(
                f"Readout: nonlinearity must be one of {', '.join(READOUTS)}; got {self.nonlinearity!r}"
            )


DEFAULTS = {"alpha": Coefficient("connection", init=0.0, std=0.01)}
"""Of coefficients for which nothing is said; all others are ``Coefficient()``."""


@dataclass(frozen=True)
class RulePlasticity:
    """A rule of one's own as a layer uses it, where modules take a ``plasticity``. Made by :meth:`Rule.use`.

    Attributes:
        rule: declared by :func:`plastikern.rule`.
        coefficients: all of the rule's, and ``alpha`` where the rule takes it.
        readouts: signals that the network reads out; the others are given with every call.
        initial: first values of states where a call gives no state; 0 where nothing is said.
    """

    rule: Rule
    coefficients: Mapping[str, Coefficient]
    readouts: Mapping[str, Readout] = field(default_factory=dict)
    initial: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rule = self.rule
        named = [*(["alpha"] if "alpha" in rule.taken else []), *rule.coefficients]
        for name, found in self.coefficients.items():
            if name not in named:
                raise ValueError(
                    f"{rule.name}: there is no coefficient {name}; it has {', '.join(named) or 'none'}"
                )
            if isinstance(found, str):
                continue
            if not isinstance(found, Coefficient):
                raise TypeError(
                    f"{rule.name}: {name} must be a granularity or a Coefficient, such as Coefficient(init=0.1); got "
                    f"{found!r}"
                )
        whole = {n: _coefficient(n, self.coefficients.get(n)) for n in named}
        for name, readout in self.readouts.items():
            if not isinstance(readout, Readout):
                raise TypeError(
                    f"{rule.name}: readouts: {name} must be a Readout, such as Readout('tanh'); got {readout!r}"
                )
            if name in rule.other_role:
                raise ValueError(
                    f"{rule.name}: readouts: {name} is read out of the post-synaptic neurons, and the rule takes it "
                    "as_pre(...); give it with every call, or take as_pre of states only"
                )
            if rule.signals.get(name) not in ("element", "post"):
                kinds = [n for n, kind in rule.signals.items() if kind in ("element", "post")]
                raise ValueError(
                    f"{rule.name}: readouts: {name} must be a signal of kind 'element' or 'post'; it has "
                    f"{', '.join(kinds) or 'none'}"
                )
            if name in rule.reads:
                raise ValueError(
                    f"{rule.name}: readouts: {name} follows from the activities, and read cannot take it"
                )
            if rule.read_after:
                raise ValueError(
                    f"{rule.name}: readouts: {name} follows from the activities, and the rule is read after its change"
                )
        for name, value in self.initial.items():
            if name not in rule.states:
                raise ValueError(
                    f"{rule.name}: initial: there is no state {name}; it has {', '.join(rule.states)}"
                )
            if isinstance(value, Tensor):
                raise TypeError(
                    f"{rule.name}: initial: {name} must be one number; give a call a state with other values, as by "
                    "state._replace"
                )
            check_finite(f"{rule.name}: initial", name, value)
        object.__setattr__(self, "coefficients", whole)
        object.__setattr__(self, "readouts", dict(self.readouts))
        object.__setattr__(
            self, "initial", {n: float(self.initial.get(n, 0.0)) for n in rule.states}
        )
        # Compiled code cannot work these out.
        _ = self.inner, self.granularities, self.given_signals, self.twin
        if rule.fused:  # That its states have room for these granularities.
            self.inner.traced(self.granularities)

    __hash__ = object.__hash__

    def __reduce__(self) -> Any:
        return RulePlasticity, (self.rule, self.coefficients, self.readouts, self.initial)

    @cached_property
    def parameters(self) -> dict[str, Coefficient]:
        """Coefficients by the names of a layer's tensors, those of read-outs among them."""
        found = dict(self.coefficients)
        for name in self.readouts:
            for suffix, granularity in _readout_parts(self.rule.signals[name]):
                found[f"{name}_{suffix}"] = Coefficient(granularity)
        return found

    @cached_property
    def inner(self) -> Rule:
        """The rule with its read-outs written out: what is run."""
        if not self.readouts:
            return self.rule
        return _written_out(self.rule, self.readouts).prepare()

    @cached_property
    def twin(self) -> Plasticity | None:
        """The library's rule that computes the same, whose kernels then serve; None: there is none."""
        return twin_of(self)

    @cached_property
    def granularities(self) -> dict[str, str]:
        """By name, of all parameters."""
        return {name: each.granularity for name, each in self.parameters.items()}

    @cached_property
    def given_signals(self) -> list[str]:
        """Names of those that every call gives."""
        return [name for name in self.rule.signals if name not in self.readouts]

    @property
    def fixed(self) -> list[str]:
        """Parameters that are buffers."""
        return [name for name, each in self.parameters.items() if not each.learned]

    def shapes(self, posts: int, pres: int) -> dict[str, tuple[int, ...]]:
        """Of the parameters, in the order of their initialisation."""
        return {name: each.shape(posts, pres) for name, each in self.parameters.items()}

    def draw(self, name: str, tensor: Tensor, posts: int) -> None:
        """Initial values, written into the tensor."""
        if name not in self.coefficients:
            bound = 1 if "_fan_out_" in name else 1 / math.sqrt(posts)
            tensor.uniform_(-bound, bound)
            return
        made = self.coefficients[name]
        if made.std:
            tensor.normal_(made.init, made.std)
        else:
            tensor.fill_(made.init)

    @property
    def digest(self) -> str:
        """Of what the rule computes now, the same wherever it is declared: numbers from outside may have changed."""
        if not self.rule.fused:
            try:
                said = source_of(self.rule)
            except OSError:
                raise self.rule.error(
                    "a rule with fused=False is known by its source, and there is no file of it; declare it in a module"
                ) from None
            return hashlib.sha256(said.encode()).hexdigest()
        traced = self.inner.traced(self.granularities)
        parts = [f"{name} {symbol.digest.hex()}" for name, symbol in traced.states.items()]
        parts += [traced.summand.digest.hex(), str(self.rule.read_after)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def described(self) -> dict[str, Any]:
        """As saved models name it: no code is in it."""
        return {
            "rule": self.rule.name, "digest": self.digest,
            "coefficients": {name: asdict(each) for name, each in self.coefficients.items()},
            "readouts": {name: asdict(each) for name, each in self.readouts.items()},
            "initial": dict(self.initial),
        }  # fmt: skip

    def __repr__(self) -> str:
        said = [f"{name}={each!r}" for name, each in self.coefficients.items()]
        said += [f"readouts={self.readouts!r}"] if self.readouts else []
        first = {name: value for name, value in self.initial.items() if value}
        said += [f"initial={first!r}"] if first else []
        return f"{self.rule.name}.use({', '.join(said)})"


def used(plasticity: object) -> Any:
    """What a module is given as its plasticity; a rule by itself is used with its defaults."""
    return plasticity.use() if isinstance(plasticity, Rule) else plasticity


def with_lengths(rule: Rule) -> Rule:
    """The rule of elements that may end: with the element signal :data:`RUNNING`; where it is 0, states stay."""

    def after(known: dict[str, Value]) -> Value:
        running = known.pop(RUNNING) > 0
        made = rule.after(known)
        return tuple(torch.where(running, new, known[name]) for name, new in made.items())

    return _derived(rule, after, {**rule.signals, RUNNING: "element"}, ())


def with_dropout(rule: Rule) -> Rule:
    """The rule of pre-synaptic neurons of which some are dropped: their activities times the signal :data:`DROPPED`."""

    def dropped(known: dict[str, Value]) -> dict[str, Value]:
        mask = known.pop(DROPPED)
        return known | {"x": known["x"] * mask} if "x" in known else known

    def after(known: dict[str, Value]) -> Value:
        return tuple(rule.after(dropped(known)).values())

    def read(**known: Value) -> Value:
        return rule.read(**dropped(known))

    read.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in (*rule.reads, DROPPED)]
    )
    read.__wrapped__ = rule.read  # type: ignore[attr-defined]
    return replace(_derived(rule, after, {**rule.signals, DROPPED: "pre"}, ()), read=read)


def _written_out(rule: Rule, readouts: Mapping[str, Readout]) -> Rule:
    """The rule with coefficients in the place of signals that are read out."""
    names = [f"{n}_{s}" for n in readouts for s, _ in _readout_parts(rule.signals[n])]

    def after(known: dict[str, Value]) -> Value:
        parts = {name: known.pop(name) for name in names}
        for name, readout in readouts.items():
            drive = over_post(parts[f"{name}_weight"] * known[HIDDEN]) + parts[f"{name}_bias"]
            signal = ACTIVITIES[readout.nonlinearity](drive)
            if rule.signals[name] == "post":
                signal = parts[f"{name}_fan_out_weight"] * signal + parts[f"{name}_fan_out_bias"]
            known[name] = signal
        return tuple(rule.after(known).values())

    signals = {name: kind for name, kind in rule.signals.items() if name not in readouts}
    clash = {*names} & {*rule.taken, *GIVEN}
    if clash:
        raise ValueError(
            f"{rule.name}: readouts: the rule has {', '.join(sorted(clash))} already; rename it"
        )
    return _derived(rule, after, signals, names)


def _readout_parts(kind: str) -> list[tuple[str, str]]:
    """Names and granularities of what a read-out is made of."""
    parts = [("weight", "post"), ("bias", "layer")]
    if kind == "post":
        parts += [("fan_out_weight", "post"), ("fan_out_bias", "post")]
    return parts


def _derived(
    rule: Rule, after: Callable[[dict[str, Value]], Value], signals: Mapping[str, str], more: Any
) -> Rule:
    """A rule whose states are ``after`` of everything by name, with other signals and more coefficients."""
    gone = {*rule.signals} - {*signals}
    names = [name for name in rule.changes if name not in gone]
    names += [n for n in (*signals, *rule.states, *more) if n not in names]
    if gone:
        names.append(HIDDEN)

    def function(**known: Value) -> Value:
        return after(known)

    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    )
    function.__wrapped__ = rule.function  # type: ignore[attr-defined]  # whose file and line errors name
    function.__name__, function.__qualname__ = rule.function.__name__, rule.function.__qualname__
    function.__module__ = rule.function.__module__
    return replace(
        rule, function=function, signals=signals, coefficients=(*rule.coefficients, *more)
    )


def _coefficient(name: str, said: str | Coefficient | None) -> Coefficient:
    default = DEFAULTS.get(name, Coefficient())
    if said is None:
        return default
    return replace(default, granularity=said) if isinstance(said, str) else said
