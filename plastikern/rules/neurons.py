"""What is derived of a neuron: activities and the LSTM's step, with their adjoints from what a step leaves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from .adjoint import adjoint, regrouped
from .cells import ACTIVITIES, lstm
from .schedule import Stage
from .symbols import Symbol, leaf

SUMS = ("input", "forget", "candidate", "output")
"""The gates i, f, g and o of an LSTM, in the order in which their sums and activities lie."""
OUTPUTS = ("candidate", "cell", "hidden")


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
def long_short_term_memory() -> Neuron:
    """The LSTM's step from the sums of its gates and the ``cell_before``: activities of gates, ``cell`` and ``hidden``.
    Its adjoint knows all of these but ``hidden``."""
    sums = {f"{name}_sum": leaf(f"{name}_sum", "post") for name in SUMS}
    cell_before = leaf("cell_before", "post")
    after = lstm(**sums, cell=cell_before)
    gates = {
        name: ACTIVITIES["tanh" if name == "candidate" else "sigmoid"](sums[f"{name}_sum"])
        for name in SUMS
    }
    left = {**gates, "cell": after["cell"]}
    return _neuron(
        {**left, "hidden": after["hidden"]}, {**left, "cell_before": cell_before},
        [(after[name], leaf(f"grad_{name}", "post")) for name in OUTPUTS],
        {**sums, "cell_before": cell_before},
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
