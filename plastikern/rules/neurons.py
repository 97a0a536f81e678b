"""What is derived of a neuron: activities and the steps of cells, with their adjoints from what a step leaves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from .adjoint import adjoint, regrouped
from .cells import ACTIVITIES, CELLS
from .schedule import Stage
from .symbols import Symbol, leaf


@dataclass(frozen=True)
class Neuron:
    """``forward``: what a step leaves, from its sums. ``adjoint``: gradients ``grad_NAME`` of what went in, from
    those of what came out and from what the step has left."""

    forward: Stage
    adjoint: Stage


@cache
def activity(name: str) -> Neuron:
    """An activity ``y`` of the sum ``z``; its adjoint knows y alone."""
    z, grad_y = leaf("z", "post"), leaf("grad_y", "post")
    y = ACTIVITIES[name](z)
    return _neuron({"y": y}, {"y": y}, [(y, grad_y)], {"z": z})


@cache
def gated(kind: str) -> Neuron:
    """The step of a cell, from its sums and what was ``before``: what is kept of it, and ``hidden``. Its adjoint knows
    what is kept, and what was before; gradients come in for every post, and for what goes on."""
    cell = CELLS[kind]
    sums = {f"{name}_sum": leaf(f"{name}_sum", "post") for name in cell.sums}
    before = leaf("before", "post")
    found = cell.step(**sums, before=before)
    left = {name: found[name] for name in cell.kept}
    return _neuron(
        {**left, "hidden": found["hidden"]}, {**left, "before": before},
        [(found[name], leaf(f"grad_{name}", "post")) for name in cell.posts if name in found],
        {**sums, "before": before},
    )  # fmt: skip


def _neuron(
    outputs: dict[str, Symbol], known: dict[str, Symbol], given: list[tuple[Symbol, Symbol]],
    leaves: dict[str, Symbol],
) -> Neuron:  # fmt: skip
    grads = adjoint(given, leaves.values())
    named = {f"grad_{name}": grads[symbol] for name, symbol in leaves.items()}
    all_of_it = regrouped({**outputs, **{f"known {n}": s for n, s in known.items()}, **named})
    taken = {name: all_of_it[f"known {name}"] for name in known}
    taken |= {str(grad.payload): grad for _, grad in given}
    return Neuron(
        Stage("row", 0, leaves, {name: all_of_it[name] for name in outputs}, {}),
        Stage("row", 0, taken, {name: all_of_it[name] for name in named}, {}),
    )
