r"""What a neuron makes of its sums, as functions of torch: activities, modulators, and the LSTM's cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    input_sum: Value, forget_sum: Value, candidate_sum: Value, output_sum: Value, cell: Value
) -> dict[str, Value]:
    """The LSTM's step from the sums of its gates, drives included, and the cell before: candidate, cell and
    hidden activity after it (Backpropamine, section 4.3)."""
    candidate = torch.tanh(candidate_sum)
    after = torch.sigmoid(forget_sum) * cell + torch.sigmoid(input_sum) * candidate
    return {
        "candidate": candidate, "cell": after, "hidden": torch.sigmoid(output_sum) * torch.tanh(after)
    }  # fmt: skip


HISTORY = ("input", "forget", "candidate", "output", "cell", "recurrent")
"""What is kept of an LSTM's step, row by row: its gates after their nonlinearity, its cell and, where that is the
post, the candidate's recurrent sum."""
POSTS = ("candidate", "recurrent", "cell", "hidden")
"""The signals of an LSTM that may change its traces: rows of its history, or its output."""


def history_rows(post: str) -> int:
    """How many rows are kept with that post."""
    return len(HISTORY) if post == HISTORY[-1] else len(HISTORY) - 1
