"""Which implementation serves a call: chosen from the tensors, overridden by the caller."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import library
from .checks import exporting
from .version import __version__


class Fused(NamedTuple):
    """A fused backend. Its operators have the schemas of csrc/registration.cpp.

    Attributes:
        device: type of the tensors that it serves.
        serves: what it is, for the user.
        missing: why it is not there; None where it is.
        operators: the namespace of its operators in ``torch.ops``, which it makes at the first call.
        lacks: why it cannot serve the device of an index; None where it can.
        reverses: whether its backward pass can run traces backwards between checkpoints.
        advances: whether it has the operator ``advance``, with which a network acts and keeps what learning needs.
        device_lengths: whether its operators take ``lengths`` on its device; else on the CPU.
    """

    device: str
    serves: str
    missing: Callable[[], str | None]
    operators: Callable[[], str]
    lacks: Callable[[int], str | None] = lambda index: None
    reverses: bool = False
    advances: bool = False
    device_lengths: bool = False


def _no_native_library() -> str | None:
    return None if library.MISSING is None else f"the native library is {library.MISSING}"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _no_cuda_kernels() -> str | None:
    """Of this build and machine: torch.compile need not look inside."""
    if library.MISSING is None and library.info().get("cuda") is None:
        return (
            "the native library was built without CUDA kernels: install nvcc, of the CUDA toolkit, then "
            + library.again("cuda")
        )
    if torch.version.hip is not None:
        return "it is for NVIDIA devices, and this torch is for AMD's"
    return _no_native_library()


def code_for(capability: tuple[int, int], architectures: list[str]) -> str | None:
    """The entry of a build's architectures (as ``9.0``, ``9.0a``, ``10.0f`` or ``12.0+PTX``) whose code a device runs.

    Code runs on devices of its generation that are not older (``a``: on that very one); a driver compiles PTX for every
    newer device. None where the build has nothing for the device.
    """
    served = []
    for name in architectures:
        plain = name.removesuffix("+PTX")
        major, minor = (int(part) for part in plain.rstrip("af").split("."))
        same = (
            (major, minor) == capability
            if plain.endswith("a")
            else major == capability[0] and minor <= capability[1]
        )
        if same:
            served.append((2, major, minor, name))
        elif name.endswith("+PTX") and (major, minor) <= capability:
            served.append((1, major, minor, name))
    return max(served, default=(0, 0, 0, None))[-1]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _no_cuda_code(index: int) -> str | None:
    """Why the CUDA kernels that were built do not run on a device; torch.compile need not look inside."""
    return _missing_code(index)


def _driver() -> int:
    """The newest generation of CUDA that the driver serves, as 13; torch has loaded it where there is a card."""
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000


@cache
def _missing_code(index: int) -> str | None:
    built = library.info()
    capability, name = torch.cuda.get_device_capability(index), torch.cuda.get_device_name(index)
    card, architectures = f"cuda:{index} ({name})", ", ".join(built["cuda_architectures"])
    generation = ".".join(map(str, capability))
    if code_for(capability, built["cuda_architectures"]) is None:
        return (
            f"the native library has code for compute capability {architectures}, and {card} has {generation}: "
            f"build with TORCH_CUDA_ARCH_LIST={generation} {library.again('cuda')}"
        )
    if (driver := _driver()) < int(re.findall(r"\d+", built["cuda"])[0]):
        return f"the native library was built by {built['cuda']}, and the driver of {card} is for CUDA {driver}"
    return None


OLDEST_TRITON = (3, 6)
"""The release that PyTorch 2.10 brings. The language of older ones lacks what the kernels are written in."""


def _triton_version() -> str | None:
    """Version of the package triton, which is not imported for it; None without one, "" where nobody tells."""
    if find_spec("triton") is None:
        return None
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:  # AMD's has another name
        names = metadata.packages_distributions().get("triton", ())
        return next(iter(map(metadata.version, names)), "")


_TRITON = _triton_version()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _no_triton() -> str | None:
    if _TRITON is None:
        return "the package triton is not installed: pip install triton"
    release = tuple(int(part) for part in re.findall(r"\d+", _TRITON)[:2])
    if release and release < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return f"triton {_TRITON} is installed, and the kernels need {oldest} or newer, as PyTorch 2.10 brings it"
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        return "there is no GPU"
    return None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _triton_operators() -> str:
    """Imported and made at the first call; torch.compile need not look inside."""
    from .triton.operators import register

    return register()


FUSED: dict[str, Fused] = {
    "cpu": Fused(
        "cpu", "fused C++", _no_native_library, library.operators, reverses=True, advances=True
    ),
    "cuda": Fused(
        "cuda",
        "fused CUDA C++",
        _no_cuda_kernels,
        library.operators,
        _no_cuda_code,
        device_lengths=True,
    ),
    "triton": Fused("cuda", "fused Triton", _no_triton, _triton_operators, device_lengths=True),
}
"""In the order of preference where several serve a device."""
BACKENDS = ("reference", *FUSED)
ENVIRONMENT_VARIABLE = "PLASTIKERN_BACKEND"


class _Choice(threading.local):
    """The backend of the innermost :func:`use_backend` of a thread; torch.compile reads it and guards it.

    It does not see through a ContextVar, and takes a default in the class for a constant.
    """

    def __init__(self) -> None:
        self.name: str | None = None


_choice = _Choice()
# torch.compile guards an entry of a dictionary, also one that is missing; one that os.environ lacks, it does not.
_environment: Any = getattr(os.environ, "_data", os.environ)
_environment_key: Any = getattr(os.environ, "encodekey", str)(ENVIRONMENT_VARIABLE)


def known(name: str, source: str) -> str:
    """The name, where it is that of a backend."""
    if not isinstance(name, str) or (name != "reference" and name not in FUSED):
        raise ValueError(
            f"{source} must be one of {', '.join(('reference', *FUSED))}; got {name!r}"
        )
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every call inside the ``with`` block by the named backend; an argument ``backend=`` still wins.

    The choice is the thread's, as that of ``torch.no_grad`` is: threads that are started inside the block do not see
    it, and asynchronous tasks of one thread share it. Compiled code is compiled anew for another choice.

    Raises:
        ValueError: a backend that does not exist. A backend that exists but cannot serve a call raises RuntimeError
            there.
    """
    before, _choice.name = _choice.name, known(name, "use_backend: name")
    try:
        yield
    finally:
        _choice.name = before


