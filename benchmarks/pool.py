"""The parent's side of the workers: start them, ask one at a time, end them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .devices import DEVICES, Device
from .variants import Variant

# Lines of its stderr that are shown when a worker has died.
LOG_TAIL = 3


class WorkerFailed(Exception):
    """A worker could not do what it was asked; the message says why."""


class WorkerProcess:
    """One process of :mod:`benchmarks.worker`.

    ``package`` is a folder whose plastikern it runs, in place of this one. It is ended where it has not answered within
    ``limit`` seconds (default: the device's). ``cache`` is a folder for compiled code (default: in ``scratch``).
    """

    def __init__(
        self,
        workload: str,
        variant: Variant,
        threads: int,
        scratch: Path,
        package: Path | None = None,
        device: Device = DEVICES["cpu"],
        limit: float | None = None,
        cache: Path | None = None,
    ) -> None:
        self.variant = variant
        self.device = device
        self._limit = limit or device.limit
        self.failed = False
        # Closed, and thereby gone, with the process.
        self._log = tempfile.TemporaryFile("w+", dir=scratch)  # noqa: SIM115
        environment = {**variant.environment(), **device.environment(variant)}
        # The worker imports what the parent imports, and compiles into a folder of its own, so that no variant finds
        # another's work done; the processes of one variant share it.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package or ""), *sys.path]))
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(
            (cache or scratch).resolve() / f"{variant.name}-inductor"
        )
        environment["OMP_NUM_THREADS"] = str(threads)
        arguments = [
            sys.executable,
            "-m",
            "benchmarks.worker",
            workload,
            variant.name,
            str(threads),
            device.name,
        ]
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment,
            cwd=package,  # which comes first of all the paths
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One request and its answer.

        Raises:
            WorkerFailed: the worker answered with a reason why not, ended, or was ended since it did not answer.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        late = threading.Timer(self._limit or threading.TIMEOUT_MAX, self._process.kill)
        late.daemon = True
        late.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            hung = not late.is_alive()
            late.cancel()
        if line:
            answer = json.loads(line)
        elif hung:
            answer = {"failed": f"no answer within {self._limit:g} s; its process was ended"}
        else:
            answer = {
                "failed": f"its process ended with status {self._process.wait()}: {self._last_words()}"
            }
        if "failed" in answer:
            self.failed = True
            raise WorkerFailed(answer["failed"])
        time.sleep(self.device.settle_seconds)
        return answer

    def _last_words(self) -> str:
        self._log.seek(0)
        return " | ".join(self._log.read().splitlines()[-LOG_TAIL:]) or "without a word"

    def close(self) -> None:
        """End the process and wait until its memory is free."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # A worker that has died leaves a broken pipe.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@contextlib.contextmanager
def worker(
    workload: str,
    variant: Variant,
    threads: int,
    scratch: Path,
    package: Path | None = None,
    **options: Any,
) -> Iterator[WorkerProcess]:
    """A worker for the length of a ``with`` block; ``options`` as :class:`WorkerProcess` takes them."""
    process = WorkerProcess(workload, variant, threads, scratch, package, **options)
    try:
        yield process
    finally:
        process.close()


class Workers:
    """The workers of a run; ``with`` closes those that are kept from one workload to the next."""

    def __init__(self, threads: int, scratch: Path, device: Device, **options: Any) -> None:
        self.scratch, self.device = scratch, device
        self._threads, self._options = threads, options
        self._idle: dict[Variant, WorkerProcess] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *reason: object) -> None:
        for process in self._idle.values():
            process.close()
        self._idle.clear()

    @contextlib.contextmanager
    def of(self, workload: str, variant: Variant) -> Iterator[WorkerProcess]:
        """A worker for a workload: a new process, or one that is kept and has not failed."""
        process = self._idle.pop(variant, None)
        if process is not None:
            try:
                process.ask("begin", workload=workload)
            except WorkerFailed:
                process.close()
                process = None
        if process is None:
            process = WorkerProcess(
                workload, variant, self._threads, self.scratch, device=self.device, **self._options
            )  # fmt: skip
        try:
            yield process
        finally:
            # A GPU's error may stay with a process, so that one that has failed is not kept.
            if self.device.keeps_workers and not process.failed and variant not in self._idle:
                self._idle[variant] = process
            else:
                process.close()
