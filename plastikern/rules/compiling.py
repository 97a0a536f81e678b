"""Compiles the text of a user's rule on first use, and keeps the library for the next process.

A library is looked for in the cache folder, under a name made of everything that decides its machine code. Where the
folder cannot be written, rules are compiled into one that lives as long as the process.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

Found = TypeVar("Found")
_FOLDERS = [Path(__file__).resolve().parents[up] / "csrc" for up in (1, 2)]
SOURCES = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
"""Headers that the text includes: in the package, or beside it in a checkout."""
FLAGS = (
    "-std=c++20", "-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC", "-fvisibility=hidden",
)  # fmt: skip
CACHE = "PLASTIKERN_CACHE"
"""The environment variable that names the folder of compiled rules; default ``~/.cache/plastikern``."""
MAKING = "making-"
"""What the names of folders begin with in which a compiler is at work."""
DAY = 24 * 3600
"""Seconds after which such a folder was left behind by a process that was killed."""


class CompilationError(RuntimeError):
    """A rule was not compiled: there is no compiler, or it failed."""


@dataclass(frozen=True)
class Library:
    """A compiled rule.

    Attributes:
        handle: what its functions are called by.
        path: its file.
        seconds: how long the compiler took; None: the library was there.
    """

    handle: ctypes.CDLL
    path: Path
    seconds: float | None


def compiled(text: str, scalar: str, target: str = "cpu") -> ctypes.CDLL:
    """The library of a rule's text.

    Args:
        scalar: ``"float"`` or ``"double"``.
        target: ``"cpu"``, or the folder of an emulator of CUDA.

    Raises:
        CompilationError: see there.
    """
    return found_or_made(text, scalar, target).handle


@cache
def found_or_made(text: str, scalar: str, target: str = "cpu") -> Library:
    """The library of a rule's text, with where it is; arguments and errors of :func:`compiled`."""
    name = key(text, f"{scalar} {target}")
    if name in _failures:  # A compiler that fails takes seconds, and every step would ask.
        raise CompilationError(_failures[name])

    def made(folder: Path) -> Library:
        path = folder / name / "rule.so"
        handle = _opened(path)
        if handle is not None:
            return Library(handle, path, None)
        with _alone(folder / name):
            handle, seconds = _opened(path), None  # It may have been made by another process.
            if handle is None:
                seconds = _compile(text, scalar, target, path)
                handle = _opened(path)
        if handle is None:
            raise OSError(f"what {_compiler()[0]} made cannot be loaded")
        return Library(handle, path, seconds)

    try:
        return _in_a_folder(made)
    except (CompilationError, OSError) as error:
        _failures[name] = str(error)
        raise CompilationError(str(error)) from None


_failures: dict[str, str] = {}
"""What was said of the texts that were not compiled in this process, by their keys."""


def kept(name: str, text: str) -> Path:
    """A file of that content among the compiled rules; no other process ever sees a part of it."""

    def written(folder: Path) -> Path:
        path = folder / name
        if not path.exists() or path.read_text() != text:
            folder.mkdir(parents=True, exist_ok=True)
            with _making(folder) as made:
                (made / name).write_text(text)
                os.replace(made / name, path)
        return path

    return _in_a_folder(written)


def key(text: str, scalar: str) -> str:
    """What decides the machine code: text, scalar, flags, compiler, processor and the library's headers."""
    said = [text, scalar, " ".join(FLAGS), _identity(_compiler()), _processor(), _headers()]
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:32]


def cache_folder() -> Path | None:
    """Where compiled rules are kept; None: nobody says, and the user has no home."""
    try:
        return Path(os.environ.get(CACHE) or "~/.cache/plastikern").expanduser().absolute()
    except RuntimeError:
        return None


def _in_a_folder(use: Callable[[Path], Found]) -> Found:
    """What is made in the cache folder or, where the system refuses, in one of this process."""
    wanted = cache_folder()
    try:
        if wanted is not None:
            return use(wanted)
        _say_once(
            f"there is no home directory: rules are compiled by every process; {CACHE} may name a folder"
        )
    except OSError as error:
        _say_once(
            f"compiled rules cannot be kept in {wanted} ({error.strerror or error}), and are compiled by every "
            f"process; {CACHE} may name another folder"
        )  # fmt: skip
    return use(_own_folder())


