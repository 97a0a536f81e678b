"""Builds the native library of plastikern: plans the compilations, runs those that are out of date, links.

The library is no Python module but a set of torch operators (`torch.ops.load_library`), so neither Python's headers nor
torch's build helpers are needed: a C++ compiler and torch's folder do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from build_backend import cuda, toolchain
from build_backend.toolchain import BuildError

LIBRARY_NAME = "_C.abi3.so"
SCALARS = ("float", "double")
OPTIMISE = "-O3"
# Where a loop happens to lie must not decide how fast it is: the same loop of 47 instructions took 1.7 times its time
# at one place of the library.
ALIGN = ("-falign-functions=64", "-falign-loops=64")
# Products are fused with sums where the source says so.
PRECISE = "-ffp-contract=off"
WARN = ("-Wall", "-Wextra")
HIDE = ("-fPIC", "-fvisibility=hidden")
HIDE_CXX = ("-fvisibility-inlines-hidden",)


@dataclass(frozen=True)
class Unit:
    """One compilation: `command` lacks the object's name, which `compile_unit` adds."""

    object: Path
    command: tuple[str, ...]


@dataclass(frozen=True)
class Nvcc:
    """The CUDA compiler and the architectures that it compiles for."""

    path: Path
    version: str
    architectures: list[str]


def build(root: Path, choice: str) -> Path | None:
    """Builds what `choice` (a value of PLASTIKERN_BUILD) asks for: the library's path, or None for pure Python.

    Every decision is one line on standard output. Only a failure of something asked for by name is an error.
    """
    if choice == "none":
        say("PLASTIKERN_BUILD=none, so no native kernels are built: pure Python install")
        return None
    try:
        return _build(root, choice)
    except BuildError as error:
        if choice != "auto":
            raise SystemExit(f"plastikern: PLASTIKERN_BUILD={choice}, but {error}") from error
        say(f"no native kernels are built: {error}; pure Python install")
        return None


def say(line: str) -> None:
    """One line of the build's output that is for the user."""
    print(f"plastikern: {line}", flush=True)


def _build(root: Path, choice: str) -> Path:
    if sys.platform not in ("linux", "darwin"):
        raise BuildError(f"they are for Linux and macOS, and this is {sys.platform}")
    compiler = toolchain.find_compiler()
    torch = toolchain.find_torch()
    if torch is None:
        raise BuildError(f"the headers of {toolchain.TORCH_REQUIREMENT} are not installed")
    nvcc = choose_cuda(root, choice)
    try:
        return _make(root, compiler, torch, nvcc)
    except BuildError as error:
        if nvcc is None or choice != "auto":
            raise
        say(f"no CUDA kernels are built: {error}")
        return _make(root, compiler, torch, None)


def choose_cuda(root: Path, choice: str) -> Nvcc | None:
    """nvcc where CUDA kernels are to be built with it; BuildError where `choice` is cuda and they cannot be."""
    if choice == "cpu":
        return None
    try:
        if not _cuda_sources(root):
            raise BuildError("this version has no CUDA kernels")
        path = cuda.find_nvcc()
        if path is None:
            raise BuildError(
                "nvcc is not there (looked at CUDACXX, CUDA_HOME, PATH and /usr/local/cuda)"
            )
        return Nvcc(path, cuda.nvcc_version(path), cuda.architectures(path))
    except BuildError as error:
        if choice == "cuda":
            raise
        say(f"no CUDA kernels are built: {error}")
        return None


