r"""What one synapse does, by the rules of both papers: functions of torch, which the reference runs as
they stand and from which everything else is derived.

Names as in the papers: trace ``H``, eligibility trace ``E``, ``x`` the activity of the pre-synaptic neuron
before the step, ``y`` the post-synaptic signal after it, rate ``r``, bound ``c``. Values broadcast as
(B, O, I); what belongs to a post-synaptic neuron is (B, O, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch

Value = Any
"""A tensor, or a symbol of it."""


def hebb(H: Value, x: Value, y: Value) -> Value:
    """Hebb's increment y x (Differentiable plasticity, eq. 2)."""
    return y * x


def oja(H: Value, x: Value, y: Value) -> Value:
    """Oja's increment y (x - y H) (Differentiable plasticity, eq. 3)."""
    return y * (x - y * H)


INCREMENTS: dict[str, Callable[..., Value]] = {"hebb": hebb, "oja": oja}
"""The rules: what a trace takes up, before its rate."""


def decay(H: Value, change: Value, r: Value, c: float) -> Value:
    """The trace fades at the rate at which it changes (Differentiable plasticity, eq. 2)."""
    return (1 - r) * H + change


def clip(H: Value, change: Value, r: Value, c: float) -> Value:
    """The trace stays within plus and minus c (Backpropamine, eq. 2)."""
    return torch.clamp(H + change, -c, c)


def soft_clip(H: Value, change: Value, r: Value, c: float) -> Value:
    """A change grows smaller on its way to the bounds: max(d, 0)(1 - H) + min(d, 0)(1 + H) (the code of
    Backpropamine). Written so that its derivative at d = 0 is 1, and that a trace on a bound stays there
    exactly: rounding does not decide whether its gradient passes."""
    return torch.clamp(H + change * (1 - torch.sign(change) * H), -1, 1)


def unbounded(H: Value, change: Value, r: Value, c: float) -> Value:
    """The trace takes the change as it is."""
    return H + change


CONSTRAINTS: dict[str, Callable[..., Value]] = {
    "decay": decay, "clip": clip, "soft_clip": soft_clip, "clip_on_read": unbounded, "none": unbounded,
}  # fmt: skip
"""The next trace from the trace and its change."""


WHERE_NOTHING_IS_CLIPPED = {"clip": "none"}
"""Constraints that are another one at the synapses which they do not clip."""


def go_together(rule: str, constraint: str) -> bool:
    """Whether there is such a change: Oja's rule decays by itself."""
    return (rule, constraint) != ("oja", "decay")


def pairs() -> list[tuple[str, str]]:
    """Rule and constraint, where they go together."""
    return [pair for pair in product(INCREMENTS, CONSTRAINTS) if go_together(*pair)]


def clipped_read(H: Value, c: float) -> Value:
    """The trace as the sums read it: within the bounds, which it may itself leave."""
    return torch.clamp(H, -c, c)


READS: dict[str, Callable[..., Value]] = {"clip_on_read": clipped_read}
"""What the sums read of a trace, where that is not the trace itself."""


def simple(rule: str, constraint: str) -> Callable[..., Value]:
    """The next trace, at a rate that is a parameter or a neuromodulator's (Backpropamine, eq. 3)."""

    def following(H: Value, x: Value, y: Value, r: Value, c: float) -> Value:
        return CONSTRAINTS[constraint](H, r * INCREMENTS[rule](H, x, y), r, c)

    return following


def retroactive(rule: str, constraint: str) -> Callable[..., tuple[Value, Value]]:
    """The next trace and eligibility trace: the modulator works on what E held before (Backpropamine, eq. 4, 5)."""

    def following(
        H: Value, E: Value, x: Value, y: Value, r: Value, eta: Value, c: float
    ) -> tuple[Value, Value]:
        faded = (1 - eta) * E + eta * INCREMENTS[rule](H, x, y)
        return CONSTRAINTS[constraint](H, r * E, r, c), faded

    return following


def half(rule: str, constraint: str) -> Callable[..., tuple[Value, Value]]:
    """Retroactive where ``modulated`` says so; the other neurons' traces change at once, and their E stays as it is
    (``fm 0`` in the authors' code)."""

    def following(
        H: Value, E: Value, x: Value, y: Value, r: Value, eta: Value, modulated: Value, c: float
    ) -> tuple[Value, Value]:
        increment = INCREMENTS[rule](H, x, y)
        faded = (1 - eta) * E + eta * increment
        change = torch.where(modulated, r * E, r * increment)
        return CONSTRAINTS[constraint](H, change, r, c), torch.where(modulated, faded, E)

    return following
