"""Compiles the text of a user's rule for a CUDA device by NVRTC, and launches it through the driver.

Both are reached by NVIDIA's cuda-bindings. PyTorch's CUDA wheels bring them, and NVRTC.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .compiling import SOURCES, CompilationError, _alone, _headers, _in_a_folder, _making

OPTIONS = (
    "--std=c++20", "--fmad=false", "--device-as-default-execution-space", "-DPLASTIKERN_CUDA", "--ptxas-options=-v",
)  # fmt: skip
THREADS = 256
"""Of a block, as in csrc/cuda/rule.cuh."""
SCRIPT = Path(__file__).with_name("nvrtc.py")
"""What compiles, in a process of its own."""
PASSES = ("forward", "backward")
USED = re.compile(
    r"Compiling entry function 'plastikern_rule_(\w+)'.*?(\d+) bytes stack frame.*?Used (\d+) registers", re.DOTALL
)  # fmt: skip
"""What the assembler says of a kernel."""


class Code(NamedTuple):
    """What NVRTC makes of a text, and what the assembler said of it: nothing of PTX."""

    code: bytes
    said: str


class Usage(NamedTuple):
    """Of a thread of a kernel: its registers, and bytes of stack, which is what is spilled."""

    registers: int
    stack: int


@cache
def nvrtc() -> tuple[str, tuple[int, ...]]:
    """The version of NVRTC, and the architectures that it compiles for, as 90.

    Raises:
        CompilationError: it is not there.
    """
    try:
        from cuda.bindings import nvrtc as library

        _, major, minor = library.nvrtcVersion()
        _, architectures = library.nvrtcGetSupportedArchs()
    except (ImportError, RuntimeError) as error:
        raise CompilationError(
            f"NVRTC, which PyTorch's CUDA wheels bring, is not to be had: {error}"
        ) from None
    return f"{major}.{minor}", tuple(architectures)


def target(capability: tuple[int, int], known: tuple[int, ...]) -> str:
    """For what is compiled: machine code that the device runs, else PTX, of which its driver makes some.

    Args:
        capability: of the device.
        known: architectures that NVRTC compiles for.

    Raises:
        CompilationError: it compiles for newer devices only.
    """
    wanted = capability[0] * 10 + capability[1]
    older = [each for each in known if each <= wanted]
    if not older:
        raise CompilationError(
            f"NVRTC {nvrtc()[0]} compiles for compute capability {min(known) / 10} and newer; the device has "
            f"{wanted / 10}"
        )
    # Within a major version the code of an older device runs.
    kind = "sm" if max(older) // 10 == capability[0] else "compute"
    return f"{kind}_{max(older)}"


def compiled(text: str, scalar: str, architecture: str) -> bytes:
    """The code of a rule's text, from the folder of compiled rules if it is there.

    Args:
        scalar: ``"float"`` or ``"double"``.
        architecture: as ``"sm_90"``, or ``"compute_90"`` for PTX.

    Raises:
        CompilationError: NVRTC is not there, or failed; tried once in a process.
    """
    return _code(text, scalar, architecture).code


def used(text: str, scalar: str, architecture: str) -> dict[str, Usage]:
    """What the kernels of a rule's text use, by pass; nothing of PTX. Arguments and errors of :func:`compiled`."""
    found = USED.findall(_code(text, scalar, architecture).said)
    return {way: Usage(int(n), int(stack)) for way, stack, n in sorted(found, key=_in_order)}


def _in_order(found: tuple[str, str, str]) -> int:
    return PASSES.index(found[0])


def _code(text: str, scalar: str, architecture: str) -> Code:
    found = _compiled(text, scalar, architecture)
    if isinstance(found, CompilationError):
        raise found
    return found


@cache
def _compiled(text: str, scalar: str, architecture: str) -> Code | CompilationError:
    options = [*OPTIONS, f"-DPLASTIKERN_SCALAR={scalar}", f"--gpu-architecture={architecture}"]

    def made(folder: Path) -> Code:
        code = folder / name / "rule.cubin"
        if not code.exists():
            with _alone(folder / name):
                if not code.exists():  # It may have been made by another process.
                    _compile(text, options, code)
        return Code(code.read_bytes(), code.with_name("rule.log").read_text())

    try:
        said = "\0".join([text, *options, nvrtc()[0], _headers()])
        name = hashlib.sha256(said.encode()).hexdigest()[:32]
        return _in_a_folder(made)
    except CompilationError as error:
        return error
    except OSError as error:
        return CompilationError(str(error))


