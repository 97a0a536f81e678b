"""``python -m benchmarks.sizes``: time and added memory over neurons and elements, measured and drawn.

Writes the report and the picture into docs/results. ``--draw`` draws the report that is there. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import __main__ as command
from .machine import available_cores
from .workloads import FORWARD_BACKWARD, SIZED

RESULTS = Path(__file__).resolve().parents[1] / "docs/results"
REPORT, PICTURE = RESULTS / "sizes.json", RESULTS / "sizes.svg"

STEPS = 50
NEURONS, ELEMENTS = (50, 100, 200, 400, 800), (1, 8, 32)
# Elements of the sizes that differ in neurons, neurons of those that differ in elements.
USUAL_ELEMENTS, USUAL_NEURONS = 8, 200
SIZES = dict.fromkeys(
    [(USUAL_ELEMENTS, neurons) for neurons in NEURONS]
    + [(elements, USUAL_NEURONS) for elements in ELEMENTS]
)
NAMES = {
    "eager-recycled": "PyTorch, eager",
    "compile-step-recycled": "PyTorch, compiled",
    "plastikern-cpu-recycled": "plastikern",
}
QUANTITIES = {"median_ms": ("ms", 1.0), "peak_bytes": ("MiB added", 2.0**20)}


def measure(threads: int) -> int:
    workloads = ",".join(f"rnn-B{batch}-N{neurons}-T{STEPS}" for batch, neurons in SIZES)
    arguments = ["--workloads", workloads, "--variants", ",".join(NAMES)]
    arguments += ["--passes", FORWARD_BACKWARD, "--repeats", "7", "--budget", "4"]
    return command.main([*arguments, "--threads", str(threads), "--json", str(REPORT)])


def draw(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> None:
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    for line, (quantity, (unit, size_of_unit)) in zip(panels, QUANTITIES.items(), strict=True):
        for panel, over in zip(line, ("neurons", "elements"), strict=True):
            _draw(panel, rows, over, quantity, size_of_unit)
        line[0].set_ylabel(f"{unit}, forward and backward")
    panels[0, 0].set_title(f"{USUAL_ELEMENTS} elements, {STEPS} steps")
    panels[0, 1].set_title(f"{USUAL_NEURONS} neurons, {STEPS} steps")
    panels[1, 0].set_xlabel("neurons")
    panels[1, 1].set_xlabel("elements")
    panels[0, 0].legend(frameon=False)
    figure.suptitle(
        f"A plastic RNN on {machine['threads']} threads of {machine['cpu']}", fontsize="medium"
    )
    figure.savefig(PICTURE)


def _draw(
    panel: Axes, rows: Sequence[Mapping[str, Any]], over: str, quantity: str, size_of_unit: float
) -> None:
    for variant, name in NAMES.items():
        points = []
        for row in rows:
            sizes = SIZED.fullmatch(row["workload"])
            assert sizes is not None
            elements, neurons = int(sizes[1]), int(sizes[2])
            usual = elements == USUAL_ELEMENTS if over == "neurons" else neurons == USUAL_NEURONS
            if usual and row["variant"] == variant:
                place = neurons if over == "neurons" else elements
                points.append((place, row[quantity] / size_of_unit))
        points.sort()
        panel.plot(*zip(*points, strict=True), marker="o", label=name)
    panel.set_xscale("log")
    panel.set_yscale("log")
    ticks = NEURONS if over == "neurons" else ELEMENTS
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--draw", action="store_true", help="draw the report that is there")
    options = parser.parse_args()
    status = 0 if options.draw else measure(options.threads)
    report = json.loads(REPORT.read_text())
    draw(report["rows"], report["machine"])
    return status


if __name__ == "__main__":
    raise SystemExit(main())
