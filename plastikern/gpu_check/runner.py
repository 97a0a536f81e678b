"""Runs the stages, one after the other, and writes down what they say as they say it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from . import process
from .results import OUTCOMES, Record, Results, parse
from .setup import Setup
from .stages import Stage, Step

SKIPPED_STATUS = 77
"""With which a program says that it cannot run here; it prints ``{"skip": reason}``."""
LEAST_SECONDS = 5.0
"""With less than this left of the budget no stage is begun."""
LARGEST_LOG = 4 * 2**20
"""Bytes of a stage's log: a program that prints without end must not fill the disk."""
_WORSE = {
    outcome: rank for rank, outcome in enumerate(("skipped", "passed", "failed", "crashed", "hung"))
}
assert set(_WORSE) == set(OUTCOMES)


class Runner:
    """The state of a run: results, time, and whether there is a card.

    Args:
        setup: where things are.
        results: the open file.
        budget: seconds for all stages.
    """

    def __init__(self, setup: Setup, results: Results, budget: float) -> None:
        self.setup = setup
        self._results = results
        self._start = time.monotonic()
        self._budget = budget
        self._no_card: str | None = None
        self._writes = threading.Lock()
        self.ends: dict[str, Record] = {}

    def write(self, kind: str, /, **fields: Any) -> Record:
        """A record, on the disk where that is possible, else on standard output."""
        with self._writes:
            record = {"record": kind, "at": round(self.elapsed(), 3), **fields}
            if not self._results.write(record):
                print(json.dumps(record), flush=True)
            return record

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._start

    def run(self, stage: Stage) -> Record:
        """One stage: its ``end`` record."""
        limit = min(stage.limit * self.setup.patience, self._budget - self.elapsed())
        self.write("begin", stage=stage.name, limit=round(max(limit, 0.0), 1))
        started = self.elapsed()
        outcome, reason = "skipped", self._why_not(stage, limit)
        if reason is None:
            try:
                outcome, reason = self._steps(stage, limit)
            except KeyboardInterrupt:
                self._end(stage, "hung", "interrupted", started)
                raise
            except Exception as error:  # a mistake of ours must not cost the stages that follow
                outcome, reason = "failed", f"gpu-check itself: {type(error).__name__}: {error}"
        return self._end(stage, outcome, reason, started)

    def _end(self, stage: Stage, outcome: str, reason: str, started: float) -> Record:
        took = round(self.elapsed() - started, 3)
        end = self.write("end", stage=stage.name, outcome=outcome, took=took, reason=reason)
        self.ends[stage.name] = end
        print(f"{stage.name}: {outcome}, {took:.1f} s{': ' if reason else ''}{reason}", flush=True)
        return end

    def _why_not(self, stage: Stage, limit: float) -> str | None:
        if limit < min(LEAST_SECONDS, stage.limit):
            return f"the budget of {self._budget:.0f} s is spent"
        if stage.on_card and self._no_card is not None and not self.setup.dry_run:
            return f"no card: {self._no_card}"
        return stage.missing()

    def _steps(self, stage: Stage, limit: float) -> tuple[str, str]:
        """Outcome and reason: of the worst step."""
        deadline = time.monotonic() + limit
        worst, reasons = "skipped", []
        with _Log(self.setup.out / f"{stage.name}.log") as log, ExitStack() as beside:
            for step in stage.steps:
                if step.after_failure and _WORSE[worst] < _WORSE["failed"]:
                    continue
                left = deadline - time.monotonic()
                if left <= 0:
                    reasons.append(f"{step.name}: not begun, the stage's time was over")
                    continue
                if step.beside:
                    beside.enter_context(_Watch(self, stage, step, log).beside(left))
                    continue
                outcome, reason = _Watch(self, stage, step, log).run(
                    min(step.limit * self.setup.patience, left)
                )
                if reason:
                    reasons.append(f"{step.name}: {reason}")
                if _WORSE[outcome] > _WORSE[worst]:
                    worst = outcome
        return worst, "; ".join(reasons)

    def fact(self, stage: Stage, step: Step, fact: Record) -> None:
        """Write a fact down; that there is no card keeps the stages that need one from being tried."""
        if fact.get("fact") == "no card":
            self._no_card = str(fact.get("reason"))
        own = {"stage": stage.name, "step": step.name, **step.labels}
        # What a program says of itself must not look like what is said of it.
        found = {key: value for key, value in fact.items() if key not in ("record", "at", *own)}
        self.write("fact", **own, **found)


