"""The two passes of a call: which kernels run, in which order, and what of their results is added up."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..network import State
from ..rules.cells import PLASTIC
from . import graphs
from .alpha import plastic_alpha_gradient
from .call import Call
from .launch import alpha_tile, backward_warps, chunks, launch, resident, rows_of_step
from .sequence.backward import plastic_sequence_backward
from .sequence.forward import plastic_sequence_forward
from .steps import Back, Given, backward_steps, forward_steps
from .vocabulary import Activities, Gradients, Waiting, kinds, sequence_of

ALPHA_PROGRAMS = 1024
"""Programs that the gradient of alpha is shared by, if the batch has enough elements."""


def on_device(call: Call) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device(call.like.device) if call.like.device.type == "cuda" else nullcontext()


def pass_on(source: State, to: State) -> None:
    """Nothing happens in no steps: a state goes on as it is."""
    for tensor, result in zip(source, to, strict=True):
        if result is not None:
            result.zero_() if tensor is None else result.copy_(tensor)


def forward(call: Call, results: tuple[Tensor | None, ...], every: int) -> None:
    """Fills ``results``: output, last state, history, modulators and checkpoints, some of which may be missing."""
    output, hidden, cell, trace, eligibility, history, modulators, checkpoints = results
    assert output is not None
    last, size, options = State(hidden, cell, trace, eligibility), call.sizes, call.options
    if size.B == 0 or size.T == 0:
        return pass_on(call.first, last)
    activities = call.activities(output, history, modulators)
    with on_device(call):
        if resident(options):
            arguments = (
                call.inputs, call.first, call.parameters, activities, last, checkpoints, size.T, size.B, every,
            )  # fmt: skip
            launch(
                plastic_sequence_forward,
                (size.B,),
                arguments,
                options,
                tunable=True,
                **chunks(options),
            )
        else:
            forward_by_steps(call, activities, last, checkpoints, every)


def forward_by_steps(
    call: Call, activities: Activities, last: State, checkpoints: Tensor | None, every: int
) -> None:  # fmt: skip
    """Launches for every step, a graph where they come again."""
    size, options = call.sizes, call.options
    # The steps need them of each other: where they are not kept, the row of one step does.
    if options.gated and activities.history.data is None:
        activities = activities._replace(history=sequence_of(call.new(size.B, size.H), 0, size.H))
    if options.modulated and activities.modulators.data is None:
        activities = activities._replace(modulators=sequence_of(call.new(size.B), 0, 1))
    sums = call.new(options.weights, size.B, size.O)
    graphs.run(
        forward_steps, Given(call.inputs, call.first, call.parameters), activities, last, checkpoints, sums, size,
        options, every, device=call.like.device, steps=size.T,
    )  # fmt: skip


def backward(
    call: Call, upstream: tuple[Tensor | None, ...], kept: tuple[Tensor | None, ...],
    results: tuple[Tensor | None, ...], every: int,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients that an operator returns, in ``results`` where they have room there.

    ``kept``: output, history, modulators and checkpoints; ``upstream``: gradients of output and last state.
    """
    (
        drive,
        total,
        features,
        hidden,
        cell,
        trace,
        eligibility,
        alpha,
        rate,
        rate_scale,
        fading,
        modulator,
    ) = results
    size, options, grad_last = call.sizes, call.options, State(*upstream[1:])
    assert kept[0] is not None and drive is not None
    if size.B == 0 or size.T == 0:
        pass_on(grad_last, State(hidden, cell, trace, eligibility))
        sums = (
            None if grad is None else grad.zero_() for grad in (alpha, rate, rate_scale, fading)
        )
        return drive, total, features, hidden, cell, trace, eligibility, *sums, modulator
    activities = call.activities(kept[0], kept[1], kept[2])
    by_steps, by_synapses = size.shape("TBO"), call.like.new_zeros
    per_connection = options.rates_per_connection
    rates = by_synapses(size.shape("BOI")) if per_connection else call.new(*by_steps)
    scales = by_synapses(size.shape("BOI")) if per_connection and rate_scale is not None else None
    fadings = None
    if options.retroactive:
        fadings = by_synapses(size.shape("BOI")) if options.fading == 2 else call.new(*by_steps)
    grads = Gradients(
        call.layout(upstream[0]), call.layout(drive), call.layout(total), call.layout(features),
        call.layout(modulator),
        rates if per_connection else call.layout(rates), scales,
        fadings if options.fading == 2 else call.layout(fadings),
    )  # fmt: skip
    grad_first = State(hidden, cell, trace, eligibility)
    # Changed in place from step to step: what is asked for, there.
    room = kinds(call.traces()) if trace is None or eligibility is None else grad_first
    grad_traces = State(None, None, *(
        spare if wanted is None else wanted for spare, wanted in zip(room[2:], grad_first[2:], strict=True)
    ))  # fmt: skip
    with on_device(call):
        run = backward_in_one if resident(options) else backward_by_steps
        run(call, activities, kept[3], grad_last, grads, grad_first, grad_traces, every)
        grad_alpha = None if alpha is None else alpha_gradient(call, activities, grads)
    weighted = None
    if rate_scale is not None and not per_connection:
        assert kept[2] is not None
        weighted = rates * kept[2].unsqueeze(-1)
    found = (
        added_up(rates, per_connection, rate),
        added_up(scales if per_connection else weighted, per_connection, rate_scale),
        added_up(fadings, options.fading == 2, fading),
    )
    reduced = None if grad_alpha is None else added_up(grad_alpha, True, alpha)
    return drive, total, features, hidden, cell, trace, eligibility, reduced, *found, modulator


