"""An ABCD rule, evolved: a network that balances a pole has random weights at first, and a rule that changes them.

Every episode of CartPole-v1 begins with weights drawn anew, of which the rule has to make a policy while the pole is
falling. No gradient is taken, and no weight is handed on. A candidate's coefficients are states of the rule that keep
their values: every element of a batch has its own, so that a whole population acts in one call a step.
``python examples/abcd_evolution.py`` takes some minutes; needs ``pip install gymnasium``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import torch
from record import write
from torch import Tensor

from plastikern import PlasticLinearCell, rule

NAMES = ("eta", "A", "B", "C", "D")
SIZES = ((4, 8), (8, 2))
"""Inputs and outputs of the two layers."""
LENGTH = sum(len(NAMES) * pres * posts for pres, posts in SIZES)
POPULATION, PARENTS, FADING = 64, 16, 0.97
S = "synapse"


@rule(H=S, eta=S, A=S, B=S, C=S, D=S, read=lambda H, x: H * x)
def abcd(H: Any, x: Any, y: Any, eta: Any, A: Any, B: Any, C: Any, D: Any) -> Any:
    """All terms of a correlation (Najarro and Risi, 2020), within bounds."""
    H = torch.clamp(H + 0.1 * eta * (A * x * y + B * x + C * y + D), -3, 3)
    return H, eta, A, B, C, D


LAYERS = [PlasticLinearCell(*size, bias=False, plasticity=abcd) for size in SIZES]


def coefficients(candidates: Tensor) -> list[dict[str, Tensor]]:
    """Of candidates (B, LENGTH) the matrices (B, O, I) by name, of each layer."""
    parts = iter(candidates.split([pres * posts for pres, posts in SIZES for _ in NAMES], dim=1))
    return [{n: next(parts).reshape(-1, posts, pres) for n in NAMES} for pres, posts in SIZES]


@torch.no_grad()
def returns(candidates: Tensor, seed: int) -> Tensor:
    """Steps (B,) for which the candidates, each in an episode of its own, keep the pole up: 500 at most."""
    count, source = len(candidates), torch.Generator().manual_seed(seed)
    first = [0.2 * torch.rand(count, o, i, generator=source) - 0.1 for i, o in SIZES]
    states: list[Any] = [
        (H, *own.values()) for H, own in zip(first, coefficients(candidates), strict=True)
    ]
    worlds = gymnasium.make_vec(
        "CartPole-v1", num_envs=count, vectorization_mode="vector_entry_point"
    )
    seen, _ = worlds.reset(seed=seed)
    up, steps = torch.ones(count, dtype=torch.bool), torch.zeros(count)
    while bool(up.any()):
        active = torch.as_tensor(seen, dtype=torch.float32)
        for k, layer in enumerate(LAYERS):
            active, states[k] = layer(active, states[k])
        seen, _, ended, stopped, _ = worlds.step(active.argmax(-1).numpy())
        steps += up
        up &= ~torch.as_tensor(ended | stopped)
    worlds.close()
    return steps


def tested(candidate: Tensor, without: str = "") -> float:
    """Mean steps of a candidate in a hundred episodes, the same ones for all; without one of its terms if asked."""
    whole = candidate.repeat(100, 1)
    if without:
        for layer in coefficients(whole):
            layer[without].zero_()  # a part of `whole`
    return float(returns(whole, 10**6).mean())


def evolve(generations: int, seed: int) -> dict[str, Any]:
    """An evolution strategy: the next mean is that of the best quarter, drawn with a deviation that fades."""
    torch.manual_seed(seed)
    ones, zeros = torch.ones, torch.zeros
    mean = torch.cat([(ones if n == "eta" else zeros)(i * o) for i, o in SIZES for n in NAMES])
    deviation, curve = 1.0, []
    for generation in range(generations):
        population = mean + deviation * torch.randn(POPULATION, LENGTH)
        reached = returns(population, 1000 * seed + generation)
        curve.append(float(reached.mean()))
        mean = population[reached.argsort(descending=True)[:PARENTS]].mean(0)
        deviation *= FADING
    without = {name: tested(mean, name) for name in NAMES}
    return {
        "evolved": tested(mean),
        "unchanged": without.pop("eta"),
        "without": without,
        "population": curve,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Evolves a rule for each seed; what they reach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result there")
    options = parser.parse_args(arguments)
    began, runs = time.perf_counter(), []
    for seed in range(options.seeds):
        runs.append(evolve(options.generations, seed))
        without = ", ".join(f"{n} {steps:.0f}" for n, steps in runs[-1]["without"].items())
        print(
            f"seed {seed}: {runs[-1]['unchanged']:.0f} steps with weights that nothing changes, "
            f"{runs[-1]['evolved']:.0f} under the evolved rule; without its term {without}"
        )
    command = f"python examples/abcd_evolution.py --generations {options.generations} --seeds {options.seeds}"
    write(options.json, command, began, {"seeds": runs})
    return {"seeds": runs}


if __name__ == "__main__":
    main()
