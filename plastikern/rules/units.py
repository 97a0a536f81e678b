"""A rule in units, forward and backward: what a kernel does between two steps.

Unit k changes the states by what step k - 1 has left, and reads them for step k, so that what the whole
layer decides at a step is known when it changes synapses. A rule that is read after its change does both by
step k. The first unit only reads and the last one only changes, where a rule is read before its change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .adjoint import adjoint, regrouped
from .decorator import Rule
from .operations import over_pre
from .schedule import Schedule
from .symbols import leaf, walk
from .updates import substituted

READ = "_read"
"""What a name of step k, as the read takes it, ends with, where the change takes that of step k - 1."""


@dataclass(frozen=True)
class Unit:
    """Schedules of a unit.

    Attributes:
        forward: from what the rule is given, the states after the change, ``next_STATE``, and ``sum``.
        backward: gradients ``grad_of_NAME`` of everything that the unit is given, from ``grad_STATE`` of the states
            after the change and ``grad_sum``; those of coefficients are each element's.
    """

    forward: Schedule
    backward: Schedule


def unit(rule: Rule, granularities: Mapping[str, str], changes: bool, reads: bool) -> Unit:
    """A unit of a rule."""
    traced = rule.traced(granularities)
    leaves = dict(traced.leaves)
    after = traced.states if changes else {name: leaves[name] for name in rule.states}
    outputs = {f"next_{name}": value for name, value in after.items()} if changes else {}
    given = [(value, leaf(f"grad_{name}", rule.states[name])) for name, value in after.items()]
    if reads:
        of_step = () if rule.read_after else ("x", *rule.signals)
        known = {leaves[name]: after[name] for name in rule.states}
        for name in of_step:
            kind = rule.signals.get(name, "pre")
            leaves[name + READ] = known[leaves[name]] = leaf(name + READ, kind)
        outputs["sum"] = over_pre(substituted(traced.summand, known))
        given.append((outputs["sum"], leaf("grad_sum", "post")))
    values = [*outputs.values(), *(value for value, _ in given)]
    used = {s for s in walk(values) if s.operation == "leaf"}
    # Roles of the other side are leaves of their own.
    leaves |= {str(s.payload): s for s in used if s.payload not in leaves}
    grads = adjoint(given, [symbol for symbol in leaves.values() if symbol in used])
    back = {f"grad_of_{symbol.payload}": grad for symbol, grad in grads.items()}
    return Unit(Schedule(regrouped(outputs)), Schedule(regrouped(back)))
