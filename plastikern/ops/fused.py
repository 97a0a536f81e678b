"""Plastic networks on the fused kernels: what is saved for the backward pass, and how."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from ..network import Connection, Inputs, Network, State, per_connection, rate_terms
from ..plasticity import (
    CONSTRAINTS,
    LINEAR_NONLINEARITIES,
    MODULATOR_INPUTS,
    MODULATOR_NONLINEARITIES,
    POSTS,
    RULES,
    Plasticity,
)

KINDS = ("rnn", "lstm", "linear")
MAX_AMPLIFICATION = 10.0
"""How far running the rule ``decay`` backwards may magnify rounding errors between two checkpoints."""


class Operands(NamedTuple):
    """The tensors of a native call that have gradients, in the order of the operators; those that are missing, None."""

    drive: Tensor
    features: Tensor | None
    hidden: Tensor | None
    cell: Tensor | None
    trace: Tensor | None
    eligibility: Tensor | None
    weight: Tensor
    alpha: Tensor
    rate: Tensor | None
    rate_scale: Tensor | None
    eligibility_rate: Tensor | None
    modulator_weight: Tensor | None
    modulator_bias: Tensor | None


class Options(NamedTuple):
    """Everything else of a native call: the numbers of the enums in csrc, and how a sequence is kept."""

    network: Network
    codes: tuple[int, ...]
    clip: float
    batch_first: bool = False
    checkpoint_every: int = 1
    reversible: bool = False


class Kept(NamedTuple):
    """What a forward pass leaves for the backward pass."""

    output: Tensor
    history: Tensor
    modulators: Tensor
    checkpoints: Tensor
    trace: Tensor


def _codes(network: Network) -> tuple[int, ...]:
    plasticity = network.plasticity
    return (
        KINDS.index(network.kind),
        RULES.index(plasticity.rule),
        CONSTRAINTS.index(plasticity.constraint),
        LINEAR_NONLINEARITIES.index(network.nonlinearity),
        POSTS.index(network.post),
        int(plasticity.modulation == "retroactive"),
        MODULATOR_INPUTS.index(plasticity.modulator_input),
        MODULATOR_NONLINEARITIES.index(plasticity.modulator_nonlinearity),
    )


def checkpoint_spacing(
    steps: int, plasticity: Plasticity, nonlinearity: str, eta: Tensor | None, clamped_drive: Tensor | None
) -> tuple[int, bool]:
    """Steps between two trace checkpoints, and whether the backward pass may run the trace backwards between them.

    Recomputing a segment costs memory for its traces, so sqrt(T) is the spacing that balances segment and
    checkpoints. The rule ``decay`` can instead be solved for the trace before the step, which divides by (1 - eta):
    rounding errors grow by (1 - eta)^-1 a step, so that the rate decides how far apart the checkpoints may be. That
    holds while activities lie in [-1, 1]; where they can grow, so can the trace, and its small beginnings would be
    lost in the rounding of its end. ``eta`` is None where the rate changes from step to step.
    """
    root = math.isqrt(max(steps - 1, 0)) + 1
    if plasticity.constraint != "decay" or nonlinearity not in ("tanh", "sigmoid", "softmax") or eta is None:
        return root, False
    if torch.compiler.is_compiling():
        return root, False
    if clamped_drive is not None and clamped_drive.numel() and not float(clamped_drive.detach().abs().max()) <= 1:
        return root, False
    rates = eta.detach()
    shrink = abs(1 - rates.item()) if rates.dim() == 0 else float((1 - rates).abs().min())
    if not shrink > 0 or not math.isfinite(shrink):
        return root, False
    reach = steps if shrink >= 1 else int(math.log(MAX_AMPLIFICATION) / -math.log(shrink))
    return (max(min(reach, steps), 1), True) if reach >= root else (root, False)


def _operands(inputs: Inputs, state: State, connection: Connection, network: Network) -> Operands:
    alpha, modulator = connection.alpha, connection.modulator
    rate, scale = rate_terms(connection)
    rates = [rate, scale, connection.eligibility_eta]
    if any(tensor is not None and tensor.dim() == 2 for tensor in rates):
        # The kernels know rates per connection only together with everything else per connection.
        if modulator is not None and rate is None:
            rates[:2] = alpha.new_zeros(()), alpha.new_ones(())
        shape = (connection.weight.shape[0] // (4 if network.kind == "lstm" else 1), connection.weight.shape[1])
        alpha, *rates = (
            None if tensor is None else per_connection(tensor).expand(shape) for tensor in (alpha, *rates)
        )
    return Operands(
        inputs.drive, inputs.features, *state, connection.weight, alpha, *rates,
        None if modulator is None else modulator.weight, None if modulator is None else modulator.bias,
    )  # fmt: skip


def _differentiated(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether autograd must see the call: to record it, or to refuse forward-mode derivatives."""
    if not torch.is_grad_enabled():
        return False
    return forward_ad._current_level >= 0 or any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _state(network: Network, *tensors: Tensor) -> State:
    """The state of tensors (hidden, cell, trace, eligibility), of which the operators return empty ones for missing."""
    hidden, cell, trace, eligibility = tensors
    return State(
        None if network.kind == "linear" else hidden,
        cell if network.kind == "lstm" else None,
        trace,
        eligibility if network.plasticity.modulation == "retroactive" else None,
    )