@cache
def _say_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _own_folder() -> Path:
    """A folder that is removed when the process ends; a new one where a forked process has removed it."""
    global _own
    if _own is None or not _own.is_dir():
        _own = Path(tempfile.mkdtemp(prefix="plastikern-"))
        atexit.register(_remove, _own, os.getpid())
    return _own


_own: Path | None = None


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _compiler() -> tuple[str, ...]:
    """The command, its program with the whole path: ``CXX`` may name arguments, too."""
    return _found(os.environ.get("CXX") or "", os.environ.get("PATH") or "")


def found_compiler() -> bool:
    """Whether there is one."""
    try:
        return bool(_compiler())
    except CompilationError:
        return False


@cache
def _found(named: str, path: str) -> tuple[str, ...]:
    words = shlex.split(named)
    if words:
        found = shutil.which(words[0], path=path)
        if found is None:
            raise CompilationError(f"CXX names {words[0]!r}, and there is no such program")
        return (os.path.abspath(found), *words[1:])
    found = shutil.which("g++", path=path) or shutil.which("c++", path=path)
    if found is None:
        raise CompilationError("no C++ compiler was found: install g++, or name one by CXX")
    return (os.path.abspath(found),)


def _identity(command: tuple[str, ...]) -> str:
    """Which compiler it is. To ask it for its version would take longer than to load a rule."""
    said = []
    for word in command:
        program = shutil.which(word)
        if program is None:
            said.append(word)
        else:
            path = os.path.realpath(program)
            status = os.stat(path)
            said.append(f"{word} {path} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(said)


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


def _opened(path: Path) -> ctypes.CDLL | None:
    """A library that is whole; None: there is none.

    Its file ends with the hash of what stands before: to load one that was cut short may end the process.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    size = hashlib.sha256().digest_size
    if hashlib.sha256(content[:-size]).digest() != content[-size:]:
        return None
    return ctypes.CDLL(str(path))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process compiles the same. A lock ends with its process; not every file system has locks."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        with suppress(OSError):
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _making(folder: Path) -> Iterator[Path]:
    """A folder in which something is made, on the same file system as its place."""
    for left in folder.glob(f"{MAKING}*"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - DAY:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=MAKING, ignore_cleanup_errors=True) as made:
        yield Path(made)


def _command(scalar: str, target: str) -> list[str]:
    command = [
        *_compiler(), *FLAGS, f"-DPLASTIKERN_SCALAR={scalar}", f"-I{SOURCES}", f"-I{SOURCES / 'cpu'}",
    ]  # fmt: skip
    if target != "cpu":
        command += [
            "-DPLASTIKERN_CUDA",
            "-DPLASTIKERN_EMULATED",
            f"-I{target}",
            f"{target}/cuda_emulator.cpp",
        ]
    return command


def _compile(text: str, scalar: str, target: str, path: Path) -> float:
    """Writes source and library, each of which takes its place at once; returns how many seconds the compiler took.

    Raises:
        CompilationError: the compiler fails.
        OSError: something cannot be written.
    """
    start = time.perf_counter()
    command = _command(scalar, target)
    with _making(path.parents[1]) as made:
        source, library = made / "rule.cpp", made / "rule.so"
        source.write_text(text)
        try:
            done = subprocess.run(
                [*command, str(source), "-o", str(library)], capture_output=True, text=True, errors="replace",
                check=False, cwd=made, env={**os.environ, "TMPDIR": str(made), "LC_ALL": "C"},
            )  # fmt: skip
        except OSError as error:
            raise CompilationError(f"{command[0]} cannot be run: {error.strerror}") from None
        os.replace(source, path.with_name("rule.cpp"))
        if done.returncode != 0 or not library.exists():
            why = _reason(done.returncode, done.stderr)
            if os.strerror(errno.ENOSPC) in done.stderr:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise CompilationError(f"{command[0]} failed on {path.with_name('rule.cpp')}: {why}")
        with open(library, "ab") as file:
            file.write(hashlib.sha256(library.read_bytes()).digest())
        os.replace(library, path)
    return time.perf_counter() - start


def _reason(status: int, said: str) -> str:
    lines = said.splitlines()
    errors = [line for line in lines if "error" in line] or lines[-1:]
    if errors:
        return errors[0].strip()
    return (
        f"signal {-status} ended it"
        if status < 0
        else f"it made no library and ended with {status}"
    )
