"""Programs of the stage ``facts``: ``python facts.py machine|torch|plastikern`` prints facts, a JSON line each.

Each is a process of its own: the driver, torch or the library may crash or hang it.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

Fact = dict[str, Any]
ATTRIBUTES = {
    "processors": 16, "clock_khz": 13, "memory_clock_khz": 36, "memory_bus_bits": 37, "l2_bytes": 38,
    "shared_per_processor": 81, "shared_per_block_optin": 97, "registers_per_processor": 82,
    "threads_per_processor": 39, "cooperative_launch": 95, "major": 75, "minor": 76,
}  # fmt: skip
"""Numbers of ``CUdevice_attribute``, of the CUDA driver API."""
QUERY = (
    "name,driver_version,memory.total,clocks.max.sm,clocks.sm,clocks.mem,power.limit,"
    "temperature.gpu,mig.mode.current"
)
TOOLS = ("nvcc", "ncu", "compute-sanitizer", "nvidia-smi", "g++")
USUAL_FOLDERS = (
    "/usr/local/cuda/bin",
    "/usr/local/cuda/compute-sanitizer",
    "/opt/nvidia/nsight-compute",
)


def tool(name: str) -> str | None:
    """Where a tool of the CUDA toolkit is: on the PATH, in $CUDA_HOME or the usual folders; None without it."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    folders = [
        os.environ.get("PATH", os.defpath),
        *([f"{home}/bin"] if home else []),
        *USUAL_FOLDERS,
    ]
    return shutil.which(name, path=os.pathsep.join(folders))


def cards(library: str = "libcuda.so.1") -> Iterator[Fact]:
    """What the driver says of its devices, or why it says nothing: without torch."""
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        yield {"fact": "no card", "reason": f"no CUDA driver: {error}"}
        return
    if (status := driver.cuInit(0)) != 0:
        yield {
            "fact": "no card",
            "reason": f"the driver's cuInit gave {status} ({_name_of(driver, status)})",
        }
        return
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGetCount(ctypes.byref(count))
    yield {
        "fact": "driver",
        "cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
        "cards": count.value,
    }
    if count.value == 0:
        yield {"fact": "no card", "reason": "the driver knows no device"}
    for index in range(count.value):
        device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_size_t()
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, 100, device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        found: Fact = {
            "fact": "card",
            "index": index,
            "name": name.value.decode(),
            "memory_bytes": memory.value,
        }
        for attribute, number in ATTRIBUTES.items():
            value = ctypes.c_int()
            if driver.cuDeviceGetAttribute(ctypes.byref(value), number, device) == 0:
                found[attribute] = value.value
        yield found


def _name_of(driver: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorName(status, ctypes.byref(text))
    return (text.value or b"unknown").decode()


def machine() -> Iterator[Fact]:
    """Everything that needs neither torch nor plastikern."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield {
        "fact": "machine",
        "python": platform.python_version(),
        "system": system,
        "cores": os.cpu_count(),
    }
    yield {
        "fact": "packages",
        **{name: _version(name) for name in ("torch", "triton", "numpy", "pytest", "hypothesis")},
    }
    yield {"fact": "tools", **{name: tool(name) for name in TOOLS}}
    if (smi := tool("nvidia-smi")) is not None:
        asked = [smi, f"--query-gpu={QUERY}", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
        for index, line in enumerate(said.stdout.splitlines() if said.returncode == 0 else []):
            yield {
                "fact": "nvidia-smi",
                "index": index,
                **dict(zip(QUERY.split(","), line.split(", "), strict=False)),
            }
    yield from cards()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_facts() -> Iterator[Fact]:
    """Whether torch loads and sees a card."""
    import torch

    yield {
        "fact": "torch", "version": torch.__version__, "cuda": torch.version.cuda,
        "architectures": torch.cuda.get_arch_list(), "cards": torch.cuda.device_count(),
    }  # fmt: skip
    if torch.cuda.is_available():
        value = float((torch.ones(8, device="cuda") * 2).sum())
        yield {"fact": "torch computes", "right": value == 16.0}


def plastikern_facts() -> Iterator[Fact]:
    """Whether the library loads, for which cards it was built, and which backend serves the one that is there."""
    import torch

    import plastikern
    from plastikern import backends

    info = plastikern.build_info()
    yield {"fact": "plastikern", **{key: info[key] for key in ("version", "native", "backends")}}
    yield {"fact": "library", "built": info["library"] is not None}
    if torch.cuda.is_available():
        serves = backends.select(None, torch.empty(0, device="cuda"))
        yield {"fact": "backend", "serves_cuda": serves}
        if serves != "cuda":
            raise RuntimeError(
                f"the card is served by {serves}, since cuda is {info['backends']['cuda']}"
            )


PROGRAMS = {"machine": machine, "torch": torch_facts, "plastikern": plastikern_facts}


def main(arguments: list[str]) -> int:
    """Print the facts; the exit status is 1 where one of them cannot be had, and the last line says why."""
    try:
        for fact in PROGRAMS[arguments[0]]():
            print(json.dumps(fact), flush=True)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    # Run by its path: this folder's modules are no top-level ones.
    sys.path.pop(0)
    sys.exit(main(sys.argv[1:]))
