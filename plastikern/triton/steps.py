"""The launches of a pass by steps, on what they are given: they allocate nothing, so that a graph can hold them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..network import State
from ..program import Sizes
from .launch import MAX_WARPS, block, launch, rows_of_step
from .recompute import plastic_recompute
from .step.backward import plastic_step_neurons_backward, plastic_step_synapses_backward
from .step.forward import plastic_step_neurons_forward, plastic_step_synapses_forward
from .step.rowwise import plastic_step_forward
from .vocabulary import Activities, Gradients, Inputs, Options, Parameters, Waiting, kinds

FEW_WARPS = 4
"""Of some kernels: with more, ptxas spills a little to let more programs in (docs/kernels.md)."""


class Given(NamedTuple):
    """What a pass is given, whatever its direction."""

    inputs: Inputs
    first: State
    parameters: Parameters


class Back(NamedTuple):
    """What a backward pass is given and writes: gradients, and what waits from one launch for the next."""

    grad_last: State
    grads: Gradients
    grad_first: State
    grad_traces: State
    waiting: Waiting


def forward_steps(
    given: Given, activities: Activities, last: State, checkpoints: Tensor | None, sums: Tensor, size: Sizes,
    options: Options, every: int,
) -> None:  # fmt: skip
    """One launch a step where rows do not wait for each other; else two, the synapses of all elements, then neurons."""
    inputs, first, parameters = given
    rows, columns, neurons = rows_of_step(options), block(options.pres), block(options.posts)
    programs = -(-size.O // rows)
    if options.rowwise:
        for t in range(size.T):
            launch(
                plastic_step_forward, (programs * size.B,),
                (
                    inputs, first, first if t == 0 else last, parameters, activities, last, checkpoints, t, size.T,
                    size.B, every,
                ),
                options, warps=FEW_WARPS, ROWS=rows, COLUMNS=columns, POSTS=neurons,
            )  # fmt: skip
        return
    for k in range(size.T + 1):
        before = first if k <= 1 else last
        launch(
            plastic_step_synapses_forward, (programs * size.B,),
            (
                inputs, first, before, parameters, activities, last, checkpoints, sums, k, size.T, size.B,
                every,
            ),
            options, warps=FEW_WARPS if options.retroactive else MAX_WARPS, ROWS=rows, COLUMNS=columns,
        )  # fmt: skip
        if k < size.T:
            launch(
                plastic_step_neurons_forward, (size.B,),
                (inputs, first, parameters, activities, last, sums, k, size.T, size.B),
                options, POSTS=neurons,
            )  # fmt: skip


def backward_steps(
    given: Given, activities: Activities, checkpoints: Tensor | None, segment: Tensor, back: Back, size: Sizes,
    options: Options, every: int,
) -> None:  # fmt: skip
    """As the forward pass; the traces of a segment are computed again when its last step comes."""
    inputs, first, parameters = given
    grad_last, grads, grad_first, grad_traces, waiting = back
    rows, columns, neurons = rows_of_step(options), block(options.pres), block(options.posts)
    programs = -(-size.O // rows)
    for k in range(size.T, -1, -1):
        start, inside = (k - 1) // every * every, (k - 1) % every
        if k > 0 and inside > 0 and (k == size.T or inside == every - 1):
            launch(
                plastic_recompute, (programs * size.B,),
                (inputs, first, parameters, activities, checkpoints, segment, start, size.T, size.B, every),
                options, warps=FEW_WARPS, ROWS=rows, COLUMNS=columns,
            )  # fmt: skip
        if k <= 1:
            before = first
        elif inside > 0:
            before = kinds(segment[inside - 1])
        else:
            assert checkpoints is not None
            before = kinds(checkpoints[start // every - 1])
        launch(
            plastic_step_synapses_backward, (programs * size.B,),
            (
                inputs, first, before, parameters, activities, grad_last, grads, grad_traces, waiting, k, size.T,
                size.B,
            ),
            options, ROWS=rows, COLUMNS=columns,
        )  # fmt: skip
        if k < size.T:
            torch.sum(waiting.pres, 0, out=waiting.total)
        launch(
            plastic_step_neurons_backward, (size.B,),
            (
                inputs, first, parameters, activities, grad_last, grads, grad_first, waiting, k, size.T,
                size.B, programs,
            ),
            options, POSTS=neurons, PRES=columns, PROGRAMS=block(programs),
        )  # fmt: skip
