"""The gradient of alpha, after the backward pass: the sums' gradients are known then, so no step waits for a neuron."""

from __future__ import annotations

import triton
import triton.language as tl

from .changes import advance, columns
from .memory import (
    at,
    length_of,
    load_traces,
    load_vector,
    matrix_offsets,
    pre_of,
    tile_at,
)


@triton.jit(do_not_specialize=["steps", "batch", "share"])
def plastic_alpha_gradient(
    inputs, first, parameters, activities, grad_sum, grad_alpha, steps, batch, share,
    network: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """For every connection, in parts (P, O, I) over ``share`` elements each; traces stay in registers."""
    tl.static_assert(network.pres <= COLUMNS or not network.sums_inside)
    part = tl.program_id(2).to(tl.int64)
    tile = tile_at(tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS, ROWS, COLUMNS, network)
    grad = tl.zeros([ROWS, COLUMNS], network.dtype)
    bound = tl.full([ROWS], network.clip, network.dtype)
    for b in range(part * share, tl.minimum((part + 1) * share, batch)):
        trace, eligibility = load_traces(first.trace, first.eligibility, b, tile, network)
        for t in range(length_of(b, inputs, steps)):
            pre = pre_of(t, b, tile.columns, inputs, first, activities, network)
            through = load_vector(at(grad_sum, t, b), tile.rows, network.posts, network)
            # Not by rows, whose sums would have to be taken at every step.
            row = columns(network.read_by_synapse.row(bound, through, through))
            grad = network.read_by_synapse.alpha(row, trace, pre[None, :], grad)
            trace, eligibility = advance(
                trace, eligibility, t, b, tile, inputs, first, parameters, activities, network
            )
    tl.store(grad_alpha + part * network.matrix + matrix_offsets(tile, network), grad, tile.inside)
