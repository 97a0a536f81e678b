"""What the examples that take minutes write of themselves."""

from __future__ import annotations

import json
import platform
import re
import time
from pathlib import Path
from typing import Any

import torch


def processor() -> str:
    """The name of this machine's processor."""
    try:
        found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def write(path: Path | None, command: str, began: float, found: dict[str, Any]) -> None:
    """A result with the command that gives it, where and how long; ``began`` as of ``time.perf_counter``."""
    minutes = (time.perf_counter() - began) / 60
    print(f"{minutes:.1f} minutes")
    if path is not None:
        where = {"processor": processor(), "threads": torch.get_num_threads(), "minutes": minutes}
        text = json.dumps({"command": command, **where, **found}, indent=1)
        path.write_text(text + "\n", encoding="utf-8")
