"""Figures: learning curves over seeds beside the published values, and panels of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.common.metrics import Line
from experiments.common.published import Curve, Level


def new_figure(width: float, height: float) -> tuple[Figure, FigureCanvasAgg]:
    """An empty figure, in inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, FigureCanvasAgg(figure)


def quartiles(runs: Sequence[Sequence[Line]], kind: str, metric: str) -> tuple[list[int], numpy.ndarray]:
    """Episodes that every run has a ``metric`` for, and its quartiles (3, episodes) over the runs."""
    series = [
        {line["episode"]: line[metric] for line in run if line["kind"] == kind and metric in line} for run in runs
    ]
    episodes = sorted(set.intersection(*(set(values) for values in series)))
    table = numpy.array([[values[episode] for episode in episodes] for values in series], dtype=float)
    return episodes, numpy.quantile(table, (0.25, 0.5, 0.75), axis=0)


def learning_curves(
    path: Path,
    groups: Mapping[str, Sequence[Sequence[Line]]],
    metrics: Sequence[str],
    published: Sequence[Curve | Level],
) -> Path:
    """One panel a metric: median and inter-quartile range of each group of runs, held-out values, published values."""
    figure, _ = new_figure(5.5 * len(metrics), 4.0)
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        end = max(line["episode"] for runs in groups.values() for run in runs for line in run if "episode" in line)
        for index, (label, runs) in enumerate(groups.items()):
            _draw(axes, f"C{index}", f"{label}, seeds: {len(runs)}", *quartiles(runs, "train", metric))
            for part, name in (("test", "held out"), ("validation", "validation")):
                episodes, held_out = quartiles(runs, "test", f"{part}_{metric}")
                if episodes:
                    axes.plot(episodes, held_out[1], f"C{index}--", label=f"{label}, {name}")
        drawn = [number for number in published if number.metric == metric]
        curves = [number for number in drawn if isinstance(number, Curve)]
        levels = [number for number in drawn if isinstance(number, Level)]
        for marker, curve in zip("os^dv", curves, strict=False):
            axes.plot(curve.episodes, curve.values, f"k{marker}:", markersize=4, linewidth=0.7, label=curve.label)
        for style, level in zip(("--", "-.", ":"), levels, strict=False):
            axes.axhline(level.value, color="k", linestyle=style, linewidth=0.7, label=level.label)
        axes.set(xlabel="episode", ylabel=metric, xlim=(0, 1.02 * end))
        if axes.get_ylim()[0] > 0:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    return path


def _draw(axes: Any, colour: str, label: str, episodes: list[int], values: numpy.ndarray) -> None:
    low, middle, high = values
    axes.plot(episodes, middle, colour, label=label)
    axes.fill_between(episodes, low, high, color=colour, alpha=0.25, linewidth=0)


def picture_panel(
    path: Path, rows: Sequence[Sequence[numpy.ndarray]], titles: Sequence[str], low: float, high: float, caption: str
) -> Path:
    """Grey pictures in rows, with a title over each column."""
    figure, _ = new_figure(1.3 * len(titles), 1.3 * len(rows) + 0.6)
    for row, line in zip(rows, figure.subplots(len(rows), len(titles), squeeze=False), strict=True):
        for picture, axes in zip(row, line, strict=True):
            axes.imshow(picture, cmap="gray", vmin=low, vmax=high)
            axes.set_axis_off()
    for title, axes in zip(titles, figure.axes, strict=False):
        axes.set_title(title, fontsize="small")
    figure.suptitle(caption, fontsize="small")
    figure.savefig(path, dpi=120)
    return path
