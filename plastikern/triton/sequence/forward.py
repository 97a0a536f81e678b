"""The forward pass of a whole sequence, a program for each element."""

from __future__ import annotations

import triton
import triton.language as tl

from ..changes import change_of_rows, next_traces
from ..memory import (
    at,
    length_of,
    load_first,
    load_traces,
    pre_of,
    store_kept,
    store_traces,
    tile_at,
)
from ..neurons import modulator_forward, neurons_forward, store_vector
from ..synapses import add_gate_sums, excitation


@triton.jit(do_not_specialize=["steps", "batch", "every"])
def plastic_sequence_forward(
    inputs, first, parameters, activities, last, checkpoints, steps, batch, every,
    network: tl.constexpr, POSTS: tl.constexpr, COLUMNS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Traces stay in registers, what is loaded for them comes by ``CHUNKS`` of ``COLUMNS``."""
    tl.static_assert(CHUNKS == 1 or not network.sums_inside)
    b = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, POSTS)
    length = length_of(b, inputs, steps)
    hidden = load_first(first.hidden, b, rows, network.posts, network)
    cell = load_first(first.cell, b, rows, network.posts, network)
    traces = ()
    for chunk in tl.static_range(CHUNKS):
        tile = tile_at(0, chunk * COLUMNS, POSTS, COLUMNS, network)
        traces += (load_traces(first.trace, first.eligibility, b, tile, network),)
    for t in range(length):
        total = tl.zeros([POSTS], network.dtype)
        gates = total, total, total
        for chunk in tl.static_range(CHUNKS):
            tile = tile_at(0, chunk * COLUMNS, POSTS, COLUMNS, network)
            pre = pre_of(t, b, tile.columns, inputs, first, activities, network)
            total += excitation(traces[chunk][0], tile, pre, parameters, network)
        if network.gated:
            for chunk in range(CHUNKS):
                tile = tile_at(0, chunk * COLUMNS, POSTS, COLUMNS, network)
                pre = pre_of(t, b, tile.columns, inputs, first, activities, network)
                gates = add_gate_sums(gates, tile, pre, parameters, network)
        before = hidden
        if network.carries:
            before = cell
        active, cell, post = neurons_forward(
            t, b, rows, total, gates, before, inputs, activities, network
        )
        modulator = modulator_forward(
            t, b, rows, hidden, active, cell, parameters, activities, network
        )
        hidden = active
        of_rows = change_of_rows(
            post, modulator, tile_at(0, 0, POSTS, COLUMNS, network), parameters, network
        )
        after = ()
        done = t + 1
        for chunk in tl.static_range(CHUNKS):
            tile = tile_at(0, chunk * COLUMNS, POSTS, COLUMNS, network)
            pre = pre_of(t, b, tile.columns, inputs, first, activities, network)
            trace, eligibility = traces[chunk]
            trace, eligibility = next_traces(
                trace, eligibility, pre, of_rows, modulator, tile, parameters, network
            )
            if checkpoints is not None:
                if (done % every == 0) & (done < length):
                    store_kept(
                        checkpoints, done // every - 1, b, batch, tile, trace, eligibility, network
                    )
            after += ((trace, eligibility),)
        traces = after
        # The next step reads the activities that other threads wrote.
        tl.debug_barrier()
    for chunk in tl.static_range(CHUNKS):
        tile = tile_at(0, chunk * COLUMNS, POSTS, COLUMNS, network)
        trace, eligibility = traces[chunk]
        store_traces(last.trace, last.eligibility, b, tile, trace, eligibility, network)
    store_last(last, b, rows, hidden, cell, network)
    for t in range(length, steps):
        end_step(t, b, rows, activities, network)


@triton.jit
def end_step(t, b, rows, activities, network: tl.constexpr):
    """What a step beyond the end leaves: zeros, also where the gradients of parameters run over all steps."""
    zero = tl.zeros(rows.shape, network.dtype)
    store_vector(activities.output, t, b, rows, zero, network)
    if network.carries:
        if activities.history.data is not None:
            store_vector(activities.history, t, b, rows, zero, network, 4)
    if network.modulated:
        if activities.modulators.data is not None:
            tl.store(
                at(activities.modulators, t, b) + tl.arange(0, 1), tl.zeros([1], network.dtype)
            )


@triton.jit
def store_last(last, b, rows, hidden, cell, network: tl.constexpr):
    here = rows < network.posts
    if last.hidden is not None:
        tl.store(last.hidden + b * network.posts + rows, hidden, here)
    if last.cell is not None:
        tl.store(last.cell + b * network.posts + rows, cell, here)
