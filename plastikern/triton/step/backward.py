"""The backward pass of one step: synapses, rows by rows, then neurons."""

from __future__ import annotations

import triton
import triton.language as tl

from ..changes import (
    advance,
    change_adjoint,
    change_finished,
    change_of_rows,
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
    rows_and_element,
    store_traces,
    tile_at,
)
from ..neurons import neurons_backward
from ..sequence.backward import end_step_backward
from ..synapses import excitation_adjoint
from .forward import load_sums


@triton.jit(do_not_specialize=["k", "steps", "batch"])
def plastic_step_synapses_backward(
    inputs, first, before, parameters, activities, grad_last, grads, grad_traces, waiting, k, steps, batch,
    network: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Unit k. ``before`` has the traces before step k - 1, where there is one; ``grad_traces`` are changed in place."""
    first_row, program, b = rows_and_element(ROWS, network)
    k = k.to(tl.int64)
    tile = tile_at(first_row, 0, ROWS, COLUMNS, network)
    length = length_of(b, inputs, steps)
    there = tile.columns < network.pres
    part = program.to(tl.int64) * batch + b
    if k <= length:
        trace, eligibility = load_traces(before.trace, before.eligibility, b, tile, network)
        if k == length:
            grad_trace, grad_eligibility = load_traces(
                grad_last.trace, grad_last.eligibility, b, tile, network
            )
        else:
            grad_trace, grad_eligibility = load_traces(
                grad_traces.trace, grad_traces.eligibility, b, tile, network
            )
        if k < length:
            here = trace
            if k > 0:
                here, _ = advance(
                    trace,
                    eligibility,
                    k - 1,
                    b,
                    tile,
                    inputs,
                    first,
                    parameters,
                    activities,
                    network,
                )
            pre = pre_of(k, b, tile.columns, inputs, first, activities, network)
            grad_total, gates = load_sums(waiting.sums, b, batch, tile.rows, network)
            grad_trace, grad_pre = excitation_adjoint(
                here, tile, pre, grad_total, gates, grad_trace, parameters, network
            )
            # What the change by step k gave to the same pre.
            grad_pre += load_vector(
                waiting.changes + part * network.pres, tile.columns, network.pres, network
            )
            tl.store(waiting.pres + part * network.pres + tile.columns, grad_pre, there)
        if k > 0:
            t = k - 1
            modulator = modulator_of(t, b, activities, network)
            post = post_of(t, b, tile.rows, activities, network)
            of_rows = change_of_rows(post, modulator, tile, parameters, network)
            pre = pre_of(t, b, tile.columns, inputs, first, activities, network)
            of_rows = rows_of_adjoint(
                trace, eligibility, pre, of_rows, modulator, grad_trace, grad_eligibility, tile, parameters, network
            )  # fmt: skip
            grad_trace, grad_eligibility, grad_pre, sums = change_adjoint(
                trace, eligibility, b, tile, pre, of_rows, modulator, grad_trace, grad_eligibility, parameters, grads,
                network,
            )  # fmt: skip
            grad_post, grad_rate, grad_fading = change_finished(sums, of_rows, tile.rows, network)
            grad_modulator = rates_adjoint(
                t, b, tile.rows, grad_rate, grad_fading, parameters, grads, network
            )
            tl.store(waiting.changes + part * network.pres + tile.columns, grad_pre, there)
            tl.store(
                waiting.post + b * network.posts + tile.rows, grad_post, tile.rows < network.posts
            )
            if network.modulated:
                tl.store(waiting.modulator + part + tl.arange(0, 1), grad_modulator)
        store_traces(
            grad_traces.trace,
            grad_traces.eligibility,
            b,
            tile,
            grad_trace,
            grad_eligibility,
            network,
        )


@triton.jit(do_not_specialize=["k", "steps", "batch", "programs"])
def plastic_step_neurons_backward(
    inputs, first, parameters, activities, grad_last, grads, grad_first, waiting, k, steps, batch, programs,
    network: tl.constexpr, POSTS: tl.constexpr, PRES: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """What unit k gave to the pre of step k; then step k - 1, a program for each element."""
    b, k = tl.program_id(0).to(tl.int64), k.to(tl.int64)
    rows, columns = tl.arange(0, POSTS), tl.arange(0, PRES)
    here = rows < network.posts
    length = length_of(b, inputs, steps)
    if k <= length:
        if k == length:
            grad_hidden = load_first(grad_last.hidden, b, rows, network.posts, network)
            grad_cell = load_first(grad_last.cell, b, rows, network.posts, network)
        else:
            grad_hidden = load_first(waiting.before, b, rows, network.posts, network)
            grad_cell = load_first(waiting.cell, b, rows, network.posts, network)
            if network.recurrent:
                grad_hidden += load_vector(
                    waiting.total + b * network.pres, rows, network.posts, network
                )
            else:
                if grads.features.data is not None:
                    grad_pre = load_vector(
                        waiting.total + b * network.pres, columns, network.pres, network
                    )
                    tl.store(at(grads.features, k, b) + columns, grad_pre, columns < network.pres)
        if k > 0:
            grad_post = load_first(waiting.post, b, rows, network.posts, network)
            grad_modulator = tl.zeros([1], network.dtype)
            if network.modulated:
                program = tl.arange(0, PROGRAMS)
                parts = tl.load(waiting.modulator + program * batch + b, program < programs, 0.0)
                grad_modulator += tl.sum(parts, 0)
            grad_total, gates, grad_cell, grad_before = neurons_backward(
                k - 1, b, rows, grad_hidden, grad_cell, grad_post, grad_modulator, inputs, first, parameters,
                activities, grads, network,
            )  # fmt: skip
            to, apart = waiting.sums + b * network.posts + rows, batch * network.posts
            tl.store(to, grad_total, here)
            if network.gated:
                tl.store(to + apart, gates[0], here)
                tl.store(to + 2 * apart, gates[1], here)
                if network.weights == 4:
                    tl.store(to + 3 * apart, gates[2], here)
            if network.carries:
                tl.store(waiting.cell + b * network.posts + rows, grad_cell, here)
            tl.store(waiting.before + b * network.posts + rows, grad_before, here)
        else:
            if grad_first.hidden is not None:
                tl.store(grad_first.hidden + b * network.posts + rows, grad_hidden, here)
            if grad_first.cell is not None:
                tl.store(grad_first.cell + b * network.posts + rows, grad_cell, here)
    else:
        end_step_backward(k - 1, b, rows, columns, grads, network)
