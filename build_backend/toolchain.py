"""What a native build finds on the machine: torch's headers, a C++ compiler and what it can do.

Nothing here imports torch: a build must work where torch is missing, broken, or hidden by pip's build isolation.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BUILD_CHOICES = ("auto", "none", "cpu", "cuda")
# The oldest release that has all of the stable ABI that csrc/ uses. The library keeps to the ABI of this release, so it
# loads in this and every later one, whichever it was built against.
OLDEST_TORCH = (2, 10)
TORCH_REQUIREMENT = "torch>=2.10"
TORCH_TARGET_VERSION = "0x020a000000000000"
LANGUAGE = "-std=c++20"
CAPABILITY_FLAGS = {
    "default": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": (
        *("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mavx2", "-mfma"),
        "-mprefer-vector-width=512",
    ),
}
_CAPABILITY_PROBES = {
    "avx2": "__m256 f(__m256 a) { return _mm256_fmadd_ps(a, a, a); }",
    "avx512": "__m512 f(__m512 a) { return _mm512_fmadd_ps(a, a, a); }",
}


class BuildError(Exception):
    """Why native code cannot be built, as one line for the user."""


@dataclass(frozen=True)
class Torch:
    """An installed torch, seen from outside."""

    folder: Path
    version: str


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that has been tried: `capabilities` are keys of CAPABILITY_FLAGS that it can compile for."""

    command: tuple[str, ...]
    version: str
    openmp: bool
    capabilities: tuple[str, ...]

    @property
    def program(self) -> str:
        """The compiler itself, without a launcher such as ccache before it and the arguments behind it."""
        return self.command[self._first_argument - 1]

    @property
    def arguments(self) -> tuple[str, ...]:
        """What $CXX says behind the compiler's name, such as -m64."""
        return self.command[self._first_argument :]

    @property
    def _first_argument(self) -> int:
        return next(
            (i for i, word in enumerate(self.command) if i > 0 and word.startswith("-")),
            len(self.command),
        )


def requested_build() -> str:
    """The value of PLASTIKERN_BUILD; a value that means nothing ends the build."""
    value = os.environ.get("PLASTIKERN_BUILD", "") or "auto"
    if value not in BUILD_CHOICES:
        raise SystemExit(
            f"PLASTIKERN_BUILD: got {value!r}, expected one of {', '.join(BUILD_CHOICES)}"
        )
    return value


def requested_jobs() -> int:
    """Compilations at a time: MAX_JOBS, or one for each core; a value that means nothing ends the build."""
    value = os.environ.get("MAX_JOBS", "") or str(os.cpu_count() or 1)
    if not value.isdecimal() or int(value) < 1:
        raise SystemExit(f"MAX_JOBS: got {value!r}, expected a number from 1 on")
    return int(value)


def find_torch() -> Torch | None:
    """The first installed torch that is new enough and has the headers of the stable ABI, or None."""
    for folder in _torch_folders():
        if (folder / "include" / "torch" / "csrc" / "stable" / "library.h").is_file():
            version = _torch_version(folder)
            if _is_recent(version):
                return Torch(folder, version)
    return None


def find_compiler() -> Compiler:
    """The compiler that $CXX names, or else the first of g++, c++ and clang++; BuildError if it will not do."""
    command = _compiler_command()
    version = _run([*command, "--version"]).splitlines()[0]
    if not _compiles(command, "int f() { return 0; }", LANGUAGE):
        raise BuildError(f"{version} does not compile {LANGUAGE}")
    capabilities = ["default"]
    if _run([*command, "-dumpmachine"]).startswith(("x86_64", "amd64")):
        for name, probe in _CAPABILITY_PROBES.items():
            if _compiles(command, f"#include <immintrin.h>\n{probe}", *CAPABILITY_FLAGS[name]):
                capabilities.append(name)
    openmp = _compiles(
        command,
        "#include <omp.h>\nint f() { return omp_get_max_threads(); }",
        "-fopenmp",
        link=True,
    )
    return Compiler(tuple(command), version, openmp, tuple(capabilities))


def _torch_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec("torch")
    if spec is not None:
        yield from map(Path, spec.submodule_search_locations or ())
    for packages in _site_packages():
        yield packages / "torch"


def _site_packages() -> Iterator[Path]:
    """Where this interpreter keeps its packages, also those that pip's build isolation has taken off sys.path."""
    yield from {Path(sysconfig.get_paths()[name]) for name in ("platlib", "purelib")}
    configuration = Path(sys.prefix, "pyvenv.cfg")
    if not configuration.is_file():
        yield Path(site.getusersitepackages())
    elif re.search(r"(?mi)^include-system-site-packages\s*=\s*true", configuration.read_text()):
        yield from map(Path, site.getsitepackages([sys.base_prefix]))


def _torch_version(folder: Path) -> str:
    source = folder / "version.py"
    found = (
        re.search(r"(?m)^__version__\s*=\s*['\"]([^'\"]+)", source.read_text())
        if source.is_file()
        else None
    )
    return found.group(1) if found else "unknown"


def _is_recent(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= OLDEST_TORCH


def _compiler_command() -> list[str]:
    try:
        chosen = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise BuildError(f"no C++ compiler: CXX cannot be read: {error}") from error
    if chosen:
        if shutil.which(chosen[0]) is None:
            raise BuildError(f"no C++ compiler: CXX names {chosen[0]!r}, which is not there")
        return chosen
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name) is not None:
            return [name]
    raise BuildError("no C++ compiler: none of g++, c++, clang++ is there, and CXX names no other")


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout or "\n"
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"C++ compiler does not run: {error}") from error


def _compiles(command: list[str], source: str, *flags: str, link: bool = False) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.cpp")
        path.write_text(source + "\n")
        output = ["-shared", "-fPIC"] if link else ["-c"]
        tried = [*command, *flags, *output, str(path), "-o", str(path.with_suffix(".o"))]
        return subprocess.run(tried, capture_output=True, check=False).returncode == 0
