"""What is derived of the change of a synapse's states and of what is read of them: values and adjoints, cut into
what is computed once a row and what for every synapse."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from . import papers
from .adjoint import adjoint, regrouped
from .cutting import BeyondRows, Cutting, Pass
from .operations import apply, evaluate, over_pre
from .printers import written
from .schedule import Stage
from .symbols import RuleError, Symbol, constant, leaf, walk

Names = tuple[str, ...]


@dataclass(frozen=True)
class Update:
    """How the states of a synapse change, and what comes back.

    Attributes:
        states, coefficients: their names, in order.
        by_synapse: whether coefficients belong to synapses; else they belong to rows.
        row: values of a row, from the signals and, by rows, the coefficients.
        passes: those that ``next`` needs, then those that ``adjoint`` needs besides.
        passes_of_next: how many ``next`` needs.
        next: the states after a step, from those before, ``x`` and values of the row.
        adjoint: ``grad_STATE`` of the states before from those of the states after, the summand
            ``grad_x`` of the gradient of x and the summands ``s0``, ... of sums over the row; by
            synapse, gradients ``grad_COEFFICIENT``.
        finish: ``grad_y`` and, by rows, gradients of coefficients, from those sums and values of the row.
        reverse: the states before a step from those after it; None where they do not follow.
        fades: the coefficients by which ``reverse`` divides.
        rests: whether states of 0 stay 0, and give nothing to any gradient, where x or y is 0 and no gradient comes:
            kernels that compute more than the synapses there are need not care for the others then.
    """

    name: str
    formula: str
    states: Names
    coefficients: Names
    by_synapse: bool
    row: Stage
    passes: list[Pass]
    passes_of_next: int
    next: Stage
    adjoint: Stage
    finish: Stage
    reverse: Stage | None
    fades: Names
    rests: bool

    @property
    def of_row(self) -> list[str]:
        """Names of the values of a row, in the order in which they become known."""
        settled = [name for each in self.passes for name in each.settle.outputs]
        return [*self.row.outputs, *settled]


@dataclass(frozen=True)
class Read:
    """What a synapse gives to the sum of its row, ``(w + alpha read(H)) x``, and what comes back.

    Attributes:
        by_synapse: whether alpha belongs to synapses; else it belongs to rows.
        row: values of a row, from the bound ``c`` and, by rows, ``alpha``; for the adjoint also from ``grad_sum``.
        sum: the summand.
        adjoint: gradients ``grad_x``, ``grad_H``; of alpha, by synapse ``grad_alpha``, else the summand ``s0``.
        alpha: that of alpha alone.
        finish: by rows, ``grad_alpha`` from the sum.
    """

    name: str
    formula: str
    by_synapse: bool
    row: Stage
    sum: Stage
    adjoint: Stage
    alpha: Stage
    finish: Stage


SIGNALS = {"x": "pre", "y": "post", "c": "bound"}


def stem(rule: str, constraint: str) -> str:
    """The name of an update: constraints that change a trace alike share it."""
    change = papers.CONSTRAINTS[constraint]
    same = [name for name, other in papers.CONSTRAINTS.items() if other is change]
    return f"{rule}_{same[-1]}"


@cache
def update(rule: str, constraint: str, retroactive: bool, by_synapse: bool) -> Update:
    """What is derived of a rule and a constraint.

    Raises:
        RuleError: the change sums over neurons, which takes another pass over the synapses than kernels have.
    """
    for kind in ("pre", "synapse"):  # what depends on x alone is computed for every synapse
        try:
            return _update(rule, constraint, retroactive, by_synapse, SIGNALS | {"x": kind})
        except BeyondRows:
            continue
    raise RuleError(f"rule {rule!r} with {constraint!r} sums over neurons within the change")


def _update(
    rule: str, constraint: str, retroactive: bool, by_synapse: bool, kinds: dict[str, str]
) -> Update:
    modulation = papers.retroactive if retroactive else papers.simple
    states = ("H", "E") if retroactive else ("H",)
    coefficients = ("r", "eta") if retroactive else ("r",)
    leaves = {name: leaf(name, "synapse") for name in states}
    leaves |= {name: leaf(name, kind) for name, kind in kinds.items()}
    leaves |= {name: leaf(name, "synapse" if by_synapse else "post") for name in coefficients}
    made = modulation(rule, constraint)(**leaves)
    following = dict(zip(states, made if retroactive else (made,), strict=True))
    grads = adjoint(
        [(value, leaf(f"grad_{name}", "synapse")) for name, value in following.items()],
        [leaves[name] for name in (*states, "x", "y", *coefficients)],
    )
    named = {f"grad_{symbol.payload}": grad for symbol, grad in grads.items()}
    if any(symbol.operation == "over_pre" for symbol in walk(following.values())):
        # Sums inside the change are the same ones in its adjoint.
        together = regrouped(following | named)
        change, back = ({name: together[name] for name in part} for part in (following, named))
    else:
        change, back = regrouped(following), regrouped(named)
    cutting = Cutting()
    after, _ = cutting.cut(change)
    passes_of_next = len(cutting.gathers)
    before, finish = cutting.cut(back)
    # Under retroactive modulation r is a modulator's, which may be anything.
    signals = {*SIGNALS, *states, *(["r"] if retroactive else [])}
    backwards, fades = _reversed(following, [leaves[name] for name in states], signals)
    reverse = None if backwards is None or passes_of_next else cutting.cut(regrouped(backwards))[0]
    passes = cutting.passes()
    rests = not passes and _rests(change | back, states)
    return Update(
        f"{stem(rule, constraint)}{'_retroactive' if retroactive else ''}",
        "; ".join(f"{name}' = {written(value)}" for name, value in following.items()),
        states, coefficients, by_synapse, cutting.rows(), passes, passes_of_next, after, before, finish, reverse,
        fades, rests,
    )  # fmt: skip


def _rests(outputs: dict[str, Symbol], states: Names) -> bool:
    """Computed: 0 times infinity, as in y * log(x), is not to be seen in the text."""
    generator = torch.Generator().manual_seed(0)
    leaves = sorted(str(s.payload) for s in walk(outputs.values()) if s.operation == "leaf")
    for silent in ("x", "y"), ("x",), ("y",):
        zeros = {*silent, *states, *(f"grad_{state}" for state in states)}
        given = {
            name: torch.rand(1, 1, 1, generator=generator, dtype=torch.float64)
            * (name not in zeros)
            for name in leaves
        }
        if any(value.any() for value in evaluate(outputs, given).values()):  # NaN counts
            return False
    return True


def runs_backwards(rule: str, constraint: str) -> bool:
    """Whether traces follow from those after a step, where nothing was clipped."""
    free = papers.WHERE_NOTHING_IS_CLIPPED.get(constraint, constraint)
    return update(rule, free, False, False).reverse is not None


@cache
def read(constraint: str, by_synapse: bool) -> Read:
    """What the papers' sums read under a constraint."""
    w, H = leaf("w", "connection"), leaf("H", "synapse")
    x, c, grad_sum = leaf("x", "pre"), leaf("c", "bound"), leaf("grad_sum", "post")
    alpha = leaf("alpha", "connection" if by_synapse else "neuron")
    seen = papers.READS[constraint](H, c) if constraint in papers.READS else H
    summand = (w + alpha * seen) * x
    cutting = Cutting()
    forward, _ = cutting.cut(regrouped({"sum": summand}))
    grads = adjoint([(over_pre(summand), grad_sum)], [x, H, alpha])
    named = {f"grad_{s.payload}": grad for s, grad in grads.items()}
    backward, finish = cutting.cut(regrouped(named))
    only, _ = cutting.cut(regrouped({"grad_alpha": named["grad_alpha"]}))
    return Read(
        "read_clipped" if constraint in papers.READS else "read_trace",
        f"sum of {written(summand)}", by_synapse, cutting.rows(), forward, backward, only, finish,
    )  # fmt: skip


