"""What the synapses of a tile do in a step: the sums that they give to neurons, and the adjoints of sums and changes."""

from __future__ import annotations

import triton
import triton.language as tl

from .memory import at, coefficient, fading_of, load_matrix, matrix_offsets, rate_in_force
from .rules import next_adjoint, read, read_adjoint


@triton.jit
def weight_of(GATE: tl.constexpr, tile, parameters, options: tl.constexpr):
    """The baseline weight of a gate i, f, g or o of an LSTM; of other networks, that of the connection."""
    weight = parameters.weight
    if options.kind == "lstm":
        weight += GATE * options.matrix
    return load_matrix(weight, tile, options)


@triton.jit
def excitation(trace, tile, pre, parameters, options: tl.constexpr):
    """Sums (w + alpha H) x of the rows."""
    alpha = coefficient(parameters.alpha, options.alpha, tile, options)
    effective = weight_of(2, tile, parameters, options) + alpha * read(trace, options)
    return tl.sum(effective * pre[None, :], 1)


@triton.jit
def gate_sums(tile, pre, total, parameters, options: tl.constexpr):
    """Sums of an LSTM's gates i, f and o; without gates, ``total`` in their place."""
    if options.kind == "lstm":
        sums = (
            tl.sum(weight_of(0, tile, parameters, options) * pre[None, :], 1),
            tl.sum(weight_of(1, tile, parameters, options) * pre[None, :], 1),
            tl.sum(weight_of(3, tile, parameters, options) * pre[None, :], 1),
        )
    else:
        sums = total, total, total
    return sums


@triton.jit
def excitation_adjoint(trace, tile, pre, grad_total, gates, grad_trace, parameters, options: tl.constexpr):
    """Gradients of the trace, added to what it has, and of pre, from those of the sums."""
    grad_total = grad_total[:, None]
    alpha = coefficient(parameters.alpha, options.alpha, tile, options)
    effective = weight_of(2, tile, parameters, options) + alpha * read(trace, options)
    grad_pre = grad_total * effective
    if options.kind == "lstm":
        grad_pre += gates[0][:, None] * weight_of(0, tile, parameters, options)
        grad_pre += gates[1][:, None] * weight_of(1, tile, parameters, options)
        grad_pre += gates[2][:, None] * weight_of(3, tile, parameters, options)
    grad_trace += read_adjoint(trace, grad_total * pre[None, :] * alpha, options)
    return grad_trace, tl.sum(grad_pre, 0)


@triton.jit
def add_matrix(data, b, tile, value, options: tl.constexpr):
    """Adds to a tile of element b, which no other program touches."""
    if data is not None:
        to = data + b * options.matrix + matrix_offsets(tile, options)
        tl.store(to, tl.load(to, tile.inside, 0.0) + value, tile.inside)


@triton.jit
def change_adjoint(
    trace, eligibility, t, b, tile, pre, post, modulator, grad_trace, grad_eligibility, parameters, grads,
    options: tl.constexpr,
):  # fmt: skip
    """Gradients of trace, eligibility, pre, post and M, from those of the traces after step t.

    Gradients of the rates are written for the step, or added to if they are per connection.
    """
    rate = rate_in_force(modulator, tile, parameters, options)
    fading, eligible = fading_of(tile, parameters, options)
    grad_trace, grad_eligibility, grad_pre, grad_post, grad_rate, grad_fading = next_adjoint(
        trace, eligibility, pre[None, :], post[:, None], rate, fading, eligible, grad_trace, grad_eligibility, options
    )
    grad_modulator = tl.zeros([1], options.dtype)
    here = tile.rows < options.posts
    if options.rates_per_connection:
        add_matrix(grads.rate, b, tile, grad_rate, options)
        add_matrix(grads.rate_scale, b, tile, grad_rate * modulator, options)
        if options.modulated:
            if parameters.rate_scale is not None:
                grad_rate = grad_rate * coefficient(parameters.rate_scale, options.rate_scale, tile, options)
            grad_modulator += tl.sum(tl.sum(grad_rate, 1), 0)
    else:
        by_neuron = tl.sum(grad_rate, 1)
        tl.store(at(grads.rate, t, b) + tile.rows, by_neuron, here)
        if options.modulated:
            if parameters.rate_scale is not None:
                scale = parameters.rate_scale
                if options.rate_scale == 1:
                    by_neuron = by_neuron * tl.load(scale + tile.rows, here, 0.0).to(options.dtype)
                else:
                    by_neuron = by_neuron * tl.load(scale).to(options.dtype)
            grad_modulator += tl.sum(by_neuron, 0)
    if options.retroactive:
        if options.fading == 2:
            add_matrix(grads.fading, b, tile, grad_fading, options)
        else:
            tl.store(at(grads.fading, t, b) + tile.rows, tl.sum(grad_fading, 1), here)
    return grad_trace, grad_eligibility, tl.sum(grad_pre, 0), tl.sum(grad_post, 1), grad_modulator
