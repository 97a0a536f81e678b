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


def again(choice: str) -> str:
    """How to have native code built; pip keeps what it built, also where that was pure Python."""
    return f"plastikern again: PLASTIKERN_BUILD={choice} pip install --force-reinstall --no-cache-dir --no-deps ..."


def _load() -> str | None:
    """Load the native library; the reason where that is not possible."""
    if (capability := os.environ.get("PLASTIKERN_CPU_CAPABILITY")) not in (None, *CAPABILITIES):
        raise ValueError(
            f"PLASTIKERN_CPU_CAPABILITY must be one of {', '.join(CAPABILITIES)}; got {capability!r}"
        )
    if not PATH.exists():
        return f"not built: install a C++ compiler such as g++, then {again('cpu')}"
    try:
        torch.ops.load_library(str(PATH))
    except (OSError, RuntimeError) as error:
        return f"{PATH.name} does not load: {error}"
    fakes.register("plastikern")
    return None


MISSING: str | None = _load()
"""Why there is no native library, or None where there is one."""


def _info() -> dict[str, Any]:
    return {
        **json.loads(torch.ops.plastikern.build_info()),
        "capability": torch.ops.plastikern.cpu_capability(),
    }


# Asked for at once: at a first call it could get into a program that torch is exporting.
_INFO: dict[str, Any] = _info() if MISSING is None else {}


@cache
def _work_alone_in_children() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def operators() -> str:
    """The namespace of the operators, asked for before the first call of one.

    From then on processes that are forked have one thread: OpenMP's others are not in the child, and its next loop
    would wait for them for ever. The workers of a ``DataLoader`` have one thread for the same reason.
    """
    _work_alone_in_children()
    return "plastikern"


def info() -> dict[str, Any]:
    """How the native library was built and which instruction set it chose on this machine; empty without one."""
    return {} if MISSING is not None else _INFO