def _compile(text: str, options: list[str], code: Path) -> None:
    """Writes source, what the compiler said and code, each of which takes its place at once, the code last."""
    with _making(code.parents[1]) as folder:
        source, log, made = (folder / name for name in ("rule.cu", "rule.log", "rule.cubin"))
        source.write_text(text)
        command = [
            sys.executable, str(SCRIPT), str(source), str(made), str(SOURCES / "cuda" / "nvrtc.h"), f"-I{SOURCES}",
            *options,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not made.exists():
            lines = done.stderr.splitlines()
            errors = [line for line in lines if "error" in line] or lines[-1:]
            why = errors[0] if errors else f"it ended with {done.returncode}"
            raise CompilationError(f"NVRTC {nvrtc()[0]} with {' '.join(options)} failed: {why}")
        log.write_text(done.stderr)
        for each in (source, log, made):
            os.replace(each, code.with_name(each.name))


@cache
def driver() -> Any:
    """NVIDIA's driver.

    Raises:
        CompilationError: it is not there.
    """
    try:
        from cuda.bindings import driver as library

        library.cuInit(0)
    except (ImportError, RuntimeError) as error:
        raise CompilationError(f"the driver is not to be had: {error}") from None
    return library


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def missing() -> str:
    """Why no rule can be compiled and launched, or nothing."""
    try:
        nvrtc()
        driver()
    except CompilationError as error:
        return str(error)
    return ""


def code_for(text: str, scalar: str, device: torch.device) -> bytes:
    """The code of a rule's text for a device: see :func:`compiled`."""
    if torch.version.cuda is None:
        raise CompilationError("this PyTorch is built without CUDA")
    driver()
    capability = torch.cuda.get_device_capability(device)
    return compiled(text, scalar, target(capability, nvrtc()[1]))


def launch(
    text: str, scalar: str, way: str, device: torch.device, given: ctypes.Array[Any], blocks: int, shared: int,
) -> None:  # fmt: skip
    """Runs a pass of a rule on the current stream of a device.

    Args:
        way: ``"forward"`` or ``"backward"``.
        given: the one argument of the kernel, which is copied.
        blocks: their number, one an element of the batch.
        shared: bytes of shared memory that a block takes.

    Raises:
        CompilationError: see :func:`compiled`.
        RuntimeError: the driver refuses the launch; with its reason.
    """
    with torch.cuda.device(device):
        index = torch.cuda.current_device()
        kernels = _kernels(text, scalar, index, shared)
        # A thread that has asked the runtime for nothing yet has no context.
        _done(f"device cuda:{index}", driver().cuCtxSetCurrent(_context(index)))
        stream = torch.cuda.current_stream().cuda_stream
        addresses = (ctypes.c_void_p * 1)(ctypes.addressof(given))
        launched = driver().cuLaunchKernel(
            kernels[way], blocks, 1, 1, THREADS, 1, 1, shared, stream, ctypes.addressof(addresses), 0
        )  # fmt: skip
        _done(f"the launch of a rule's {way} pass", launched)


@cache
def _context(index: int) -> Any:
    """The context of a device that the CUDA runtime uses, too."""
    return _done(f"device cuda:{index}", driver().cuDevicePrimaryCtxRetain(index))


@cache
def _kernels(text: str, scalar: str, index: int, shared: int) -> dict[str, Any]:
    """By pass, loaded on a device."""
    code = code_for(text, scalar, torch.device("cuda", index))
    _done(f"device cuda:{index}", driver().cuCtxSetCurrent(_context(index)))
    module = _done("the code of a rule", driver().cuModuleLoadData(code))
    attribute = driver().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    found = {}
    for way in PASSES:
        name = f"plastikern_rule_{way}"
        found[way] = _done(name, driver().cuModuleGetFunction(module, name.encode()))
        _done(name, driver().cuFuncSetAttribute(found[way], attribute, shared))
    return found


def _done(what: str, result: tuple[Any, ...]) -> Any:
    """What a call of the driver returns besides its error, which is raised."""
    error, *values = result
    if error != driver().CUresult.CUDA_SUCCESS:
        _, why = driver().cuGetErrorString(error)
        raise RuntimeError(f"{what}: {why.decode() if why else error.name}")
    return values[0] if values else None