TRANSFORMED = (
    "the fused kernels have no rules for the transforms of torch.func (vmap, grad, jvp, ...); "
    "backend='reference' has"
)


def under_transform(*grads: Tensor) -> bool:
    """Whether the call is made inside ``torch.func.vmap``, ``grad`` or another transform, or with batched gradients."""
    if torch._C._are_functorch_transforms_active():
        return True
    if not grads or torch.compiler.is_compiling():
        return False
    # Of torch.autograd.grad(..., is_grads_batched=True).
    return any(map(torch._C._functorch.is_legacy_batchedtensor, grads))


def under_vmap() -> bool:
    """Whether the call is made inside ``torch.func.vmap``."""
    vmap = torch._C._functorch.TransformType.Vmap
    return any(
        transform.key() == vmap for transform in torch._C._functorch.get_interpreter_stack() or ()
    )


TRACED = "torch.jit.trace cannot record the fused kernels; torch.export can"
ONNX = (
    "ONNX has no form for the fused kernels; backend='reference' is made of operators that it has"
)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _for_onnx() -> bool:
    """Whether a program is exported for ONNX; strict export would take torch's own function for False."""
    return torch.onnx.is_in_onnx_export()


def where_none_can() -> str | None:
    """Why no fused kernels can serve a call where it is made: under transforms of torch.func, in traces, for ONNX."""
    if under_transform():
        return TRANSFORMED
    if torch.compiler.is_compiling():  # torch.export, too
        return ONNX if exporting() and _for_onnx() else None
    return None if torch._C._get_tracing_state() is None else TRACED


