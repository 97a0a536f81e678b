"""How an agent comes to learn: ``python -m experiments insight``, and what each evaluation tells of the network."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import matplotlib
from torch import Tensor

from experiments.common import drawing
from experiments.common.agents import Agent, State
from experiments.common.collection import Result, markdown, summary
from experiments.common.config import require
from experiments.common.metrics import METRICS, Line, read
from plastikern import PlasticRNN

GROUPS = ("weight", "alpha", "modulator")
"""How the names of a recurrent layer's parameters begin whose gradients are measured."""


def measures(
    agent: Agent, rewards: Tensor, signals: Mapping[str, Tensor], state: State
) -> dict[str, float]:
    """Numbers of a network in some episodes; those of traces and of the modulator where it has them.

    Args:
        rewards, signals: (T, B), the latter as of :func:`experiments.common.drawing.signals`.
        state: at the end of the episodes.

    Returns:
        Frobenius norms, means over the episodes: ``trace_norm`` of the Hebbian traces, ``plastic_norm`` of alpha times
        traces, both at the end of an episode; of a rule of one's own instead ``state_NAME_norm`` of each of its states;
        ``weight_norm`` of the recurrent weights, where there are some.
        ``modulator_mean`` and ``modulator_spread``, the standard deviation, over all steps of all episodes;
        ``modulator_after_right`` and ``modulator_after_wrong``, means over the steps that see the reward of an answer.
        ``gradient_weight``, ``gradient_alpha``, ``gradient_modulator``: norms of the last update's gradient as the
        optimiser had it, where there has been an update.
    """
    parameters = dict(agent.core.named_parameters())
    found: dict[str, float] = {}
    for group in GROUPS:
        members = [value for name, value in parameters.items() if name.startswith(group)]
        gradients = [value.grad for value in members if value.grad is not None]
        if gradients:
            squares = sum(float(gradient.square().sum()) for gradient in gradients)
            found[f"gradient_{group}"] = squares**0.5
        if group == "weight" and members:
            found["weight_norm"] = float(members[0].detach().norm())
    if (states := agent.rule_states(state)) is not None:
        for name, value in states.items():
            found[f"state_{name}_norm"] = float(value.reshape(len(value), -1).norm(dim=-1).mean())
    elif isinstance(agent.core, PlasticRNN):
        traces = state[1]
        found["trace_norm"] = float(traces.flatten(1).norm(dim=-1).mean())
        plastic = parameters["alpha_l0"].detach() * traces
        found["plastic_norm"] = float(plastic.flatten(1).norm(dim=-1).mean())
    if drawing.MODULATOR in signals:
        modulator = signals[drawing.MODULATOR]
        found["modulator_mean"] = float(modulator.mean())
        found["modulator_spread"] = float(modulator.std())
        for name, outcome in (("right", 1), ("wrong", -1)):
            # The reward of a step is an input of the next one.
            there = rewards[:-1] == outcome
            if there.any():
                found[f"modulator_after_{name}"] = float(modulator[1:][there].mean())
    return found


LEARNED = 2.0
"""Test reward that chance does not reach."""
END = 10
"""Evaluations whose medians are the values at the end."""
UNMOVED = ("kind", "episode", "test_loss", "modulator_mean")
"""What lines of evaluations hold besides the numbers whose way is told."""
COLUMNS = ("number", "at chance", "at the end", "half way at update")


def run(arguments: Sequence[str], program: str) -> None:
    """Draw and tell how the network of one run came to learn.

    Raises:
        ExperimentError: a folder without such a run.
    """
    parser = argparse.ArgumentParser(
        prog=f"{program} insight", description="How the network of a run came to learn."
    )
    parser.add_argument("folder", type=Path, help="of one seed, such as runs/NAME/seed-0")
    parser.add_argument(
        "--results", type=Path, help="also write a figure and a JSON file into this folder"
    )
    options = parser.parse_args(arguments)
    tell(options.folder, options.results)


def tell(folder: Path, results: Path | None) -> None:
    """Print when each number was half way; write figure and JSON file into ``results`` if it is given."""
    path = folder / METRICS
    require(path.exists(), f"{folder} holds no run")
    lines = read(path)
    tests = [line for line in lines if line["kind"] == "test" and "weight_norm" in line]
    require(
        bool(tests),
        f"{folder} has no evaluations that tell of weights: train cue_reward with evaluate_every",
    )
    rows = moments(tests, lines[0]["config"]["batch"])
    print(markdown(COLUMNS, rows) if rows else "not learned", end="" if rows else "\n")
    if results is not None:
        _write(folder.resolve(), lines, results)


def moments(tests: Sequence[Line], batch: int) -> list[dict[str, str]]:
    """When each number of the evaluations was half way, in the order of these moments; empty where nothing is learned.

    The way leads from the median over the first half of the time in which the test reward is not yet above
    ``LEARNED`` for good to the median of the last ``END`` evaluations. Half way is the first evaluation from which on
    the number stays beyond the middle.

    Args:
        tests: lines of the metrics.
        batch: episodes of an update.
    """
    # Before the first update there are no gradients.
    tests = [line for line in tests if "gradient_weight" in line]
    learned = _stays([line["test_reward"] > LEARNED for line in tests])
    chance = tests[: (learned + 1) // 2]
    if learned == len(tests) or not chance:
        return []
    rows = []
    for name in tests[-1].keys() - set(UNMOVED):
        start, end = (
            median(line[name] for line in part if name in line) for part in (chance, tests[-END:])
        )
        middle = (start + end) / 2
        beyond = [(line.get(name, start) > middle) == (end > start) for line in tests]
        half = _stays(beyond)
        if half < len(tests):
            rows.append((tests[half]["episode"] // batch, name, start, end))
    return [
        dict(
            zip(
                COLUMNS,
                (name.replace("_", " "), f"{start:.3g}", f"{end:.3g}", f"{update:,}"),
                strict=True,
            )
        )
        for update, name, start, end in sorted(rows)
    ]


def _stays(flags: Sequence[bool]) -> int:
    """The first place from which on all flags are true; their number where the last one is not."""
    return max((place + 1 for place, flag in enumerate(flags) if not flag), default=0)


def _write(folder: Path, lines: list[Line], results: Path) -> None:
    """Figure and JSON file of a run, named after its folder."""
    results.mkdir(parents=True, exist_ok=True)
    name = f"{folder.parent.name}-{folder.name}"
    content = summary(Result(name, folder, [lines]))
    (results / f"{name}.json").write_text(
        json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    caption = f"network {lines[0]['config']['net']}, seed {lines[0]['seed']}"
    # The same numbers give the same file, with text that is text.
    with matplotlib.rc_context({"svg.hashsalt": "insight", "svg.fonttype": "none"}):
        drawing.insight(results / f"{name}.svg", lines, caption)
    print(f"written: {results / name}.json, {results / name}.svg")
