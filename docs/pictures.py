"""Pictures of the gallery and of the examples: ``python docs/pictures.py`` draws all of them into docs/pictures.

A rule is run by its definition, ``Rule.step``, on a small layer: 6 pre-synaptic and 4 post-synaptic neurons, which are
driven in two patterns, P and Q. The same numbers and the same matplotlib give the same files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments.common.plots import new_figure  # noqa: E402
from tests.rules.ten import ACTIVITIES, RULES  # noqa: E402

STEPS, PRES, POSTS = 100, 6, 4
PHASES = {"P": (5, 30), "Q": (35, 60), "P again": (65, 90)}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "identity": lambda z: z,
}  # fmt: skip
SYNAPSES = {"P to P": (0, 0), "Q to Q": (2, 3), "Q to P": (0, 3), "P to Q": (2, 0)}
"""Post- and pre-synaptic neuron of the synapses that are drawn."""


def in_phases(values: Mapping[str, Sequence[float]]) -> Tensor:
    """(T, N): these values in each phase, 0 between."""
    found = torch.zeros(STEPS, len(next(iter(values.values()))))
    for name, row in values.items():
        first, last = PHASES[name]
        found[first:last] = torch.tensor(row)
    return found


def spikes(lags: Mapping[str, int], neurons: int, groups: int) -> Tensor:
    """(T, N): a spike every eighth step of a phase, so many steps late; P and Q have a group of neurons each."""
    found = torch.zeros(STEPS, neurons)
    for name, lag in lags.items():
        first, last = PHASES[name]
        group = slice(0, groups) if name.startswith("P") else slice(groups, 2 * groups)
        found[first + lag : last : 8, group] = 1
    return found


P6, Q6, P4, Q4 = (1.0,) * 3 + (0.0,) * 3, (0.0,) * 3 + (1.0,) * 3, (1, 1, 0, 0), (0, 0, 1, 1)
PRE = in_phases({"P": P6, "Q": Q6, "P again": P6})
POST = in_phases({"P": P4, "Q": Q4, "P again": P4})
KEYS = PRE / 3**0.5
TOLD = in_phases({"P": (1, -1, 0, 0), "Q": (0, 0, 1, -1), "P again": (-1, 1, 0, 0)})
ERRORS = in_phases({"P": (-1, 1, 0, 0), "Q": (0, 0, -1, 1), "P again": (1, -1, 0, 0)})
FIRST = spikes(dict.fromkeys(PHASES, 0), POSTS, 2)


@dataclass(frozen=True)
class Run:
    """What a rule is run with.

    Attributes:
        given: coefficients, weight and alpha by name.
        drawn: the states that are drawn: those of synapses, and in the lower panel the others.
        below: of one synapse or of the neurons.
    """

    given: Mapping[str, float]
    drawn: str
    below: Sequence[str] = ()
    drive: Tensor = field(default_factory=lambda: 1.5 * POST)
    x: Tensor = field(default_factory=lambda: PRE)
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    said: str = ""


USUAL = {"w": 0.0, "alpha": 0.1}
RUNS = {
    "A1": Run({"eta": 0.05, "A": 1.0, "B": -0.2, "C": -0.3, "D": 0.01}, "H"),
    "A2": Run({"w": 0.1, "lam": 0.97, "eta": 0.05}, "H"),
    "A3": Run(
        {**USUAL, "eta": 0.1, "tau": 0.08}, "H", ["theta"], drive=5 * POST - 2.5,
        said="theta of post-synaptic neurons",
    ),
    "A4": Run(
        {
            **USUAL, "a1": 0.7, "a2": 0.9, "b1": 0.7, "b2": 0.9, "A2p": 0.1, "A3p": 0.1, "A2m": 0.1, "A3m": 0.0,
            "top": 1.0,
        },
        "H", ["p1", "q1"], x=spikes({"P": 0, "Q": 2, "P again": 2}, PRES, 3),
        drive=20 * spikes({"P": 2, "Q": 0, "P again": 0}, POSTS, 2) - 10,
        said="traces p1 of a pre-, q1 of a post-synaptic neuron",
    ),
    "A5": Run(
        {"w": 0.0, "alpha": 0.3, "tau": 0.02, "c": 1.0}, "H", ["E"],
        drive=3 * torch.where(torch.arange(POSTS) % 2 == 0, FIRST, FIRST.roll(2, 0)),
        signals={
            "r": torch.full((STEPS, 1), 0.5), "s": torch.full((STEPS, 1), 0.2),
            "m": torch.cat([torch.full((62, 1), 1.0), torch.full((38, 1), -1.0)]),
        },
        said="eligibility E of the same synapses",
    ),
    "A6": Run(
        {**USUAL, "a": 0.8, "beta": 0.1, "rho": 0.9, "kappa": 0.8, "eta": 0.01}, "H", ["bar", "p"],
        signals={"L": ERRORS}, said="eligibility of a synapse, trace p of its pre-synaptic neuron",
    ),
    "A7": Run(
        {**USUAL, "eta": 0.1, "g": 0.1, "n": 2.0}, "u0", ["u1", "u2", "u3"], said="u1, u2, u3 of the synapse P to P"
    ),
    "A8": Run(
        {}, "H", drive=torch.zeros(STEPS, POSTS), x=KEYS,
        signals={"k": KEYS, "v": TOLD, "g": torch.full((STEPS, PRES), -0.005), "b": torch.full((STEPS, 1), 0.2)},
    ),
    "A9": Run(
        {}, "H", drive=torch.zeros(STEPS, POSTS), x=PRE,
        signals={
            "k": PRE, "v": POST / 2**0.5, "g": torch.full((STEPS, POSTS), -0.005),
            "b": torch.full((STEPS, POSTS), 0.2),
        },
    ),
    "A10": Run(
        {**USUAL, "lam": 1.0, "gamma": 0.02}, "H", drive=1.5 * POST.amax(1, keepdim=True).expand(-1, POSTS)
    ),
}  # fmt: skip


def trajectory(tag: str) -> dict[str, Tensor]:
    """States after every step, (T, ...) by name, of one element."""
    rule, run = RULES[tag], RUNS[tag]
    recurrent = "y" in rule.taken and "e" in rule.states
    pres = POSTS if recurrent else PRES
    sizes = {"synapse": (POSTS, pres), "pre": (pres,), "post": (POSTS,), "element": ()}
    states = {name: torch.zeros(1, *sizes[kind]) for name, kind in rule.states.items()}
    fixed = {name: torch.tensor(value) for name, value in run.given.items()}
    for name in {"w", "alpha"} & {*fixed}:
        fixed[name] = fixed[name].expand(POSTS, pres)
    active, kept = torch.zeros(1, POSTS), []
    for t in range(STEPS):
        signals = {
            name: value[t] if rule.signals[name] == "element" else value[t : t + 1]
            for name, value in run.signals.items()
        }
        given = {**fixed, **signals, "x": active if recurrent else run.x[t : t + 1]}
        function = FUNCTIONS[ACTIVITIES.get(tag, "tanh")]
        active, states = rule.step(run.drive[t : t + 1], states, given, function)
        kept.append(states)
    return {name: torch.cat([each[name] for each in kept]) for name in rule.states}


def shaded(axes: Axes) -> None:
    """Grey where a pattern is there."""
    for name, (first, last) in PHASES.items():
        axes.axvspan(first, last, color="0.92", linewidth=0)
        axes.text((first + last) / 2, 1.01, name, ha="center", transform=axes.get_xaxis_transform())
    axes.set(xlabel="step", xlim=(0, STEPS))


def picture(tag: str, path: Path) -> None:
    """What four synapses do, and beside it what else the rule keeps."""
    run, found = RUNS[tag], trajectory(tag)
    figure, _ = new_figure(7.5, 2.6)
    left, right = figure.subplots(1, 2)
    synapses = SYNAPSES if tag != "A5" else {"0 to 1": (1, 0), "1 to 0": (0, 1), "2 to 3": (3, 2)}
    for label, (post, pre) in synapses.items():
        left.plot(found[run.drawn][:, post, pre], linewidth=1.2, label=label)
    left.legend(fontsize="x-small")
    left.set_title(f"{run.drawn} of synapses\n", fontsize="small")
    shaded(left)
    for name in run.below:
        values, kind = found[name], RULES[tag].states[name]
        if kind == "synapse":
            places = synapses if tag == "A5" else {"P to P": (0, 0)}
            lines = {f"{name}, {label}": values[:, j, i] for label, (j, i) in places.items()}
        else:
            neurons = range(0, POSTS, 2) if kind == "post" else (0,)
            lines = {f"{name}, {kind} {n}": values[:, n] for n in neurons}
        for label, line in lines.items():
            right.plot(line, linewidth=1.2, label=label)
    if run.below:
        right.legend(fontsize="x-small")
        right.set_title(f"{run.said}\n", fontsize="small")
        shaded(right)
    else:
        last = found[run.drawn][-1]
        bound = float(last.abs().max())
        shown = right.pcolormesh(last.flip(0), cmap="RdBu_r", vmin=-bound, vmax=bound)
        figure.colorbar(shown, ax=right)
        right.set(xlabel="pre", ylabel="post", xticks=[], yticks=[])
        right.set_title("H at the end\n", fontsize="small")
    save(figure, path)


def curves(results: Path, folder: Path) -> None:
    """Of the examples, from what they have written."""
    runs = json.loads((results / "abcd_gradient.json").read_text(encoding="utf-8"))
    figure, _ = new_figure(7.5, 2.8)
    left, right = figure.subplots(1, 2)
    for seed, run in enumerate(runs["seeds"]):
        left.plot(run["loss"], linewidth=1, label=f"seed {seed}")
        right.plot([0, 1], [run["untrained"], run["trained"]], "o-", linewidth=1)
    left.set(xlabel="25 updates", ylabel="loss", yscale="log")
    left.legend(fontsize="x-small")
    right.axhline(runs["chance"], color="0.6", linestyle=":", label="chance")
    right.axhline(
        runs["hebb"], color="0.3", linestyle="--", label="Hebb's rule, best of seven rates"
    )
    right.set(ylabel="right answers", xticks=[0, 1], ylim=(0, 1), xlim=(-0.3, 1.3))
    right.set_xticklabels(["untrained", "trained"])
    right.legend(fontsize="x-small", loc="lower right")
    save(figure, folder / "abcd_gradient.svg")
    runs = json.loads((results / "abcd_evolution.json").read_text(encoding="utf-8"))
    figure, _ = new_figure(5.0, 2.8)
    axes = figure.subplots()
    for seed, run in enumerate(runs["seeds"]):
        axes.plot(run["population"], linewidth=1, label=f"seed {seed}")
    axes.set(xlabel="generation", ylabel="steps, mean of the population", ylim=(0, 510))
    axes.legend(fontsize="x-small")
    save(figure, folder / "abcd_evolution.svg")


def save(figure: matplotlib.figure.Figure, path: Path) -> None:
    """Without a date or a version, so that the same numbers give the same file."""
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """All pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    folder = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(
        {"svg.hashsalt": "plastikern", "svg.fonttype": "none", "font.size": 8}
    ):
        for tag in RULES:
            picture(tag, folder / f"{tag}.svg")
        curves(ROOT / "docs" / "results" / "examples", folder)


if __name__ == "__main__":
    main()