def added_up(parts: Tensor | None, per_connection: bool, like: Tensor | None) -> Tensor | None:
    """A parameter's gradient in its shape, from parts (P, O, I) or, over time, (T, B, O)."""
    if like is None or parts is None:
        return None
    total = parts.sum(0) if per_connection else parts.flatten(0, -2).sum(0)
    if like.numel() == 1:
        return total.sum().view(like.shape)
    return total.sum(-1) if total.dim() > like.dim() else total


def backward_in_one(
    call: Call, activities: Activities, checkpoints: Tensor | None, grad_last: State, grads: Gradients,
    grad_first: State, grad_traces: State, every: int,
) -> None:  # fmt: skip
    """One launch."""
    size, options = call.sizes, call.options
    segment = call.traces(max(min(every, size.T) - 1, 0))
    arguments = (
        call.inputs, call.first, call.parameters, activities, checkpoints, segment, grad_last, grads, grad_first,
        grad_traces, call.new(2, size.B, size.I), size.T, size.B, every,
    )  # fmt: skip
    # What is added to gradients per connection would be added again by every run of an autotuner.
    tunable = not options.rates_per_connection and options.fading < 2
    launch(
        plastic_sequence_backward, (size.B,), arguments, options, tunable=tunable, warps=backward_warps(options),
        **chunks(options),
    )  # fmt: skip


def backward_by_steps(
    call: Call, activities: Activities, checkpoints: Tensor | None, grad_last: State, grads: Gradients,
    grad_first: State, grad_traces: State, every: int,
) -> None:  # fmt: skip
    """Launches for every step, a graph where they come again."""
    size, options = call.sizes, call.options
    programs = -(-size.O // rows_of_step(options))
    segment = call.traces(max(min(every, size.T) - 1, 0))
    vectors, parts = (size.B, size.O), (programs, size.B, size.I)
    waiting = Waiting(
        sums=call.new(options.weights, *vectors), cell=call.new(*vectors), before=call.new(*vectors),
        pres=call.new(*parts), total=call.new(*parts[1:]), changes=call.new(*parts), post=call.new(*vectors),
        modulator=call.new(*parts[:2]),
    )  # fmt: skip
    graphs.run(
        backward_steps, Given(call.inputs, call.first, call.parameters), activities, checkpoints, segment,
        Back(grad_last, grads, grad_first, grad_traces, waiting), size, options, every,
        device=call.like.device, steps=size.T,
    )  # fmt: skip


def alpha_gradient(call: Call, activities: Activities, grads: Gradients) -> Tensor:
    """In parts (P, O, I)."""
    size, options = call.sizes, call.options
    grad_sum = grads.sum
    if grad_sum.data is None:
        grad_sum = grads.drive
        if options.gated:
            grad_sum = grad_sum._replace(data=grad_sum.data.narrow(-1, PLASTIC * size.O, size.O))
    tile = alpha_tile(options)
    tiles = -(-size.O // tile["ROWS"]), -(-size.I // tile["COLUMNS"])
    parts = max(1, min(size.B, ALPHA_PROGRAMS // (tiles[0] * tiles[1])))
    share = -(-size.B // parts)
    parts = -(-size.B // share)
    found = call.new(parts, size.O, size.I)
    arguments = (
        call.inputs, call.first, call.parameters, activities, grad_sum, found, size.T, size.B, share,
    )  # fmt: skip
    launch(
        plastic_alpha_gradient, (*tiles, parts), arguments, options, tunable=True, **tile,
    )  # fmt: skip
    return found
