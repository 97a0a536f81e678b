"""The machine and the software that the figures belong to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

import plastikern

CPU = Path("/sys/devices/system/cpu/cpu0")
CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(threads: int) -> dict[str, Any]:
    """Everything that is needed to judge the figures; None for what the system does not tell."""
    info = plastikern.build_info()
    return {
        "cpu": _first_field(CPUINFO, "model name") or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "caches": _caches(),
        "memory": _first_field(MEMINFO, "MemTotal"),
        "governor": _text(CPU / "cpufreq" / "scaling_governor"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "jax": _version("jax"),
        "plastikern": info["version"],
        "native": info["native"],
        "threads": threads,
    }


def _caches() -> list[dict[str, str | None]]:
    folders = sorted((CPU / "cache").glob("index*"))
    return [
        {name: _text(folder / name) for name in ("level", "type", "size", "shared_cpu_list")}
        for folder in folders
    ]


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _first_field(path: Path, name: str) -> str | None:
    for line in (_text(path) or "").splitlines():
        field, _, value = line.partition(":")
        if field.strip() == name:
            return value.strip()
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
