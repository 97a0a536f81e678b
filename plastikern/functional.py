"""Plastic networks as functions without parameters: one step, or one whole sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import backends, reference
from .checks import check_positive, check_tensor, checked_lengths, described
from .ops import rnn as fused_rnn
from .plasticity import NONLINEARITIES, Plasticity, granular_shape

__all__ = ["plastic_rnn_sequence", "plastic_rnn_step"]


def plastic_rnn_step(
    drive: Tensor,
    hidden: Tensor | None,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor,
    *,
    plasticity: Plasticity = Plasticity(),
    nonlinearity: str = "tanh",
    clamp: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    r"""One step of a plastic recurrent network: :math:`y_j = \phi(u_j + \sum_i (w_{ji} + \alpha_{ji} H_{ji}) x_i)`.

    The trace that the step reads holds products up to the step before; it is changed after the read, from the
    activity before (pre) and after (post) the step. See :class:`~plastikern.Plasticity` for the rules and their
    sources.

    Args:
        drive: :math:`u` (B, N), float32 or float64 for the fused backends; any floating dtype for the reference.
        hidden: activity before the step, :math:`x` (B, N); None is zero.
        trace: :math:`H` (B, N, N), ``trace[b, post, pre]``; None is zero.
        weight: :math:`w` (N, N), ``weight[post, pre]``.
        alpha: (N, N), (N,) or (), as ``plasticity.alpha`` says.
        eta: (), (N,) or (N, N), as ``plasticity.eta`` says.
        plasticity: the rule.
        nonlinearity: :math:`\phi`: ``"tanh"``, ``"relu"``, ``"sigmoid"`` or ``"identity"``.
        clamp: bool (B, N); where True, the neuron's activity is its drive.
        backend: a backend by name; by default chosen from the tensors' device.

    Returns:
        Activity after the step (B, N) and next trace (B, N, N). Nothing is changed in place.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, device, shape or name.
        RuntimeError: a backend asked for by name that cannot serve the call.
    """
    name = "plastic_rnn_step"
    _check_arguments(name, drive, ("B", "N"), hidden, trace, weight, alpha, eta, plasticity, nonlinearity, clamp)
    if backends.select(backend, drive) == "cpu":
        return fused_rnn.step(drive, hidden, trace, weight, alpha, eta, clamp, plasticity, nonlinearity)
    hidden, trace = _zeros_where_none(drive, drive.shape[0], hidden, trace)
    return reference.plastic_rnn_step(drive, hidden, trace, weight, alpha, eta, clamp, plasticity, nonlinearity)


def plastic_rnn_sequence(
    drive: Tensor,
    hidden: Tensor | None,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor,
    *,
    plasticity: Plasticity = Plasticity(),
    nonlinearity: str = "tanh",
    clamp: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    batch_first: bool = False,
    checkpoint_every: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A whole sequence of :func:`plastic_rnn_step` in one call.

    Args:
        drive: (T, B, N), or (B, T, N) with ``batch_first``. T and B may be 0.
        hidden, trace, weight, alpha, eta, plasticity, nonlinearity, backend: as in :func:`plastic_rnn_step`.
        clamp: bool of the shape of ``drive``.
        lengths: steps of each element (B,), integers from 0 to T. An element that has ended keeps its hidden state
            and its trace, and its outputs are 0. Default: T for all.
        batch_first: the layout of ``drive``, ``clamp`` and the output.
        checkpoint_every: spacing of the trace checkpoints that the fused backward keeps. By default the library
            chooses: the rule ``decay`` is run backwards from sparse checkpoints as long as that is accurate
            (amplification of rounding errors up to 10), everything else is recomputed from checkpoints about every
            sqrt(T) steps. A spacing given here always recomputes. The reference backend keeps what autograd keeps.

    Returns:
        Activities in the layout of ``drive``, last activity (B, N) and last trace (B, N, N).

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`plastic_rnn_step`.
    """
    name = "plastic_rnn_sequence"
    layout = ("B", "T", "N") if batch_first else ("T", "B", "N")
    _check_arguments(name, drive, layout, hidden, trace, weight, alpha, eta, plasticity, nonlinearity, clamp)
    if checkpoint_every is not None:
        check_positive(name, "checkpoint_every", checkpoint_every)
    steps, batch = (drive.shape[1], drive.shape[0]) if batch_first else drive.shape[:2]
    steps_of_each = checked_lengths(name, lengths, steps, batch)
    if backends.select(backend, drive) == "cpu":
        return fused_rnn.sequence(
            drive, hidden, trace, weight, alpha, eta, clamp, steps_of_each,
            plasticity, nonlinearity, batch_first, checkpoint_every,
        )  # fmt: skip
    hidden, trace = _zeros_where_none(drive, batch, hidden, trace)
    if batch_first:
        drive, clamp = drive.transpose(0, 1), None if clamp is None else clamp.transpose(0, 1)
    if steps_of_each is not None:
        steps_of_each = steps_of_each.to(drive.device)
    output, hidden, trace = reference.plastic_rnn_sequence(
        drive, hidden, trace, weight, alpha, eta, clamp, steps_of_each, plasticity, nonlinearity
    )
    return output.transpose(0, 1) if batch_first else output, hidden, trace


def _zeros_where_none(drive: Tensor, batch: int, hidden: Tensor | None, trace: Tensor | None) -> tuple[Tensor, Tensor]:
    neurons = drive.shape[-1]
    hidden = drive.new_zeros(batch, neurons) if hidden is None else hidden
    return hidden, drive.new_zeros(batch, neurons, neurons) if trace is None else trace


def _check_arguments(
    name: str,
    drive: Tensor,
    layout: tuple[str, ...],
    hidden: Tensor | None,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor,
    plasticity: Plasticity,
    nonlinearity: str,
    clamp: Tensor | None,
) -> None:
    if not isinstance(plasticity, Plasticity):
        raise TypeError(f"{name}: plasticity must be a Plasticity; got {type(plasticity).__name__}")
    if nonlinearity not in NONLINEARITIES:
        raise ValueError(f"{name}: nonlinearity must be one of {', '.join(NONLINEARITIES)}; got {nonlinearity!r}")
    if not isinstance(drive, Tensor) or not drive.is_floating_point():
        raise TypeError(f"{name}: drive must be a floating-point tensor; got {described(drive)}")
    if drive.dim() != len(layout):
        raise ValueError(f"{name}: drive must have shape ({', '.join(layout)}); got {tuple(drive.shape)}")
    batch, neurons = drive.shape[layout.index("B")], drive.shape[-1]
    if neurons == 0:
        raise ValueError(f"{name}: drive must have at least one neuron; got shape {tuple(drive.shape)}")
    check_tensor(name, "weight", weight, (neurons, neurons), drive)
    check_tensor(name, "alpha", alpha, granular_shape(plasticity.alpha, neurons, neurons), drive)
    check_tensor(name, "eta", eta, granular_shape(plasticity.eta, neurons, neurons), drive)
    if hidden is not None:
        check_tensor(name, "hidden", hidden, (batch, neurons), drive)
    if trace is not None:
        check_tensor(name, "trace", trace, (batch, neurons, neurons), drive)
    if clamp is not None:
        check_tensor(name, "clamp", clamp, tuple(drive.shape), drive, dtype=torch.bool)
