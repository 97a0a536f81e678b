"""Traces between two checkpoints, computed again from what is known of the steps."""

from __future__ import annotations

import triton
import triton.language as tl

from .changes import advance
from .memory import (
    length_of,
    load_kept,
    load_traces,
    rows_and_element,
    store_kept,
    tile_at,
)


@triton.jit
def traces_before(start, b, batch, tile, first, checkpoints, every, network: tl.constexpr):
    """The traces before step ``start``, where they are kept: the first ones, or a checkpoint's."""
    if start == 0:
        trace, eligibility = load_traces(first.trace, first.eligibility, b, tile, network)
    else:
        trace, eligibility = load_kept(checkpoints, start // every - 1, b, batch, tile, network)
    return trace, eligibility


@triton.jit
def traces_inside(
    t, start, b, batch, tile, first, checkpoints, segment, every, network: tl.constexpr
):
    """The traces before step t of the segment that begins with step ``start``."""
    if t == start:
        trace, eligibility = traces_before(
            start, b, batch, tile, first, checkpoints, every, network
        )
    else:
        trace, eligibility = load_kept(segment, t - start - 1, b, batch, tile, network)
    return trace, eligibility


@triton.jit
def recompute_segment(
    start, end, b, batch, tile, inputs, first, parameters, activities, checkpoints, segment, every,
    network: tl.constexpr,
):  # fmt: skip
    """Writes the traces before steps start + 1 ... end - 1 to places 0, 1, ... of ``segment``."""
    trace, eligibility = traces_before(start, b, batch, tile, first, checkpoints, every, network)
    for t in range(start, end - 1):
        trace, eligibility = advance(
            trace, eligibility, t, b, tile, inputs, first, parameters, activities, network
        )
        store_kept(segment, t - start, b, batch, tile, trace, eligibility, network)


@triton.jit(do_not_specialize=["start", "steps", "batch", "every"])
def plastic_recompute(
    inputs, first, parameters, activities, checkpoints, segment, start, steps, batch, every,
    network: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A segment of every element, rows by rows."""
    first_row, _, b = rows_and_element(ROWS, network)
    tile = tile_at(first_row, 0, ROWS, COLUMNS, network)
    start = start.to(tl.int64)
    end = tl.minimum(start + every, length_of(b, inputs, steps))
    recompute_segment(
        start,
        end,
        b,
        batch,
        tile,
        inputs,
        first,
        parameters,
        activities,
        checkpoints,
        segment,
        every,
        network,
    )
