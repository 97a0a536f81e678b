"""Who trains a run: one process at a time, on whichever machine that shares the folder."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLease, Timeout

from experiments.common.config import ExperimentError

LOCK = "lock"
LEASE_SECONDS = 180.0
"""A lock without a sign of life for so long belongs to nobody; longer than a network file system delays such signs."""
HEARTBEAT_SECONDS = 30.0
NAMELESS_SECONDS = 3.0
"""A lock without a name for so long belongs to nobody either."""
TAKEN_AWAY = 75


class BusyError(ExperimentError):
    """Another process trains this run."""


def lease(folder: Path) -> SoftFileLease:
    """The lock of a run's folder, not yet acquired.

    It names its owner's machine and process and is touched every ``HEARTBEAT_SECONDS``. One whose process has ended is
    free at once on the same machine; elsewhere, after the same object was asked again and again for ``LEASE_SECONDS``.
    """
    return SoftFileLease(
        folder / LOCK, lease_duration=LEASE_SECONDS, heartbeat_interval=HEARTBEAT_SECONDS, thread_local=False,
        on_compromise=lambda _: _leave(folder),
    )  # fmt: skip


def acquire(lock: SoftFileLease, seconds: float = 0.0) -> None:
    """Take a lock that is free, or whose owner is no more.

    Raises:
        Timeout: it was not free within so many seconds.
    """
    path = Path(lock.lock_file)
    with suppress(OSError):
        # Whoever was killed between creating the file and writing a name into it; filelock keeps such files for good.
        status = path.stat()
        if status.st_size == 0 and time.time() - status.st_mtime > NAMELESS_SECONDS:
            path.unlink()
    lock.acquire(timeout=seconds)


def owner(folder: Path) -> str:
    """Machine and process of whoever trains a run; empty where nobody does."""
    return (_name(folder) or "an unknown process") if (folder / LOCK).exists() else ""


def _name(folder: Path) -> str:
    """What a lock says of its owner; empty where it says nothing."""
    try:
        lines = (folder / LOCK).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    found = dict(line.partition("=")[::2] for line in lines)
    # The name of a machine may have a mark of filelock's behind it, which tells containers apart.
    machine = found.get("host", "").partition("?")[0]
    return f"process {found['pid']} on {machine}" if machine and "pid" in found else ""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the one who trains the run in ``folder``, which is created.

    Raises:
        BusyError: another process is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = lease(folder)
    try:
        try:
            acquire(lock)
        except Timeout:
            if _name(folder):
                raise
            time.sleep(NAMELESS_SECONDS)
            acquire(lock, 2 * NAMELESS_SECONDS)
    except Timeout:
        raise BusyError(
            f"{folder} is being trained by {owner(folder)}; if that process is no more, delete {folder / LOCK}"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _leave(folder: Path) -> None:
    """Somebody else goes on with the run, from its last checkpoint: to write anything now would destroy their files."""
    print(f"error: {folder} was taken over by {owner(folder)}", file=sys.stderr, flush=True)
    os._exit(TAKEN_AWAY)
