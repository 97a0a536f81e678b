"""The CUDA kernels, compiled for the CPU against the emulator, as a backend of the tests: ``emulated``."""

from __future__ import annotations

import ctypes
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from build_backend import native, toolchain
from plastikern.backends import FUSED, Fused

ROOT = Path(__file__).resolve().parent.parent
EMULATOR = ROOT / "tests" / "cuda_emulator"
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
    common = [
        *compiler.command, toolchain.LANGUAGE, "-O1", *native.HIDE, *native.HIDE_CXX, *native.WARN,
        "-Wno-unknown-pragmas", "-DPLASTIKERN_EMULATED", f"-DTORCH_TARGET_VERSION={toolchain.TORCH_TARGET_VERSION}",
        "-Icsrc", f"-I{EMULATOR.relative_to(ROOT)}", "-isystem", str(torch_found.folder / "include"),
    ]  # fmt: skip
    found = []
    for source in sorted(ROOT.glob("csrc/cuda/*_kernels.cu")):
        for scalar in native.SCALARS:
            flags = [*common, f"-DPLASTIKERN_SCALAR={scalar}", "-x", "c++"]
            found.append(native.unit(ROOT, source, flags, f".{scalar}.emulated"))
    others = [path for path in ROOT.glob("csrc/cuda/*.cu") if not path.match("*_kernels.cu")]
    others += [ROOT / "csrc/registration.cpp", ROOT / "csrc/cuda/ops.cpp", ROOT / "csrc/cuda/plan.cpp"]
    found += [native.unit(ROOT, source, [*common, "-x", "c++"], ".emulated") for source in others]
    # Its functions are called from Python.
    visible = [flag for flag in common if "visibility" not in flag]
    return [*found, native.unit(ROOT, EMULATOR / "cuda_emulator.cpp", visible, ".emulated")]


def build() -> Path:
    """The library, compiled and linked where that has not been done; processes that ask at once wait for the first."""
    headers = [*ROOT.glob("csrc/**/*.h"), *ROOT.glob("csrc/**/*.cuh"), *EMULATOR.glob("*.h")]
    compiler, torch_found = toolchain.find_compiler(), toolchain.find_torch()
    assert torch_found is not None
    origin, newest = f"{compiler.version}, torch {torch_found.version}", max(path.stat().st_mtime for path in headers)
    wanted = units()
    path = native.objects(ROOT) / "emulated.so"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(lambda unit: native.compile_unit(ROOT, unit, origin, newest), wanted))
        if not path.exists() or path.stat().st_mtime < max(unit.object.stat().st_mtime for unit in wanted):
            link = [*compiler.command, "-shared", *(str(unit.object) for unit in wanted)]
            native.run_into(ROOT, path, [*link, f"-L{torch_found.folder / 'lib'}", "-ltorch_cpu"])
    return path


@cache
def library() -> ctypes.CDLL:
    """Built, loaded, and made known as a backend."""
    path = build()
    torch.ops.load_library(str(path))
    FUSED["emulated"] = Fused("cpu", "the CUDA kernels, emulated", lambda: None, lambda: "plastikern_emulated")
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
