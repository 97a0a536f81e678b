"""``python -m experiments campaign``: all runs of a table, side by side, resumable at any moment."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from experiments.campaign import state, table
from experiments.campaign.state import State
from experiments.campaign.table import Task
from experiments.campaign.workers import Workers, cores
from experiments.common import collection, ownership
from experiments.common.config import assigned, require
from experiments.common.training import StopRequest

POLL_SECONDS = 5.0
LINE_SECONDS = 60.0
"""Between two lines about the progress where they go to a file."""


def parser(program: str) -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog=f"{program} campaign",
        description="Train all runs of a table. See docs/experiments.md.",
    )
    add = made.add_argument
    add(
        "--table",
        type=Path,
        default=table.TABLE,
        help="TOML file of the runs (default: that of the papers' claims)",
    )
    add(
        "--only",
        default="",
        help="rows or experiments of the table, separated by commas (default: all)",
    )
    add("--seeds", help="such as 0-4: only these seeds of each row (default: all)")
    add(
        "--folder",
        type=Path,
        default=Path("runs"),
        help="of all results; may be shared by machines (default: runs)",
    )
    add(
        "--jobs",
        type=int,
        default=len(cores()),
        help="runs side by side, a core each (default: all cores)",
    )
    add(
        "--data",
        nargs="+",
        action="extend",
        default=[],
        metavar="EXPERIMENT=PATH",
        help="data of an experiment",
    )
    add("--status", action="store_true", help="only tell what each run has reached")
    return made


def run(arguments: Sequence[str], experiments: Mapping[str, Any], program: str) -> int:
    """Run the command; the number of the signal that stopped it, or 0.

    Raises:
        ExperimentError: a mistake in the table or the options, or runs that failed.
    """
    options = parser(program).parse_args(arguments)
    require(options.jobs >= 1, f"--jobs: expected at least 1; got {options.jobs}")
    rows = table.chosen(
        table.read(options.table), [name for name in options.only.split(",") if name]
    )
    tasks = table.tasks(
        rows, experiments, options.folder, options.seeds, assigned(options.data, experiments)
    )
    if options.status:
        states = [(task, state.reached(task)) for task in tasks]
        print(*(state.describe(*each) for each in states), sep="\n")
        print(
            state.summary(
                states, [task for task in tasks if ownership.owner(task.folder)], options.jobs
            )
        )
        return 0
    campaign = Campaign(tasks, Workers(experiments, options.jobs), options.jobs)
    with StopRequest() as stop:
        campaign.run(stop)
    if stop.signal:
        print("stopped; the same command goes on", file=sys.stderr)
        return stop.signal
    failures = campaign.workers.failures
    if len(failures) < len(tasks):
        collection.write(options.folder, None)
    require(
        not failures,
        "\n".join(state.describe(task, State(), why) for task, why in failures.items()),
    )
    return 0


class Campaign:
    """The loop that keeps the workers busy.

    Args:
        tasks: in the order in which they are wanted.
        workers: that train them.
        jobs: how many at a time.
    """

    def __init__(self, tasks: Sequence[Task], workers: Workers, jobs: int):
        self.tasks, self.workers, self.jobs = tasks, workers, jobs
        self._locks: dict[Task, SoftFileLease] = {}
        self._finished: dict[Task, State] = {}
        self._shown = 0.0
        self._lines = 0

    def run(self, stop: StopRequest) -> None:
        """Until all runs are finished or have failed, or a signal has come and all workers have ended."""
        stopping = False
        while True:
            states = [(task, self._reached(task)) for task in self.tasks]
            if stop.signal and not stopping:
                stopping = True
                self.workers.stop()
            if not stopping:
                self._fill(states)
            self._show(states)
            waiting = [
                task
                for task, reached in states
                if not reached.finished and task not in self.workers.failures
            ]
            if not self.workers.running and (stopping or not waiting):
                break
            self.workers.wait(POLL_SECONDS)
        self._show(states, last=True)

    def _reached(self, task: Task) -> State:
        if task in self._finished:
            return self._finished[task]
        reached = state.reached(task)
        if reached.finished and task not in self.workers.running:
            self._finished[task] = reached
        return reached

    def _fill(self, states: Sequence[tuple[Task, State]]) -> None:
        """Give every worker that has nothing to do a run that nobody trains."""
        for task, reached in states:
            if self.workers.full:
                return
            done = reached.finished or task in self.workers.failures or task in self.workers.running
            if not done and self._free(task):
                self.workers.start(task)

    def _free(self, task: Task) -> bool:
        """Whether nobody trains a run; frees it from an owner who is no more."""
        if not ownership.owner(task.folder):
            return True
        lock = self._locks.setdefault(task, ownership.lease(task.folder))
        try:
            ownership.acquire(lock)
        except Timeout:
            return False
        lock.release()
        return True

    def _show(self, states: Sequence[tuple[Task, State]], last: bool = False) -> None:
        """Rewrite the lines about the progress in a terminal; add one now and then to a file."""
        running = [
            task
            for task, reached in states
            if not reached.finished and ownership.owner(task.folder)
        ]
        overview = state.summary(states, running, self.jobs)
        if not sys.stderr.isatty():
            if last or time.monotonic() - self._shown >= LINE_SECONDS or not self._shown:
                self._shown = time.monotonic()
                print(time.strftime("%H:%M:%S"), overview, file=sys.stderr, flush=True)
            return
        lines = [state.describe(task, reached) for task, reached in states if task in running]
        lines += [state.describe(task, State(), why) for task, why in self.workers.failures.items()]
        up = f"\033[{self._lines}A\033[J" if self._lines else ""
        self._lines = len(lines) + 1
        width = shutil.get_terminal_size().columns - 1
        print(
            up + "\n".join(line[:width] for line in [*lines, overview]), file=sys.stderr, flush=True
        )
