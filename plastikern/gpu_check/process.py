"""One process under a time limit: its lines as they come, its group killed at the end, whatever it does."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GRACE = 3.0
"""Seconds between SIGTERM, on which a process may say where it was, and SIGKILL."""
PLANNED_GRACE = 15.0
"""The same where the end was planned: a training run writes its checkpoint."""
LINGER = 1.0
"""Seconds for which output is read on behind the end of a process: another one may hold the pipe."""
UNKILLABLE = 5.0
"""Seconds after SIGKILL that a process is waited for. One that waits in a driver can outlive them."""
LONGEST_LINE = 64 * 1024
POLL = 0.2


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        how: ``exited``, ``killed`` (by a signal that was not ours), ``hung`` (we stopped it at its limit), ``stopped``
            (we ended it, as planned), or ``not started``.
        status: exit status or number of the signal; None where there is none.
        seconds: that it took.
        reason: for ``not started``.
    """

    how: str
    status: int | None
    seconds: float
    reason: str = ""


def run(
    command: Sequence[str],
    limit: float,
    on_line: Callable[[str], None],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stop_after: float | None = None,
    on_poll: Callable[[], None] = lambda: None,
    stop: threading.Event | None = None,
) -> Ended:
    """Run a command in a process group of its own.

    Args:
        command: program and arguments.
        limit: seconds after which the group is ended: by SIGTERM, then by SIGKILL.
        on_line: called with every line of its output and its errors, as they come; lines beyond 64 KiB are cut.
        environment: all of it; None: that of this process.
        folder: where it runs; None: here.
        stop_after: seconds after which SIGTERM ends it as planned; None: never.
        on_poll: called a few times a second.
        stop: set by another thread to end it as planned.

    Raises:
        KeyboardInterrupt: after the group was killed.
    """
    start = time.monotonic()
    try:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment, cwd=folder, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return Ended("not started", None, 0.0, f"{command[0]}: {error.strerror}")
    assert process.stdout is not None
    lines = _Lines(on_line)
    try:
        with process.stdout as pipe, selectors.DefaultSelector() as selector:
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ)
            how = _follow(process, selector, lines, start, limit, stop_after, on_poll, stop)
    finally:
        _kill_group(process.pid)
        # Reaped only now: until then nobody else's group can have this number.
        status = _reap(process)
        lines.end()
        on_poll()
    seconds = time.monotonic() - start
    if how == "exited" and status is not None and status < 0:
        return Ended("killed", -status, seconds)
    # As a shell says it.
    return Ended(how, 128 - status if status is not None and status < 0 else status, seconds)


def _follow(
    process: subprocess.Popen[bytes], selector: selectors.BaseSelector, lines: _Lines, start: float, limit: float,
    stop_after: float | None, on_poll: Callable[[], None], stop: threading.Event | None,
) -> str:  # fmt: skip
    """Reads until the process has ended or was told to: how it ended."""
    how, open_, kill_at, gone_at = "exited", True, None, None
    while True:
        if open_:
            if selector.select(POLL):
                open_ = lines.read(process)
        else:
            time.sleep(POLL / 10)
        on_poll()
        now = time.monotonic()
        if gone_at is None and _has_ended(process.pid):
            gone_at = now
        if gone_at is not None and (not open_ or now > gone_at + LINGER):
            return how
        if gone_at is not None:
            continue
        planned = (stop_after is not None and now > start + stop_after) or (
            stop is not None and stop.is_set()
        )
        if kill_at is None and (now > start + limit or planned):
            how = "hung" if now > start + limit else "stopped"
            _signal_group(process.pid, signal.SIGTERM)
            kill_at = now + (GRACE if how == "hung" else PLANNED_GRACE)
        elif kill_at is not None and now > kill_at:
            return "hung"


class _Lines:
    """Cuts what is read into lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self._skipping = False

    def read(self, process: subprocess.Popen[bytes]) -> bool:
        """Takes what is there; False at the end of the output."""
        assert process.stdout is not None
        try:
            found = os.read(process.stdout.fileno(), LONGEST_LINE)
        except BlockingIOError:
            return True
        *whole, self._rest = (self._rest + found).split(b"\n")
        for line in whole:
            self._say(line)
        if len(self._rest) > LONGEST_LINE:
            self._say(self._rest[:LONGEST_LINE])
            self._skipping, self._rest = True, b""
        return found != b""

    def end(self) -> None:
        """The last line need not have an end."""
        if self._rest:
            self._say(self._rest)
            self._rest = b""

    def _say(self, line: bytes) -> None:
        if self._skipping:  # the rest of one that was cut
            self._skipping = False
            return
        self._on_line(line.decode(errors="replace").rstrip("\r"))


def _has_ended(pid: int) -> bool:
    """Whether it has, without reaping it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # whoever started this process ignores SIGCHLD
        return True


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _kill_group(pid: int) -> None:
    _signal_group(pid, signal.SIGKILL)


def _reap(process: subprocess.Popen[bytes]) -> int | None:
    """Its exit status; None where it does not end even so."""
    try:
        return process.wait(UNKILLABLE)
    except subprocess.TimeoutExpired:
        return None
