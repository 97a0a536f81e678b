"""What an installation promises: it succeeds without compiler or CUDA, and its library fits every torch."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import plastikern
from plastikern import backends, library

pytest.importorskip("setuptools", minversion="77")
import build_backend
from build_backend import cuda, native, toolchain

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = Path(plastikern.__file__).with_name(native.LIBRARY_NAME)
NO_COMPILER = {"CXX": "no-such-compiler"}
IGNORED = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")


def _compiler() -> toolchain.Compiler | None:
    try:
        return toolchain.find_compiler()
    except toolchain.BuildError:
        return None


COMPILER = _compiler()
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what a build reads, with a small csrc/ in place of the kernels."""
    copy = tmp_path / "tree"
    for name in ("build_backend", "plastikern"):
        shutil.copytree(ROOT / name, copy / name, ignore=IGNORED)
    for name in (
        "setup.py",
        "pyproject.toml",
        "MANIFEST.in",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
    ):
        shutil.copy(ROOT / name, copy)
    (copy / "csrc" / "cpu").mkdir(parents=True)
    (copy / "csrc" / "add.h").write_text(
        "#define JOIN(a, b, c) PASTE(a, b, c)\n#define PASTE(a, b, c) a##b##_##c\n"
    )
    (copy / "csrc" / "registration.cpp").write_text(
        "const char* build_info() { return PLASTIKERN_BUILD_INFO; }\n"
    )
    (copy / "csrc" / "cpu" / "add_kernels.cpp").write_text(
        '#include "add.h"\n'
        "void JOIN(add_, PLASTIKERN_CAPABILITY, PLASTIKERN_SCALAR)(PLASTIKERN_SCALAR* x) { *x += 1; }\n"
    )
    return copy


def run(tree: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs this Python in `tree` without the caller's choice of what to build."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PLASTIKERN_BUILD", "CXX", "PYTHONPATH")
    }
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=tree, env={**kept, **environment}, capture_output=True, text=True, check=False
    )


