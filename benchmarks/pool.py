"""The parent's side of the workers: start them, ask one at a time, end them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .variants import Variant

# OpenMP's threads spin for a few milliseconds after a loop before they sleep; the next worker is asked after that.
SETTLE_SECONDS = 0.03
# Lines of its stderr that are shown when a worker has died.
LOG_TAIL = 3


class WorkerFailed(Exception):
    """A worker could not do what it was asked; the message says why."""


class WorkerProcess:
    """One process of :mod:`benchmarks.worker`; ``package``: a folder whose plastikern it runs, in place of this one."""

    def __init__(
        self, workload: str, variant: Variant, threads: int, scratch: Path, package: Path | None = None
    ) -> None:
        self.variant = variant
        # Closed, and thereby gone, with the process.
        self._log = tempfile.TemporaryFile("w+", dir=scratch)  # noqa: SIM115
        environment = variant.environment()
        # The worker imports what the parent imports, and compiles into a folder of its own, so that no variant finds
        # another's work done; the processes of one variant share it.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package or ""), *sys.path]))
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / f"{variant.name}-inductor")
        environment["OMP_NUM_THREADS"] = str(threads)
        arguments = [sys.executable, "-m", "benchmarks.worker", workload, variant.name, str(threads)]
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
            WorkerFailed: the worker answered with a reason why not, or ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            self._log.seek(0)
            last_words = " | ".join(self._log.read().splitlines()[-LOG_TAIL:])
            raise WorkerFailed(f"its process ended with status {status}: {last_words or 'without a word'}")
        answer = json.loads(line)
        if "failed" in answer:
            raise WorkerFailed(answer["failed"])
        time.sleep(SETTLE_SECONDS)
        return answer

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
    workload: str, variant: Variant, threads: int, scratch: Path, package: Path | None = None
) -> Iterator[WorkerProcess]:
    """A worker for the length of a ``with`` block."""
    process = WorkerProcess(workload, variant, threads, scratch, package)
    try:
        yield process
    finally:
        process.close()
