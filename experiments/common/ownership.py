"""Who trains a run: one process at a time, on whichever machine that shares the folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLease, Timeout

from experiments.common.config import ExperimentError

LOCK = "lock"
LEASE_SECONDS = 180.0
"""A lock without a sign of life for so long belongs to nobody; longer than a network file system delays such signs."""
HEARTBEAT_SECONDS = 30.0
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


def owner(folder: Path) -> str:
    """Machine and process of whoever trains a run; empty where nobody does."""
    try:
        lines = (folder / LOCK).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = dict(line.partition("=")[::2] for line in lines)
    return f"process {found.get('pid', '?')} on {found.get('host', '?').partition('?')[0] or 'an unknown machine'}"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the one who trains the run in ``folder``, which is created.

    Raises:
        BusyError: another process is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lease(folder).acquire(timeout=0):
            yield
    except Timeout:
        raise BusyError(
            f"{folder} is being trained by {owner(folder)}; if that process is no more, delete {folder / LOCK}"
        ) from None


def _leave(folder: Path) -> None:
    """Somebody else goes on with the run, from its last checkpoint: to write anything now would destroy their files."""
    print(f"error: {folder} was taken over by {owner(folder)}", file=sys.stderr, flush=True)
    os._exit(TAKEN_AWAY)