def build_wheel(tree: Path, **environment: str) -> tuple[Path, list[str]]:
    """Calls the backend as pip does: the wheel, and the lines that the build says to the user."""
    done = run(tree, "-c", "import build_backend; build_backend.build_wheel('dist')", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    return wheel, [line for line in done.stdout.splitlines() if line.startswith("plastikern: ")]


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_setup_finds_torch_without_importing_it(tree: Path, tmp_path: Path) -> None:
    poisoned = tmp_path / "poisoned" / "torch"
    poisoned.mkdir(parents=True)
    marker = tmp_path / "imported"
    (poisoned / "__init__.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nraise RuntimeError('imported')\n"
    )
    build_wheel(tree, PYTHONPATH=str(poisoned.parent), **NO_COMPILER)
    script = "from build_backend import toolchain; print(toolchain.find_torch().folder)"
    found = run(tree, "-c", script, PYTHONPATH=str(poisoned.parent))
    assert Path(found.stdout.strip()).resolve() == Path(torch.__file__).resolve().parent, (
        found.stderr
    )
    assert not marker.exists()


def test_torch_is_found_where_build_isolation_hides_it(tree: Path) -> None:
    script = (
        "import sys, importlib.util\n"
        "from build_backend import toolchain\n"
        "sys.path[:] = [path for path in sys.path if not path.endswith(('site-packages', 'dist-packages'))]\n"
        "assert importlib.util.find_spec('torch') is None\n"
        "print(toolchain.find_torch().version)\n"
    )
    found = run(tree, "-c", script)
    assert found.stdout.strip() == torch.__version__, found.stderr


@pytest.mark.parametrize("version", ["2.9.1", "1.13.0", "unknown", "2.10.0", "2.13.0+cpu", "3.0.0"])
def test_a_torch_that_is_too_old_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    header = tmp_path / "include" / "torch" / "csrc" / "stable" / "library.h"
    header.parent.mkdir(parents=True)
    header.touch()
    (tmp_path / "version.py").write_text(f"__version__ = '{version}'\n")
    monkeypatch.setattr(toolchain, "_torch_folders", lambda: iter([tmp_path]))
    recent = version in ("2.10.0", "2.13.0+cpu", "3.0.0")
    assert toolchain.find_torch() == (toolchain.Torch(tmp_path, version) if recent else None)


@needs_compiler
@pytest.mark.parametrize(
    ("choice", "compiler", "installed", "expected"),
    [
        ("auto", None, False, [toolchain.TORCH_REQUIREMENT]),
        ("auto", None, True, []),
        ("auto", "no-such-compiler", False, []),
        ("none", None, False, []),
    ],
)
def test_torch_is_asked_for_only_where_a_build_needs_it(
    monkeypatch: pytest.MonkeyPatch,
    choice: str,
    compiler: str | None,
    installed: bool,
    expected: list[str],
) -> None:
    monkeypatch.setenv("PLASTIKERN_BUILD", choice)
    if compiler is not None:
        monkeypatch.setenv("CXX", compiler)
    found = toolchain.Torch(ROOT, "2.13.0") if installed else None
    monkeypatch.setattr(toolchain, "find_torch", lambda: found)
    assert build_backend._torch_requirement() == expected


def test_unknown_build_choice_is_one_clear_error(tree: Path) -> None:
    done = run(tree, "setup.py", "--version", PLASTIKERN_BUILD="gpu")
    assert done.returncode != 0
    assert (
        done.stderr.splitlines()[-1]
        == "PLASTIKERN_BUILD: got 'gpu', expected one of auto, none, cpu, cuda"
    )


@pytest.mark.parametrize(
    "environment", [{"PLASTIKERN_BUILD": "none"}, NO_COMPILER], ids=["none", "no-compiler"]
)
def test_pure_python_wheel_says_so_in_one_line_and_works(
    tree: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tree / "plastikern" / native.LIBRARY_NAME).write_text("left by an editable install")
    wheel, lines = build_wheel(tree, **environment)
    assert wheel.name == f"plastikern-{plastikern.__version__}-py3-none-any.whl"
    assert len(lines) == 1 and "pure Python install" in lines[0]
    assert {"plastikern/__init__.py", "plastikern/py.typed"} <= members(wheel)
    assert not [
        name for name in members(wheel) if name.endswith(".so") or not name.startswith("plastikern")
    ]

    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    script = (
        "import torch, plastikern\n"
        "output, state = plastikern.PlasticRNN(3, 5)(torch.ones(4, 2, 3))\n"
        "output.sum().backward()\n"
        "assert output.shape == (4, 2, 5) and state.trace.abs().sum() > 0\n"
        "print(plastikern.__file__)\n"
    )
    done = run(tmp_path, "-c", script, PYTHONPATH=str(installed))
    assert done.stdout.startswith(str(installed)), done.stderr


@pytest.mark.parametrize("choice", ["cpu", "cuda"])
def test_missing_compiler_is_an_error_where_native_code_is_asked_for(
    tree: Path, choice: str
) -> None:
    script = "import build_backend; build_backend.build_wheel('dist')"
    done = run(tree, "-c", script, PLASTIKERN_BUILD=choice, **NO_COMPILER)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith(
        f"plastikern: PLASTIKERN_BUILD={choice}, but no C++ compiler: "
    )


@needs_compiler
def test_native_wheel_is_one_for_every_python(tree: Path) -> None:
    wheel, lines = build_wheel(tree, PLASTIKERN_BUILD="cpu")
    assert re.fullmatch(rf"plastikern-{plastikern.__version__}-cp310-abi3-\w+\.whl", wheel.name)
    assert f"plastikern/{native.LIBRARY_NAME}" in members(wheel)
    assert any(f"torch {torch.__version__}" in line for line in lines)


@needs_compiler
def test_only_what_changed_is_compiled_again(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert COMPILER is not None
    monkeypatch.setattr(toolchain, "find_compiler", lambda: COMPILER)

    def compiled() -> list[int]:
        native.build(tree, "cpu")
        return [
            int(number)
            for number in re.findall(r"(\d+) of (\d+) objects", capsys.readouterr().out)[0]
        ]

    # AVX-512 in single precision only: see build_backend/native.py.
    variants = len(COMPILER.capabilities) * len(native.SCALARS) - (
        "avx512" in COMPILER.capabilities
    )
    assert compiled() == [variants + 1, variants + 1]
    assert compiled() == [0, variants + 1]
    later = (tree / "build" / "native" / native.LIBRARY_NAME).stat().st_mtime + 10
    os.utime(tree / "csrc" / "cpu" / "add_kernels.cpp", (later, later))
    assert compiled() == [variants, variants + 1]
    for path in (tree / "build" / "native").rglob("*.o"):
        os.utime(path, (later + 10, later + 10))
    assert compiled() == [0, variants + 1]
    os.utime(tree / "csrc" / "add.h", (later + 20, later + 20))
    assert compiled() == [variants + 1, variants + 1]


@needs_compiler
def test_code_that_does_not_compile_ends_only_a_build_that_was_asked_for(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "csrc" / "broken.cpp").write_text("int broken() { retrun 1; }\n")
    assert native.build(tree, "auto") is None
    assert "csrc/broken.cpp:1:" in capsys.readouterr().out.splitlines()[-1]
    with pytest.raises(
        SystemExit,
        match=r"PLASTIKERN_BUILD=cpu, but broken\.cpp\.o was not made: csrc/broken\.cpp:1:",
    ):
        native.build(tree, "cpu")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("", ["8.0", "9.0+PTX"]),
        ("8.6", ["8.6+PTX"]),
        ("9.0a;12.0+PTX", ["9.0a", "12.0+PTX"]),
        ("12.0 8.0 10.0", ["8.0", "10.0", "12.0+PTX"]),
        ("8.0 9.0a", ["8.0", "9.0a", "9.0+PTX"]),
        ("8.0+PTX 9.0", ["8.0+PTX", "9.0+PTX"]),
    ],
)
def test_cuda_architectures_are_those_that_nvcc_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str, expected: list[str]
) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho sm_75 sm_80 sm_90\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", chosen)
    assert cuda.architectures(nvcc) == expected
    command = " ".join(cuda.compile_command(nvcc, "g++", expected, ["-fPIC"]))
    for name in expected:
        digits = name.removesuffix("+PTX").replace(".", "")
        assert f"arch=compute_{digits},code=sm_{digits}" in command
        assert (f"code=compute_{digits}" in command) == name.endswith("+PTX")


