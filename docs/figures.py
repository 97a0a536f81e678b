"""Learning curves of every result in docs/results: what the page of figures shows."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from experiments.common.plots import compare_results

RESULTS = Path("docs/results")


def main() -> None:
    """A figure for each preset of an experiment that has results, a line for each net."""
    groups: dict[str, dict[str, Any]] = defaultdict(dict)
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        net = result["config"]["net"]
        if any(seed["curve"] for seed in result["seeds"].values()):
            groups[path.stem.removesuffix(f"-{net}")][net] = result
    for name, results in groups.items():
        figure = plt.figure(figsize=(7, 5), layout="constrained")
        compare_results(figure, results)
        figure.axes[0].set_title(name.replace("-", ", "))


main()
