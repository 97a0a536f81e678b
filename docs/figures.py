"""Learning curves of every result in docs/results: what the page of figures shows."""

from __future__ import annotations

import json
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy

from experiments.__main__ import EXPERIMENTS
from experiments.common.experiment import Experiment
from experiments.common.published import Curve, Level

RESULTS = Path("docs/results")


def published(result: dict[str, Any]) -> tuple[Curve | Level, ...]:
    """Published numbers of an experiment with these settings; asked without its data, which need not be here."""
    kind: type[Experiment[Any]] = import_module(EXPERIMENTS[result["experiment"]]).EXPERIMENT
    settings = type(next(iter(next(iter(kind.presets.values())).values())))
    experiment = kind.__new__(kind)
    experiment.config = settings(**result["config"])
    return tuple(experiment.published())


def draw(name: str, results: dict[str, dict[str, Any]]) -> None:
    """One figure: the running mean of an experiment's metric over its episodes, a line for each of its results, with
    points where it was tested."""
    _, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    theirs: dict[str, Curve | Level] = {}
    for index, (label, result) in enumerate(sorted(results.items())):
        seeds = [seed["curve"] for seed in result["seeds"].values()]
        running = [key for key in seeds[0] if "_last_" in key]
        key = next((key for key in running if not key.startswith("loss")), running[0])
        metric = key.partition("_last_")[0]
        episodes = numpy.array(min((curve["episode"] for curve in seeds), key=lambda each: each[-1]))
        values = numpy.array([numpy.interp(episodes, curve["episode"], curve[key]) for curve in seeds])
        axes.plot(episodes, numpy.median(values, 0), f"C{index}", label=f"{label}, seeds: {len(seeds)}")
        axes.fill_between(episodes, values.min(0), values.max(0), color=f"C{index}", alpha=0.25, linewidth=0)
        tests = [line for seed in result["seeds"].values() for line in seed["tests"] if f"test_{metric}" in line]
        if tests:
            axes.plot(*zip(*((line["episode"], line[f"test_{metric}"]) for line in tests), strict=True), f"C{index}.")
        axes.set(xlabel="episode", ylabel=f"{metric}, running mean", title=name)
        theirs |= {number.label: number for number in published(result) if number.metric == metric}
    ours = axes.get_xlim()
    curves = [number for number in theirs.values() if isinstance(number, Curve)]
    levels = [number for number in theirs.values() if isinstance(number, Level)]
    for marker, curve in zip("os^dv", curves, strict=False):
        axes.plot(curve.episodes, curve.values, f"k{marker}:", markersize=4, linewidth=0.7, label=curve.label)
    for style, level in zip(("--", "-.", ":"), levels, strict=False):
        axes.axhline(level.value, color="k", linestyle=style, linewidth=0.7, label=level.label)
    axes.set_xlim(0, ours[1])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _title(name: str, result: dict[str, Any]) -> str:
    """Name of a result without that of its network."""
    return name.removesuffix(f"-{result['config']['net']}").replace("-", ", ")


def main() -> None:
    """A figure for each preset of an experiment that has results."""
    groups: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if any(seed["curve"] for seed in result["seeds"].values()):
            groups[_title(path.stem, result)][path.stem] = result
    for name, results in groups.items():
        draw(name, results)


main()