def test_unknown_cuda_architecture_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0 Ampere")
    with pytest.raises(toolchain.BuildError, match="got 'Ampere'"):
        cuda.architectures(Path("nvcc"))


@pytest.mark.parametrize("jobs", ["x", "0", "-2", "1.5"])
def test_a_number_of_jobs_that_is_none_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, jobs: str
) -> None:
    monkeypatch.setenv("MAX_JOBS", jobs)
    with pytest.raises(
        SystemExit, match=rf"^MAX_JOBS: got '{re.escape(jobs)}', expected a number from 1 on$"
    ):
        toolchain.requested_jobs()
    for value in ("", "3"):
        monkeypatch.setenv("MAX_JOBS", value)
        assert toolchain.requested_jobs() == (3 if value else os.cpu_count())


@pytest.mark.parametrize(
    ("command", "program", "arguments"),
    [
        ("g++", "g++", ()),
        ("g++ -m64", "g++", ("-m64",)),
        ("ccache g++", "g++", ()),
        ("ccache clang++ -isystem include -m64", "clang++", ("-isystem", "include", "-m64")),
    ],
)
def test_arguments_of_the_compiler_reach_it_through_nvcc(
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    program: str,
    arguments: tuple[str, ...],
) -> None:
    compiler = toolchain.Compiler(tuple(command.split()), command, True, ("default",))
    assert (compiler.program, compiler.arguments) == (program, arguments)
    (tree / "csrc" / "cuda").mkdir()
    (tree / "csrc" / "cuda" / "add_kernels.cu").touch()
    ran: list[list[str]] = []
    monkeypatch.setattr(
        native, "run_into", lambda root, target, words: (ran.append([*words]), target.touch())
    )
    native._make(
        tree,
        compiler,
        toolchain.Torch(ROOT, "2.13.0"),
        native.Nvcc(Path("nvcc"), "nvcc 13.0", ["8.0"]),
    )
    by_nvcc = [words for words in ran if words[0] == "nvcc"]
    assert len(by_nvcc) == len(native.SCALARS) + 1, "compilations and the link"
    for words in by_nvcc:
        assert words[words.index("-ccbin") + 1] == program
        passed = [word for before, word in pairwise(words) if before == "-Xcompiler"]
        assert passed[: len(arguments)] == [*arguments]
    others = [words for words in ran if words[0] != "nvcc"]
    assert others and all(words[: len(compiler.command)] == [*compiler.command] for words in others)


def test_a_compiler_whose_name_cannot_be_read_is_one_clear_line(tree: Path) -> None:
    _, lines = build_wheel(tree, CXX='g++ "')
    assert lines == [
        "plastikern: no native kernels are built: no C++ compiler: CXX cannot be read: No closing quotation; "
        "pure Python install"
    ]


def test_a_setuptools_that_is_too_old_is_one_clear_line(tree: Path) -> None:
    script = "import sys, runpy; sys.modules['setuptools.command.bdist_wheel'] = None; runpy.run_path('setup.py')"
    done = run(tree, "-c", script)
    assert done.returncode == 1
    wanted = "plastikern: the build needs setuptools 77 or newer: pip install --upgrade setuptools"
    assert done.stderr.splitlines()[-1] == wanted and "Traceback" not in done.stderr