class _Watch:
    """A step while it runs: its facts."""

    def __init__(self, runner: Runner, stage: Stage, step: Step, log: _Log) -> None:
        self._runner, self._stage, self._step, self._log = runner, stage, step, log
        self._read = step.reader()
        self._rows = _Rows(step.rows) if step.rows is not None else None
        self._skip: str | None = None
        self._error = ""
        self._expected = step.expects is None

    @contextlib.contextmanager
    def beside(self, limit: float) -> Iterator[None]:
        """It runs in a thread until the block ends."""
        stop = threading.Event()
        thread = threading.Thread(target=self.run, args=(min(self._step.limit, limit), stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def run(self, limit: float, stop: threading.Event | None = None) -> tuple[str, str]:
        """Outcome and reason."""
        step, setup = self._step, self._runner.setup
        self._log.add(f"$ {' '.join(step.command)}")
        ended = process.run(
            step.command, limit, self._line, environment=_environment(setup, step),
            folder=setup.root if setup.repository else None, stop_after=step.stop_after,
            on_poll=self._poll, stop=stop,
        )  # fmt: skip
        self._poll(last=True)
        outcome, reason = self._judge(ended)
        self._log.add(f"# {outcome} after {ended.seconds:.1f} s {reason}")
        return outcome, reason

    def _judge(self, ended: process.Ended) -> tuple[str, str]:
        if ended.how == "not started":
            return "skipped", ended.reason
        if ended.how == "hung":
            return "hung", f"stopped at its limit, after {ended.seconds:.0f} s{self._said()}"
        if ended.how == "killed":
            return "crashed", f"killed by signal {ended.status}{self._said()}"
        if ended.status == SKIPPED_STATUS or (self._skip is not None and not self._expected):
            return "skipped", self._skip or "it said that it cannot run here"
        status = ended.status
        if status not in self._step.accepts:
            return "failed", f"exit status {status}{self._said()}"
        if not self._expected:
            return "failed", f"it ended without a word of {self._step.expects!r}"
        return "passed", ""

    def _said(self) -> str:
        return f": {self._error}" if self._error else ""

    def _line(self, line: str) -> None:
        self._log.add(line)
        if (plain := line.strip()) and not plain.startswith("{"):
            self._error = plain[:300]  # the last line of a traceback says most
        for fact in self._read(line):
            self._found(fact)

    def _found(self, fact: Record) -> None:
        if "skip" in fact:
            self._skip = str(fact["skip"])
        if "error" in fact:
            self._error = str(fact["error"])[:300]
        value = fact.get(self._step.expects or "")
        if isinstance(value, dict) and self._step.expects == "tests":
            value = value.get("passed")  # all of them skipped is none
        self._expected = self._expected or bool(value)
        self._runner.fact(self._stage, self._step, fact)

    def _poll(self, last: bool = False) -> None:
        if self._rows is None:
            return
        for fact in self._rows.new(last):
            if not self._step.last_row:
                self._found(fact)
        if last and self._step.last_row and self._rows.latest is not None:
            self._found(self._rows.latest)


class _Rows:
    """Lines that a program adds to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Those of an earlier run are not of this one.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        self._position = 0
        self.latest: Record | None = None

    def new(self, last: bool) -> list[Record]:
        """Whole lines since the last call; with ``last``, one without an end, too."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except OSError:
            return []
        whole = len(data) if last else data.rfind(b"\n") + 1
        self._position += whole
        found = [
            fact
            for line in data[:whole].decode(errors="replace").splitlines()
            if (fact := parse(line)) is not None
        ]
        self.latest = found[-1] if found else self.latest
        return found


class _Log:
    """The log of a stage; a disk that is full costs the log and nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._size = 0

    def __enter__(self) -> _Log:
        with contextlib.suppress(OSError):
            self._file = self._path.open("a", buffering=1, errors="replace")
        return self

    def add(self, line: str) -> None:
        """One line."""
        self._size += len(line) + 1
        if self._file is None or self._size > LARGEST_LOG:
            return
        with contextlib.suppress(OSError):
            self._file.write(line + "\n")

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()


def _environment(setup: Setup, step: Step) -> dict[str, str]:
    """Of a step: it imports what lies beside the package, prints at once, and says where it crashed."""
    paths = [str(setup.root), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    return {**os.environ, **own, **step.environment}
