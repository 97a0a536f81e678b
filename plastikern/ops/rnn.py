"""The plastic recurrent network on the fused kernels: what is saved for the backward pass, and how."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from ..plasticity import CONSTRAINTS, NONLINEARITIES, RULES, Plasticity
from ..reference import per_connection

MAX_AMPLIFICATION = 10.0
"""How far running the rule ``decay`` backwards may magnify rounding errors between two checkpoints."""


def _codes(plasticity: Plasticity, nonlinearity: str) -> tuple[int, int, float, int]:
    """The rule as the native ops take it: the numbers of the enums in csrc/plasticity.h."""
    return (
        RULES.index(plasticity.rule),
        CONSTRAINTS.index(plasticity.constraint),
        float(plasticity.clip),
        NONLINEARITIES.index(nonlinearity),
    )


def checkpoint_spacing(
    steps: int, plasticity: Plasticity, nonlinearity: str, eta: Tensor, clamped_drive: Tensor | None
) -> tuple[int, bool]:
    """Steps between two trace checkpoints, and whether the backward pass may run the trace backwards between them.

    Recomputing a segment costs memory for its traces, so sqrt(T) is the spacing that balances segment and
    checkpoints. The rule ``decay`` can instead be solved for the trace before the step, which divides by (1 - eta):
    rounding errors grow by (1 - eta)^-1 a step, so that the rate decides how far apart the checkpoints may be. That
    holds while activities lie in [-1, 1]; where they can grow, so can the trace, and its small beginnings would be
    lost in the rounding of its end.
    """
    root = math.isqrt(max(steps - 1, 0)) + 1
    if plasticity.constraint != "decay" or nonlinearity not in ("tanh", "sigmoid") or torch.compiler.is_compiling():
        return root, False
    if clamped_drive is not None and clamped_drive.numel() and not float(clamped_drive.detach().abs().max()) <= 1:
        return root, False
    rates = eta.detach()
    shrink = abs(1 - rates.item()) if rates.dim() == 0 else float((1 - rates).abs().min())
    if not shrink > 0 or not math.isfinite(shrink):
        return root, False
    reach = steps if shrink >= 1 else int(math.log(MAX_AMPLIFICATION) / -math.log(shrink))
    return (max(min(reach, steps), 1), True) if reach >= root else (root, False)


def _as_fine_as(eta: Tensor, alpha: Tensor) -> Tensor:
    """Alpha per connection where eta is: the kernels have no fourth layout, and this costs one (N, N) tensor a call."""
    return per_connection(alpha).expand_as(eta) if eta.dim() == 2 and alpha.dim() != 2 else alpha


def _differentiated(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether autograd must see the call: to record it, or to refuse forward-mode derivatives."""
    if not torch.is_grad_enabled():
        return False
    return forward_ad._current_level >= 0 or any(tensor is not None and tensor.requires_grad for tensor in tensors)


def step(
    drive: Tensor,
    hidden: Tensor | None,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor,
    clamp: Tensor | None,
    plasticity: Plasticity,
    nonlinearity: str,
) -> tuple[Tensor, Tensor]:
    """One fused step; arguments checked by :func:`plastikern.functional.plastic_rnn_step`."""
    tensors = (drive, hidden, trace, weight, _as_fine_as(eta, alpha), eta)
    codes = _codes(plasticity, nonlinearity)
    if _differentiated(tensors):
        return _Step.apply(*tensors, clamp, codes)
    return torch.ops.plastikern.rnn_step.default(*tensors, clamp, *codes)


def sequence(
    drive: Tensor,
    hidden: Tensor | None,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor,
    clamp: Tensor | None,
    lengths: Tensor | None,
    plasticity: Plasticity,
    nonlinearity: str,
    batch_first: bool,
    checkpoint_every: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps in one call; arguments checked by :func:`plastikern.functional.plastic_rnn_sequence`."""
    tensors = (drive, hidden, trace, weight, _as_fine_as(eta, alpha), eta)
    codes = _codes(plasticity, nonlinearity)
    if _differentiated(tensors):
        spacing, reversible = checkpoint_every, False
        if spacing is None:
            steps, clamped_drive = drive.shape[1 if batch_first else 0], None if clamp is None else drive
            spacing, reversible = checkpoint_spacing(steps, plasticity, nonlinearity, eta, clamped_drive)
        return _Sequence.apply(*tensors, clamp, lengths, codes, batch_first, spacing, reversible)
    return torch.ops.plastikern.rnn_sequence.default(*tensors, clamp, lengths, *codes, batch_first, 0)[:3]


def _backward(
    ctx: Any,
    grads: tuple[Tensor | None, ...],
    output: Tensor,
    trace_out: Tensor,
    checkpoints: Tensor,
    inputs: tuple[Tensor | None, ...],
    lengths: Tensor | None,
    batch_first: bool,
    spacing: int,
    reversible: bool,
) -> list[Tensor | None]:
    """Gradients of (drive, hidden, trace, weight, alpha, eta), None where nobody asks for one."""
    hidden, trace, weight, alpha, eta, clamp = inputs
    needs = ctx.needs_input_grad[:6]
    if all(grad is None for grad in grads):
        return [None] * 6
    found = torch.ops.plastikern.rnn_sequence_backward.default(
        *grads, output, hidden, trace, trace_out, checkpoints, weight, alpha, eta, clamp, lengths,
        *ctx.codes, batch_first, spacing, reversible, needs[2], needs[3], needs[4], needs[5],
    )  # fmt: skip
    return [grad if needed else None for grad, needed in zip(found, needs, strict=True)]


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, drive, hidden, trace, weight, alpha, eta, clamp, codes):  # type: ignore[no-untyped-def]
        found, changed = torch.ops.plastikern.rnn_step.default(drive, hidden, trace, weight, alpha, eta, clamp, *codes)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(found, hidden, trace, weight, alpha, eta, clamp)
        ctx.codes = codes
        return found, changed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor | None, grad_trace: Tensor | None) -> Any:
        found, *inputs = ctx.saved_tensors
        if inputs[5] is not None:
            inputs[5] = inputs[5].unsqueeze(0)
        nothing = found.new_empty(0)
        upstream = (None, grad_hidden, grad_trace)
        grads = _backward(
            ctx, upstream, found.unsqueeze(0), nothing, nothing, tuple(inputs), None, False, 1, False
        )  # fmt: skip
        if grads[0] is not None:
            grads[0] = grads[0].squeeze(0)
        return *grads, None, None


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx: Any, drive, hidden, trace, weight, alpha, eta, clamp, lengths, codes, batch_first, spacing, reversible
    ):
        output, last, changed, checkpoints = torch.ops.plastikern.rnn_sequence.default(
            drive, hidden, trace, weight, alpha, eta, clamp, lengths, *codes, batch_first, spacing
        )
        ctx.set_materialize_grads(False)
        kept_trace = changed if reversible else checkpoints
        ctx.save_for_backward(output, kept_trace, checkpoints, hidden, trace, weight, alpha, eta, clamp, lengths)
        ctx.codes, ctx.options = codes, (batch_first, spacing, reversible)
        return output, last, changed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        output, kept_trace, checkpoints, *inputs, lengths = ctx.saved_tensors
        found = _backward(ctx, grads, output, kept_trace, checkpoints, tuple(inputs), lengths, *ctx.options)
        return *found, None, None, None, None, None, None
