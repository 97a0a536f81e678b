"""What the neurons of one element do in a step, forward and adjoint: vectors of all O neurons, padded with zeros."""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import exponential
from .memory import activity_before, at, load_first, load_vector


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
    """What a cell was before step t: of a GRU, the activities."""
    if network.carries:
        if t > 0:
            cell = load_vector(
                at(activities.history, t - 1, b) + network.drives * network.posts, rows, network.posts, network
            )  # fmt: skip
        else:
            cell = load_first(first.cell, b, rows, network.posts, network)
    else:
        cell = activity_before(t, b, rows, first.hidden, activities, network)
    return cell


@triton.jit
def part(row, rows, PART: tl.constexpr, network: tl.constexpr):
    """Block PART of a row of blocks."""
    return load_vector(row + PART * network.posts, rows, network.posts, network)


@triton.jit
def store_vector(sequence, t, b, rows, value, network: tl.constexpr, PART: tl.constexpr = 0):
    tl.store(at(sequence, t, b) + PART * network.posts + rows, value, rows < network.posts)


@triton.jit
def neurons_forward(t, b, rows, total, gates, cell, inputs, activities, network: tl.constexpr):
    """Activities, cell and post of step t, all but the post written too.

    ``total``: the connection's sums; ``gates``: the other recurrent sums; ``cell``: before the step, of a GRU the
    activities.
    """
    here = rows < network.posts
    drive = at(inputs.drive, t, b)
    if network.gated:
        first, second = part(drive, rows, 0, network), part(drive, rows, 1, network)
        plastic, last = part(drive, rows, 2, network), part(drive, rows, 3, network)
        if network.weights == 4:
            last += gates[2]
        if network.kind == "lstm":
            first, second, plastic, last, cell, active = network.cell.forward(
                first + gates[0], second + gates[1], plastic + total, last, cell
            )
            candidate, recurrent = plastic, total
        else:
            first, second, plastic, last, active = network.cell.forward(
                first + gates[0], second + gates[1], plastic + total, last, cell
            )
            cell, candidate, recurrent = active, last, plastic
        if network.post == "candidate":
            post = candidate
        elif network.post == "recurrent":
            post = recurrent
        elif network.post == "cell":
            post = cell
        else:
            post = active
        if activities.history.data is not None:
            store_vector(activities.history, t, b, rows, first, network, 0)
            store_vector(activities.history, t, b, rows, second, network, 1)
            store_vector(activities.history, t, b, rows, plastic, network, 2)
            store_vector(activities.history, t, b, rows, last, network, 3)
            if network.carries:
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
    """Gradients of the connection's sums, of the other recurrent sums, of the cell and of the activities before.

    ``grad_hidden`` holds what later steps gave, ``grad_post`` and ``grad_modulator`` what the change of the traces did.
    Gradients of the drive, of the sums and of what goes into the modulator's nonlinearity are written. Of the
    activities before, what comes through sums is not given.
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
    if network.gated:
        history = at(activities.history, t, b)
        of_first, of_second = part(history, rows, 0, network), part(history, rows, 1, network)
        of_plastic, of_last = part(history, rows, 2, network), part(history, rows, 3, network)
        before = cell_before(t, b, rows, first, activities, network)
        grad_candidate, grad_recurrent = tl.zeros_like(before), tl.zeros_like(before)
        if network.post == "hidden":
            grad_hidden += grad_post
        elif network.post == "cell":
            grad_cell += grad_post
        elif network.post == "candidate":
            grad_candidate = grad_post
        else:
            grad_recurrent = grad_post
        if network.kind == "lstm":
            cell = part(history, rows, 4, network)
            grad_first, grad_second, grad_total, grad_last, grad_cell = network.cell.adjoint(
                of_first, of_second, of_plastic, of_last, cell, before, grad_candidate, grad_cell, grad_hidden
            )  # fmt: skip
        else:
            grad_first, grad_second, grad_total, grad_last, through = network.cell.adjoint(
                of_first, of_second, of_plastic, of_last, before, grad_candidate, grad_recurrent, grad_hidden
            )  # fmt: skip
            grad_before += through
        store_vector(grads.drive, t, b, rows, grad_first, network, 0)
        store_vector(grads.drive, t, b, rows, grad_second, network, 1)
        store_vector(grads.drive, t, b, rows, grad_total, network, 2)
        store_vector(grads.drive, t, b, rows, grad_last, network, 3)
        if network.kind == "lstm" and network.post == "recurrent":
            grad_total += grad_recurrent
        gates = grad_first, grad_second, grad_last
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