def _refusal(backend: str, tensor: Tensor, requested: bool = False) -> str | None:
    """Why a backend cannot serve a call on such tensors; None where it can. ``requested``: by name."""
    if backend == "reference":
        return None
    fused = FUSED[backend]
    if (missing := fused.missing()) is not None:
        return missing
    # Triton's interpreter runs on the CPU, for tests: only for who asks for this backend by name.
    interpreted = backend == "triton" and requested and os.environ.get("TRITON_INTERPRET") == "1"
    if tensor.device.type != fused.device and not (interpreted and tensor.device.type == "cpu"):
        return f"it serves tensors on the device {fused.device}, and these are on {tensor.device}"
    if tensor.device.type == "cuda" and (lacking := fused.lacks(tensor.device.index)) is not None:
        return lacking
    if (reason := where_none_can()) is not None:
        return reason
    if tensor.dtype not in (torch.float32, torch.float64):
        return f"it serves float32 and float64, and these are {str(tensor.dtype).removeprefix('torch.')}"
    return None


def by_cpu(requested: str | None, tensor: Tensor) -> bool:
    """Whether the CPU's kernels serve a call on a plain tensor outside of compiled code, without the reasons why they
    do not: no small call waits for those."""
    name = _choice.name if requested is None else requested
    return (
        (name is None or name == "cpu")
        and tensor.is_cpu
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_tracing_state() is None
        and not _environment.get(_environment_key)
        and next(iter(FUSED)) == "cpu"
        and FUSED["cpu"].missing() is None
    )


def named(requested: str | None) -> str | None:
    """The backend that is asked for: by ``requested``, else ``use_backend``, else the environment; None: by none."""
    name = known(requested, "backend") if requested is not None else _choice.name
    if name is None and _environment.get(_environment_key):
        return known(os.environ[ENVIRONMENT_VARIABLE], ENVIRONMENT_VARIABLE)
    return name


def select(requested: str | None, tensor: Tensor) -> str:
    """Name of the backend for a call: ``requested``, else ``use_backend``, else the environment, else the fastest
    that can.

    Raises:
        RuntimeError: the backend was asked for by name and cannot serve the call; the message says why.
    """
    name = named(requested)
    if name is None:
        return next((fused for fused in FUSED if _refusal(fused, tensor) is None), "reference")
    reason = _refusal(name, tensor, requested=True)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} cannot serve this call: {reason}")
    return name


def serving(device: str) -> str:
    """Which backend serves a device where none is named, and why those before it do not, as a sentence."""
    tensor = torch.empty(0, device=device)
    chosen, passed_over = select(None, tensor), []
    for name, fused in FUSED.items():
        if name == chosen:
            break
        if fused.device == tensor.device.type and (reason := _refusal(name, tensor)) is not None:
            passed_over.append(f"not by {name}: {reason}")
    return "; ".join([f"served by {chosen}", *passed_over])


def build_info() -> dict[str, Any]:
    """What is built and what serves what.

    Returns:
        ``version``, ``torch``, ``library`` (path of the native library, or None), ``native`` (how it was built, and
        the instruction set chosen on this machine) and ``backends`` (for each name a sentence: what it serves, or
        why it cannot).
    """
    backends = {
        "reference": "any device, any order of derivative, the transforms of torch.func (plain PyTorch)"
    }
    for name, fused in FUSED.items():
        missing = fused.missing()
        served = f"float32 and float64 tensors on {fused.device} ({fused.serves})"
        backends[name] = served if missing is None else f"not available: {missing}"
    return {
        "version": __version__,
        "torch": torch.__version__,
        "library": None if library.MISSING else str(library.PATH),
        "native": library.info(),
        "backends": backends,
    }
