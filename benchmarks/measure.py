"""One workload: check every variant, time all of them in turns, measure the memory of each in a process of its own."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .devices import DEVICES, Device
from .pool import WorkerFailed, WorkerProcess, Workers
from .summary import floors
from .variants import LIBRARY, Variant, parse
from .workloads import FORWARD, Workload

# A pass that takes longer is not preceded by an untimed one.
WARM_SECONDS = 1.0
# Slow variants stop at the budget of time, but not before a median means something.
LEAST_SAMPLES = 3

REFERENCE = parse(f"{LIBRARY}reference")
Say = Callable[[str], None]
Told = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Plan:
    """``budget`` is the time in seconds that the samples of one variant and pass may take."""

    variants: Sequence[Variant]
    passes: Sequence[str]
    repeats: int
    budget: float
    threads: int
    memory: bool
    device: Device = DEVICES["cpu"]
    check_only: bool = False


@dataclass
class Samples:
    """One variant in one pass, while it is measured."""

    process: WorkerProcess
    prepared: dict[str, Any]
    times: list[float] = field(default_factory=list)
    spent: float = 0.0
    host_seconds: float | None = None

    def wants_more(self, plan: Plan) -> bool:
        if len(self.times) >= plan.repeats:
            return False
        return len(self.times) < LEAST_SAMPLES or self.spent < plan.budget

    def take(self, which: str) -> None:
        expected = min([self.prepared["seconds"], *self.times])
        iterations = max(1, math.ceil(self.process.device.sample_seconds / expected))
        seconds = self.process.ask(
            "sample", which=which, iterations=iterations, warm=expected < WARM_SECONDS
        )["seconds"]
        self.times.append(seconds)
        self.spent += seconds * iterations

    def take_host(self, which: str) -> None:
        self.host_seconds = self.process.ask("host", which=which)["seconds"]


def measure(
    workload: Workload, plan: Plan, workers: Workers, say: Say, told: Told
) -> dict[str, Any]:
    """Rows, failures, bandwidth, floors and what was left out of one workload; ``told`` gets the first two at once."""
    variants = [variant for variant in plan.variants if variant.family not in workload.without]
    run = Run(workload, plan, workers, say, told)
    try:
        run.compute_truth()
        run.time(variants)
        if plan.memory and plan.device.memory_alone:
            run.add_memory()
    except WorkerFailed as error:
        run.fail(REFERENCE.name, "all", error)
    return {
        "rows": run.rows,
        "failures": run.failures,
        "bandwidth": run.bandwidth,
        "floors": floors(workload, run.rows, run.bandwidth) if plan.device.probes else [],
        "left_out": {
            f"{variant.name} on {workload.name}": workload.without[variant.family]
            for variant in plan.variants
            if variant not in variants
        },
    }


class Run:
    """One workload, while it is measured. What the reference's worker raises ends it, other failures are noted."""

    def __init__(
        self, workload: Workload, plan: Plan, workers: Workers, say: Say, told: Told
    ) -> None:
        self._workload, self._plan, self._workers, self._say, self._told = (
            workload,
            plan,
            workers,
            say,
            told,
        )
        self._truth = workers.scratch / f"{workload.name}.pt"
        self.rows: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []
        self.bandwidth: dict[str, dict[str, Any]] = {}

    def _worker(self, variant: Variant) -> AbstractContextManager[WorkerProcess]:
        return self._workers.of(self._workload.name, variant)

    def fail(self, variant: str, which: str, error: WorkerFailed) -> None:
        failure = {
            "workload": self._workload.name,
            "variant": variant,
            "pass": which,
            "reason": str(error),
        }
        self.failures.append(failure)
        self._told(failure)

    def compute_truth(self) -> None:
        self._say(f"{self._workload.name}: fp64 reference")
        with self._worker(REFERENCE) as process:
            process.ask("reference", path=str(self._truth))

    def time(self, variants: Sequence[Variant]) -> None:
        passes = [name for name in self._plan.passes if name in self._workload.passes]
        with contextlib.ExitStack() as stack:
            # All of them start at once.
            probe, *processes = (
                stack.enter_context(self._worker(variant)) for variant in (REFERENCE, *variants)
            )
            facts = {}
            for process in (probe, *processes):
                try:
                    facts[process] = process.ask("ready")
                except WorkerFailed as error:
                    self.fail(process.variant.name, "all", error)
            for which in passes:
                prepared = self._prepare(
                    [process for process in processes if process in facts], which
                )
                if self._plan.check_only:
                    for samples in prepared:
                        self._told(_fields(self._workload, samples, which, facts[samples.process]))
                    continue
                self._say(f"{self._workload.name}, {which}: timing {len(prepared)} variants")
                for samples in self._rounds(prepared, probe, which):
                    row = _row(self._workload, samples, which, facts[samples.process])
                    self._say(f"  {row['variant']}: {row['median_ms']:.2f} ms by {row['program']}")
                    self.rows.append(row)
                    if not (self._plan.memory and self._plan.device.memory_alone):
                        self._told(row)

    def _prepare(self, processes: Sequence[WorkerProcess], which: str) -> list[Samples]:
        """Compile and check every variant; those that are wrong or cannot run are left out of the timing."""
        ready = []
        for process in processes:
            self._say(f"{self._workload.name}, {which}: checking {process.variant.name}")
            try:
                ready.append(
                    Samples(
                        process, process.ask("prepare", which=which, reference=str(self._truth))
                    )
                )
            except WorkerFailed as error:
                self.fail(process.variant.name, which, error)
        return ready

    def _rounds(
        self, prepared: Sequence[Samples], probe: WorkerProcess, which: str
    ) -> list[Samples]:
        """One sample of each variant and of the bandwidth in turn, again and again: a slow minute hits all of them.

        Those that fail on the way are not among what is returned.
        """
        kernels = ("forward",) if which == FORWARD else ("forward", "backward")
        rates: dict[str, list[dict[str, Any]]] = {
            kernel: [] for kernel in kernels if self._plan.device.probes
        }
        left = list(prepared)

        def ask(samples: Samples, request: Callable[[str], None]) -> None:
            try:
                request(which)
            except WorkerFailed as error:
                self.fail(samples.process.variant.name, which, error)
                left.remove(samples)

        for turn in range(self._plan.repeats):
            # Every other round goes backwards, so that nobody always follows the same neighbour.
            for samples in list(left) if turn % 2 == 0 else list(reversed(left)):
                if samples.wants_more(self._plan):
                    ask(samples, samples.take)
            for kernel, answers in rates.items():
                answers.append(probe.ask("bandwidth", kernel=kernel))
        for samples in list(left):
            ask(samples, samples.take_host)
        self.bandwidth.update({kernel: _bandwidth(answers) for kernel, answers in rates.items()})
        return left

    def add_memory(self) -> None:
        for row in self.rows:
            self._say(f"{self._workload.name}, {row['pass']}: memory of {row['variant']}")
            with self._worker(parse(row["variant"])) as process:
                try:
                    row.update(process.ask("memory", which=row["pass"], program=row["program"]))
                except WorkerFailed as error:
                    self.fail(row["variant"], row["pass"], error)
            self._told(row)


def _bandwidth(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    # The spread shows whether somebody else used the memory during the run: then the floors mean nothing.
    p20, median, p80 = (
        float(value)
        for value in np.percentile([answer["gb_per_s"] for answer in answers], (20, 50, 80))
    )
    return {**answers[0], "gb_per_s": median, "p20_gb_per_s": p20, "p80_gb_per_s": p80}


def _row(
    workload: Workload, samples: Samples, which: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    p20, median, p80 = (1e3 * float(value) for value in np.percentile(samples.times, (20, 50, 80)))
    return {
        **_fields(workload, samples, which, facts),
        "median_ms": median,
        "p20_ms": p20,
        "p80_ms": p80,
        "host_ms": None if samples.host_seconds is None else 1e3 * samples.host_seconds,
        "samples": len(samples.times),
    }


def _fields(
    workload: Workload, samples: Samples, which: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What is known of a variant once it is checked."""
    known = ("program", "form", "compile_s", "max_rel_error", "peak_bytes")
    return {
        "workload": workload.name,
        "variant": samples.process.variant.name,
        "pass": which,
        **{name: samples.prepared[name] for name in known},
        **{name: facts[name] for name in ("device", "clock", "torch")},
    }
