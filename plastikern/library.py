"""The native library: found, loaded once, never required."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .ops import fakes

CAPABILITIES = ("default", "avx2", "avx512")
PATH = Path(__file__).with_name("_C.abi3.so")


def _load() -> str | None:
    """Load the native library; the reason where that is not possible."""
    if (capability := os.environ.get("PLASTIKERN_CPU_CAPABILITY")) not in (None, *CAPABILITIES):
        raise ValueError(f"PLASTIKERN_CPU_CAPABILITY must be one of {', '.join(CAPABILITIES)}; got {capability!r}")
    if not PATH.exists():
        return "not built: install a C++ compiler such as g++, then plastikern again, with PLASTIKERN_BUILD=cpu set"
    try:
        torch.ops.load_library(str(PATH))
    except (OSError, RuntimeError) as error:
        return f"{PATH.name} does not load: {error}"
    fakes.register("plastikern")
    return None


MISSING: str | None = _load()
"""Why there is no native library, or None where there is one."""


@cache
def _info() -> dict[str, Any]:
    return {**json.loads(torch.ops.plastikern.build_info()), "capability": torch.ops.plastikern.cpu_capability()}


def info() -> dict[str, Any]:
    """How the native library was built and which instruction set it chose on this machine; empty without one."""
    return {} if MISSING is not None else _info()