def _make(
    root: Path, compiler: toolchain.Compiler, torch: toolchain.Torch, nvcc: Nvcc | None
) -> Path:
    units = plan(root, compiler, torch, nvcc)
    # The sidecar of each object holds what made it, with the versions: a compiler or torch can change in place.
    origin = f"{compiler.version}, torch {torch.version}" + (f", {nvcc.version}" if nvcc else "")
    newest = newest_header(root)
    stale = [unit for unit in units if not _is_fresh(root, unit, origin, newest)]
    say(
        f"building native kernels with {compiler.version}, torch {torch.version}, "
        f"OpenMP {'yes' if compiler.openmp else 'no'}, capabilities {' '.join(compiler.capabilities)}"
        + (f", {nvcc.version} for {' '.join(nvcc.architectures)}" if nvcc else "")
        + f": {len(stale)} of {len(units)} objects to compile"
    )
    with ThreadPoolExecutor(max_workers=toolchain.requested_jobs()) as pool:
        list(pool.map(lambda unit: compile_unit(root, unit, origin, newest), stale))

    flags = ["-fopenmp"] if compiler.openmp else []
    if sys.platform == "darwin":
        torch_flags, linker = ["-undefined", "dynamic_lookup"], []
    else:
        torch_flags, linker = [f"-L{torch.folder / 'lib'}", "-ltorch_cpu"], ["--no-undefined"]
    if nvcc is None:
        command = [*compiler.command, "-shared", *flags, *(f"-Wl,{flag}" for flag in linker)]
    else:
        command = cuda.link_command(
            nvcc.path, compiler.program, [*compiler.arguments, *flags], linker
        )
    library = objects(root) / LIBRARY_NAME
    run_into(root, library, [*command, *(str(unit.object) for unit in units), *torch_flags])
    return library


def plan(
    root: Path, compiler: toolchain.Compiler, torch: toolchain.Torch, nvcc: Nvcc | None
) -> list[Unit]:
    """Every compilation of the library. Kernels once per capability and scalar type, everything else once."""
    sources = sorted([*root.glob("csrc/*.cpp"), *root.glob("csrc/cpu/*.cpp")])
    # Plans are made, and explained, without CUDA too.
    sources += sorted(
        source
        for source in root.glob("csrc/cuda/*.cpp")
        if nvcc is not None or source.name != "ops.cpp"
    )
    if not sources:
        raise BuildError("there is no csrc/*.cpp here")
    # No path of this machine gets into the library through __FILE__.
    include = str(torch.folder / "include")
    host_flags = [
        *HIDE,
        PRECISE,
        *(["-fopenmp"] if compiler.openmp else []),
        f"-ffile-prefix-map={include}=torch",
    ]
    paths = [
        "-Icsrc",
        "-isystem",
        include,
        f"-DTORCH_TARGET_VERSION={toolchain.TORCH_TARGET_VERSION}",
    ]
    common = [
        *compiler.command,
        toolchain.LANGUAGE,
        OPTIMISE,
        *host_flags,
        *HIDE_CXX,
        *WARN,
        *paths,
    ]
    built = [
        f"-DPLASTIKERN_HAS_{name.upper()}" for name in compiler.capabilities if name != "default"
    ]
    built += ["-DPLASTIKERN_HAS_CUDA"] if nvcc else []
    info = f"-DPLASTIKERN_BUILD_INFO={json.dumps(json.dumps(_describe(compiler, torch, nvcc)))}"

    units = []
    for source in sources:
        if source.match("csrc/cpu/*_kernels.cpp"):
            for capability in compiler.capabilities:
                for scalar in SCALARS:
                    # Double precision serves proofs more than speed: the AVX2 kernels do on AVX-512 machines.
                    if (capability, scalar) == ("avx512", "double"):
                        continue
                    names = [
                        f"-DPLASTIKERN_CAPABILITY={capability}",
                        f"-DPLASTIKERN_SCALAR={scalar}",
                    ]
                    flags = [*common, *ALIGN, *toolchain.CAPABILITY_FLAGS[capability], *names]
                    units.append(unit(root, source, flags, f".{capability}.{scalar}"))
        else:
            units.append(
                unit(
                    root,
                    source,
                    [*common, *built, *([info] if source.parent.name == "csrc" else [])],
                )
            )
    if nvcc is not None:
        for scalar in SCALARS:
            chosen = (
                nvcc.architectures
                if scalar == "float"
                else cuda.for_double_precision(nvcc.architectures)
            )
            host = [*compiler.arguments, *host_flags]
            command = cuda.compile_command(nvcc.path, compiler.program, chosen, host)
            for source in _cuda_sources(root):
                if source.match("*_kernels.cu"):
                    flags = [*command, *paths, f"-DPLASTIKERN_SCALAR={scalar}"]
                    units.append(unit(root, source, flags, f".{scalar}"))
                elif scalar == "float":  # what both share
                    units.append(unit(root, source, [*command, *paths]))
    return units


