"""The quick face of the benchmarks: one variant after the other, by pytest-benchmark, over the same workers and checks.

``python -m benchmarks`` is the careful one: there the variants take turns, so that a slow minute hits all of them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .devices import Device
from .measure import REFERENCE
from .pool import WorkerProcess, Workers
from .summary import best_rival, quotient
from .variants import Variant
from .workloads import FORWARD, Workload

# Rounds that one case may have, and the seconds that they may take; a case has at least three.
MOST_ROUNDS, LEAST_ROUNDS, SECONDS = 11, 3, 2.0


class Clock:
    """Seconds that the workers have measured, as a timer: the way to a worker and back is not in them."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def __call__(self) -> float:
        return self._seconds

    def add(self, seconds: float) -> None:
        self._seconds += seconds


clock = Clock()


class Quick(contextlib.ExitStack):
    """What the cases of one session share: workers, the truth of each workload, bandwidths, and rows for the ratios."""

    def __init__(self, device: Device, threads: int, memory: bool, scratch: Path) -> None:
        super().__init__()
        self.device = device
        self._memory = memory
        self._scratch = scratch
        self._workers = self.enter_context(Workers(threads, scratch, device))
        self._rates: dict[str, dict[str, float]] = {}
        self._rows: dict[tuple[str, str], list[dict[str, Any]]] = {}

    @contextlib.contextmanager
    def prepared(
        self, workload: Workload, which: str, variant: Variant
    ) -> Iterator[tuple[WorkerProcess, dict[str, Any]]]:
        """A worker with the variant's fastest program, checked against the truth, and what is known of it.

        Raises:
            WorkerFailed: the variant is wrong or cannot run.
        """
        truth = self._truth(workload)
        with self._workers.of(workload.name, variant) as process:
            yield process, process.ask("prepare", which=which, reference=str(truth))

    def _truth(self, workload: Workload) -> Path:
        path = self._scratch / f"{workload.name}.pt"
        if not path.exists():
            with self._workers.of(workload.name, REFERENCE) as process:
                process.ask("reference", path=str(path))
                self._rates[workload.name] = {
                    kernel: process.ask("bandwidth", kernel=kernel)["gb_per_s"]
                    for kernel in ("forward", "backward")
                    if self.device.probes
                }
        return path

    def rounds(self, seconds: float) -> int:
        """How often a call that takes ``seconds`` is sampled."""
        sample = max(seconds, self.device.sample_seconds)
        return min(MOST_ROUNDS, max(LEAST_ROUNDS, math.ceil(SECONDS / sample)))

    def facts(
        self, workload: Workload, which: str, variant: Variant, known: dict[str, Any], median: float
    ) -> dict[str, Any]:
        """Error, memory, floor and ratio of a case, as the careful tables have them; None what is not known."""
        peak = known["peak_bytes"]
        if self._memory and self.device.memory_alone:
            with self._workers.of(workload.name, variant) as process:
                peak = process.ask("memory", which=which, program=known["program"])["peak_bytes"]
        row = {"variant": variant.name, "median_ms": 1e3 * median, "peak_bytes": peak}
        group = self._rows.setdefault((workload.name, which), [])
        group.append(row)
        facts = {"program": known["program"], "max_rel_error": known["max_rel_error"], "peak_bytes": peak}  # fmt: skip
        if variant.backend is None:
            return facts
        rival = best_rival(group)
        floor = None
        if rates := self._rates[workload.name]:
            kernels = ("forward",) if which == FORWARD else ("forward", "backward")
            floor = sum(workload.traffic(kernel).floor_ms(rates[kernel]) for kernel in kernels)
        return facts | {
            "floor_ms": floor,
            "best_rival": rival["variant"] if rival else None,
            "over_best_rival": quotient(rival, row, "median_ms"),
            "memory_of_best_rival": quotient(rival, row, "peak_bytes"),
        }
