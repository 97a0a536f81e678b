"""The backward pass of a whole sequence, a program for each element."""

from __future__ import annotations

import triton
import triton.language as tl

from ..changes import (
    added,
    change_adjoint,
    change_finished,
    change_of_rows,
    no_sums,
    rates_adjoint,
    rows_of_adjoint,
)
from ..memory import (
    at,
    length_of,
    load_first,
    load_traces,
    load_vector,
    modulator_of,
    post_of,
    pre_of,
    store_traces,
    tile_at,
)
from ..neurons import neurons_backward, store_vector
from ..recompute import recompute_segment, traces_inside
from ..synapses import excitation_adjoint


@triton.jit(do_not_specialize=["steps", "batch", "every"])
def plastic_sequence_backward(
    inputs, first, parameters, activities, checkpoints, segment, grad_last, grads, grad_first, grad_traces, grad_pres,
    steps, batch, every, network: tl.constexpr, POSTS: tl.constexpr, COLUMNS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """A step passes twice over the synapses, by ``CHUNKS`` of ``COLUMNS``: the change of the traces, then their read.

    ``grad_traces`` are changed in place and hold those of the first traces in the end. ``grad_pres`` (2, B, I) is
    scratch: gradients of a step's pre by the change, and by both.
    """
    tl.static_assert(CHUNKS == 1 or not network.sums_inside)
    b = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, POSTS)
    length = length_of(b, inputs, steps)
    grad_hidden = load_first(grad_last.hidden, b, rows, network.posts, network)
    grad_cell = load_first(grad_last.cell, b, rows, network.posts, network)
    by_change, by_both = grad_pres + b * network.pres, grad_pres + (batch + b) * network.pres
    for chunk in range(CHUNKS):
        tile = tile_at(0, chunk * COLUMNS, POSTS, COLUMNS, network)
        grad_trace, grad_eligibility = load_traces(
            grad_last.trace, grad_last.eligibility, b, tile, network
        )
        store_traces(
            grad_traces.trace,
            grad_traces.eligibility,
            b,
            tile,
            grad_trace,
            grad_eligibility,
            network,
        )
    segments = (length + every - 1) // every
    for reverse in range(segments):
        start = (segments - 1 - reverse) * every
        end = tl.minimum(start + every, length)
        for chunk in range(CHUNKS):
            tile = tile_at(0, chunk * COLUMNS, POSTS, COLUMNS, network)
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
        for back in range(end - start):
            t = end - 1 - back
            # Here, and below: what some threads wrote, others read.
            tl.debug_barrier()
            post, modulator = (
                post_of(t, b, rows, activities, network),
                modulator_of(t, b, activities, network),
            )
            of_rows = change_of_rows(
                post, modulator, tile_at(0, 0, POSTS, COLUMNS, network), parameters, network
            )
            if network.sums_inside:
                # One chunk, which has whole rows.
                tile = tile_at(0, 0, POSTS, COLUMNS, network)
                trace, eligibility = traces_inside(
                    t, start, b, batch, tile, first, checkpoints, segment, every, network
                )
                grad_trace, grad_eligibility = load_traces(
                    grad_traces.trace, grad_traces.eligibility, b, tile, network
                )
                of_rows = rows_of_adjoint(
                    trace, eligibility, pre_of(t, b, tile.columns, inputs, first, activities, network), of_rows,
                    modulator, grad_trace, grad_eligibility, tile, parameters, network,
                )  # fmt: skip
            sums = no_sums(POSTS, network)
            for chunk in range(CHUNKS):
                tile = tile_at(0, chunk * COLUMNS, POSTS, COLUMNS, network)
                trace, eligibility = traces_inside(
                    t, start, b, batch, tile, first, checkpoints, segment, every, network
                )
                grad_trace, grad_eligibility = load_traces(
                    grad_traces.trace, grad_traces.eligibility, b, tile, network
                )
                grad_trace, grad_eligibility, grad_pre, by_chunk = change_adjoint(
                    trace, eligibility, b, tile, pre_of(t, b, tile.columns, inputs, first, activities, network),
                    of_rows, modulator, grad_trace, grad_eligibility, parameters, grads, network,
                )  # fmt: skip
                store_traces(
                    grad_traces.trace,
                    grad_traces.eligibility,
                    b,
                    tile,
                    grad_trace,
                    grad_eligibility,
                    network,
                )
                tl.store(by_change + tile.columns, grad_pre, tile.columns < network.pres)
                sums = added(sums, by_chunk)
            grad_post, grad_rate, grad_fading = change_finished(sums, of_rows, rows, network)
            grad_modulator = rates_adjoint(
                t, b, rows, grad_rate, grad_fading, parameters, grads, network
            )
            grad_total, gates, grad_cell, grad_hidden = neurons_backward(
                t, b, rows, grad_hidden, grad_cell, grad_post, grad_modulator, inputs, first, parameters, activities,
                grads, network,
            )  # fmt: skip
            tl.debug_barrier()
            for chunk in range(CHUNKS):
                tile = tile_at(0, chunk * COLUMNS, POSTS, COLUMNS, network)
                trace, _ = traces_inside(
                    t, start, b, batch, tile, first, checkpoints, segment, every, network
                )
                grad_trace, _ = load_traces(grad_traces.trace, None, b, tile, network)
                grad_trace, grad_pre = excitation_adjoint(
                    trace, tile, pre_of(t, b, tile.columns, inputs, first, activities, network), grad_total, gates,
                    grad_trace, parameters, network,
                )  # fmt: skip
                store_traces(grad_traces.trace, None, b, tile, grad_trace, grad_trace, network)
                grad_pre += load_vector(by_change, tile.columns, network.pres, network)
                there = tile.columns < network.pres
                tl.store(by_both + tile.columns, grad_pre, there)
                if grads.features.data is not None:
                    tl.store(at(grads.features, t, b) + tile.columns, grad_pre, there)
            if network.recurrent:
                tl.debug_barrier()
                grad_hidden += load_vector(by_both, rows, network.posts, network)
    here = rows < network.posts
    if grad_first.hidden is not None:
        tl.store(grad_first.hidden + b * network.posts + rows, grad_hidden, here)
    if grad_first.cell is not None:
        tl.store(grad_first.cell + b * network.posts + rows, grad_cell, here)
    columns = tl.arange(0, COLUMNS * CHUNKS)
    for t in range(length, steps):
        end_step_backward(t, b, rows, columns, grads, network)


@triton.jit
def end_step_backward(t, b, rows, columns, grads, network: tl.constexpr):
    """Zeros: nothing comes back from beyond the end."""
    zero = tl.zeros(rows.shape, network.dtype)
    store_vector(grads.drive, t, b, rows, zero, network)
    if network.gated:
        store_vector(grads.drive, t, b, rows, zero, network, 1)
        store_vector(grads.drive, t, b, rows, zero, network, 2)
        store_vector(grads.drive, t, b, rows, zero, network, 3)
    if grads.sum.data is not None:
        store_vector(grads.sum, t, b, rows, zero, network)
    if grads.features.data is not None:
        none = tl.zeros(columns.shape, network.dtype)
        tl.store(at(grads.features, t, b) + columns, none, columns < network.pres)
    if network.modulated:
        tl.store(at(grads.modulator, t, b) + tl.arange(0, 1), tl.zeros([1], network.dtype))
    if not network.rates_per_connection:
        store_vector(grads.rate, t, b, rows, zero, network)
    if network.retroactive:
        if network.fading < 2:
            store_vector(grads.fading, t, b, rows, zero, network)
