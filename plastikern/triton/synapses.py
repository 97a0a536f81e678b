"""What the synapses of a tile do in a step: the sums that they give to neurons, and the adjoint of these."""

from __future__ import annotations

import triton
import triton.language as tl

from .changes import columns
from .memory import coefficient, load_matrix


@triton.jit
def weight_of(GATE: tl.constexpr, tile, parameters, network: tl.constexpr):
    """The baseline weight of a recurrent sum of neurons with gates; of other networks, that of the connection."""
    weight = parameters.weight
    if network.gated:
        weight += GATE * network.matrix
    return load_matrix(weight, tile, network)


@triton.jit
def read_of_rows(alpha, grad_total, network: tl.constexpr):
    """Values (R,) of the rows, as they broadcast against a tile."""
    bound = tl.full(grad_total.shape, network.clip, network.dtype)
    return columns(network.read.row(bound, alpha, grad_total))


@triton.jit
def alpha_of(tile, parameters, network: tl.constexpr):
    return coefficient(parameters.alpha, network.alpha, network.alpha == 2, tile, network)


@triton.jit
def excitation(trace, tile, pre, parameters, network: tl.constexpr):
    """Sums (w + alpha H) x of the rows."""
    alpha, weight = alpha_of(tile, parameters, network), weight_of(2, tile, parameters, network)
    row = read_of_rows(alpha, tl.zeros(tile.rows.shape, network.dtype), network)
    return tl.sum(network.read.sum(row, weight, alpha, trace, pre[None, :]), 1)


@triton.jit
def add_gate_sums(sums, tile, pre, parameters, network: tl.constexpr):
    """The recurrent sums that are not plastic, added to those of other columns."""
    if network.gated:
        last = sums[2]
        if network.weights == 4:
            last += tl.sum(weight_of(3, tile, parameters, network) * pre[None, :], 1)
        sums = (
            sums[0] + tl.sum(weight_of(0, tile, parameters, network) * pre[None, :], 1),
            sums[1] + tl.sum(weight_of(1, tile, parameters, network) * pre[None, :], 1),
            last,
        )
    return sums


@triton.jit
def excitation_adjoint(
    trace, tile, pre, grad_total, gates, grad_trace, parameters, network: tl.constexpr
):
    """Gradients of the trace, added to what it has, and of pre, from those of the sums."""
    alpha, weight = alpha_of(tile, parameters, network), weight_of(2, tile, parameters, network)
    row = read_of_rows(alpha, grad_total, network)
    grad_trace, grad_pre = network.read.adjoint(row, weight, alpha, trace, pre[None, :], grad_trace)
    if network.gated:
        grad_pre = tl.fma(gates[0][:, None], weight_of(0, tile, parameters, network), grad_pre)
        grad_pre = tl.fma(gates[1][:, None], weight_of(1, tile, parameters, network), grad_pre)
        if network.weights == 4:
            grad_pre = tl.fma(gates[2][:, None], weight_of(3, tile, parameters, network), grad_pre)
    return grad_trace, tl.sum(grad_pre, 0)
