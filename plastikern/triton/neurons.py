"""What the neurons of one element do in a step, forward and adjoint: vectors of all O neurons, padded with zeros."""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import exponential
from .memory import at, load_first, load_vector


@triton.jit
def softmax(z, here):
    z = tl.where(here, z, float("-inf"))
    size = exponential(z - tl.max(z, 0))
    return size / tl.sum(size, 0)


@triton.jit
def activity(z, here, network: tl.constexpr):
    if network.nonlinearity == "softmax":
        y = softmax(z, here)
    else:
        y = network.activity.forward(z)
    return y


@triton.jit
def activity_adjoint(y, grad, network: tl.constexpr):
    """The gradient of what went into the nonlinearity, from what came out of it."""
    if network.nonlinearity == "softmax":
        grad = y * (grad - tl.sum(y * grad, 0))
    else:
        grad = network.activity.adjoint(y, grad)
    return grad


@triton.jit
def cell_before(t, b, rows, first, activities, network: tl.constexpr):
    if t > 0:
        cell = load_vector(
            at(activities.history, t - 1, b) + 4 * network.posts, rows, network.posts, network
        )
    else:
        cell = load_first(first.cell, b, rows, network.posts, network)
    return cell


@triton.jit
def store_vector(sequence, t, b, rows, value, network: tl.constexpr, PART: tl.constexpr = 0):
    tl.store(at(sequence, t, b) + PART * network.posts + rows, value, rows < network.posts)


@triton.jit
def neurons_forward(t, b, rows, total, gates, cell, inputs, activities, network: tl.constexpr):
    """Activities, cell and post of step t, all but the post written too.

    ``total``: the connection's sums; ``gates``: those of an LSTM's gates i, f and o; ``cell``: before the step.
    """
    here = rows < network.posts
    drive = at(inputs.drive, t, b)
    if network.kind == "lstm":
        input_gate, forget_gate, candidate, output_gate, cell, active = network.lstm.forward(
            load_vector(drive, rows, network.posts, network) + gates[0],
            load_vector(drive + network.posts, rows, network.posts, network) + gates[1],
            load_vector(drive + 2 * network.posts, rows, network.posts, network) + total,
            load_vector(drive + 3 * network.posts, rows, network.posts, network) + gates[2],
            cell,
        )
        if network.post == "candidate":
            post = candidate
        elif network.post == "recurrent":
            post = total
        elif network.post == "cell":
            post = cell
        else:
            post = active
        if activities.history.data is not None:
            store_vector(activities.history, t, b, rows, input_gate, network, 0)
            store_vector(activities.history, t, b, rows, forget_gate, network, 1)
            store_vector(activities.history, t, b, rows, candidate, network, 2)
            store_vector(activities.history, t, b, rows, output_gate, network, 3)
            store_vector(activities.history, t, b, rows, cell, network, 4)
            if network.post == "recurrent":
                store_vector(activities.history, t, b, rows, total, network, 5)
    else:
        driven = load_vector(drive, rows, network.posts, network)
        active = activity(driven + total, here, network)
        if inputs.clamp.data is not None:
            active = tl.where(tl.load(at(inputs.clamp, t, b) + rows, here, 0) != 0, driven, active)
        active = tl.where(here, active, 0.0)
        post = active
    store_vector(activities.output, t, b, rows, active, network)
    return active, cell, post


@triton.jit
def modulator_forward(
    t, b, rows, before, active, cell, parameters, activities, network: tl.constexpr, first=True
):
    """M (1,) of step t, 0 without a modulator; written by the ``first`` program of an element.

    ``rows`` are all neurons, ``before`` and ``active`` their activities before and after the step.
    """
    modulator = tl.zeros([1], network.dtype)
    if network.modulated:
        source = active
        if network.modulator_input == "cell":
            source = cell
        elif network.modulator_input == "previous_hidden":
            source = before
        weight = load_vector(parameters.modulator_weight, rows, network.posts, network)
        bias = tl.load(parameters.modulator_bias).to(network.dtype)
        modulator += network.modulator_activity.forward(tl.sum(weight * source, 0) + bias)
        if activities.modulators.data is not None:
            if first:
                tl.store(at(activities.modulators, t, b) + tl.arange(0, 1), modulator)
    return modulator


