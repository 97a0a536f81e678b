"""Runs side by side: a process each, on a core of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from experiments.campaign.table import Task
from experiments.common.ownership import TAKEN_AWAY

LOG = "log.txt"
LOG_TAIL = 4096
MOST_KILLS = 3
"""Times that a run may be killed without a new checkpoint in between, as for want of memory."""
SPAWN = multiprocessing.get_context("spawn")


def cores() -> list[int]:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def work(experiments: Mapping[str, Any], task: Task, core: int) -> None:
    """The whole life of a worker: one run, stopped with a checkpoint when the process that started it has ended."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in a terminal reaches the campaign only, which stops its workers.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    threading.Thread(target=_follow_parent, daemon=True).start()
    task.folder.mkdir(parents=True, exist_ok=True)
    log = os.open(task.folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from experiments.common.cli import main

    sys.exit(main(experiments, task.arguments))


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


class Workers:
    """At most ``jobs`` runs at a time.

    Args:
        experiments: names, and the experiments, or the modules whose ``EXPERIMENT`` they are.
        jobs: how many.

    Attributes:
        failures: why runs failed that are not to be tried again, by run.
    """

    def __init__(self, experiments: Mapping[str, Any], jobs: int):
        self.failures: dict[Task, str] = {}
        self._experiments = experiments
        self._cores = cores()
        self._slots: list[tuple[Task, BaseProcess] | None] = [None] * jobs
        self._kills: dict[Task, int] = {}
        self._checkpoints: dict[Task, float] = {}

    @property
    def running(self) -> list[Task]:
        return [slot[0] for slot in self._slots if slot is not None]

    @property
    def full(self) -> bool:
        return None not in self._slots

    def start(self, task: Task) -> None:
        """Begin a run, or go on with it."""
        slot = self._slots.index(None)
        core = self._cores[slot % len(self._cores)]
        process = SPAWN.Process(
            target=work, args=(self._experiments, task, core), name=str(task), daemon=True
        )
        process.start()
        self._slots[slot] = task, process

    def wait(self, seconds: float) -> None:
        """Until a run has ended or the time is over; notes how each has ended."""
        wait([slot[1].sentinel for slot in self._slots if slot is not None], seconds)
        for index, slot in enumerate(self._slots):
            if slot is not None and slot[1].exitcode is not None:
                self._slots[index] = None
                self._note(slot[0], slot[1].exitcode)

    def stop(self) -> None:
        """Ask all runs to write a checkpoint and end."""
        for slot in self._slots:
            if slot is not None:
                slot[1].terminate()

    def _note(self, task: Task, status: int) -> None:
        if status in (0, TAKEN_AWAY):
            return
        if status < 0 or status > 128:  # by a signal
            self._count_kill(task, f"killed by signal {-status if status < 0 else status - 128}")
            return
        self.failures[task] = _last_line(task) or f"exit status {status}"

    def _count_kill(self, task: Task, how: str) -> None:
        checkpoint = task.folder / "checkpoint.pt"
        written = checkpoint.stat().st_mtime if checkpoint.exists() else 0.0
        progress = written != self._checkpoints.get(task)
        self._checkpoints[task] = written
        self._kills[task] = 1 if progress else self._kills[task] + 1
        if self._kills[task] >= MOST_KILLS:
            self.failures[task] = f"{how} {MOST_KILLS} times without a new checkpoint"


def _last_line(task: Task) -> str:
    """The last line of a run's log, which says what went wrong."""
    log = (task.folder / LOG).read_bytes()[-LOG_TAIL:].decode(errors="replace").strip()
    return log.rpartition("\n")[2].removeprefix("error: ")
