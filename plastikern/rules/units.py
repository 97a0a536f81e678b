"""A rule in units, forward and backward: what a kernel does between two steps.

Unit k changes the states by what step k - 1 has left, and reads them for step k, so that what the whole
layer decides at a step is known when it changes synapses. A rule that is read after its change does both by
step k. The first unit only reads and the last one only changes, where a rule is read before its change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .adjoint import adjoint, level, regrouped
from .decorator import Rule
from .operations import apply, over_pre
from .schedule import Schedule
from .symbols import Symbol, leaf, walk
from .updates import substituted

READ = "_read"
"""What a name of step k, as the read takes it, ends with, where the change takes that of step k - 1."""
SEEN = "seen_"
"""What the name of a state begins with, as the change has left it and the read takes it."""
COSTS = {
    "tanh": 25,
    "sigmoid": 20,
    "exp": 20,
    "log": 25,
    "log1p": 40,
    "pow": 60,
    "div": 8,
    "sqrt": 8,
}
"""Of operations that cost more than one does, in such; of a state in memory, :data:`COST_OF_STATE`."""
COST_OF_STATE = 8


@dataclass(frozen=True)
class Unit:
    """Schedules of a unit.

    Attributes:
        forward: from what the rule is given, the states after the change, ``next_STATE``, and ``sum``.
        backward: gradients ``grad_of_NAME`` of everything that the unit is given, from ``grad_STATE`` of the states
            after the change and ``grad_sum``; those of coefficients are each element's. It may take states after the
            change, ``seen_STATE``, beside those before it.
        multiplies: whether that of the weight is the product of ``grad_sum`` and the pre that is read, and left to one
            product of matrices over all steps.
    """

    forward: Schedule
    backward: Schedule
    multiplies: bool


def unit(rule: Rule, granularities: Mapping[str, str], changes: bool, reads: bool) -> Unit:
    """A unit of a rule.

    Change and read are regrouped each by itself: what the read takes of a state after the change is there already.
    """
    traced = rule.traced(granularities)
    leaves = dict(traced.leaves)
    states = {name: leaves[name] for name in rule.states}
    after = regrouped(traced.states) if changes else states
    # What one of the two takes of the other.
    seen = {name: leaf(SEEN + name, kind) for name, kind in rule.states.items()}
    back = {name: leaf(f"back_{name}", kind) for name, kind in rule.states.items()}
    outputs = {f"next_{n}": _spread(value, leaves[n]) for n, value in after.items() if changes}
    total: dict[str, Symbol] = {
        name: leaf(f"grad_{name}", kind) for name, kind in rule.states.items()
    }
    grads: dict[str, Symbol] = {}
    known = {seen[name]: value for name, value in after.items()}

    def gather(found: dict[str, Symbol], more: dict[Symbol, Symbol]) -> None:
        for name, symbol in found.items():
            value = substituted(symbol, more)
            grads[name] = grads[name] + value if name in grads else value

    if reads:
        of_step = () if rule.read_after else ("x", *rule.signals)
        taken: dict[Symbol, Symbol] = {states[name]: seen[name] for name in states}
        for name in of_step:
            leaves[name + READ] = taken[leaves[name]] = leaf(
                name + READ, rule.signals.get(name, "pre")
            )
        read = over_pre(substituted(traced.summand, taken))
        outputs["sum"] = substituted(regrouped({"sum": read})["sum"], known)
        own = [symbol for symbol in (*leaves.values(), *seen.values()) if symbol in {*walk([read])}]
        found = adjoint([(read, leaf("grad_sum", "post"))], own)
        for name, symbol in seen.items():
            if symbol in found:
                of_state = regrouped({"grad": found.pop(symbol)})["grad"]
                total[name] = total[name] + substituted(of_state, known)
        gather(regrouped(_named(found)), known)
    if changes:
        used = dict.fromkeys(s for s in walk(traced.states.values()) if s.operation == "leaf")
        # Roles of the other side are leaves of their own. They come in the order of the rule, so that every process
        # prints the same text.
        leaves |= {str(s.payload): s for s in used if s.payload not in leaves}
        given = [(_spread(traced.states[n], leaves[n]), back[n]) for n in states]
        found = adjoint(given, [symbol for symbol in leaves.values() if symbol in used])
        gather(regrouped(_named(found)), {back[name]: total[name] for name in states})
    else:
        gather({f"grad_of_{name}": total[name] for name in states}, {})
    # A state that its change overwrites has the gradient zero.
    grads |= {f"grad_of_{n}": _zero(leaves[n]) for n in states if f"grad_of_{n}" not in grads}
    for name, symbol in seen.items():
        grads = _cheaper(grads, {after[name]: symbol})
    grads = {
        name: _spread(grad, leaves[name.removeprefix("grad_of_")]) for name, grad in grads.items()
    }
    pre = leaves["x"] if rule.read_after else leaves.get("x" + READ)
    weight = grads.get("grad_of_w")
    product = {leaf("grad_sum", "post"), pre}
    multiplies = (
        weight is not None
        and weight.operation == "mul"
        and {*weight.arguments} == product
        and leaves["w"] not in {*walk(traced.states.values())}
    )
    if multiplies:
        del grads["grad_of_w"]
    return Unit(Schedule(outputs), Schedule(grads), multiplies)


def _cheaper(grads: dict[str, Symbol], known: dict[Symbol, Symbol]) -> dict[str, Symbol]:
    """The gradients with a state after the change taken from memory, where that is less than to compute it again: where
    nothing else asks for the state before, or where a function is spared that costs much."""
    ((value, symbol),) = known.items()
    if value.operation == "leaf" or value.axes != symbol.axes or level(value) != "synapse":
        return grads
    others = {name: substituted(grad, known) for name, grad in grads.items()}
    return others if _cost(others) < _cost(grads) else grads


def _cost(outputs: dict[str, Symbol]) -> int:
    """Of all synapses."""
    return sum(
        COST_OF_STATE if symbol.operation == "leaf" else COSTS.get(symbol.operation, 1)
        for symbol in walk(outputs.values())
        if level(symbol) == "synapse"
    )


def _named(found: dict[Symbol, Symbol]) -> dict[str, Symbol]:
    return {f"grad_of_{symbol.payload}": grad for symbol, grad in found.items()}


def _spread(value: Symbol, like: Symbol) -> Symbol:
    """The value once for each that there is of another: a slot holds all of them."""
    return value if level(value) == level(like) else value + _zero(like)


def _zero(like: Symbol) -> Symbol:
    """Zero, whatever the other is: a product with 0 would hand on its NaN."""
    return apply("where", apply("lt", like, like), like, 0)
