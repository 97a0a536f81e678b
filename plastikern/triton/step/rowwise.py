"""The forward pass of one step in a single launch, where no neuron waits for another: each row by itself."""

from __future__ import annotations

import triton
import triton.language as tl

from ..changes import change_of_rows, next_traces
from ..memory import (
    activity_before,
    length_of,
    load_first,
    load_traces,
    pre_of,
    rows_and_element,
    store_kept,
    store_traces,
    tile_at,
)
from ..neurons import cell_before, modulator_forward, neurons_forward
from ..sequence.forward import end_step, store_last
from ..synapses import add_gate_sums, excitation


@triton.jit(do_not_specialize=["t", "steps", "batch", "every"])
def plastic_step_forward(
    inputs, first, before, parameters, activities, last, checkpoints, t, steps, batch, every,
    network: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, POSTS: tl.constexpr,
):  # fmt: skip
    """Step t reads its traces, ``before``, once and writes them once. All programs of an element compute its M."""
    first_row, program, b = rows_and_element(ROWS, network)
    t = t.to(tl.int64)
    tile = tile_at(first_row, 0, ROWS, COLUMNS, network)
    rows = tile.rows
    length = length_of(b, inputs, steps)
    hidden = load_first(first.hidden, b, rows, network.posts, network)
    cell = load_first(first.cell, b, rows, network.posts, network)
    if (t < length) | (length == 0):
        trace, eligibility = load_traces(before.trace, before.eligibility, b, tile, network)
        if t < length:
            pre = pre_of(t, b, tile.columns, inputs, first, activities, network)
            total = excitation(trace, tile, pre, parameters, network)
            none = tl.zeros_like(total)
            gates = add_gate_sums((none, none, none), tile, pre, parameters, network)
            if network.gated:
                cell = cell_before(t, b, rows, first, activities, network)
                # Where history is not kept, this step's cells are written where those before it are read.
                tl.debug_barrier()
            hidden, cell, post = neurons_forward(
                t, b, rows, total, gates, cell, inputs, activities, network
            )
            # M comes from the activities before the step, if at all: others are not known yet.
            neurons = tl.arange(0, POSTS)
            known = tl.zeros([POSTS], network.dtype)
            if network.modulated:
                known = activity_before(t, b, neurons, first.hidden, activities, network)
            modulator = modulator_forward(
                t, b, neurons, known, known, known, parameters, activities, network, program == 0
            )
            of_rows = change_of_rows(post, modulator, tile, parameters, network)
            trace, eligibility = next_traces(
                trace, eligibility, pre, of_rows, modulator, tile, parameters, network
            )
            done = t + 1
            if checkpoints is not None:
                if (done % every == 0) & (done < length):
                    store_kept(
                        checkpoints, done // every - 1, b, batch, tile, trace, eligibility, network
                    )
        store_traces(last.trace, last.eligibility, b, tile, trace, eligibility, network)
    if t >= length:
        end_step(t, b, rows, activities, network)
    if (t + 1 == length) | (length == 0):
        store_last(last, b, rows, hidden, cell, network)
