"""nvcc: where it is, for which architectures it compiles, and its command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from build_backend.toolchain import LANGUAGE, BuildError

DEFAULT_ARCHITECTURES = "8.0 8.6 8.9 9.0 10.0 12.0"
# Double precision serves proofs more than speed: of every generation only the code that the others of it run, too.
OF_ITS_GENERATION = {"8.6": "8.0", "8.9": "8.0"}


def find_nvcc() -> Path | None:
    """The compiler that $CUDACXX names, or else that of $CUDA_HOME, the PATH or the usual folder; None without one."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    usual = [f"{home}/bin/nvcc"] * bool(home) + ["nvcc", "/usr/local/cuda/bin/nvcc"]
    chosen = os.environ.get("CUDACXX")
    found = (shutil.which(candidate) for candidate in ([chosen] if chosen else usual))
    return next((Path(path) for path in found if path is not None), None)


def nvcc_version(nvcc: Path) -> str:
    """Such as 'nvcc 13.0'."""
    said = subprocess.run(
        [str(nvcc), "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"release ([\d.]+)", said)
    if found is None:
        raise BuildError(f"{nvcc.name} does not run")
    return f"nvcc {found.group(1)}"


def architectures(nvcc: Path) -> list[str]:
    """What to compile for, as '9.0' or '12.0+PTX': TORCH_CUDA_ARCH_LIST, or those of the default that nvcc knows.

    PTX of the newest is always among them: a driver can make code from it for a card that comes later.
    """
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    for name in chosen:
        if re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name) is None:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST: got {name!r}, expected entries such as 9.0 or 12.0+PTX"
            )
    if chosen:
        return _with_ptx(chosen)
    listed = subprocess.run(
        [str(nvcc), "--list-gpu-code"], capture_output=True, text=True, check=False
    ).stdout.split()
    known = [name for name in DEFAULT_ARCHITECTURES.split() if f"sm_{_digits(name)}" in listed]
    if not known:
        raise BuildError(f"nvcc compiles for none of {DEFAULT_ARCHITECTURES}")
    return _with_ptx([name.removesuffix("+PTX") for name in known])


def _with_ptx(chosen: list[str]) -> list[str]:
    """With PTX of the newest; not of '9.0a' or '10.0f', which later generations do not run."""
    plain = (re.sub(r"[af]?(\+PTX)?$", "", name) for name in chosen)
    newest = max(plain, key=lambda name: [int(part) for part in name.split(".")])
    return [*(name for name in chosen if name.removesuffix("+PTX") != newest), f"{newest}+PTX"]


def for_double_precision(chosen: list[str]) -> list[str]:
    """The architectures less those that run the code of another one among them."""
    return [name for name in chosen if OF_ITS_GENERATION.get(name) not in chosen]


def compile_command(
    nvcc: Path, compiler: str, chosen: list[str], host_flags: list[str]
) -> list[str]:
    """Compiles one .cu file, less source and object; `host_flags` are for the C++ compiler behind nvcc."""
    generated = []
    for name in chosen:
        digits = _digits(name)
        generated += ["-gencode", f"arch=compute_{digits},code=sm_{digits}"]
        if name.endswith("+PTX"):
            generated += ["-gencode", f"arch=compute_{digits},code=compute_{digits}"]
    host = [part for flag in host_flags for part in ("-Xcompiler", flag)]
    # 554: an operator that is there for other instances of its template.
    quiet = "--diag-suppress=554"
    return [
        str(nvcc),
        LANGUAGE,
        "-O3",
        "-fmad=false",  # products are fused with sums where the source says so
        "-ccbin",
        compiler,
        "--cudart",
        "static",
        quiet,
        *generated,
        *host,
    ]


def link_command(
    nvcc: Path, compiler: str, host_flags: list[str], linker_flags: list[str]
) -> list[str]:
    """Links a library with CUDA code. The CUDA runtime is static, so that the library loads without CUDA too."""
    host = [part for flag in host_flags for part in ("-Xcompiler", flag)]
    linker = [part for flag in linker_flags for part in ("-Xlinker", flag)]
    return [
        str(nvcc),
        "-ccbin",
        compiler,
        "-shared",
        "--cudart",
        "static",
        "--no-device-link",
        *host,
        *linker,
    ]


def _digits(name: str) -> str:
    return name.removesuffix("+PTX").replace(".", "")
