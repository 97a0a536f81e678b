"""The definition of every network in plain PyTorch: any device, any dtype, any order of derivative.

The fused backends are tested against these functions in double precision. Shapes are those of
:mod:`plastikern.functional`, which checks the arguments before they come here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .plasticity import Plasticity

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda z: z}


def per_connection(coefficient: Tensor) -> Tensor:
    """View of a coefficient (), (O,) or (O, I) that broadcasts against (B, O, I): a neuron's value covers its row."""
    return coefficient.unsqueeze(-1) if coefficient.dim() == 1 else coefficient


def read(trace: Tensor, plasticity: Plasticity) -> Tensor:
    """The trace as the forward pass sees it."""
    return trace.clamp(-plasticity.clip, plasticity.clip) if plasticity.constraint == "clip_on_read" else trace


def excitation(pre: Tensor, trace: Tensor, weight: Tensor, alpha: Tensor, plasticity: Plasticity) -> Tensor:
    """Recurrent sum (w + alpha H) x of paper 1, eq. 1: (B, I) to (B, O)."""
    effective = weight + per_connection(alpha) * read(trace, plasticity)
    return torch.matmul(effective, pre.unsqueeze(-1)).squeeze(-1)


def update(trace: Tensor, pre: Tensor, post: Tensor, rate: Tensor, plasticity: Plasticity) -> Tensor:
    """Next trace (B, O, I) from the activity before the step, ``pre`` (B, I), and after it, ``post`` (B, O)."""
    post, pre, rate = post.unsqueeze(-1), pre.unsqueeze(-2), per_connection(rate)
    change = rate * post * (pre if plasticity.rule == "hebb" else pre - post * trace)
    if plasticity.constraint == "decay":
        return (1 - rate) * trace + change
    if plasticity.constraint == "clip":
        return (trace + change).clamp(-plasticity.clip, plasticity.clip)
    if plasticity.constraint == "soft_clip":
        # max(c, 0)(1 - H) + min(c, 0)(1 + H) = c - |c| H, which has one well-defined derivative at c = 0.
        return (trace + change - change.abs() * trace).clamp(-1, 1)
    return trace + change


def plastic_rnn_step(
    drive: Tensor,
    hidden: Tensor,
    trace: Tensor,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor,
    clamp: Tensor | None,
    plasticity: Plasticity,
    nonlinearity: str,
) -> tuple[Tensor, Tensor]:
    """One step: next activities (B, N) and next trace (B, N, N)."""
    active = ACTIVATIONS[nonlinearity](drive + excitation(hidden, trace, weight, alpha, plasticity))
    if clamp is not None:
        active = torch.where(clamp, drive, active)
    return active, update(trace, hidden, active, eta, plasticity)


def plastic_rnn_sequence(
    drive: Tensor,
    hidden: Tensor,
    trace: Tensor,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor,
    clamp: Tensor | None,
    lengths: Tensor | None,
    plasticity: Plasticity,
    nonlinearity: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps of a drive (T, B, N): activities (T, B, N), last activities (B, N), last trace (B, N, N)."""
    outputs = []
    for t in range(drive.shape[0]):
        step_clamp, step_drive = None if clamp is None else clamp[t], drive[t]
        if lengths is not None:
            running = (t < lengths).unsqueeze(-1)
            # What lies beyond an element's end, be it NaN, must not reach a gradient.
            step_drive = torch.where(running, step_drive, 0)
        active, changed = plastic_rnn_step(
            step_drive, hidden, trace, weight, alpha, eta, step_clamp, plasticity, nonlinearity
        )
        if lengths is None:
            outputs.append(active)
            hidden, trace = active, changed
        else:
            outputs.append(torch.where(running, active, 0))
            hidden, trace = torch.where(running, active, hidden), torch.where(running.unsqueeze(-1), changed, trace)
    return torch.stack(outputs) if outputs else drive.clone(), hidden, trace
