"""Peak memory of one call, as Linux counts it for the process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def added_peak_mib(call: Callable[[], object]) -> float | None:
    """Peak resident memory during ``call`` less the resident memory before it, in MiB; None where nothing tells it.

    What the call returns counts, since it is still held at the end. Blocks that the allocator kept from earlier work
    are given back to the system first: they would hide as much of the call's own need.
    """
    if not (STATUS.exists() and CLEAR_REFS.exists()):
        return None
    gc.collect()
    _return_free_memory()
    try:
        CLEAR_REFS.write_text(RESET_PEAK)
    except OSError:
        return None
    before = _status_kib("VmRSS")
    result = call()
    peak = _status_kib("VmHWM")
    del result
    return max(0, peak - before) / 1024


def _status_kib(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise ValueError(f"{STATUS} has no field {field}")


def _return_free_memory() -> None:
    # Other C libraries than glibc do not have it, and do not keep freed memory in such amounts.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
