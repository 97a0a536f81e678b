"""Traces between two checkpoints, computed again from what is known of the steps."""

from __future__ import annotations

import triton
import triton.language as tl

from .memory import advance, length_of, load_kept, load_traces, store_kept, tile_at


@triton.jit
def traces_before(start, b, batch, tile, first, checkpoints, every, options: tl.constexpr):
    """The traces before step ``start``, where they are kept: the first ones, or a checkpoint's."""
    if start == 0:
        trace, eligibility = load_traces(first.trace, first.eligibility, b, tile, options)
    else:
        trace, eligibility = load_kept(checkpoints, start // every - 1, b, batch, tile, options)
    return trace, eligibility


@triton.jit
def recompute_segment(
    start, end, b, batch, tile, inputs, first, parameters, activities, checkpoints, segment, every,
    options: tl.constexpr,
):  # fmt: skip
    """Writes the traces before steps start + 1 ... end - 1 to places 0, 1, ... of ``segment``."""
    trace, eligibility = traces_before(start, b, batch, tile, first, checkpoints, every, options)
    for t in range(start, end - 1):
        trace, eligibility = advance(
            trace, eligibility, t, b, tile, inputs, first, parameters, activities, options
        )
        store_kept(segment, t - start, b, batch, tile, trace, eligibility, options)


@triton.jit(do_not_specialize=["start"])
def plastic_recompute(
    inputs, first, parameters, activities, checkpoints, segment, start, steps, batch, every,
    options: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A segment of every element, rows by rows."""
    b = tl.program_id(1).to(tl.int64)
    tile = tile_at(tl.program_id(0) * ROWS, 0, ROWS, COLUMNS, options)
    start = start.to(tl.int64)
    end = tl.minimum(start + every, length_of(b, inputs, steps))
    recompute_segment(
        start, end, b, batch, tile, inputs, first, parameters, activities, checkpoints, segment, every, options
    )
