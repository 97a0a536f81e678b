"""One process of the benchmark: ``python -m benchmarks.worker WORKLOAD VARIANT THREADS DEVICE``.

It reads requests as JSON lines from stdin, works on one at a time and answers each with a JSON line on stdout; between
requests it waits without using a core. A request is ``{"do": method of Worker, argument: value, ...}``, an answer is
what the method returns, or ``{"failed": reason}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

import plastikern

from . import accuracy, floor, memory
from .devices import DEVICES, Device
from .programs import Program, programs
from .variants import Variant, parse
from .workloads import Workload, workload_named

# Trials by which the fastest program of a variant is chosen: so many, or fewer when they have taken so long.
TRIALS, TRIAL_SECONDS = 5, 1.0


class Worker:
    def __init__(
        self, workload: Workload, variant: Variant, device: Device = DEVICES["cpu"]
    ) -> None:
        self._workload = device.workload(workload)
        self._variant = variant
        self._device = device
        self._running: dict[str, tuple[Program, Any]] = {}

    def begin(self, workload: str) -> dict[str, Any]:
        """Go on with another workload."""
        self._workload = self._device.workload(workload_named(workload))
        self._running.clear()
        self._device.clear()
        return {}

    def ready(self) -> dict[str, Any]:
        """An answer means that everything is imported."""
        return {"threads": torch.get_num_threads(), **self._device.facts()}

    def package(self) -> dict[str, Any]:
        """Where the library that is measured was imported from."""
        return {"path": plastikern.__file__}

    def reference(self, path: str) -> dict[str, Any]:
        """Write the fp64 truth of the workload."""
        torch.save(
            accuracy.reference(self._workload, self._device.place, self._device.whole_batch), path
        )
        return {}

    def prepare(
        self, which: str, reference: str, tolerance: float = accuracy.TOLERANCE
    ) -> dict[str, Any]:
        """Compile every program for a pass, check it against the truth, and keep the fastest of those that are right.

        Returns:
            ``program`` (its name), ``seconds`` of one iteration, ``compile_s``, ``max_rel_error``, ``form`` of the CUDA
            kernels, and ``peak_bytes`` where this process can tell.
        """
        truth = accuracy.load(Path(reference), which)
        inputs = self._workload.inputs()
        best: dict[str, Any] | None = None
        refused = []
        offered = programs(self._variant, self._workload, self._device)
        for name in list(offered):
            # What an earlier one kept, a graph's memory too, is freed unless it is the best so far.
            program, placed = offered.pop(name), None
            self._device.free_unused()
            skipped = self._device.skipped_graphs()
            placed = program.place(inputs)
            compile_s = _compile_seconds(program, placed, which) if self._variant.compiled else 0.0
            tried, peak = self._device.with_peak(partial(self._try, program, placed, which, truth))
            error, seconds = tried
            if not error <= tolerance:
                refused.append(f"{name}: error {error:.1e} is beyond {tolerance:.0e}")
                continue
            if self._device.skipped_graphs() > skipped:
                name = f"{name}, without all graphs"
            if best is None or seconds < best["seconds"]:
                best = {
                    "program": name,
                    "seconds": seconds,
                    "compile_s": compile_s,
                    "max_rel_error": error,
                }
                best |= {
                    "peak_bytes": peak,
                    "form": self._device.form(self._workload, self._variant, which),
                }
                self._running[which] = program, placed
        if best is None:
            return {"failed": "; ".join(refused) or "it has no program for this workload"}
        return best

    def _try(
        self, program: Program, placed: Any, which: str, truth: list[torch.Tensor]
    ) -> tuple[float, float]:
        """Error of the last, and seconds of the fastest of a few iterations, fewer where that takes long."""
        trials: list[float] = []
        kept: list[Any] = []

        def run() -> None:
            kept[:] = [program.run(placed, which)]

        while len(trials) < self._device.least_trials or (
            len(trials) < TRIALS and sum(trials) < TRIAL_SECONDS
        ):
            kept.clear()
            trials.append(self._device.seconds(run, 1))
        output, gradients = kept.pop()
        return accuracy.max_rel_error(
            [program.to_torch(array) for array in (output, *gradients)], truth
        ), min(trials)

    def sample(self, which: str, iterations: int, warm: bool) -> dict[str, Any]:
        """Seconds per iteration; ``warm`` puts one more iteration before, which brings caches and threads back."""
        program, placed = self._running[which]
        if warm:
            program.run(placed, which)
        return {"seconds": self._device.seconds(lambda: program.run(placed, which), iterations)}

    def host(self, which: str) -> dict[str, Any]:
        """Seconds that a call keeps the host."""
        program, placed = self._running[which]
        return {"seconds": self._device.host_seconds(lambda: program.run(placed, which))}

    def memory(self, which: str, program: str) -> dict[str, Any]:
        """Bytes that the first whole iteration in this process adds."""
        chosen = programs(self._variant, self._workload, self._device)[program]
        placed = chosen.place(self._workload.inputs())
        chosen.compile(placed, which)
        return {"peak_bytes": memory.with_added_peak(lambda: chosen.run(placed, which))[1]}

    def bandwidth(self, kernel: str) -> dict[str, Any]:
        """Bandwidth for a kernel's mix of reads and writes and its working set."""
        traffic = self._workload.traffic(kernel)
        probe = floor.probe_for(traffic)
        length = floor.probe_length(traffic, probe)
        facts = {
            "probe": probe.name,
            "reads": probe.reads,
            "writes": probe.writes,
            "arrays": probe.arrays,
            "length": length,
        }
        return {**facts, "gb_per_s": probe.measure(length)}


def _compile_seconds(program: Program, placed: Any, which: str) -> float:
    """Time of the compiler alone: what a first use of a piece of the sequence takes longer than a second one."""
    seconds = []
    for _ in range(1 if program.ahead_of_time else 2):
        start = time.perf_counter()
        program.compile(placed, which)
        seconds.append(time.perf_counter() - start)
    return max(0.0, seconds[0] - sum(seconds[1:]))


def _limit_threads(threads: int) -> None:
    """As many cores as threads: the one limit that torch, its compiler and JAX all obey."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if threads < len(cores):
            os.sched_setaffinity(0, cores[:threads])
    torch.set_num_threads(threads)


def main() -> None:
    workload, variant, threads, device = sys.argv[1:]
    # The protocol has stdout to itself: whatever a compiler prints goes to stderr.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _limit_threads(int(threads))
    DEVICES[device].start()
    worker = Worker(workload_named(workload), parse(variant), DEVICES[device])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