def _describe(
    compiler: toolchain.Compiler, torch: toolchain.Torch, nvcc: Nvcc | None
) -> dict[str, object]:
    """What the library tells about its own build."""
    return {
        "compiler": compiler.version,
        "flags": f"{toolchain.LANGUAGE} {OPTIMISE}",
        "openmp": compiler.openmp,
        "torch": torch.version,
        "capabilities": list(compiler.capabilities),
        "cuda": nvcc.version if nvcc else None,
        "cuda_architectures": nvcc.architectures if nvcc else [],
    }


def _cuda_sources(root: Path) -> list[Path]:
    return sorted(root.glob("csrc/cuda/*.cu"))


def newest_header(root: Path, *folders: Path) -> float:
    """When a header of the kernels, or of these folders, was changed last."""
    paths = [path for ending in ("h", "cuh") for path in root.glob(f"csrc/**/*.{ending}")]
    paths += [path for folder in folders for path in (root / folder).glob("*.h")]
    return max((path.stat().st_mtime for path in paths), default=0.0)


def objects(root: Path) -> Path:
    """Where objects are put."""
    return root / "build" / "native"


def unit(root: Path, source: Path, flags: list[str], variant: str = "") -> Unit:
    """One compilation of a source; `variant` tells its object from those of the same source with other flags."""
    # The ending stays in the object's name: rnn.cpp and rnn.cu may stand in one folder.
    relative = source.relative_to(root)
    target = objects(root) / relative.with_name(f"{relative.name}{variant}.o")
    return Unit(target, (*flags, "-c", str(relative)))


def _sidecar(unit: Unit) -> Path:
    return unit.object.with_name(f"{unit.object.name}.txt")


def _is_fresh(root: Path, unit: Unit, origin: str, headers: float) -> bool:
    sidecar = _sidecar(unit)
    if not (unit.object.is_file() and sidecar.is_file()) or sidecar.read_text() != _recipe(
        unit, origin
    ):
        return False
    return unit.object.stat().st_mtime > max(headers, (root / unit.command[-1]).stat().st_mtime)


def _recipe(unit: Unit, origin: str) -> str:
    return f"{origin}\n{' '.join(unit.command)}\n"


def compile_unit(root: Path, unit: Unit, origin: str, headers: float) -> None:
    """Compiles where that has not been done by `origin` since `headers`, the time of the newest header."""
    if _is_fresh(root, unit, origin, headers):
        return
    unit.object.parent.mkdir(parents=True, exist_ok=True)
    _sidecar(unit).unlink(missing_ok=True)
    run_into(root, unit.object, unit.command)
    _sidecar(unit).write_text(_recipe(unit, origin))


def run_into(root: Path, target: Path, command: Sequence[str]) -> None:
    """Runs a compiler so that `target` is replaced whole or not at all: a process may have the old library loaded."""
    unfinished = target.with_name(f"{target.name}.part")
    said = subprocess.run(
        [*command, "-o", str(unfinished)], cwd=root, capture_output=True, text=True, check=False
    )
    sys.stderr.write(said.stderr)
    if said.returncode != 0:
        unfinished.unlink(missing_ok=True)
        errors = [line for line in said.stderr.splitlines() if "error" in line] or [
            f"{command[0]} failed"
        ]
        raise BuildError(f"{target.name} was not made: {errors[0].strip()}")
    os.replace(unfinished, target)