def step(inputs: Inputs, state: State, connection: Connection, network: Network) -> tuple[Tensor, State]:
    """One fused step; arguments checked by :mod:`plastikern.functional`."""
    operands = _operands(inputs, state, connection, network)
    options = Options(network, _codes(network), float(network.plasticity.clip))
    if _differentiated(operands):
        output, *last = _Step.apply(options, inputs.clamp, *operands)
    else:
        output, *last = torch.ops.plastikern.step.default(*operands, inputs.clamp, options.codes, options.clip, False)[
            :4
        ]
    return output, _state(network, output, *last)


def sequence(
    inputs: Inputs,
    state: State,
    connection: Connection,
    network: Network,
    lengths: Tensor | None,
    batch_first: bool,
    checkpoint_every: int | None,
) -> tuple[Tensor, State]:
    """All steps in one call; arguments checked by :mod:`plastikern.functional`."""
    operands = _operands(inputs, state, connection, network)
    codes, clip = _codes(network), float(network.plasticity.clip)
    if not _differentiated(operands):
        output, *last = torch.ops.plastikern.sequence.default(
            *operands, inputs.clamp, lengths, codes, clip, batch_first, 0
        )[:5]
        return output, _state(network, *last)
    spacing, reversible = checkpoint_every, False
    if spacing is None:
        steps = inputs.drive.shape[1 if batch_first else 0]
        eta = connection.eta if connection.modulator is None else None
        clamped_drive = None if inputs.clamp is None else inputs.drive
        nonlinearity = network.nonlinearity if network.kind != "lstm" or network.post in ("candidate", "hidden") else ""
        spacing, reversible = checkpoint_spacing(steps, network.plasticity, nonlinearity, eta, clamped_drive)
        if inputs.features is not None:
            reversible = False
            spacing = math.isqrt(max(steps - 1, 0)) + 1
    options = Options(network, codes, clip, batch_first, spacing, reversible)
    output, *last = _Sequence.apply(options, inputs.clamp, lengths, *operands)
    return output, _state(network, *last)


def _backward(
    ctx: Any, grads: tuple[Tensor | None, ...], options: Options, kept: Kept, operands: Operands,
    clamp: Tensor | None, lengths: Tensor | None, needs: tuple[bool, ...],
) -> list[Tensor | None]:  # fmt: skip
    """Gradients of the operands, None where nobody asks for one. ``grads``: of output, hidden, cell, trace, E."""
    if all(grad is None for grad in grads):
        return [None] * len(operands)
    wanted = Operands(*needs)  # type: ignore[arg-type]
    mask = sum(1 << position for position, needed in enumerate(needs) if needed)
    drive, total, features, hidden, cell, trace, eligibility, alpha, rate, scale, eligibility_rate, modulator = (
        torch.ops.plastikern.sequence_backward.default(
            *grads, *kept[:4], kept.trace if options.reversible else None, *operands[1:], clamp, lengths,
            options.codes, options.clip, options.batch_first, options.checkpoint_every, options.reversible, mask,
        )
    )  # fmt: skip
    weight = modulator_weight = modulator_bias = None
    if wanted.weight:
        weight = _weight_gradient(drive, total, operands, kept, options)
    if wanted.modulator_weight:
        modulator_weight = _modulator_gradient(modulator, operands, kept, options)
    if wanted.modulator_bias:
        modulator_bias = modulator.sum()
    found = Operands(
        drive, features, hidden, cell, trace, eligibility, weight, alpha, rate, scale, eligibility_rate,  # type: ignore[arg-type]
        modulator_weight, modulator_bias,
    )  # fmt: skip
    return [grad if needed else None for grad, needed in zip(found, needs, strict=True)]


