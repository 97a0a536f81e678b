"""``python -m build_backend.programs``: the programs of gpu-check, which need no torch; ``--emulated``: without a GPU.

They are linked with the very objects of the library, built by nvcc, or with those of the tests, which the C++ compiler
makes against the emulator of CUDA. They run on machines without nvcc, torch and Python.
"""

from __future__ import annotations

import fcntl
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from build_backend import cuda, native, toolchain
from build_backend.toolchain import BuildError

SOURCES = Path("tests", "cuda_programs")
EMULATOR = Path("tests", "cuda_emulator")
PROGRAMS = {
    "smoke": ("smoke.cu", "float"),
    "smoke-double": ("smoke.cu", "double"),
    "constants": ("constants.cu", ""),
}
"""Name, source and scalar type; one without a type needs none of the kernels."""
NEEDS_TORCH = re.compile(r'#include (<torch/|".*operators\.h")')


def folder(root: Path, emulated: bool) -> Path:
    """Where they are put."""
    return root / "build" / "gpu-check" / ("emulated" if emulated else "card")


def build(root: Path, emulated: bool, names: Sequence[str] = tuple(PROGRAMS)) -> Path:
    """Builds what is out of date of the programs; returns the folder.

    Raises:
        BuildError: there is no compiler, or it refuses.
    """
    compiler = toolchain.find_compiler()
    torch = toolchain.find_torch() or toolchain.Torch(Path("no-torch"), "none")
    made = _emulated(root, compiler, torch) if emulated else _for_cards(root, compiler, torch)
    programs = {
        name: native.unit(
            root,
            root / SOURCES / source,
            [
                *made.flags,
                *([f"-DPLASTIKERN_SCALAR={scalar}"] if scalar else []),
                *(["-x", "c++"] if emulated else []),
            ],
            f".{scalar or 'plain'}{'.emulated' if emulated else ''}",
        )
        for name, (source, scalar) in PROGRAMS.items()
        if name in names
    }
    linked = made.linked if any(PROGRAMS[name][1] for name in programs) else made.without_kernels
    emulator = [EMULATOR] if emulated else []
    newest = native.newest_header(root, *emulator), native.newest_header(root, SOURCES, *emulator)
    jobs = [(unit, newest[0]) for unit in linked] + [
        (unit, newest[1]) for unit in programs.values()
    ]
    target = folder(root, emulated)
    target.mkdir(parents=True, exist_ok=True)
    with alone(root):
        with ThreadPoolExecutor(max_workers=toolchain.requested_jobs()) as pool:
            list(pool.map(lambda job: native.compile_unit(root, job[0], made.origin, job[1]), jobs))
        for name, own in programs.items():
            needed = [own, *(made.linked if PROGRAMS[name][1] else made.without_kernels)]
            native.run_into(
                root, target / name, [*made.link, *(str(unit.object) for unit in needed)]
            )
    return target


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Processes that compile against the emulator at once wait for the first: they make the same objects."""
    path = native.objects(root) / "emulated.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Parts(NamedTuple):
    """What the programs are compiled and linked with."""

    origin: str
    flags: list[str]
    linked: list[native.Unit]
    without_kernels: list[native.Unit]
    link: list[str]


def _for_cards(root: Path, compiler: toolchain.Compiler, torch: toolchain.Torch) -> Parts:
    nvcc = native.choose_cuda(root, "cuda")
    assert nvcc is not None
    command = cuda.compile_command(
        nvcc.path, compiler.program, nvcc.architectures, [*compiler.arguments, "-fPIC"]
    )
    openmp = ["-Xcompiler", "-fopenmp"] if compiler.openmp else []
    linked = [
        unit for unit in native.plan(root, compiler, torch, nvcc) if _knows_no_torch(root, unit)
    ]
    link = [
        str(nvcc.path),
        "-ccbin",
        compiler.program,
        "--cudart",
        "static",
        "--no-device-link",
        *openmp,
    ]
    origin = f"{compiler.version}, torch {torch.version}, {nvcc.version}"
    return Parts(origin, [*command, "-Icsrc"], linked, [], link)


def _emulated(root: Path, compiler: toolchain.Compiler, torch: toolchain.Torch) -> Parts:
    flags, kernels = emulated_flags(compiler, torch), emulated_units(root, compiler, torch)
    # The CPU kernels, with which they are compared, for every processor.
    host = [
        *compiler.command,
        toolchain.LANGUAGE,
        "-O1",
        "-Icsrc",
        "-DPLASTIKERN_CAPABILITY=default",
    ]
    for source in sorted(root.glob("csrc/cpu/*.cpp")):
        if source.match("*_kernels.cpp"):
            each = [native.unit(root, source, [*host, f"-DPLASTIKERN_SCALAR={scalar}"], f".{scalar}.check")
                    for scalar in native.SCALARS]  # fmt: skip
        else:
            each = [native.unit(root, source, host, ".check")]
        kernels += [unit for unit in each if _knows_no_torch(root, unit)]
    emulator = [unit for unit in kernels if "cuda_emulator" in unit.object.name]
    return Parts(
        f"{compiler.version}, torch {torch.version}", flags, kernels, emulator, [*compiler.command]
    )


def emulated_flags(compiler: toolchain.Compiler, torch: toolchain.Torch) -> list[str]:
    """Command line that compiles what nvcc does against the emulator."""
    return [
        *compiler.command, toolchain.LANGUAGE, "-O1", native.PRECISE, *native.HIDE, *native.HIDE_CXX, *native.WARN,
        "-Wno-unknown-pragmas", "-DPLASTIKERN_EMULATED", f"-DTORCH_TARGET_VERSION={toolchain.TORCH_TARGET_VERSION}",
        "-Icsrc", f"-I{EMULATOR}", "-isystem", str(torch.folder / "include"),
    ]  # fmt: skip


def emulated_units(
    root: Path, compiler: toolchain.Compiler, torch: toolchain.Torch
) -> list[native.Unit]:
    """The sources that nvcc compiles, plans, and the emulator."""
    common = emulated_flags(compiler, torch)
    found = []
    for source in sorted(root.glob("csrc/cuda/*_kernels.cu")):
        for scalar in native.SCALARS:
            flags = [*common, f"-DPLASTIKERN_SCALAR={scalar}", "-x", "c++"]
            found.append(native.unit(root, source, flags, f".{scalar}.emulated"))
    others = sorted(path for path in root.glob("csrc/cuda/*.cu") if not path.match("*_kernels.cu"))
    for source in [*others, root / "csrc/cuda/plan.cpp"]:
        found.append(native.unit(root, source, [*common, "-x", "c++"], ".emulated"))
    # Its functions are called from Python.
    visible = [flag for flag in common if "visibility" not in flag]
    return [*found, native.unit(root, root / EMULATOR / "cuda_emulator.cpp", visible, ".emulated")]


def _knows_no_torch(root: Path, unit: native.Unit) -> bool:
    return NEEDS_TORCH.search((root / unit.command[-1]).read_text()) is None


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = ArgumentParser(prog="python -m build_backend.programs", description=__doc__)
    parser.add_argument(
        "--emulated", action="store_true", help="for the emulator in place of a card"
    )
    parser.add_argument("programs", nargs="*", help=f"of {', '.join(PROGRAMS)} (default: all)")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.programs) - set(PROGRAMS):
        parser.error(
            f"programs: got {', '.join(sorted(unknown))}, expected some of {', '.join(PROGRAMS)}"
        )
    try:
        print(
            build(
                Path(__file__).resolve().parents[1],
                chosen.emulated,
                chosen.programs or tuple(PROGRAMS),
            )
        )
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
