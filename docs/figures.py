"""Learning curves of every result in docs/results: what the page of figures shows."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy

RESULTS = Path("docs/results")


def draw(name: str, results: dict[str, dict[str, Any]]) -> None:
    """One figure: the running mean of an experiment's metric over its episodes, a line for each of its results, with
    points where it was tested on held-out episodes or text."""
    _, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    theirs: dict[str, dict[str, Any]] = {}
    for index, (label, result) in enumerate(sorted(results.items())):
        seeds = [seed["curve"] for seed in result["seeds"].values()]
        running = [key for key in seeds[0] if "_last_" in key]
        key = next((key for key in running if not key.startswith("loss")), running[0])
        metric = key.partition("_last_")[0]
        episodes = numpy.array(min((curve["episode"] for curve in seeds), key=lambda each: each[-1]))
        values = numpy.array([numpy.interp(episodes, curve["episode"], curve[key]) for curve in seeds])
        axes.plot(episodes, numpy.median(values, 0), f"C{index}", label=f"{label}, seeds: {len(seeds)}")
        axes.fill_between(episodes, values.min(0), values.max(0), color=f"C{index}", alpha=0.25, linewidth=0)
        held_out = {f"{text}_{metric}" for text in ("validation", "test")}
        tests = [
            (line["episode"], line[key])
            for seed in result["seeds"].values()
            for line in seed["tests"]
            for key in held_out & line.keys()
        ]
        if tests:
            axes.plot(*zip(*tests, strict=True), f"C{index}.")
        axes.set(xlabel="episode", ylabel=f"{metric}, running mean", title=name)
        theirs |= {number["label"]: number for number in result["published"] if number["metric"] == metric}
    ours = axes.get_xlim()
    curves = [number for number in theirs.values() if "values" in number]
    levels = [number for number in theirs.values() if "value" in number]
    for marker, curve in zip("os^dv", curves, strict=False):
        axes.plot(curve["episodes"], curve["values"], f"k{marker}:", markersize=4, linewidth=0.7, label=curve["label"])
    for style, level in zip(("--", "-.", ":"), levels, strict=False):
        axes.axhline(level["value"], color="k", linestyle=style, linewidth=0.7, label=level["label"])
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
