"""How the traces of a tile change in a step, forward and adjoint: what is given to the printed functions of the rule
that the network has (``generated``), and what becomes of what they return.

A change is computed in three parts: values of the rows (R,), once a step; the synapses (R, C); and, of an adjoint, what
follows from sums over the columns (R,).

A change may sum over its row itself. Then passes come before that one: each adds up what synapses give to it (the
printed ``gather``) and has values of the rows made of the sums (``settle``), which the next pass needs. So a tile of
such a change has whole rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .memory import (
    at,
    coefficient,
    load_vector,
    matrix_offsets,
    modulator_of,
    post_of,
    pre_of,
)


@triton.jit
def columns(values):
    """Values (R,) of rows, as they broadcast against a tile."""
    found = ()
    for place in tl.static_range(len(values)):
        found += (values[place][:, None],)
    return found


@triton.jit
def some(values, FIRST: tl.constexpr, COUNT: tl.constexpr):
    found = ()
    for place in tl.static_range(COUNT):
        found += (values[FIRST + place],)
    return found


@triton.jit
def no_sums(SIZE: tl.constexpr, network: tl.constexpr):
    """What ``change_adjoint`` gives, of no columns."""
    COUNT: tl.constexpr = network.change_sums
    found = ()
    for _ in tl.static_range(COUNT):
        found += (tl.zeros([SIZE], network.dtype),)
    return found


@triton.jit
def added(sums, more):
    found = ()
    for place in tl.static_range(len(sums)):
        found += (sums[place] + more[place],)
    return found


@triton.jit
def parameter_of_rates(data, DIMS: tl.constexpr, tile, network: tl.constexpr):
    return coefficient(data, DIMS, tl.constexpr(network.change_by_synapse), tile, network)


@triton.jit
def rate_in_force(modulator, tile, parameters, network: tl.constexpr):
    """rate + rate_scale * M of M (1,), where a missing rate is 0 and a missing scale 1."""
    if network.modulated:
        if network.change_by_synapse:
            rate = modulator[:, None]
        else:
            rate = tl.broadcast_to(modulator, tile.rows.shape)
        if parameters.rate_scale is not None:
            scale = parameter_of_rates(parameters.rate_scale, network.rate_scale, tile, network)
            if parameters.rate is not None:
                given = parameter_of_rates(parameters.rate, network.rate, tile, network)
                rate = tl.fma(scale, rate, given)
            else:
                rate = scale * rate
        elif parameters.rate is not None:
            rate = parameter_of_rates(parameters.rate, network.rate, tile, network) + rate
    else:
        rate = parameter_of_rates(parameters.rate, network.rate, tile, network)
    return rate


@triton.jit
def rates_of(modulator, tile, parameters, network: tl.constexpr):
    """The coefficients of the change: by row (R,), by synapse as they broadcast against the tile."""
    rate = rate_in_force(modulator, tile, parameters, network)
    if network.retroactive:
        rates = (
            rate,
            parameter_of_rates(parameters.eligibility_rate, network.fading, tile, network),
        )
    else:
        rates = (rate,)
    return rates


@triton.jit
def change_of_rows(post, modulator, tile, parameters, network: tl.constexpr):
    """Values of the rows of a step; where only some neurons have eligibility traces, also those of a change at once,
    and which neurons have them."""
    rates = rates_of(modulator, tile, parameters, network)
    bound = tl.full(tile.rows.shape, network.clip, network.dtype)
    count = tl.full(tile.rows.shape, network.pres, network.dtype)
    row = network.change.row(post, bound, count, rates)
    if network.half_eligible:
        at_once = network.change_at_once.row(post, bound, count, (rates[0],))
        there = tile.rows < network.posts
        eligible = tl.load(parameters.modulated + tile.rows, there, 0) != 0
    else:
        at_once, eligible = row, tl.zeros([1], tl.int1)
    return row, at_once, eligible


@triton.jit
def only_inside(values, tile):
    """Values of synapses, and 0 where none is."""
    found = ()
    for place in tl.static_range(len(values)):
        found += (tl.where(tile.inside, values[place], 0.0),)
    return found


@triton.jit
def over_columns(summands):
    """Sums (R,)."""
    sums = ()
    for place in tl.static_range(len(summands)):
        sums += (tl.sum(summands[place], 1),)
    return sums


@triton.jit
def settled(
    row, before, pre, rates, grad, tile,
    OF_ADJOINT: tl.constexpr, AT_ONCE: tl.constexpr, network: tl.constexpr,
):  # fmt: skip
    """Values of the rows after the passes that the next states take, or ``OF_ADJOINT`` after all."""
    change: tl.constexpr = network.change_at_once if AT_ONCE else network.change
    COUNT: tl.constexpr = change.passes if OF_ADJOINT else change.passes_of_next
    for place in tl.static_range(COUNT):
        if place < change.passes_of_next:
            summands = getattr(change, f"gather{place}")(columns(row), before, pre, rates)
        else:
            summands = getattr(change, f"gather{place}")(columns(row), before, pre, rates, grad)
        row += getattr(change, f"settle{place}")(row, over_columns(only_inside(summands, tile)))
    return row


@triton.jit
def rows_settled(
    trace, eligibility, pre, of_rows, rates, grad_trace, grad_eligibility, tile,
    OF_ADJOINT: tl.constexpr, network: tl.constexpr,
):  # fmt: skip
    """``change_of_rows`` and what the passes before the last one make known. Only the adjoint needs gradients: those of
    the traces after the step, to which what reads these has given its share."""
    if network.sums_inside:
        row, at_once, eligible = of_rows
        if network.half_eligible:
            at_once = settled(
                at_once, (trace,), pre[None, :], (rates[0],), (grad_trace,), tile, OF_ADJOINT, True, network
            )  # fmt: skip
        if network.retroactive:
            before, grad = (trace, eligibility), (grad_trace, grad_eligibility)
        else:
            before, grad = (trace,), (grad_trace,)
        row = settled(row, before, pre[None, :], rates, grad, tile, OF_ADJOINT, False, network)
        of_rows = row, at_once, eligible
    return of_rows


@triton.jit
def next_traces(
    trace, eligibility, pre, of_rows, modulator, tile, parameters, network: tl.constexpr
):
    """The traces after a step, from ``change_of_rows``."""
    rates = rates_of(modulator, tile, parameters, network)
    of_rows = rows_settled(
        trace, eligibility, pre, of_rows, rates, trace, eligibility, tile, False, network
    )
    row, pre = columns(of_rows[0]), pre[None, :]
    if network.retroactive:
        after, faded = network.change.next(row, (trace, eligibility), pre, rates)
        if network.half_eligible:
            eligible = of_rows[2][:, None]
            (other,) = network.change_at_once.next(columns(of_rows[1]), (trace,), pre, (rates[0],))
            after, faded = tl.where(eligible, after, other), tl.where(eligible, faded, eligibility)
    else:
        (after,) = network.change.next(row, (trace,), pre, rates)
        faded = eligibility
    if not network.rests:
        (after,) = only_inside((after,), tile)
        if network.retroactive:
            (faded,) = only_inside((faded,), tile)
    return after, faded


@triton.jit
def rows_of_adjoint(
    trace, eligibility, pre, of_rows, modulator, grad_trace, grad_eligibility, tile, parameters,
    network: tl.constexpr,
):  # fmt: skip
    """What ``change_adjoint`` and ``change_finished`` take, from ``change_of_rows``."""
    if network.sums_inside:
        of_rows = rows_settled(
            trace, eligibility, pre, of_rows, rates_of(modulator, tile, parameters, network), grad_trace,
            grad_eligibility, tile, True, network,
        )  # fmt: skip
    return of_rows


@triton.jit
def advance(
    trace, eligibility, t, b, tile, inputs, first, parameters, activities, network: tl.constexpr
):
    """The traces after step t, from those before it and from what is known of the step."""
    pre = pre_of(t, b, tile.columns, inputs, first, activities, network)
    modulator = modulator_of(t, b, activities, network)
    post = post_of(t, b, tile.rows, activities, network)
    of_rows = change_of_rows(post, modulator, tile, parameters, network)
    return next_traces(trace, eligibility, pre, of_rows, modulator, tile, parameters, network)


@triton.jit
def add_matrix(data, b, tile, value, network: tl.constexpr):
    """Adds to a tile of element b, which no other program touches."""
    if data is not None:
        to = data + b * network.matrix + matrix_offsets(tile, network)
        tl.store(to, tl.load(to, tile.inside, 0.0) + value, tile.inside)


@triton.jit
def synapses_adjoint(
    trace, eligibility, pre, of_rows, rates, grad_trace, grad_eligibility, network: tl.constexpr
):
    """Gradients of the traces and, for every synapse, of pre, what sums run over, and of rates by synapse."""
    row, pre = columns(of_rows[0]), pre[None, :]
    none = ()
    if network.retroactive:
        before, after = (trace, eligibility), (grad_trace, grad_eligibility)
        found = network.change.adjoint(row, before, pre, rates, after)
        through, faded = found[0]
        grad_pre, summands = found[1], found[2]
        if network.half_eligible:
            eligible = of_rows[2][:, None]
            other = network.change_at_once.adjoint(
                columns(of_rows[1]), (trace,), pre, (rates[0],), (grad_trace,)
            )
            through = tl.where(eligible, through, other[0][0])
            faded = tl.where(eligible, faded, grad_eligibility)
            grad_pre = tl.where(eligible, grad_pre, other[1])
            summands += other[2]
    else:
        found = network.change.adjoint(row, (trace,), pre, rates, (grad_trace,))
        (through,) = found[0]
        grad_pre, summands, faded = found[1], found[2], grad_eligibility
    if network.change_by_synapse:
        grads = found[3]
        if network.half_eligible:
            grads = (
                tl.where(eligible, grads[0], other[3][0]),
                tl.where(eligible, grads[1], 0.0),
            )
    else:
        grads = none
    return through, faded, grad_pre, summands, grads


@triton.jit
def change_adjoint(
    trace, eligibility, b, tile, pre, of_rows, modulator, grad_trace, grad_eligibility, parameters, grads,
    network: tl.constexpr,
):  # fmt: skip
    """Gradients of trace, eligibility and pre from those of the traces after a step, and sums over the columns.

    Gradients of rates per connection are added to where they are kept.
    """
    rates = rates_of(modulator, tile, parameters, network)
    grad_trace, grad_eligibility, grad_pre, summands, of_rates = synapses_adjoint(
        trace, eligibility, pre, of_rows, rates, grad_trace, grad_eligibility, network
    )
    if not network.rests:
        summands, of_rates = only_inside(summands, tile), only_inside(of_rates, tile)
        (grad_pre,) = only_inside((grad_pre,), tile)
    # Before anything else is loaded: what is summed takes registers until then.
    sums = over_columns(summands)
    grad_pre = tl.sum(grad_pre, 0)
    if network.change_by_synapse:
        grad_rate = of_rates[0]
        if network.rates_per_connection:
            add_matrix(grads.rate, b, tile, grad_rate, network)
            add_matrix(grads.rate_scale, b, tile, grad_rate * modulator[:, None], network)
            if parameters.rate_scale is not None:
                grad_rate *= parameter_of_rates(
                    parameters.rate_scale, network.rate_scale, tile, network
                )
        if network.sums_rate:
            sums += (tl.sum(grad_rate, 1),)
        if network.fading == 2:
            add_matrix(grads.fading, b, tile, of_rates[1], network)
        elif network.retroactive:
            sums += (tl.sum(of_rates[1], 1),)
    return grad_trace, grad_eligibility, grad_pre, sums


@triton.jit
def change_finished(sums, of_rows, rows, network: tl.constexpr):
    """Gradients (R,) of post, of the rate in force and of the eligibility's rate; those of rates per connection are
    kept already, and in the place of the rate's stands that of M."""
    COUNT: tl.constexpr = network.change.sum_count
    found = network.change.finish(of_rows[0], some(sums, 0, COUNT))
    LAST: tl.constexpr = network.change_sums - 1
    if network.half_eligible:
        eligible = of_rows[2]
        AT_ONCE: tl.constexpr = network.change_at_once.sum_count
        other = network.change_at_once.finish(of_rows[1], some(sums, COUNT, AT_ONCE))
    if network.change_by_synapse:
        grad_post = found
        if network.half_eligible:
            grad_post = tl.where(eligible, grad_post, other)
        grad_fading = sums[LAST]
        if network.retroactive and network.fading < 2:
            grad_rate = sums[LAST - 1]
        else:
            grad_rate = sums[LAST]
    else:
        grad_post, grad_rate = found[0], found[1]
        grad_fading = grad_rate
        if network.retroactive:
            grad_fading = found[2]
        if network.half_eligible:
            grad_post = tl.where(eligible, grad_post, other[0])
            grad_rate = tl.where(eligible, grad_rate, other[1])
            grad_fading = tl.where(eligible, grad_fading, 0.0)
    if not network.rests:
        here = rows < network.posts
        grad_post, grad_rate = tl.where(here, grad_post, 0.0), tl.where(here, grad_rate, 0.0)
    return grad_post, grad_rate, grad_fading


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
