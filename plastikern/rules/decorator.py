"""Rules of one's own: a function of one synapse, and what it is given.

The function is the rule's definition: torch runs it as it stands, and a trace on symbols gives everything
that fused kernels need. Names that every rule may take: ``x``, the pre-synaptic activity before the step;
``y`` and ``z``, the post-synaptic activity after it and the sum that it is made of; ``w`` and ``alpha``,
weight and plasticity coefficient. Names of states and signals are declared; all others are coefficients.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from .firing import HIDDEN, Fired, fired
from .operations import COMPARISONS, over_pre
from .symbols import KINDS, RuleError, Symbol, leaf, walk

if TYPE_CHECKING:
    from .uses import Coefficient, Readout, RulePlasticity

Value = Any
"""A tensor, or a symbol of it."""
GIVEN = {
    "x": "pre", "y": "post", "z": "post", HIDDEN: "post", "w": "connection", "alpha": "connection",
}  # fmt: skip
"""Names that every rule may take, and their kinds."""
STATE_KINDS = ("synapse", "pre", "post", "element")
GRANULARITIES = {"layer": "layer", "pre": "input", "post": "neuron", "connection": "connection"}
"""What a coefficient belongs to, where a rule is used, and its kind."""
MAX_STATES = 16


def kind_shape(kind: str, posts: int, pres: int) -> tuple[int, ...]:
    """Of a state or signal of that kind, for one element."""
    return {"synapse": (posts, pres), "pre": (pres,), "post": (posts,), "element": ()}[kind]


def granular_shape(granularity: str, posts: int, pres: int) -> tuple[int, ...]:
    """Of a coefficient; one number has the shape ()."""
    return {"layer": (), "pre": (pres,), "post": (posts,), "connection": (posts, pres)}[granularity]


REGISTERED: WeakValueDictionary[str, Rule] = WeakValueDictionary()
"""Rules by their tokens."""
RESERVED = re.compile(
    r"readouts|initial|sum|pre_count|post_count|_.*|(grad|next|seen|back|made)_.*|.*_(read|as_pre)"
)
"""Names of what :meth:`Rule.use` takes besides coefficients, and of what is derived of a rule."""


def plastic_read(w: Value, alpha: Value, H: Value, x: Value) -> Value:
    """What the sums read where a rule says nothing else: (w + alpha H) x (Differentiable plasticity, eq. 1)."""
    return (w + alpha * H) * x


@dataclass(frozen=True)
class Traced:
    """A rule as expressions.

    Attributes:
        states: the states after a step, by name.
        summand: what a synapse adds to the sum of its row.
        leaves: what the rule is given, by name.
    """

    states: dict[str, Symbol]
    summand: Symbol
    leaves: dict[str, Symbol]

    @property
    def other_role(self) -> list[str]:
        """What the states take ``as_pre(...)`` of."""
        given = {*self.leaves.values()}
        leaves = [s for s in walk(self.states.values()) if s.operation == "leaf" and s not in given]
        return [str(each.payload).removesuffix("_as_pre") for each in leaves]


@dataclass(frozen=True, eq=False)
class Rule:
    """A plasticity rule.

    Attributes:
        function: gives the states after a step, in the order of their declaration.
        states, signals: kinds by name: ``"synapse"`` (B, O, I), ``"pre"`` (B, I), ``"post"`` (B, O),
            ``"element"`` (B,).
        coefficients: names of what is neither; a module makes parameters of them.
        read: what a synapse adds to the sum of its row.
        read_after: whether the sums read the states after the step that changes them.
        fused: whether kernels are made of the rule; else the reference alone runs it.
        token: by which compiled code finds the rule again, the same in every process.
    """

    function: Callable[..., Value]
    states: Mapping[str, str]
    signals: Mapping[str, str]
    coefficients: tuple[str, ...]
    read: Callable[..., Value]
    read_after: bool
    fused: bool
    token: str = field(default="", init=False, repr=False)

    @property
    def name(self) -> str:
        """As saved models name it: MODULE:NAME."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    def prepare(self, lengths: bool = True) -> Rule:
        """Works out now what compiled code cannot, and lets it find the rule and the one of elements that end."""
        _ = self.taken, self.other_role
        if self.fused:
            self._register()
        if lengths:
            self.with_lengths.prepare(False)
        return self

    def _register(self) -> None:
        traced = self.traced()
        said = [f"{n} {s.digest.hex()} {self.states[n]}" for n, s in traced.states.items()]
        said += [traced.summand.digest.hex(), str(self.read_after), *self.coefficients]
        said += [f"{name} {kind}" for name, kind in self.signals.items()]
        digest = hashlib.sha256("\n".join(said).encode()).hexdigest()[:32]
        # Two that are the same now may differ later, when a number that one of them takes is changed.
        token = next(t for t in (f"{digest}.{n}" for n in count()) if t not in REGISTERED)
        object.__setattr__(self, "token", token)
        REGISTERED[self.token] = self

    def use(
        self, *, readouts: Mapping[str, Readout] | None = None, initial: Mapping[str, float] | None = None,
        **coefficients: str | Coefficient,
    ) -> RulePlasticity:  # fmt: skip
        """The rule as a layer uses it, where modules take a ``plasticity``.

        Args:
            readouts: signals that the network reads out of its activities, by name: neuromodulators. The others are
                given with every call.
            initial: first values of states, by name, where a call gives no state; 0 where nothing is said.
            coefficients: by name, a :class:`plastikern.Coefficient`, or its granularity: ``"layer"``, ``"pre"``,
                ``"post"`` or ``"connection"``. What is not named is ``Coefficient()``, one learned number that starts
                at 0.01; ``alpha`` is one a connection, normal with a deviation of 0.01.

        Raises:
            ValueError, TypeError: a name that the rule has not, or something else that does not fit.
        """
        from .uses import RulePlasticity

        return RulePlasticity(self, coefficients, readouts or {}, initial or {})  # type: ignore[arg-type]

    def __call__(self, *args: Value, **kwargs: Value) -> Value:
        """The function itself."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Rule({self.name})"

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        """Pickled by its name: no code comes from a file."""
        try:
            found = pkgutil.resolve_name(self.name)
        except (ImportError, AttributeError, ValueError):
            found = None
        if found is not self:
            raise pickle.PicklingError(
                f"{self.name} is not where its name says; declare it in a module"
            )
        return pkgutil.resolve_name, (self.name,)

    def __copy__(self) -> Rule:
        """Itself: a rule does not change."""
        return self

    def __deepcopy__(self, memo: Any) -> Rule:
        """Itself."""
        return self

    def traced(self, granularities: Mapping[str, str] | None = None) -> Traced:
        """The rule as expressions, with the coefficients' granularities (``"layer"`` where nothing is said).

        Raises:
            RuleError: no kernel can be made of the function, or a state would need an axis that its kind lacks.
        """
        of_use = granularities or {}
        kinds = {name: GRANULARITIES[of_use.get(name, "layer")] for name in self.coefficients}
        kinds |= {name: GRANULARITIES[of_use.get(name, GIVEN[name])] for name in ("w", "alpha")}
        kinds = {**GIVEN, **self.states, **self.signals, **kinds}
        leaves = {name: leaf(name, kind) for name, kind in kinds.items()}
        made = self.after(leaves)
        found = {}
        for name, value in made.items():
            if not isinstance(value, Symbol):
                raise self.error(
                    f"state {name} after a step must depend on what the rule is given; got {value!r}"
                )
            beyond = value.axes - {*KINDS[self.states[name]]}
            if beyond:
                raise self.error(
                    f"state {name} is declared {self.states[name]!r}, but after a step it depends on "
                    f"{' and '.join(sorted(beyond))}"
                )  # fmt: skip
            found[name] = value
        summand = self.read(**{name: leaves[name] for name in self.reads})
        if not isinstance(summand, Symbol) or "pre" not in summand.axes:
            raise self.error("read must give a value for every pre-synaptic neuron", self.read)
        if {s for s in walk([summand]) if s.operation == "leaf"} - {*leaves.values()}:
            raise self.error("read cannot take as_pre(...), which is for the change", self.read)
        self._check_choices(walk([*found.values(), summand]), [*found.values(), summand])
        return Traced(found, summand, leaves)

    def _check_choices(self, order: list[Symbol], made: list[Symbol]) -> None:
        """That comparisons are what choices are made by, and nothing else."""
        for symbol in order:
            chosen = symbol.arguments[:1] if symbol.operation == "where" else ()
            if any(each.operation not in COMPARISONS for each in chosen):
                raise self.error(
                    "torch.where chooses by a comparison, as in torch.where(x > 0, a, b)"
                )
            if any(each.operation in COMPARISONS for each in symbol.arguments[len(chosen) :]):
                raise self.error("a comparison is no number; write torch.where(x > 0, 1.0, 0.0)")
        if any(symbol.operation in COMPARISONS for symbol in made):
            raise self.error("a comparison is no number; write torch.where(x > 0, 1.0, 0.0)")

    def step(
        self, drive: Tensor, states: Mapping[str, Tensor], given: Mapping[str, Tensor],
        activity: Callable[[Tensor], Tensor] = torch.tanh, *, clamp: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """One step by torch: the definition.

        Args:
            drive: (B, O), what is added to the sums.
            states: by name, in the shapes of their kinds.
            given: ``x`` (B, I), weight and alpha (O, I), signals in the shapes of their kinds, and coefficients: one
                number, (O, I), and (I,) and (O,) as (1, I) and (O, 1).
            activity: of the sums (B, O), the post-synaptic activities.
            clamp: bool (B, O), where the activity is the drive.

        Returns:
            The activities (B, O), and the states after the step.
        """
        after, states = self.stepped(
            lambda total: fired(drive, total, activity, clamp), drive.shape[-1], states, given
        )
        return after.output, states

    def stepped(
        self, neurons: Callable[[Tensor], Fired], posts: int, states: Mapping[str, Tensor],
        given: Mapping[str, Tensor],
    ) -> tuple[Fired, dict[str, Tensor]]:  # fmt: skip
        """As :meth:`step`, of a layer whose ``posts`` neurons are a function of their plastic sums (B, O)."""
        kinds = {**GIVEN, **self.states, **self.signals}
        known = {
            name: _spread(tensor, kinds.get(name, "layer"))
            for name, tensor in {**given, **states}.items()
        }

        def fire(known: Mapping[str, Tensor]) -> Fired:
            summand = self.read(**{name: known[name] for name in self.reads})
            batch, _, pres = known["x"].shape
            return neurons(over_pre(summand.expand(batch, posts, pres)).squeeze(-1))

        if self.read_after:
            after = self.after(known)
            left = fire(known | after)
        else:
            left = fire(known)
            after = self.after(
                known | {name: _spread(value, "post") for name, value in left.seen.items()}
            )
        shapes = {name: _spread(tensor, kinds[name]).shape for name, tensor in states.items()}
        found = {
            name: self._of_shape(name, value, shapes[name]).reshape(states[name].shape)
            for name, value in after.items()
        }
        return left, found

    def _of_shape(self, name: str, value: object, shape: torch.Size) -> Tensor:
        """A state after a step, as its kind is."""
        if not isinstance(value, Tensor):
            raise self.error(f"state {name} after a step must be a tensor; got {value!r}")
        sizes = zip(reversed(value.shape), reversed(shape), strict=False)
        if value.dim() > len(shape) or any(size not in (1, right) for size, right in sizes):
            raise self.error(
                f"state {name} is declared {self.states[name]!r}, {tuple(shape)} beside (B, O, I), but after a step it "
                f"has shape {tuple(value.shape)}"
            )
        return value.expand(shape)

    def after(self, known: Mapping[str, Value]) -> dict[str, Value]:
        """The states after a step, from everything by name."""
        made = self.function(**{name: known[name] for name in self.changes})
        values = made if isinstance(made, tuple) else (made,)
        if len(values) != len(self.states):
            raise self.error(
                f"must return {len(self.states)} states ({', '.join(self.states)}); got {len(values)}"
            )
        return dict(zip(self.states, values, strict=True))

    @cached_property
    def other_role(self) -> list[str]:
        """What it takes of post-synaptic neurons in their other role, which they have where the layer is recurrent."""
        return self.traced().other_role if self.fused else []

    def check_role(self, recurrent: bool) -> None:
        """That the layer has what the rule takes.

        Raises:
            RuleError: the rule takes ``as_pre(...)``, and the layer is not recurrent.
        """
        if self.other_role and not recurrent:
            raise self.error(
                "as_pre is for recurrent layers; here the post-synaptic neurons are not the pre-synaptic ones"
            )

    @cached_property
    def with_lengths(self) -> Rule:
        """The rule of elements that may end, with a signal of whether they go on."""
        from .uses import with_lengths

        return with_lengths(self)

    @cached_property
    def with_dropout(self) -> Rule:
        """The rule of pre-synaptic neurons of which some are dropped, with a signal of how they count."""
        from .uses import with_dropout

        return with_dropout(self).prepare()

    @property
    def usual(self) -> dict[str, str]:
        """Granularities of all parameters where nothing is said."""
        weights = [name for name in ("w", "alpha") if name in self.taken]
        return {**dict.fromkeys(self.coefficients, "layer"), **dict.fromkeys(weights, "connection")}

    @cached_property
    def changes(self) -> list[str]:
        """Names that the function takes."""
        return _names(self.function)

    @cached_property
    def reads(self) -> list[str]:
        """Names that the read takes."""
        return _names(self.read)

    @cached_property
    def taken(self) -> list[str]:
        """Names that the function or the read takes."""
        return [*dict.fromkeys((*self.changes, *self.reads))]

    def error(self, message: str, function: Callable[..., Value] | None = None) -> RuleError:
        """An error that says where the rule is."""
        code = inspect.unwrap(function or self.function).__code__
        return RuleError(
            f"{self.function.__qualname__} ({code.co_filename}:{code.co_firstlineno}): {message}"
        )


def rule(
    *nothing: Any, signals: Mapping[str, str] | None = None, read: Callable[..., Value] = plastic_read,
    read_after: bool = False, fused: bool = True, **states: str,
) -> Callable[[Callable[..., Value]], Rule]:  # fmt: skip
    """Declares a plasticity rule: ``@rule(H="synapse", theta="post")`` above a function of one synapse.

    Args:
        states: by name, ``"synapse"``, ``"pre"``, ``"post"`` or ``"element"``. The function returns their values after
            a step in this order; a name stands for the value before it.
        signals: likewise, what is given with every step besides; ``"synapse"`` only with ``fused=False``.
        read: what a synapse adds to the sum of its row; default :func:`plastic_read`.
        read_after: whether the sums read the states after the change by this step. Such a rule has no ``y`` and no
            ``z``, which follow from the sums.
        fused: False declares a rule that the reference alone runs: of any functions of torch.

    Raises:
        RuleError: the declaration and the function do not fit, or no kernel can be made of the function.
    """

    if nothing:
        raise RuleError(
            'a rule says which states it has: write @rule(H="synapse") above the function'
        )

    def declared(function: Callable[..., Value]) -> Rule:
        if not inspect.isfunction(function) or not inspect.isfunction(read):
            raise RuleError(f"a rule and its read are functions; got {function!r} and {read!r}")
        if not isinstance(signals or {}, Mapping):
            raise RuleError(f"signals must be kinds by name; got {signals!r}")
        given = dict(signals or {})
        taken = _names(function)
        coefficients = [n for n in (*taken, *_names(read)) if n not in {**GIVEN, **states, **given}]
        found = Rule(
            function, states, given, (*dict.fromkeys(coefficients),), read, read_after, fused
        )
        _check(found)
        if fused:
            _check_use(found)
        return found.prepare()

    return declared


def _check(found: Rule) -> None:
    """That the declaration is one."""
    states, signals = found.states, found.signals
    if found.function.__name__ == "<lambda>":
        raise found.error("a rule needs a name, by which saved models find it; write it with def")
    if not states:
        raise found.error('a rule has at least one state, as in @rule(H="synapse")')
    if len(states) > MAX_STATES:
        raise found.error(f"a rule has at most {MAX_STATES} states; got {len(states)}")
    for what, kinds in (("state", states), ("signal", signals)):
        for name, kind in kinds.items():
            if kind not in STATE_KINDS:
                raise found.error(
                    f"{what} {name} must be one of {', '.join(STATE_KINDS)}; got {kind!r}"
                )
            if found.fused and (what, kind) == ("signal", "synapse"):
                raise found.error(
                    f"no kernel takes a matrix with every step; make signal {name} a state that keeps its value "
                    f"(return ..., {name}), or declare the rule with fused=False"
                )
            if name in GIVEN or (what == "signal" and name in states):
                raise found.error(f"{what} {name} has the name of something else")
    taken = {*_names(found.function)}
    for name in (*states, *signals, *found.coefficients):
        if RESERVED.fullmatch(name):
            raise found.error(f"{name} is a name of the library's; rename it")
    for name in states:
        if name not in {*taken, *_names(found.read)}:
            raise found.error(
                f"state {name} is declared, but neither the function nor read takes it"
            )
    for name in signals:
        if name not in {*taken, *_names(found.read)}:
            raise found.error(
                f"signal {name} is declared, but neither the function nor read takes it"
            )
    if found.read is plastic_read and "H" not in states:
        raise found.error(
            "what the sums read is (w + alpha * H) * x where nothing is said, and there is no state H; say read="
        )
    if circular := {"y", "z"} & {*_names(found.read)}:
        raise found.error(
            f"read cannot take {' and '.join(sorted(circular))}, which follow from it", found.read
        )
    if found.read_after and (circular := {"y", "z"} & taken):
        raise found.error(
            f"a rule that is read after its change cannot take {' and '.join(sorted(circular))}, which follow from it"
        )


def _check_use(found: Rule) -> None:
    """That kernels can be made of it, and that nothing is declared in vain."""
    traced = found.traced()
    used = {
        s.payload for s in walk([*traced.states.values(), traced.summand]) if s.operation == "leaf"
    }
    for name in (*found.states, *found.signals):
        if name not in used and f"{name}_as_pre" not in used:
            raise found.error(f"{name} has no influence on anything")


@cache
def _names(function: Callable[..., Value]) -> list[str]:
    """Names of a function's parameters.

    Raises:
        RuleError: it has others than names.
    """
    found = inspect.signature(function).parameters.values()
    for each in found:
        if (
            each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
            or each.default is not each.empty
        ):
            raise RuleError(
                f"{function.__qualname__} must take names without defaults; got {each} (a coefficient's first value is "
                "said where the rule is used, by Coefficient(init=...))"
            )
    return [each.name for each in found]


def _spread(tensor: Tensor, kind: str) -> Tensor:
    """As it broadcasts against (B, O, I)."""
    if kind == "post":
        return tensor.unsqueeze(-1)
    if kind == "pre":
        return tensor.unsqueeze(-2)
    return tensor.view(-1, 1, 1) if kind == "element" else tensor
