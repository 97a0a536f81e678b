"""The CUDA kernels, compiled for the CPU against the emulator, as a backend of the tests: ``emulated``."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from build_backend import native, programs, toolchain
from plastikern.backends import FUSED, Fused

ROOT = Path(__file__).resolve().parent.parent
FORMS = ("resident", "cooperative", "streaming")


class Launch(ctypes.Structure):
    """``EmulatorLaunch`` of cuda_emulator.h."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("dynamic_shared_bytes", ctypes.c_uint64),
        ("stream", ctypes.c_uint64), ("kernel", ctypes.c_uint64), ("block_barriers", ctypes.c_uint64),
        ("warp_operations", ctypes.c_uint64), ("sleeps", ctypes.c_uint64),
        ("closest_atomics", ctypes.c_uint64), ("cooperative", ctypes.c_int), ("error", ctypes.c_int),
    )  # fmt: skip


def units() -> list[native.Unit]:
    """The compilations: the sources that nvcc compiles, the emulator, and the operators under a name of their own."""
    compiler, torch_found = toolchain.find_compiler(), toolchain.find_torch()
    assert torch_found is not None
    flags = [*programs.emulated_flags(compiler, torch_found), "-x", "c++"]
    operators = (ROOT / "csrc/registration.cpp", ROOT / "csrc/cuda/ops.cpp")
    return [
        *programs.emulated_units(ROOT, compiler, torch_found),
        *(native.unit(ROOT, source, flags, ".emulated") for source in operators),
    ]


def build() -> Path:
    """The library, compiled and linked where that has not been done; processes that ask at once wait for the first."""
    compiler, torch_found = toolchain.find_compiler(), toolchain.find_torch()
    assert torch_found is not None
    origin, newest = (
        f"{compiler.version}, torch {torch_found.version}",
        native.newest_header(ROOT, programs.EMULATOR),
    )
    wanted = units()
    path = native.objects(ROOT) / "emulated.so"
    with programs.alone(ROOT):
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(lambda unit: native.compile_unit(ROOT, unit, origin, newest), wanted))
        if not path.exists() or path.stat().st_mtime < max(
            unit.object.stat().st_mtime for unit in wanted
        ):
            link = [*compiler.command, "-shared", *(str(unit.object) for unit in wanted)]
            native.run_into(ROOT, path, [*link, f"-L{torch_found.folder / 'lib'}", "-ltorch_cpu"])
    return path


@cache
def library() -> ctypes.CDLL:
    """Built, loaded, and made known as a backend."""
    path = build()
    torch.ops.load_library(str(path))
    FUSED["emulated"] = Fused(
        "cpu", "the CUDA kernels, emulated", lambda: None, lambda: "plastikern_emulated"
    )
    found = ctypes.CDLL(str(path))
    found.emulator_last_error_text.restype = ctypes.c_char_p
    return found


def use_device(name: str) -> None:
    """What the emulator describes from now on: A100, H100, ..., or tiny."""
    assert library().emulator_use_device(name.encode()) == 0
    library().emulator_reset()


def launches() -> list[Launch]:
    """What was launched since :func:`use_device`."""
    count = library().emulator_launch_count()
    found = (Launch * count)()
    library().emulator_launches(found, count)
    return list(found)
