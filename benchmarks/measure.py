"""One workload: check every variant, time all of them in turns, measure the memory of each in a process of its own."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .pool import WorkerFailed, WorkerProcess, worker
from .summary import floors
from .variants import LIBRARY, Variant, parse
from .workloads import FORWARD, Workload

# A sample repeats a fast pass, and is preceded by an untimed one: the process has just been asleep while others filled
# the caches and took the memory, which is not what a training loop meets.
SAMPLE_SECONDS = 0.2
WARM_SECONDS = 1.0
# Slow variants stop at the budget of time, but not before a median means something.
LEAST_SAMPLES = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """``budget`` is the time in seconds that the samples of one variant and pass may take."""

    variants: Sequence[Variant]
    passes: Sequence[str]
    repeats: int
    budget: float
    threads: int
    memory: bool


@dataclass
class Samples:
    """One variant in one pass, while it is measured."""

    process: WorkerProcess
    prepared: dict[str, Any]
    times: list[float] = field(default_factory=list)
    spent: float = 0.0

    def wants_more(self, plan: Plan) -> bool:
        if len(self.times) >= plan.repeats:
            return False
        return len(self.times) < LEAST_SAMPLES or self.spent < plan.budget

    def take(self, which: str) -> None:
        expected = min([self.prepared["seconds"], *self.times])
        iterations = max(1, math.ceil(SAMPLE_SECONDS / expected))
        seconds = self.process.ask("sample", which=which, iterations=iterations, warm=expected < WARM_SECONDS)[
            "seconds"
        ]
        self.times.append(seconds)
        self.spent += seconds * iterations


def measure(workload: Workload, plan: Plan, scratch: Path, say: Say) -> dict[str, Any]:
    """Rows, failures, bandwidth, floors and what was left out of one workload."""
    variants = [variant for variant in plan.variants if variant.kind not in workload.without]
    truth = scratch / f"{workload.name}.pt"
    say(f"{workload.name}: fp64 reference")
    reference = parse(f"{LIBRARY}reference")
    with worker(workload.name, reference, plan.threads, scratch) as process:
        process.ask("reference", path=str(truth))

    rows: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    bandwidth: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        probe, *processes = (
            stack.enter_context(worker(workload.name, variant, plan.threads, scratch))
            for variant in (reference, *variants)
        )
        for process in (probe, *processes):
            process.ask("ready")
        for which in (name for name in plan.passes if name in workload.passes):
            prepared = _prepare(processes, workload, which, truth, failures, say)
            say(f"{workload.name}, {which}: timing {len(prepared)} variants")
            kernels = ("forward",) if which == FORWARD else ("forward", "backward")
            rates = _rounds(prepared, probe, kernels, which, plan)
            bandwidth.update(rates)
            timed = [_row(workload, samples, which) for samples in prepared]
            for row in timed:
                say(f"  {row['variant']}: {row['median_ms']:.2f} ms by {row['program']}")
            rows += timed
    if plan.memory:
        _add_memory(rows, workload, plan, scratch, failures, say)
    return {
        "rows": rows,
        "failures": failures,
        "bandwidth": bandwidth,
        "floors": floors(workload, rows, bandwidth),
        "left_out": {
            f"{variant.name} on {workload.name}": workload.without[variant.kind]
            for variant in plan.variants
            if variant not in variants
        },
    }


def _prepare(
    processes: Sequence[WorkerProcess],
    workload: Workload,
    which: str,
    truth: Path,
    failures: list[dict[str, str]],
    say: Say,
) -> list[Samples]:
    """Compile and check every variant; those that are wrong or cannot run are left out of the timing."""
    ready = []
    for process in processes:
        say(f"{workload.name}, {which}: checking {process.variant.name}")
        try:
            ready.append(Samples(process, process.ask("prepare", which=which, reference=str(truth))))
        except WorkerFailed as error:
            failures.append(_failure(workload, process.variant.name, which, error))
    return ready


def _rounds(
    prepared: Sequence[Samples], probe: WorkerProcess, kernels: Sequence[str], which: str, plan: Plan
) -> dict[str, dict[str, Any]]:
    """One sample of each variant and of the bandwidth in turn, again and again: a slow minute hits all of them."""
    rates: dict[str, list[dict[str, Any]]] = {kernel: [] for kernel in kernels}
    for turn in range(plan.repeats):
        # Every other round goes backwards, so that nobody always follows the same neighbour.
        for samples in prepared if turn % 2 == 0 else reversed(prepared):
            if samples.wants_more(plan):
                samples.take(which)
        for kernel in kernels:
            rates[kernel].append(probe.ask("bandwidth", kernel=kernel))
    return {kernel: _bandwidth(answers) for kernel, answers in rates.items()}


def _bandwidth(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    # The spread shows whether somebody else used the memory during the run: then the floors mean nothing.
    p20, median, p80 = (
        float(value) for value in np.percentile([answer["gb_per_s"] for answer in answers], (20, 50, 80))
    )
    return {**answers[0], "gb_per_s": median, "p20_gb_per_s": p20, "p80_gb_per_s": p80}


def _row(workload: Workload, samples: Samples, which: str) -> dict[str, Any]:
    p20, median, p80 = (1e3 * float(value) for value in np.percentile(samples.times, (20, 50, 80)))
    return {
        "workload": workload.name,
        "variant": samples.process.variant.name,
        "pass": which,
        "median_ms": median,
        "p20_ms": p20,
        "p80_ms": p80,
        "peak_mib": None,
        "compile_s": samples.prepared["compile_s"],
        "max_rel_error": samples.prepared["max_rel_error"],
        "samples": len(samples.times),
        "program": samples.prepared["program"],
    }


def _add_memory(
    rows: list[dict[str, Any]], workload: Workload, plan: Plan, scratch: Path, failures: list[dict[str, str]], say: Say
) -> None:
    for row in rows:
        say(f"{workload.name}, {row['pass']}: memory of {row['variant']}")
        with worker(workload.name, parse(row["variant"]), plan.threads, scratch) as process:
            try:
                row.update(process.ask("memory", which=row["pass"], program=row["program"]))
            except WorkerFailed as error:
                failures.append(_failure(workload, row["variant"], row["pass"], error))


def _failure(workload: Workload, variant: str, which: str, error: WorkerFailed) -> dict[str, str]:
    return {"workload": workload.name, "variant": variant, "pass": which, "reason": str(error)}
