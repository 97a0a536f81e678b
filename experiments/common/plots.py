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

FEW = 5
SKIPPED = 0.02
LOGARITHMIC = 30
NEAR = 0.5
"""Share of the measured range within which a published level is still drawn."""


def new_figure(width: float, height: float) -> tuple[Figure, FigureCanvasAgg]:
    """An empty figure, in inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, FigureCanvasAgg(figure)


def quartiles(series: Sequence[Mapping[float, float]]) -> tuple[list[float], numpy.ndarray]:
    """All episodes of some curves, and quartiles (3, episodes) over the curves that have each."""
    episodes = sorted(set().union(*series))
    table = numpy.array(
        [[curve.get(episode, numpy.nan) for episode in episodes] for curve in series], dtype=float
    )
    return episodes, numpy.nanquantile(table, (0.25, 0.5, 0.75), axis=0)


def learning_curves(
    path: Path,
    groups: Mapping[str, Sequence[Sequence[Line]]],
    metrics: Sequence[str],
    published: Sequence[Curve | Level],
) -> Path:
    """One panel a metric: median and inter-quartile range of each group of runs, held-out values, published values."""
    figure, _ = new_figure(5.5 * len(metrics), 4.5)
    for axes, metric in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        for index, (label, runs) in enumerate(groups.items()):
            draw(
                axes,
                f"C{index}",
                f"{label}, seeds: {len(runs)}",
                [_series(run, "train", metric) for run in runs],
            )
            for part, name in (("test", "held out"), ("validation", "validation")):
                held_out = [_series(run, "test", f"{part}_{metric}") for run in runs]
                if any(held_out):
                    episodes, values = quartiles(held_out)
                    axes.plot(episodes, values[1], f"C{index}--", label=f"{label}, {name}")
        axes.set(xlabel="episode", ylabel=metric)
        finish(axes, [number for number in published if number.metric == metric])
    figure.savefig(path, dpi=120)
    return path


def _series(run: Sequence[Line], kind: str, metric: str) -> dict[float, float]:
    return {
        line["episode"]: line[metric] for line in run if line["kind"] == kind and metric in line
    }


def compare_results(figure: Figure, results: Mapping[str, Mapping[str, Any]]) -> None:
    """The running mean of an experiment's metric over its episodes, a line for each of some results, with points where
    it was tested on held-out episodes or text.

    Args:
        figure: an empty one.
        results: by label, what their files hold (:func:`experiments.common.collection.summary`).
    """
    axes = figure.subplots()
    published: dict[str, Curve | Level] = {}
    for index, (label, result) in enumerate(results.items()):
        seeds = [seed for seed in result["seeds"].values() if seed["curve"]]
        running = [key for key in seeds[0]["curve"] if "_last_" in key]
        key = next((key for key in running if not key.startswith("loss")), running[0])
        metric = key.partition("_last_")[0]
        curves = [
            dict(zip(seed["curve"]["episode"], seed["curve"][key], strict=True)) for seed in seeds
        ]
        draw(axes, f"C{index}", f"{label}, seeds: {len(seeds)}", curves)
        held_out = {f"{text}_{metric}" for text in ("validation", "test")}
        tests = [
            (line["episode"], line[name])
            for seed in seeds
            for line in seed["tests"]
            for name in held_out & line.keys()
        ]
        if tests:
            axes.plot(*zip(*tests, strict=True), f"C{index}.", markersize=3)
        axes.set(xlabel="episode", ylabel=f"{metric}, running mean")
        for number in result["published"]:
            if number["metric"] == metric:
                published[number["label"]] = (
                    Level(**number) if "value" in number else Curve(**number)
                )
    finish(axes, list(published.values()))


def draw(axes: Any, colour: str, label: str, curves: Sequence[Mapping[float, float]]) -> None:
    """Median and inter-quartile range of curves; of so few that they can be told apart, each as a thin line."""
    episodes, (low, middle, high) = quartiles(curves)
    axes.plot(episodes, middle, colour, label=label)
    axes.fill_between(episodes, low, high, color=colour, alpha=0.2, linewidth=0)
    if 1 < len(curves) <= FEW:
        for curve in curves:
            axes.plot(*zip(*sorted(curve.items()), strict=True), colour, linewidth=0.5, alpha=0.6)


def finish(axes: Any, published: Sequence[Curve | Level]) -> None:
    """Fit the axes to the measured values, add the published ones, and a legend that hides nothing."""
    measured = [line for line in axes.lines if len(line.get_xdata())]
    end = max((float(max(line.get_xdata())) for line in measured), default=1.0)
    # What happens at the very start, such as a loss of a thousand, would press everything else flat.
    ys = numpy.concatenate(
        [
            numpy.asarray(line.get_ydata(), float)[numpy.asarray(line.get_xdata()) >= SKIPPED * end]
            for line in measured
        ]
        or [numpy.zeros(1)]
    )
    curves = [number for number in published if isinstance(number, Curve)]
    for marker, curve in zip("os^dv", curves, strict=False):
        axes.plot(
            curve.episodes,
            curve.values,
            f"k{marker}:",
            markersize=4,
            linewidth=0.7,
            label=curve.label,
        )
        within = [
            value
            for episode, value in zip(curve.episodes, curve.values, strict=True)
            if episode <= end
        ]
        ys = numpy.append(ys, within)
    levels = [number for number in published if isinstance(number, Level)]
    low, high = float(numpy.nanmin(ys)), float(numpy.nanmax(ys))
    near = [
        level.value
        for level in levels
        if low - NEAR * (high - low) <= level.value <= high + NEAR * (high - low)
    ]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.06 * (high - low) or 1.0
    bounds = (low - margin, high + margin)
    if low > 0 and high > LOGARITHMIC * low:
        axes.set_yscale("log")
        bounds = (low / 1.2, high * 1.2)
    elif 0 < low < 0.5 * high:
        bounds = (0.0, bounds[1])
    for style, level in zip(("--", "-.", ":"), levels, strict=False):
        if bounds[0] <= level.value <= bounds[1]:
            axes.axhline(level.value, color="k", linestyle=style, linewidth=0.7, label=level.label)
        else:
            axes.plot([], [], " ", label=f"{level.label}: {level.value:g}, beyond this axis")
    axes.set(xlim=(0, 1.02 * end), ylim=bounds)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)


def picture_panel(
    path: Path,
    rows: Sequence[Sequence[numpy.ndarray]],
    titles: Sequence[str],
    low: float,
    high: float,
    caption: str,
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
