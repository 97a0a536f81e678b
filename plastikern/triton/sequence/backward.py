"""The backward pass of a whole sequence, a program for each element."""

from __future__ import annotations

import triton
import triton.language as tl

from ..memory import at, length_of, load_first, load_kept, load_traces, modulator_of, post_of, pre_of, store_traces, tile_at
from ..neurons import neurons_backward, store_vector
from ..recompute import recompute_segment, traces_before
from ..synapses import change_adjoint, excitation_adjoint


@triton.jit
def plastic_sequence_backward(
    inputs, first, parameters, activities, checkpoints, segment, grad_last, grads, grad_first, steps, batch, every,
    options: tl.constexpr, POSTS: tl.constexpr, PRES: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    tile = tile_at(0, 0, POSTS, PRES, options)
    rows = tile.rows
    length = length_of(b, inputs, steps)
    grad_trace, grad_eligibility = load_traces(grad_last.trace, grad_last.eligibility, b, tile, options)
    grad_hidden = load_first(grad_last.hidden, b, rows, options.posts, options)
    grad_cell = load_first(grad_last.cell, b, rows, options.posts, options)
    segments = (length + every - 1) // every
    for reverse in range(segments):
        start = (segments - 1 - reverse) * every
        end = tl.minimum(start + every, length)
        recompute_segment(
            start, end, b, batch, tile, inputs, first, parameters, activities, checkpoints, segment, every, options
        )
        # What one thread wrote, another reads.
        tl.debug_barrier()
        for back in range(end - start):
            t = end - 1 - back
            if t == start:
                trace, eligibility = traces_before(start, b, batch, tile, first, checkpoints, every, options)
            else:
                trace, eligibility = load_kept(segment, t - start - 1, b, batch, tile, options)
            pre = pre_of(t, b, tile.columns, inputs, first, activities, options)
            grad_trace, grad_eligibility, grad_pre, grad_post, grad_modulator = change_adjoint(
                trace, eligibility, t, b, tile, pre, post_of(t, b, rows, activities, options),
                modulator_of(t, b, activities, options), grad_trace, grad_eligibility, parameters, grads, options,
            )  # fmt: skip
            grad_total, gates, grad_cell, grad_before = neurons_backward(
                t, b, rows, grad_hidden, grad_cell, grad_post, grad_modulator, inputs, first, parameters, activities,
                grads, options,
            )  # fmt: skip
            grad_trace, through = excitation_adjoint(
                trace, tile, pre, grad_total, gates, grad_trace, parameters, options
            )
            grad_pre += through
            if options.recurrent:
                grad_hidden = grad_before + grad_pre
            else:
                grad_hidden = grad_before
                if grads.features is not None:
                    tl.store(at(grads.features, t, b) + tile.columns, grad_pre, tile.columns < options.pres)
        tl.debug_barrier()
    store_traces(grad_first.trace, grad_first.eligibility, b, tile, grad_trace, grad_eligibility, options)
    here = rows < options.posts
    if grad_first.hidden is not None:
        tl.store(grad_first.hidden + b * options.posts + rows, grad_hidden, here)
    if grad_first.cell is not None:
        tl.store(grad_first.cell + b * options.posts + rows, grad_cell, here)
    for t in range(length, steps):
        end_step_backward(t, b, rows, tile.columns, grads, options)


@triton.jit
def end_step_backward(t, b, rows, columns, grads, options: tl.constexpr):
    """Zeros: nothing comes back from beyond the end."""
    zero = tl.zeros(rows.shape, options.dtype)
    store_vector(grads.drive, t, b, rows, zero, options)
    if options.kind == "lstm":
        store_vector(grads.drive, t, b, rows, zero, options, 1)
        store_vector(grads.drive, t, b, rows, zero, options, 2)
        store_vector(grads.drive, t, b, rows, zero, options, 3)
    if grads.sum is not None:
        store_vector(grads.sum, t, b, rows, zero, options)
    if grads.features is not None:
        none = tl.zeros(columns.shape, options.dtype)
        tl.store(at(grads.features, t, b) + columns, none, columns < options.pres)
    if options.modulated:
        tl.store(at(grads.modulator, t, b) + tl.arange(0, 1), tl.zeros([1], options.dtype))
    if not options.rates_per_connection:
        store_vector(grads.rate, t, b, rows, zero, options)
    if options.retroactive:
        if options.fading < 2:
            store_vector(grads.fading, t, b, rows, zero, options)
