"""Compiles the text of a user's rule on first use, and keeps the library for the next process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_FOLDERS = [Path(__file__).resolve().parents[up] / "csrc" for up in (1, 2)]
SOURCES = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
"""Headers that the text includes: in the package, or beside it in a checkout."""
FLAGS = (
    "-std=c++20", "-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC", "-fvisibility=hidden",
)  # fmt: skip
CACHE = "PLASTIKERN_CACHE"
"""The environment variable that names the folder of compiled rules; default ``~/.cache/plastikern``."""


class CompilationError(RuntimeError):
    """A rule was not compiled: there is no compiler, or it failed."""


@cache
def compiled(text: str, scalar: str, target: str = "cpu") -> ctypes.CDLL:
    """The library of a rule's text.

    Args:
        scalar: ``"float"`` or ``"double"``.
        target: ``"cpu"``, or the folder of an emulator of CUDA.

    Raises:
        CompilationError: see there.
    """
    folder = cache_folder() / key(text, f"{scalar} {target}")
    library = folder / "rule.so"
    if not library.exists():
        _compile(text, scalar, target, folder)
    try:
        return ctypes.CDLL(str(library))
    except OSError:  # A file that was left behind broken is made once more.
        _compile(text, scalar, target, folder)
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise CompilationError(f"what {_compiler()[0]} made cannot be loaded: {error}") from None


def key(text: str, scalar: str) -> str:
    """What decides the machine code: text, scalar, flags, compiler, processor and the library's headers."""
    said = [text, scalar, " ".join(FLAGS), _compiler_version(), _processor(), _headers()]
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:32]


def cache_folder() -> Path:
    """Where compiled rules are kept: one that can be written, else one of this process."""
    wanted = Path(os.environ.get(CACHE) or "~/.cache/plastikern").expanduser()
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except OSError:
        return _own_folder()


@cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="plastikern-"))


@cache
def _compiler() -> tuple[str, ...]:
    """The command: ``CXX`` may name arguments, too."""
    named = shlex.split(os.environ.get("CXX") or "")
    if named:
        if shutil.which(named[0]) is None:
            raise CompilationError(f"CXX names {named[0]!r}, and there is no such program")
        return tuple(named)
    found = shutil.which("g++") or shutil.which("c++")
    if found is None:
        raise CompilationError("no C++ compiler was found: install g++, or name one by CXX")
    return (found,)


@cache
def _compiler_version() -> str:
    done = subprocess.run([*_compiler(), "--version"], capture_output=True, text=True, check=False)
    return done.stdout.split("\n", 1)[0]


@cache
def _processor() -> str:
    """What -march=native stands for."""
    try:
        said = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        return ""
    return "\n".join(line for line in said.splitlines() if line.startswith(("model name", "flags")))


@cache
def _headers() -> str:
    paths = [*SOURCES.glob("*.h"), *SOURCES.glob("cpu/*.h"), *SOURCES.glob("generated/*.h")]
    paths += SOURCES.glob("cuda/*.[ch]*")
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(path.read_bytes())
    return found.hexdigest()


def _compile(text: str, scalar: str, target: str, folder: Path) -> None:
    """Into a folder of its own, which then takes its place at once: processes may compile at the same time."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        source, library = Path(made) / "rule.cpp", Path(made) / "rule.so"
        source.write_text(text)
        command = [
            *_compiler(),
            *FLAGS,
            f"-DPLASTIKERN_SCALAR={scalar}",
            f"-I{SOURCES}",
            f"-I{SOURCES / 'cpu'}",
        ]
        if target != "cpu":
            command += [
                "-DPLASTIKERN_CUDA",
                "-DPLASTIKERN_EMULATED",
                f"-I{target}",
                f"{target}/cuda_emulator.cpp",
            ]
        done = subprocess.run(
            [*command, str(source), "-o", str(library)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0 or not library.exists():
            lines = done.stderr.splitlines()
            said = [line for line in lines if "error" in line] or lines[-1:]
            why = said[0] if said else f"it made no library and ended with {done.returncode}"
            raise CompilationError(f"{' '.join(command)} failed: {why}")
        folder.mkdir(exist_ok=True)
        os.replace(source, folder / "rule.cpp")
        os.replace(library, folder / "rule.so")