def test_sdist_has_all_that_a_build_needs(tree: Path) -> None:
    done = run(tree, "-c", "import build_backend; build_backend.build_sdist('dist')")
    assert done.returncode == 0, done.stderr
    (archive,) = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    needed = [
        path
        for folder in ("csrc", "build_backend", "plastikern")
        for path in (tree / folder).rglob("*.*")
    ]
    missing = {str(path.relative_to(tree)) for path in needed if path.suffix != ".pyc"} - names
    assert not missing
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md"} <= names


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("isolation", [True, False], ids=["isolated", "not-isolated"])
def test_pip_builds_against_the_installed_torch(tree: Path, isolation: bool) -> None:
    pytest.importorskip("pip")
    options = [] if isolation else ["--no-build-isolation"]
    command = ("-m", "pip", "wheel", "--verbose", "--no-deps", *options, "--wheel-dir", "dist", ".")
    done = run(tree, *command, PLASTIKERN_BUILD="cpu")
    if isolation and "No matching distribution found for setuptools" in done.stdout + done.stderr:
        pytest.skip("no package index to fetch setuptools from")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"torch {torch.__version__}" in done.stdout + done.stderr
    (wheel,) = (tree / "dist").glob("*-cp310-abi3-*.whl")
    assert f"plastikern/{native.LIBRARY_NAME}" in members(wheel)


class Symbol(NamedTuple):
    name: str
    defined: bool
    weak: bool


def elf_symbols(path: Path, kind: int) -> Iterator[Symbol]:
    """Symbols of a 64-bit little-endian ELF file: kind 11 are those that a loader sees (.dynsym), 2 all (.symtab)."""
    data = path.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01", f"{path} is no 64-bit little-endian ELF file"
    (start,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    # Of a section: type, offset, size, and the number of the section with its strings.
    sections = [
        struct.unpack_from("<4xI16xQQI", data, start + index * size) for index in range(count)
    ]
    for found, offset, length, link in sections:
        if found != kind:
            continue
        strings = sections[link][1]
        for entry in range(offset, offset + length, 24):
            name, info, section = struct.unpack_from("<IBxH", data, entry)
            end = data.index(b"\0", strings + name)
            yield Symbol(data[strings + name : end].decode(), section != 0, info >> 4 in (2, 10))


needs_elf = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")


@needs_elf
@pytest.mark.skipif(not LIBRARY.exists(), reason="the native library is not built")
def test_library_uses_only_the_stable_abi_of_torch() -> None:
    undefined = [symbol.name for symbol in elf_symbols(LIBRARY, 11) if not symbol.defined]
    assert any(name.startswith(("aoti_torch_", "torch_")) for name in undefined)
    # C++ names of torch (at::, c10::, torch::, caffe2::) change from release to release; the stable ABI is C.
    assert not [
        name for name in undefined if re.match(r"_Z.*N?[KVRO]*(2at|3c10|5torch|6caffe2)\d", name)
    ]


@needs_elf
@pytest.mark.skipif(not library.info().get("cuda"), reason="the library has no CUDA kernels")
def test_cuda_kernels_need_no_cuda_to_be_loaded() -> None:
    """This process has loaded it, as a rule without a driver: the runtime is in it, and looks for the driver later."""
    undefined = [
        symbol.name for symbol in elf_symbols(LIBRARY, 11) if not symbol.defined and not symbol.weak
    ]
    assert not [name for name in undefined if re.match(r"(__)?cuda|cu[A-Z]", name)]
    if not torch.cuda.is_available():
        assert backends.select(None, torch.zeros(1)) == "cpu"
        with pytest.raises(RuntimeError, match="it serves tensors on the device cuda"):
            backends.select("cuda", torch.zeros(1))


@needs_elf
def test_no_kernel_shares_code_between_instruction_sets() -> None:
    """A weak function is merged by the linker: that of AVX-512 could then run on a processor without it."""
    objects = [
        path
        for source in (ROOT / "csrc" / "cpu").glob("*_kernels.cpp")
        for path in (ROOT / "build" / "native" / "csrc" / "cpu").glob(f"{source.name}.*.o")
    ]
    if not objects:
        pytest.skip("the kernels are not built here")
    assert any(symbol.defined for symbol in elf_symbols(objects[0], 2))
    assert not [
        (path.name, symbol.name)
        for path in objects
        for symbol in elf_symbols(path, 2)
        if _is_shared(symbol)
    ]


def _is_shared(symbol: Symbol) -> bool:
    return symbol.defined and symbol.weak and symbol.name != ""
