"""Peak memory of one call, as Linux counts it for the process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
Result = TypeVar("Result")


def with_added_peak(call: Callable[[], Result]) -> tuple[Result, int | None]:
    """What ``call`` returns, and the peak of resident memory during it less that before it, in bytes.

    The second is None where nothing tells it.

    What the call returns counts, since it is still held at the end. Blocks that the allocator kept from earlier work
    are given back to the system first: they would hide as much of the call's own need.
    """
    if not (STATUS.exists() and CLEAR_REFS.exists()):
        return call(), None
    gc.collect()
    _return_free_memory()
    try:
        CLEAR_REFS.write_text(RESET_PEAK)
    except OSError:
        return call(), None
    before = _status_kib("VmRSS")
    result = call()
    return result, 1024 * max(0, _status_kib("VmHWM") - before)


def _status_kib(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise ValueError(f"{STATUS} has no field {field}")


def _return_free_memory() -> None:
    # Other C libraries than glibc do not have it, and do not keep freed memory in such amounts.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
