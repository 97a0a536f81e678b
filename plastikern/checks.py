"""Checks of arguments: each error names the argument, what was expected and what was got."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float64, torch.float32, *HALF)
"""What is computed with; docs/dtypes.md says how."""


def described(value: object) -> str:
    """What a value is, in few words."""
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


# torch.compile of PyTorch 2.11 does not look inside.
_has_autocast = torch.compiler.assume_constant_result(torch.amp.is_autocast_available)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def exporting() -> bool:
    """Whether torch.export is making a program. torch.compile of PyTorch 2.10 and 2.11 takes torch's own for True."""
    return torch.compiler.is_exporting()


def under_autocast(tensor: Tensor) -> bool:
    """Whether autocast is on for the tensor's device; no error where there is no autocast, such as on ``meta``."""
    if not torch.compiler.is_compiling() and not torch._C._is_any_autocast_enabled():
        return False  # the quickest way to know, for most calls
    kind = tensor.device.type
    return _has_autocast(kind) and torch.is_autocast_enabled(kind)


def has_values(tensor: Tensor) -> bool:
    """Whether its numbers can be looked at: not those of compiled code, of the device ``meta`` or of fake tensors."""
    return not (torch.compiler.is_compiling() or tensor.is_meta or isinstance(tensor, FakeTensor))


def without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """What is computed inside keeps the precision of its tensors; ``tensor`` names the device."""
    return (
        torch.autocast(tensor.device.type, enabled=False)
        if under_autocast(tensor)
        else nullcontext()
    )


def check_positive(owner: str, argument: str, value: object) -> None:
    """An integer from 1 on that fits into 63 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{owner}: {argument} must be a positive integer; got {value!r}")
    if value >= 2**63:
        raise ValueError(f"{owner}: {argument} must be less than 2**63; got {value!r}")


def check_flag(owner: str, argument: str, value: object) -> None:
    """True or False, and nothing that merely counts as such."""
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: {argument} must be True or False; got {described(value)}")


def check_one_direction(owner: str, bidirectional: object, proj_size: object) -> None:
    """What ``torch.nn`` has beyond one direction without a projection is taken with its default value only."""
    if not isinstance(bidirectional, int) or bidirectional != 0:
        raise ValueError(
            f"{owner}: bidirectional must be False: traces gather what an episode has brought so far, and backwards in "
            f"time there is none; a second network on the reversed input is the other direction; got {bidirectional!r}"
        )
    if not isinstance(proj_size, int) or proj_size != 0:
        raise ValueError(
            f"{owner}: proj_size must be 0: traces join the hidden_size neurons with each other, and a projection "
            f"would put others in their place; got {proj_size!r}"
        )


def check_finite(owner: str, argument: str, value: object) -> float:
    """A finite number, as float."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{owner}: {argument} must be a finite number; got {value!r}")
    return float(value)


def check_choice(owner: str, argument: str, value: object, allowed: Sequence[str]) -> None:
    """One of the names allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{owner}: {argument} must be one of {', '.join(allowed)}; got {value!r}")


def check_dense(owner: str, argument: str, tensor: Tensor) -> None:
    """A tensor that has its values in memory by strides: not sparse, nested or packed for another library."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        kind = (
            tensor.dtype if tensor.is_quantized else "nested" if tensor.is_nested else tensor.layout
        )
        raise TypeError(f"{owner}: {argument} must be a dense tensor; got one that is {kind}")


def check_tensor(
    owner: str,
    argument: str,
    tensor: object,
    shape: tuple[int, ...],
    like: Tensor,
    *dtypes: torch.dtype,
) -> None:
    """A tensor of that shape, of one of the dtypes (by default that of ``like``) and on the device of ``like``."""
    dtypes = dtypes or (like.dtype,)
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{owner}: {argument} must be a tensor; got {described(tensor)}")
    check_dense(owner, argument, tensor)
    if tensor.shape != shape:
        raise ValueError(f"{owner}: {argument} must have shape {shape}; got {tuple(tensor.shape)}")
    check_dtype(owner, argument, tensor, dtypes)
    if tensor.device != like.device:
        raise ValueError(
            f"{owner}: {argument} must be on the drive's device {like.device}; got {tensor.device}"
        )


def check_dtype(owner: str, argument: str, tensor: Tensor, dtypes: Sequence[torch.dtype]) -> None:
    """One of the dtypes."""
    if tensor.dtype not in dtypes:
        raise TypeError(
            f"{owner}: {argument} must have dtype {' or '.join(map(str, dtypes))}; got {tensor.dtype}"
        )


def checked_lengths(
    owner: str, lengths: Tensor | Sequence[int] | None, steps: int, batch: int
) -> Tensor | None:
    """Lengths as int64 on the CPU: one for each element, from 0 to ``steps``."""
    if lengths is None:
        return None
    try:
        found = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{owner}: lengths must be integers; got {lengths!r}") from error
    check_dense(owner, "lengths", found)
    if found.is_meta:
        raise ValueError(f"{owner}: lengths must hold values; got a tensor on the device meta")
    if found.numel() and (
        found.is_floating_point() or found.is_complex() or found.dtype == torch.bool
    ):
        raise TypeError(f"{owner}: lengths must be integers; got {found.dtype}")
    if found.shape != (batch,):
        raise ValueError(f"{owner}: lengths must have shape ({batch},); got {tuple(found.shape)}")
    found = found.to("cpu", torch.int64, copy=True)  # the backward pass needs them as they are now
    # Where they cannot be looked at, in compiled code, the fused operators check them.
    if batch and has_values(found) and not (int(found.min()) >= 0 and int(found.max()) <= steps):
        raise ValueError(
            f"{owner}: lengths must lie from 0 to {steps}; got {int(found.min())} to {int(found.max())}"
        )
    return found


def running_steps(lengths: Tensor, steps: int, device: torch.device) -> Tensor:
    """Which steps (T, B) belong to elements of these lengths, which are on the CPU."""
    return lengths_on(torch.arange(steps).unsqueeze(-1) < lengths, device)


def lengths_on(lengths: Tensor, device: torch.device) -> Tensor:
    """Lengths, which are on the CPU, on another device too, without waiting for what runs there.

    Raises:
        RuntimeError: a CUDA graph is being captured. Its replays would read the memory that these lengths came from,
            which then holds something else.
    """
    # Compiled code plans its own copies.
    if device.type == "cuda" and not torch.compiler.is_compiling():
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("lengths are copied from the host, which no CUDA graph captures")
        # torch keeps the pinned memory until the copy is done.
        lengths = lengths.pin_memory()
    return lengths.to(device, non_blocking=True)
