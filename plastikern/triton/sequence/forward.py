"""The forward pass of a whole sequence, a program for each element."""

from __future__ import annotations

import triton
import triton.language as tl

from ..memory import (
    at,
    fading_of,
    length_of,
    load_first,
    load_traces,
    load_vector,
    rate_in_force,
    store_kept,
    store_traces,
    tile_at,
)
from ..neurons import neurons_forward, store_vector
from ..rules import next_traces
from ..synapses import excitation, gate_sums


@triton.jit
def plastic_sequence_forward(
    inputs, first, parameters, activities, last, checkpoints, steps, batch, every,
    options: tl.constexpr, POSTS: tl.constexpr, PRES: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    tile = tile_at(0, 0, POSTS, PRES, options)
    length = length_of(b, inputs, steps)
    trace, eligibility = load_traces(first.trace, first.eligibility, b, tile, options)
    hidden = load_first(first.hidden, b, tile.rows, options.posts, options)
    cell = load_first(first.cell, b, tile.rows, options.posts, options)
    fading, eligible = fading_of(tile, parameters, options)
    for t in range(length):
        if options.recurrent:
            pre = hidden
        else:
            pre = load_vector(at(inputs.features, t, b), tile.columns, options.pres, options)
        total = excitation(trace, tile, pre, parameters, options)
        gates = gate_sums(tile, pre, total, parameters, options)
        hidden, cell, post, modulator = neurons_forward(
            t, b, tile.rows, total, gates, hidden, cell, inputs, parameters, activities, options
        )
        rate = rate_in_force(modulator[:, None], tile, parameters, options)
        trace, eligibility = next_traces(
            trace, eligibility, pre[None, :], post[:, None], rate, fading, eligible, options
        )
        if checkpoints is not None:
            after = t + 1
            if (after % every == 0) & (after < length):
                store_kept(checkpoints, after // every - 1, b, batch, tile, trace, eligibility, options)
    store_traces(last.trace, last.eligibility, b, tile, trace, eligibility, options)
    here = tile.rows < options.posts
    if last.hidden is not None:
        tl.store(last.hidden + b * options.posts + tile.rows, hidden, here)
    if last.cell is not None:
        tl.store(last.cell + b * options.posts + tile.rows, cell, here)
    for t in range(length, steps):
        end_step(t, b, tile.rows, activities, options)


@triton.jit
def end_step(t, b, rows, activities, options: tl.constexpr):
    """What a step beyond the end leaves: zeros, also where the gradients of parameters run over all steps."""
    zero = tl.zeros(rows.shape, options.dtype)
    store_vector(activities.output, t, b, rows, zero, options)
    if options.kind == "lstm":
        if activities.history is not None:
            store_vector(activities.history, t, b, rows, zero, options, 4)
    if options.modulated:
        if activities.modulators is not None:
            tl.store(at(activities.modulators, t, b) + tl.arange(0, 1), tl.zeros([1], options.dtype))
