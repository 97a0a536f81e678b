"""What the synapses of a tile do in a step: the sums that they give to neurons, and adjoints of sums and changes."""

from __future__ import annotations

import triton
import triton.language as tl

from .memory import (
    at,
    coefficient,
    fading_of,
    load_matrix,
    load_vector,
    matrix_offsets,
    rate_in_force,
)
from .rules import next_adjoint, read, read_adjoint


@triton.jit
def weight_of(GATE: tl.constexpr, tile, parameters, network: tl.constexpr):
    """The baseline weight of a gate i, f, g or o of an LSTM; of other networks, that of the connection."""
    weight = parameters.weight
    if network.kind == "lstm":
        weight += GATE * network.matrix
    return load_matrix(weight, tile, network)


@triton.jit
def excitation(trace, tile, pre, parameters, network: tl.constexpr):
    """Sums (w + alpha H) x of the rows."""
    alpha = coefficient(parameters.alpha, network.alpha, tile, network)
    effective = weight_of(2, tile, parameters, network) + alpha * read(trace, network)
    return tl.sum(effective * pre[None, :], 1)


@triton.jit
def add_gate_sums(sums, tile, pre, parameters, network: tl.constexpr):
    """Sums of an LSTM's gates i, f and o, added to those of other columns."""
    if network.kind == "lstm":
        sums = (
            sums[0] + tl.sum(weight_of(0, tile, parameters, network) * pre[None, :], 1),
            sums[1] + tl.sum(weight_of(1, tile, parameters, network) * pre[None, :], 1),
            sums[2] + tl.sum(weight_of(3, tile, parameters, network) * pre[None, :], 1),
        )
    return sums


@triton.jit
def excitation_adjoint(
    trace, tile, pre, grad_total, gates, grad_trace, parameters, network: tl.constexpr
):
    """Gradients of the trace, added to what it has, and of pre, from those of the sums."""
    grad_total = grad_total[:, None]
    alpha = coefficient(parameters.alpha, network.alpha, tile, network)
    effective = weight_of(2, tile, parameters, network) + alpha * read(trace, network)
    grad_pre = grad_total * effective
    if network.kind == "lstm":
        grad_pre += gates[0][:, None] * weight_of(0, tile, parameters, network)
        grad_pre += gates[1][:, None] * weight_of(1, tile, parameters, network)
        grad_pre += gates[2][:, None] * weight_of(3, tile, parameters, network)
    grad_trace += read_adjoint(trace, grad_total * pre[None, :] * alpha, network)
    return grad_trace, tl.sum(grad_pre, 0)


@triton.jit
def add_matrix(data, b, tile, value, network: tl.constexpr):
    """Adds to a tile of element b, which no other program touches."""
    if data is not None:
        to = data + b * network.matrix + matrix_offsets(tile, network)
        tl.store(to, tl.load(to, tile.inside, 0.0) + value, tile.inside)


@triton.jit
def change_adjoint(
    trace, eligibility, b, tile, pre, post, modulator, grad_trace, grad_eligibility, parameters, grads,
    network: tl.constexpr,
):  # fmt: skip
    """Gradients of trace, eligibility, pre, post and, by neurons, of the rate in force and of the eligibility's rate,
    from those of the traces after a step.

    Gradients of rates per connection are added to where they are kept; by neurons, that of M is given in their place.
    """
    rate = rate_in_force(modulator, tile, parameters, network)
    fading, eligible = fading_of(tile, parameters, network)
    grad_trace, grad_eligibility, grad_pre, grad_post, grad_rate, grad_fading = next_adjoint(
        trace,
        eligibility,
        pre[None, :],
        post[:, None],
        rate,
        fading,
        eligible,
        grad_trace,
        grad_eligibility,
        network,
    )
    if network.rates_per_connection:
        add_matrix(grads.rate, b, tile, grad_rate, network)
        add_matrix(grads.rate_scale, b, tile, grad_rate * modulator, network)
        if parameters.rate_scale is not None:
            grad_rate = grad_rate * coefficient(
                parameters.rate_scale, network.rate_scale, tile, network
            )
    if network.fading == 2:
        add_matrix(grads.fading, b, tile, grad_fading, network)
    grad_pre, grad_post = tl.sum(grad_pre, 0), tl.sum(grad_post, 1)
    return (
        grad_trace,
        grad_eligibility,
        grad_pre,
        grad_post,
        tl.sum(grad_rate, 1),
        tl.sum(grad_fading, 1),
    )


@triton.jit
def rates_adjoint(t, b, rows, grad_rate, grad_fading, parameters, grads, network: tl.constexpr):
    """The share (1,) of these neurons in the gradient of M; gradients of rates per neuron or layer are written."""
    here = rows < network.posts
    if network.retroactive:
        if network.fading < 2:
            tl.store(at(grads.fading, t, b) + rows, grad_fading, here)
    if not network.rates_per_connection:
        tl.store(at(grads.rate, t, b) + rows, grad_rate, here)
        if parameters.rate_scale is not None:
            if network.rate_scale == 1:
                grad_rate = grad_rate * load_vector(
                    parameters.rate_scale, rows, network.posts, network
                )
            else:
                grad_rate = grad_rate * tl.load(parameters.rate_scale).to(network.dtype)
    return tl.zeros([1], network.dtype) + tl.sum(grad_rate, 0)