def _weight_gradient(
    grad_drive: Tensor, grad_sum: Tensor, operands: Operands, kept: Kept, options: Options
) -> Tensor:
    """Of the baseline weight: the products of what came back to every sum with what went into it, over all steps."""
    # `grad_sum` is empty where it is the drive's gradient.
    total = grad_sum if grad_sum.numel() and options.network.kind != "lstm" else grad_drive
    grad = _products(total, operands, kept, options)
    if options.network.kind == "lstm" and grad_sum.numel():
        size = kept.output.shape[-1]
        grad[2 * size : 3 * size] = _products(grad_sum, operands, kept, options)
    return grad


def _products(grad: Tensor, operands: Operands, kept: Kept, options: Options) -> Tensor:
    """Sum over steps and elements of ``grad`` (T, B, O) times the activity before each step: (O, I)."""
    if operands.features is not None:
        return grad.flatten(0, 1).mT @ operands.features.flatten(0, 1)
    time = 1 if options.batch_first else 0
    steps = grad.shape[time]
    if steps == 0:
        return grad.new_zeros(grad.shape[-1], kept.output.shape[-1])
    before = kept.output.narrow(time, 0, steps - 1).flatten(0, 1)
    found = grad.narrow(time, 1, steps - 1).flatten(0, 1).mT @ before
    if operands.hidden is not None:
        found.addmm_(grad.select(time, 0).mT, operands.hidden)
    return found


def _modulator_gradient(grad: Tensor, operands: Operands, kept: Kept, options: Options) -> Tensor:
    """Of the modulator's weight, from the gradient (T, B) of what goes into its nonlinearity."""
    source = options.network.plasticity.modulator_input
    if source == "previous_hidden":
        return _products(grad.unsqueeze(-1), operands, kept, options).squeeze(0)
    size = kept.output.shape[-1]
    activity = kept.output if source == "hidden" else kept.history[..., 4 * size : 5 * size]
    return grad.flatten() @ activity.flatten(0, 1)


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: Options, clamp: Tensor | None, *operands: Tensor | None) -> Any:
        output, cell, trace, eligibility, history, modulators = torch.ops.plastikern.step.default(
            *operands, clamp, options.codes, options.clip, True
        )
        ctx.set_materialize_grads(False)
        ctx.options = options
        ctx.save_for_backward(output, history, modulators, clamp, *operands)
        return output, cell, trace, eligibility

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor | None, *grads: Tensor | None) -> Any:
        output, history, modulators, clamp, *rest = ctx.saved_tensors
        operands, nothing = Operands(*rest), output.new_empty(0)
        kept = Kept(output.unsqueeze(0), history, modulators, nothing, nothing)
        if operands.features is not None:
            operands = operands._replace(features=operands.features.unsqueeze(0))
        clamp = None if clamp is None else clamp.unsqueeze(0)
        upstream = (None if grad_output is None else grad_output.unsqueeze(0), None, *grads)
        found = _backward(ctx, upstream, ctx.options, kept, operands, clamp, None, ctx.needs_input_grad[2:])
        for index in (0, 1):
            grad = found[index]
            found[index] = None if grad is None else grad.squeeze(0)
        return None, None, *found


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, options: Options, clamp: Tensor | None, lengths: Tensor | None, *operands: Tensor | None
    ) -> Any:
        output, hidden, cell, trace, eligibility, history, modulators, checkpoints = (
            torch.ops.plastikern.sequence.default(
                *operands, clamp, lengths, options.codes, options.clip, options.batch_first, options.checkpoint_every
            )
        )
        ctx.set_materialize_grads(False)
        ctx.options = options
        # Backwards starts from the last trace.
        kept = Kept(output, history, modulators, checkpoints, trace if options.reversible else checkpoints)
        ctx.save_for_backward(*kept, clamp, lengths, *operands)
        return output, hidden, cell, trace, eligibility

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = ctx.saved_tensors
        kept, (clamp, lengths), operands = Kept(*saved[:5]), saved[5:7], Operands(*saved[7:])
        found = _backward(ctx, grads, ctx.options, kept, operands, clamp, lengths, ctx.needs_input_grad[3:])
        return None, None, None, *found
