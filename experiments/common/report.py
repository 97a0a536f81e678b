"""What a finished experiment prints and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from experiments.common import metrics
from experiments.common.comparison import compare
from experiments.common.experiment import Experiment
from experiments.common.metrics import Line
from experiments.common.plots import learning_curves

NO_COMPARISON = (
    "no speed-up to measure: this run was on the pure PyTorch path (python -m plastikern says why)"
)
CURVES = "learning_curves.png"
PICTURES = (".gif", ".png")
TIMES = ("seconds_per_episode", "update_share")


def show(
    experiment: Experiment[Any],
    model: nn.Module,
    results: Sequence[Line],
    out: Path,
    beside: Mapping[str, Sequence[Sequence[Line]]],
    compared: bool,
) -> None:
    """Print medians over the seeds and the speed, and draw all runs of ``out``.

    Args:
        model: of the last seed, for the comparison.
        results: the result line of each seed.
        beside: other runs by label, drawn in the same figure.
        compared: whether to time the pure PyTorch path as well.
    """
    print(f"result of {counted(len(results), 'seed')}, {results[0]['episode']} episodes:")
    for name in results[0]:
        if name not in ("kind", "episode", *TIMES):
            print(
                f"  {name.replace('_', ' ')}: {_spread(name, [result[name] for result in results])}"
            )
    seconds, share = (median(result[name] for result in results) for name in TIMES)
    print(f"  {seconds:.4f} s an episode: {experiment.speed(seconds)}")
    print(f"  {share:.0%} of the training loop in acting, forward, backward and optimiser")
    groups = {str(out): metrics.read_runs(out), **beside}
    figures = [learning_curves(out / CURVES, groups, experiment.metrics, experiment.published())]
    figures += sorted(path for path in out.glob("seed-*/*") if path.suffix in PICTURES)
    if compared:  # last, for the reference path may take more memory than there is
        print(f"  {compare(experiment, model) or NO_COMPARISON}")
    print("  figures: " + ", ".join(str(figure) for figure in figures))


def counted(count: int, noun: str) -> str:
    """A number of things."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _spread(name: str, values: Sequence[float]) -> str:
    """One value, or the median and the range of several."""
    texts = [show_value(name, value) for value in (median(values), min(values), max(values))]
    return texts[0] if len(values) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"


def show_value(name: str, value: float) -> str:
    """A metric's value as text; shares as per cent."""
    return f"{value:.3%}" if "error" in name or "accuracy" in name else f"{value:.4g}"
