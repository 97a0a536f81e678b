r"""What a neuron makes of its sums, as functions of torch: activities, and the cells of networks with gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

Value = Any
"""A tensor, or a symbol of it."""


def linear(z: Value) -> Value:
    """The sum itself."""
    return z


ACTIVITIES: dict[str, Callable[[Value], Value]] = {
    "tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": linear, "linear": linear,
}  # fmt: skip
"""Those of a neuron by itself. A softmax is one of the whole layer."""


def lstm(
    input_sum: Value, forget_sum: Value, candidate_sum: Value, output_sum: Value, before: Value
) -> dict[str, Value]:
    """The LSTM's step from the sums of its gates, drives included, and the cell ``before``: the activities of gates,
    cell and hidden activity after it (Backpropamine, section 4.3)."""
    into, forget = torch.sigmoid(input_sum), torch.sigmoid(forget_sum)
    candidate, output = torch.tanh(candidate_sum), torch.sigmoid(output_sum)
    cell = forget * before + into * candidate
    return {
        "input": into, "forget": forget, "candidate": candidate, "output": output, "cell": cell,
        "hidden": output * torch.tanh(cell),
    }  # fmt: skip


def gru(
    reset_sum: Value, update_sum: Value, recurrent_sum: Value, candidate_sum: Value, before: Value
) -> dict[str, Value]:
    """The step of a GRU, as ``torch.nn.GRU`` has it, from its sums, drives included, and the hidden activity
    ``before``. The candidate has two: a recurrent one, which the reset gate scales, and one of its drive alone."""
    reset, update = torch.sigmoid(reset_sum), torch.sigmoid(update_sum)
    candidate = torch.tanh(candidate_sum + reset * recurrent_sum)
    return {
        "reset": reset, "update": update, "recurrent": recurrent_sum, "candidate": candidate,
        "hidden": (1 - update) * candidate + update * before,
    }  # fmt: skip


class Cell(NamedTuple):
    """What makes networks with gates: what kernels know of a step, beside its arithmetic.

    Attributes:
        step: from the sums and what was ``before``.
        sums: names of the sums, in the order in which the drive has them: N values each.
        weights: so many of them, the first ones, have recurrent weights. That of number :data:`PLASTIC` is plastic.
        kept: what is kept of a step, N values each: first what came of each sum.
        posts: the signals that may change the traces.
        carries: what goes on from step to step beside the activities: ``"cell"``, or nothing.
    """

    step: Callable[..., dict[str, Value]]
    sums: tuple[str, ...]
    weights: int
    kept: tuple[str, ...]
    posts: tuple[str, ...]
    carries: str = ""

    @property
    def others(self) -> list[int]:
        """Numbers of the sums whose recurrent weights are not plastic."""
        return [number for number in range(self.weights) if number != PLASTIC]

    def history(self, post: str) -> tuple[str, ...]:
        """What is kept with that post: it, too, where it is neither kept anyway nor the output."""
        return self.kept if post in (*self.kept, "hidden") else (*self.kept, post)


PLASTIC = 2
"""The number of the plastic sum."""
CELLS = {
    "lstm": Cell(
        lstm, ("input", "forget", "candidate", "output"), 4, ("input", "forget", "candidate", "output", "cell"),
        ("candidate", "recurrent", "cell", "hidden"), "cell",
    ),
    "gru": Cell(
        gru, ("reset", "update", "recurrent", "candidate"), 3, ("reset", "update", "recurrent", "candidate"),
        ("candidate", "recurrent", "hidden"),
    ),
}  # fmt: skip
"""Cells by the kind of their network. The ``recurrent`` post of an LSTM is the plastic sum without its drive."""
POSTS = CELLS["lstm"].posts
"""All signals of all cells."""


def drives(kind: str) -> int:
    """Values of the drive per neuron."""
    return len(CELLS[kind].sums) if kind in CELLS else 1


def weights(kind: str) -> int:
    """Rows of recurrent weights per neuron."""
    return CELLS[kind].weights if kind in CELLS else 1


def carries(kind: str) -> bool:
    """Whether a cell goes on from step to step beside the activities."""
    return kind in CELLS and bool(CELLS[kind].carries)


def history_of(kind: str, post: str) -> tuple[str, ...]:
    """What is kept of a step, row by row; nothing of a network without gates."""
    return CELLS[kind].history(post) if kind in CELLS else ()
