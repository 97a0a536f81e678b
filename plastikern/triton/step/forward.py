"""The forward pass of one step: synapses, rows by rows, then neurons."""

from __future__ import annotations

import triton
import triton.language as tl

from ..memory import (
    activity_before,
    advance,
    length_of,
    load_first,
    load_traces,
    load_vector,
    pre_of,
    store_kept,
    store_traces,
    tile_at,
)
from ..neurons import cell_before, neurons_forward
from ..sequence.forward import end_step
from ..synapses import excitation, gate_sums


@triton.jit(do_not_specialize=["k"])
def plastic_step_synapses_forward(
    inputs, first, before, parameters, activities, last, checkpoints, sums, k, steps, batch, every,
    options: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Unit k. ``before`` has the traces before step k - 1; ``sums`` (1, B, O), of an LSTM (4, B, O), are written."""
    b, k = tl.program_id(1).to(tl.int64), k.to(tl.int64)
    tile = tile_at(tl.program_id(0) * ROWS, 0, ROWS, COLUMNS, options)
    length = length_of(b, inputs, steps)
    if k <= length:
        trace, eligibility = load_traces(before.trace, before.eligibility, b, tile, options)
        if k > 0:
            trace, eligibility = advance(
                trace, eligibility, k - 1, b, tile, inputs, first, parameters, activities, options
            )
            if checkpoints is not None:
                if (k % every == 0) & (k < length):
                    store_kept(checkpoints, k // every - 1, b, batch, tile, trace, eligibility, options)
        if (k > 0) | (length == 0):
            store_traces(last.trace, last.eligibility, b, tile, trace, eligibility, options)
        if k < length:
            pre = pre_of(k, b, tile.columns, inputs, first, activities, options)
            total = excitation(trace, tile, pre, parameters, options)
            gates = gate_sums(tile, pre, total, parameters, options)
            to, apart = sums + b * options.posts + tile.rows, batch * options.posts
            here = tile.rows < options.posts
            tl.store(to, total, here)
            if options.kind == "lstm":
                tl.store(to + apart, gates[0], here)
                tl.store(to + 2 * apart, gates[1], here)
                tl.store(to + 3 * apart, gates[2], here)


@triton.jit
def load_sums(sums, b, batch, rows, options: tl.constexpr):
    """Of the connection, and of an LSTM's gates i, f and o."""
    sums, apart = sums + b * options.posts, batch * options.posts
    total = load_vector(sums, rows, options.posts, options)
    if options.kind == "lstm":
        gates = (
            load_vector(sums + apart, rows, options.posts, options),
            load_vector(sums + 2 * apart, rows, options.posts, options),
            load_vector(sums + 3 * apart, rows, options.posts, options),
        )
    else:
        gates = total, total, total
    return total, gates


@triton.jit(do_not_specialize=["t"])
def plastic_step_neurons_forward(
    inputs, first, parameters, activities, last, sums, t, steps, batch, options: tl.constexpr, POSTS: tl.constexpr
):  # fmt: skip
    """Step t from its sums, a program for each element."""
    b, t = tl.program_id(0).to(tl.int64), t.to(tl.int64)
    rows = tl.arange(0, POSTS)
    length = length_of(b, inputs, steps)
    hidden = load_first(first.hidden, b, rows, options.posts, options)
    cell = load_first(first.cell, b, rows, options.posts, options)
    if t < length:
        if options.recurrent:
            hidden = activity_before(t, b, rows, first.hidden, activities, options)
        if options.kind == "lstm":
            cell = cell_before(t, b, rows, first, activities, options)
        total, gates = load_sums(sums, b, batch, rows, options)
        hidden, cell, _, _ = neurons_forward(
            t, b, rows, total, gates, hidden, cell, inputs, parameters, activities, options
        )
    else:
        end_step(t, b, rows, activities, options)
    if (t + 1 == length) | (length == 0):
        here = rows < options.posts
        if last.hidden is not None:
            tl.store(last.hidden + b * options.posts + rows, hidden, here)
        if last.cell is not None:
            tl.store(last.cell + b * options.posts + rows, cell, here)