@triton.jit
def neurons_backward(
    t, b, rows, grad_hidden, grad_cell, grad_post, grad_modulator, inputs, first, parameters, activities, grads,
    network: tl.constexpr,
):  # fmt: skip
    """Gradients of the connection's sums, of an LSTM's other gates' sums, of the cell and of the activities before.

    ``grad_hidden`` holds what later steps gave, ``grad_post`` and ``grad_modulator`` what the change of the traces did.
    Gradients of the drive, of the sums and of what goes into the modulator's nonlinearity are written. Of the
    activities before, only what comes through the modulator is given.
    """
    here = rows < network.posts
    active = load_vector(at(activities.output, t, b), rows, network.posts, network)
    grad_before = tl.zeros(rows.shape, network.dtype)
    if grads.output.data is not None:
        grad_hidden += load_vector(at(grads.output, t, b), rows, network.posts, network)
    if network.modulated:
        modulator = tl.load(at(activities.modulators, t, b) + tl.arange(0, 1))
        grad_source = network.modulator_activity.adjoint(modulator, grad_modulator)
        tl.store(at(grads.modulator, t, b) + tl.arange(0, 1), grad_source)
        through = grad_source * load_vector(
            parameters.modulator_weight, rows, network.posts, network
        )
        if network.modulator_input == "hidden":
            grad_hidden += through
        elif network.modulator_input == "cell":
            grad_cell += through
        else:
            grad_before += through
    if network.kind == "lstm":
        history = at(activities.history, t, b)
        input_gate = load_vector(history, rows, network.posts, network)
        forget_gate = load_vector(history + network.posts, rows, network.posts, network)
        candidate = load_vector(history + 2 * network.posts, rows, network.posts, network)
        output_gate = load_vector(history + 3 * network.posts, rows, network.posts, network)
        cell = load_vector(history + 4 * network.posts, rows, network.posts, network)
        before = cell_before(t, b, rows, first, activities, network)
        grad_candidate = tl.zeros(rows.shape, network.dtype)
        if network.post == "hidden":
            grad_hidden += grad_post
        elif network.post == "cell":
            grad_cell += grad_post
        elif network.post == "candidate":
            grad_candidate = grad_post
        grad_input, grad_forget, grad_total, grad_output, grad_cell = network.lstm.adjoint(
            input_gate, forget_gate, candidate, output_gate, cell, before,
            grad_candidate, grad_cell, grad_hidden,
        )  # fmt: skip
        store_vector(grads.drive, t, b, rows, grad_input, network, 0)
        store_vector(grads.drive, t, b, rows, grad_forget, network, 1)
        store_vector(grads.drive, t, b, rows, grad_total, network, 2)
        store_vector(grads.drive, t, b, rows, grad_output, network, 3)
        if network.post == "recurrent":
            grad_total += grad_post
        gates = grad_input, grad_forget, grad_output
    else:
        grad_hidden += grad_post
        grad_total = activity_adjoint(active, grad_hidden, network)
        grad_drive = grad_total
        if inputs.clamp.data is not None:
            clamped = tl.load(at(inputs.clamp, t, b) + rows, here, 0) != 0
            grad_total, grad_drive = (
                tl.where(clamped, 0.0, grad_total),
                tl.where(clamped, grad_hidden, grad_total),
            )
        store_vector(grads.drive, t, b, rows, grad_drive, network)
        gates = grad_total, grad_total, grad_total
    if grads.sum.data is not None:
        store_vector(grads.sum, t, b, rows, grad_total, network)
    return grad_total, gates, grad_cell, grad_before
