"""The forward pass of one step: synapses, rows by rows, then neurons."""

from __future__ import annotations

import triton
import triton.language as tl

from ..changes import advance
from ..memory import (
    activity_before,
    length_of,
    load_first,
    load_traces,
    load_vector,
    pre_of,
    rows_and_element,
    store_kept,
    store_traces,
    tile_at,
)
from ..neurons import cell_before, modulator_forward, neurons_forward
from ..sequence.forward import end_step, store_last
from ..synapses import add_gate_sums, excitation


@triton.jit(do_not_specialize=["k", "steps", "batch", "every"])
def plastic_step_synapses_forward(
    inputs, first, before, parameters, activities, last, checkpoints, sums, k, steps, batch, every,
    network: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Unit k. ``before`` has the traces before step k - 1; ``sums`` (1, B, O), with gates (3 or 4, B, O), are
    written."""
    first_row, _, b = rows_and_element(ROWS, network)
    k = k.to(tl.int64)
    tile = tile_at(first_row, 0, ROWS, COLUMNS, network)
    length = length_of(b, inputs, steps)
    if k <= length:
        trace, eligibility = load_traces(before.trace, before.eligibility, b, tile, network)
        if k > 0:
            trace, eligibility = advance(
                trace, eligibility, k - 1, b, tile, inputs, first, parameters, activities, network
            )
            if checkpoints is not None:
                if (k % every == 0) & (k < length):
                    store_kept(
                        checkpoints, k // every - 1, b, batch, tile, trace, eligibility, network
                    )
        if (k > 0) | (length == 0):
            store_traces(last.trace, last.eligibility, b, tile, trace, eligibility, network)
        if k < length:
            pre = pre_of(k, b, tile.columns, inputs, first, activities, network)
            total = excitation(trace, tile, pre, parameters, network)
            none = tl.zeros_like(total)
            gates = add_gate_sums((none, none, none), tile, pre, parameters, network)
            to, apart = sums + b * network.posts + tile.rows, batch * network.posts
            here = tile.rows < network.posts
            tl.store(to, total, here)
            if network.gated:
                tl.store(to + apart, gates[0], here)
                tl.store(to + 2 * apart, gates[1], here)
                if network.weights == 4:
                    tl.store(to + 3 * apart, gates[2], here)


@triton.jit
def load_sums(sums, b, batch, rows, network: tl.constexpr):
    """Of the connection, and the other recurrent sums of neurons with gates."""
    sums, apart = sums + b * network.posts, batch * network.posts
    total = load_vector(sums, rows, network.posts, network)
    first, second, last = total, total, total
    if network.gated:
        first = load_vector(sums + apart, rows, network.posts, network)
        second = load_vector(sums + 2 * apart, rows, network.posts, network)
        if network.weights == 4:
            last = load_vector(sums + 3 * apart, rows, network.posts, network)
    return total, (first, second, last)


@triton.jit(do_not_specialize=["t", "steps", "batch"])
def plastic_step_neurons_forward(
    inputs, first, parameters, activities, last, sums, t, steps, batch, network: tl.constexpr, POSTS: tl.constexpr
):  # fmt: skip
    """Step t from its sums, a program for each element."""
    b, t = tl.program_id(0).to(tl.int64), t.to(tl.int64)
    rows = tl.arange(0, POSTS)
    length = length_of(b, inputs, steps)
    hidden = load_first(first.hidden, b, rows, network.posts, network)
    cell = load_first(first.cell, b, rows, network.posts, network)
    if t < length:
        if network.recurrent:
            hidden = activity_before(t, b, rows, first.hidden, activities, network)
        if network.gated:
            cell = cell_before(t, b, rows, first, activities, network)
        total, gates = load_sums(sums, b, batch, rows, network)
        before = hidden
        hidden, cell, _ = neurons_forward(
            t, b, rows, total, gates, cell, inputs, activities, network
        )
        modulator_forward(t, b, rows, before, hidden, cell, parameters, activities, network)
    else:
        end_step(t, b, rows, activities, network)
    if (t + 1 == length) | (length == 0):
        store_last(last, b, rows, hidden, cell, network)
