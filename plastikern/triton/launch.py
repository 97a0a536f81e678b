"""How kernels are launched: blocks and warps by size, the few of them that autotuning chooses from, and a record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import triton

from .vocabulary import Options

RESIDENT_BYTES = 64 << 10
"""The largest traces of one kind that one program serves by itself: (128, 128) in single precision. Its forward pass
keeps them, and as many eligibility traces, in registers."""
TILE_BYTES = 16 << 10
"""Of the traces of one kind that a program takes at once: rows of them in a step, columns where it serves all steps.
One with gates, with three or four weights a synapse, takes half of it: else registers would be spilled."""
ALPHA_TILE = (16, 64)
"""Rows and columns of which a program computes the gradient of alpha."""
BYTES_PER_THREAD = 64
MAX_WARPS = 16
AUTOTUNE = "PLASTIKERN_AUTOTUNE"
COMPILER = {"enable_fp_fusion": True}
"""Options of every kernel. Releases of Triton have different defaults, and an environment variable changes those.
What is fused in the change of a trace is fixed by its text; this is for sums, whose products no text can fuse."""


class Launch(NamedTuple):
    """One launch with everything that it is compiled for."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    warps: int


_record: ContextVar[list[Launch] | None] = ContextVar("plastikern_triton_record", default=None)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Inside the ``with`` block kernels are noted and not launched, once for every configuration: no GPU is needed."""
    launches: list[Launch] = []
    token = _record.set(launches)
    try:
        yield launches
    finally:
        _record.reset(token)


def block(size: int) -> int:
    """Neurons that a program reserves room for."""
    return triton.next_power_of_2(size)


def item_size(options: Options) -> int:
    """Bytes of a value of the traces."""
    return options.dtype.primitive_bitwidth // 8


def resident(options: Options) -> bool:
    """Whether one program serves all steps of an element: by chunks of columns, but where a row must stay whole."""
    if options.sums_inside and chunks(options)["CHUNKS"] > 1:
        return False
    return block(options.posts) * block(options.pres) * item_size(options) <= RESIDENT_BYTES


def tile_elements(options: Options) -> int:
    """Synapses that a program takes at once."""
    return TILE_BYTES // item_size(options) // (2 if options.gated else 1)


def rows_of_step(options: Options) -> int:
    """Rows of traces that one program of a step takes."""
    return max(1, min(tile_elements(options) // block(options.pres), block(options.posts)))


def chunks(options: Options) -> dict[str, int]:
    """Blocks of a program that serves all steps of an element."""
    posts, pres = block(options.posts), block(options.pres)
    columns = max(1, min(pres, tile_elements(options) // posts))
    return {"POSTS": posts, "COLUMNS": columns, "CHUNKS": pres // columns}


def alpha_tile(options: Options) -> dict[str, int]:
    """Synapses of which a program computes the gradient of alpha."""
    rows, columns = (
        min(most, block(size))
        for most, size in zip(ALPHA_TILE, (options.posts, options.pres), strict=True)
    )
    if options.sums_inside:
        whole = block(options.pres)
        rows, columns = max(1, rows * columns // whole), whole
    return {"ROWS": rows, "COLUMNS": columns}


def backward_warps(options: Options) -> int:
    """At most, of a program that goes backwards over all steps: with others, ptxas spills (docs/kernels.md)."""
    return 8 if options.retroactive or options.rates_per_connection else 16


def warps_of(options: Options, blocks: dict[str, int], most: int) -> int:
    """Warps of a program with these blocks."""
    elements = (
        blocks.get("ROWS", blocks.get("POSTS", 1))
        * blocks.get("COLUMNS", 1)
        * blocks.get("CHUNKS", 1)
    )
    return max(1, min(most, elements * item_size(options) // BYTES_PER_THREAD // 32))


def launch(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], options: Options, tunable: bool = False,
    warps: int = MAX_WARPS, **blocks: int,
) -> None:  # fmt: skip
    """Run a kernel with at most so many ``warps``; ``tunable``: it may be run more than once to time it.

    The number of warps decides the order of sums. So it follows from the options alone, and a call gives the same bits
    in every process; it is only timed where the environment asks for that.
    """
    warps = warps_of(options, blocks, warps)
    constants = {"network": options, **blocks}
    candidates = warp_candidates(warps) if tunable else (warps,)
    tunes = tunable and os.environ.get(AUTOTUNE) == "1" and not triton.knobs.runtime.interpret
    if tunes and _record.get() is None:
        _tuned(kernel, candidates)[grid](*arguments, **constants, **COMPILER)
    else:
        launch_as(kernel, grid, arguments, constants, *candidates)


def launch_as(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any], *warps: int
) -> None:  # fmt: skip
    """Run a kernel with the first of these numbers of ``warps``, or note it with each."""
    if (record := _record.get()) is not None:
        record += [Launch(kernel, grid, arguments, constants, each) for each in warps]
    else:
        kernel[grid](*arguments, **constants, num_warps=warps[0], **COMPILER)


def warp_candidates(warps: int) -> tuple[int, ...]:
    """What autotuning chooses from, the default first."""
    return warps, warps * 2 if warps < MAX_WARPS else warps // 2


@cache
def _tuned(kernel: Any, candidates: tuple[int, ...]) -> Any:
    configurations = [triton.Config({}, num_warps=warps) for warps in candidates]
    return triton.autotune(configurations, key=["network", "batch"])(kernel)
