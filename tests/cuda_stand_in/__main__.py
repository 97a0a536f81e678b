"""Runs pytest under a CUDA build of torch that believes in a card: ``python -m tests.cuda_stand_in PYTHON WORDS...``.

``PYTHON`` is the interpreter of an environment with such a torch, and pytest; it is given the words. Needs nvcc. The
library is built with CUDA kernels, and its objects are linked once more, to the shared CUDA runtime in the place of
the static one, since the stand-in stands where that runtime is (see stand_in.h).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from build_backend import cuda, native, toolchain

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CALLS = re.compile(r" [TW] ((?:__)?(?:cu|CU)\w+)")
"""A function that a library of NVIDIA defines, as nm shows it."""


def run(*command: object) -> str:
    """What a command says; its error output where it fails."""
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def defined(library: Path) -> list[str]:
    """Functions of CUDA that a library defines."""
    return sorted(set(CALLS.findall(run("nm", "-D", "--defined-only", library).replace("@@", " "))))


def shared(folder: Path, name: str, sources: list[Path], *libraries: Path) -> Path:
    """Compiles a library whose symbols have its name as their version, as NVIDIA's have."""
    versions = folder / f"{name}.map"
    versions.write_text(f"{name} {{ global: *; }};\n")
    nvcc = cuda.find_nvcc()
    assert nvcc is not None, "nvcc is needed"
    # It knows where the headers are; the runtime that it would link is what is made here.
    command = [
        nvcc,
        toolchain.LANGUAGE,
        "-O1",
        "-g",
        "-shared",
        "--cudart",
        "none",
        f"-I{HERE}",
        "-Xcompiler",
    ]
    command += [
        "-fPIC,-Wall,-Wextra",
        "-Xlinker",
        f"-soname={name}",
        "-Xlinker",
        f"--version-script={versions}",
    ]
    run(
        *command,
        "-x",
        "c++",
        *sources,
        *(f"-Xlinker={library}" for library in libraries),
        "-o",
        folder / name,
    )
    return folder / name


def named(functions: list[str], result: int) -> str:
    """The source of functions that write down their name and return ``result``."""
    lines = [
        f'int {function}() {{ return stand_in_call("{function}"), {result}; }}'
        for function in functions
    ]
    return "\n".join(['extern "C" {', "void stand_in_call(const char* name);", *lines, "}", ""])


def stand_ins(folder: Path, libraries: Path) -> list[Path]:
    """Driver, runtime and cuBLAS, compiled. ``libraries``: NVIDIA's, beside torch."""
    name, blas, not_supported = "libcudart.so.13", ("libcublas.so.13", "libcublasLt.so.13"), 801
    made = [folder / library for library in ("libcuda.so.1", name, *blas)]
    newest = max(path.stat().st_mtime for path in HERE.iterdir())
    if all(path.exists() and path.stat().st_mtime > newest for path in made):
        return made
    driver = shared(folder, "libcuda.so.1", [HERE / "driver.cpp"])
    served = set(defined(shared(folder, name, [HERE / "runtime.cpp"], driver)))
    rest = folder / "unserved.cpp"
    rest.write_text(
        named([one for one in defined(libraries / name) if one not in served], not_supported)
    )
    shared(folder, name, [HERE / "runtime.cpp", rest], driver)
    for library in blas:
        source = folder / f"{library}.cpp"
        source.write_text(named(defined(libraries / library), 0))
        shared(folder, library, [source], driver)
    return made


def registers(library: Path, folder: Path) -> Path:
    """A table of the registers of every kernel, where cuobjdump is there."""
    packaged = sorted(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/**/bin/cuobjdump"))
    program = shutil.which("cuobjdump") or (str(packaged[0]) if packaged else None)
    said = run(program, "--dump-resource-usage", library) if program else ""
    found = re.findall(r"Function (\w+):\s+REG:(\d+)", said)
    path = folder / "registers.txt"
    path.write_text("".join(f"{kernel} {count}\n" for kernel, count in found))
    return path


def package(folder: Path, runtime: Path) -> Path:
    """plastikern with its library linked to the stand-in: links to all of its files, and that library."""
    compiler, torch, nvcc = (
        toolchain.find_compiler(),
        toolchain.find_torch(),
        native.choose_cuda(ROOT, "cuda"),
    )
    assert torch is not None and nvcc is not None
    units = [unit.object for unit in native.plan(ROOT, compiler, torch, nvcc)]
    shadow = folder / "package" / "plastikern"
    shutil.rmtree(shadow, ignore_errors=True)
    shadow.mkdir(parents=True)
    for path in (ROOT / "plastikern").iterdir():
        if path.name not in (native.LIBRARY_NAME, "__pycache__"):
            (shadow / path.name).symlink_to(path)
    run(
        compiler.program, "-shared", "-fopenmp", "-Wl,--no-undefined", *units, runtime,
        f"-L{torch.folder / 'lib'}", "-ltorch_cpu", "-ldl", "-o", shadow / native.LIBRARY_NAME,
    )  # fmt: skip
    return shadow


def main(python: str, words: list[str]) -> int:
    """Compiles what is needed and runs pytest; its exit status."""
    where = "import importlib.util as u; print(*u.find_spec('nvidia').submodule_search_locations)"
    libraries = next(Path(run(python, "-c", where).split()[0]).glob("cu13/lib"))
    version = run(python, "-c", "import torch; print(torch.__version__)").strip()
    folder = ROOT / "build" / "stand_in" / version
    folder.mkdir(parents=True, exist_ok=True)
    preloaded = stand_ins(folder, libraries)
    os.environ.setdefault(
        "TORCH_CUDA_ARCH_LIST", "9.0+PTX"
    )  # of the card that is described by default
    native.build(ROOT, "cuda")
    shadow = package(folder, preloaded[1])
    environment = {
        **os.environ,
        "LD_PRELOAD": ":".join(map(str, preloaded)),
        "PYTHONPATH": os.pathsep.join((str(shadow.parent), str(ROOT))),
        "STAND_IN_REGISTERS": str(registers(shadow / native.LIBRARY_NAME, folder)),
        "TRITON_LIBCUDA_PATH": str(folder),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "PLASTIKERN_CACHE": str(folder / "rules"),
        "DISABLE_ADDMM_CUDA_LT": "1",  # cuBLASLt asks its heuristics, which are there in name only
    }
    print(f"torch {version}, with a stand-in for its card", flush=True)
    # pytest's own setting would find the library that is linked to the static runtime.
    command = [
        python,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-o",
        f"pythonpath={shadow.parent} {ROOT}",
        *words,
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
