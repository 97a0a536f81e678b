"""Random rules: functions of torch, drawn from a seed, over all operations, kinds and sums of a rule."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plastikern.rules.operations import over_post, over_pre
from plastikern.rules.symbols import KINDS

SIZES = {"batch": 2, "post": 3, "pre": 4}
Values = dict[str, Any]


@dataclass(frozen=True)
class RandomRule:
    """``function`` takes the leaves by name and returns the next states."""

    kinds: dict[str, str]
    states: list[str]
    function: Callable[[Values], Values]
    ties: bool

    def leaves(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Values that broadcast against (batch, post, pre); on a grid where ties are wanted."""
        found = {}
        for name, kind in self.kinds.items():
            shape = [SIZES[axis] if axis in KINDS[kind] else 1 for axis in SIZES]
            value = torch.randn(shape, generator=generator, dtype=torch.float64)
            found[name] = (value * 2).round() / 2 if self.ties else value
        return found


UNARY: list[Callable[[Any], Any]] = [
    torch.tanh, torch.sigmoid, torch.relu, torch.abs, torch.nn.functional.softplus, torch.sign,
    lambda a: torch.exp(torch.clamp(a, -3, 2)), lambda a: torch.log(a * a + 0.5),
    lambda a: torch.sqrt(a * a + 0.25), lambda a: -a, lambda a: torch.log1p(a * a),
    lambda a: torch.clamp(a, -0.5, 1), lambda a: torch.clamp(a, min=0), lambda a: torch.clamp(a, max=1),
    lambda a: torch.pow(a, 3), lambda a: torch.pow(a, 2), lambda a: torch.pow(a * a + 1, -0.5),
]  # fmt: skip
BINARY: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a * b,
    lambda a, b: a / (1 + b * b), lambda a, b: 2 * a - b / 3, torch.maximum, torch.minimum,
    lambda a, b: torch.where(a > b, a, -b), lambda a, b: torch.where(a <= b, b, a * b),
    lambda a, b: torch.pow(a * a + 0.5, torch.tanh(b)), lambda a, b: torch.clamp(a, -abs(b), abs(b)),
    lambda a, b: torch.where(torch.eq(a, b), a, b),
]  # fmt: skip


def random_rule(seed: int) -> RandomRule:
    """One to four states, at most two sums, every third rule on a grid of exact ties."""
    draw = random.Random(seed)
    states = [f"H{k}" for k in range(1 + seed % 4)]
    kinds = dict.fromkeys(states, "synapse") | {"x": "pre", "y": "post"}
    for k in range(draw.randint(1, 4)):
        kinds[f"k{k}"] = draw.choice([*KINDS])
    sums = draw.randint(0, 2)
    plan = [
        (draw.random(), draw.random(), draw.randrange(1 << 30)) for _ in range(draw.randint(4, 11))
    ]
    places = sorted(draw.sample(range(len(plan)), sums))
    over = [draw.choice([over_pre, over_post]) for _ in range(sums)]

    def function(values: Values) -> Values:
        known = [values[name] for name in kinds]
        made: list[Any] = []
        for step, (which, first, other) in enumerate(plan):
            choose = random.Random(other)
            a = made[-1] if made and first < 0.7 else choose.choice(known)
            b = choose.choice([*known, *made])
            value = choose.choice(UNARY)(a) if which < 0.4 else choose.choice(BINARY)(a, b)
            if step in places:
                # Summed together with a state, so that every axis is there.
                sum_of = over[places.index(step)]
                value = a + torch.tanh(sum_of(values["H0"] * torch.tanh(value)))
            made.append(value)
        results = {}
        for k, name in enumerate(states):
            other = made[-1 - k % len(made)]
            results[name] = values[name] * values["x"] * 0.5 + other * values["y"]
        return results

    return RandomRule(kinds, states, function, seed % 3 == 0)