def _reversed(
    following: dict[str, Symbol], states: list[Symbol], signals: set[str]
) -> tuple[dict[str, Symbol] | None, Names]:
    """The states before a step from those after it, where each is affine in itself with a factor that only
    coefficients are in; and these coefficients. The quotient comes with what rounding leaves of the inverse:
    without it every step would err in the same direction, and hundreds of steps would add up."""
    found: dict[Symbol, Symbol] = {}
    fades: dict[str, None] = {}
    # A state that others are computed from comes first.
    for state in reversed(states):
        factor, rest = _affine(following[state.payload], state) or (None, None)
        if factor is None:
            return None, ()
        named = [s.payload for s in walk([factor]) if s.operation == "leaf"]
        if signals & {*named}:
            return None, ()
        difference = leaf(f"after_{state.payload}", "synapse")
        if rest is not None:
            difference = difference - substituted(rest, found)
        if {*walk([difference])} & {*states}:
            return None, ()
        if factor.value != 1:
            fades |= dict.fromkeys(named)
            inverse = 1 / factor
            missing = (1 - factor * inverse) * inverse
            difference = difference * missing + difference * inverse
        found[state] = difference
    return {f"before_{state.payload}": value for state, value in found.items()}, tuple(fades)


def _affine(value: Symbol, state: Symbol) -> tuple[Symbol | None, Symbol | None] | None:
    """(factor, rest) of a value that is factor * state + rest, where None stands for 0."""
    if value is state:
        return constant(1), None
    if state not in {*walk([value])}:
        return None, value
    parts = [_affine(argument, state) for argument in value.arguments]
    if None in parts or value.operation not in ("add", "sub", "mul", "neg"):
        return None
    (p, q), (r, t) = [*(part for part in parts if part is not None), (None, None)][:2]
    if value.operation == "mul":
        if p is not None and r is not None:
            return None
        return _plus(_times(p, t), _times(q, r)), _times(q, t)
    if value.operation == "add":
        return _plus(p, r), _plus(q, t)
    minus = constant(-1)
    if value.operation == "neg":
        return _times(minus, p), _times(minus, q)
    return _plus(p, _times(minus, r)), _plus(q, _times(minus, t))


def _plus(a: Symbol | None, b: Symbol | None) -> Symbol | None:
    return a + b if a is not None and b is not None else b if a is None else a


def _times(a: Symbol | None, b: Symbol | None) -> Symbol | None:
    return None if a is None or b is None else a * b


def substituted(value: Symbol, known: dict[Symbol, Symbol]) -> Symbol:
    """The value with symbols in the place of others."""
    found = dict(known)
    for symbol in walk([value]):
        if symbol not in found:
            arguments = [found[argument] for argument in symbol.arguments]
            found[symbol] = apply(symbol.operation, *arguments) if arguments else symbol
    return found[value]
