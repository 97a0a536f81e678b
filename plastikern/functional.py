"""Plastic networks as functions without parameters: one step, or one whole sequence.

With retroactive modulation every function takes an eligibility trace, and returns one more tensor behind the trace: the
next eligibility trace.

Longer than 600 lines: every function says what each of its arguments is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import backends, reference
from .arguments import activities_of, check_call, check_floating, layout_of, reset_state_of
from .checks import (
    DTYPES,
    HALF,
    check_dense,
    check_dtype,
    check_positive,
    check_tensor,
    checked_lengths,
    described,
    lengths_on,
    under_autocast,
    without_autocast,
)
from .episodes import Resets, resets_of
from .network import Connection, Inputs, Modulator, State
from .ops import fused
from .plasticity import Plasticity, one_number
from .program import Program, program_of, refused
from .rules.cells import carries

__all__ = [
    "modulator_signal",
    "plastic_gru_sequence",
    "plastic_gru_step",
    "plastic_linear_sequence",
    "plastic_linear_step",
    "plastic_lstm_sequence",
    "plastic_lstm_step",
    "plastic_rnn_sequence",
    "plastic_rnn_step",
]


def plastic_rnn_step(
    drive: Tensor,
    hidden: Tensor | None,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor | None,
    *,
    eligibility: Tensor | None = None,
    eligibility_eta: Tensor | None = None,
    modulator: Modulator | None = None,
    plasticity: Plasticity = Plasticity(),
    nonlinearity: str = "tanh",
    clamp: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    r"""One step of a plastic recurrent network: :math:`y_j = \phi(u_j + \sum_i (w_{ji} + \alpha_{ji} H_{ji}) x_i)`.

    The trace that the step reads holds products up to the step before; it is changed after the read, from the
    activity before (pre) and after (post) the step. See :class:`~plastikern.Plasticity` for the rules and their
    sources.

    Args:
        drive: :math:`u` (B, N), float64, float32, bfloat16 or float16. The latter two are computed in float32:
            activities come back in the dtype of the drive, traces go in and come back in float32, and parameters and
            activities may each be in either (docs/dtypes.md has it all, autocast too).
        hidden: activity before the step, :math:`x` (B, N); None is zero.
        trace: :math:`H` (B, N, N), ``trace[b, post, pre]``; None is zero.
        weight: :math:`w` (N, N), ``weight[post, pre]``.
        alpha: (N, N), (N,) or (), as ``plasticity.alpha`` says.
        eta: (), (N,) or (N, N), as ``plasticity.eta`` says; None where a modulator governs every neuron.
        eligibility: :math:`E` (B, N, N), only with retroactive modulation; None is zero.
        eligibility_eta: :math:`\eta_E` in the shape of ``eta``, only with retroactive modulation.
        modulator: parameters of the modulator, only with modulation; its input has N neurons.
        plasticity: the rule.
        nonlinearity: :math:`\phi`: ``"tanh"``, ``"relu"``, ``"sigmoid"`` or ``"identity"``.
        clamp: bool (B, N); where True, the neuron's activity is its drive.
        backend: a backend by name; by default chosen from the tensors' device.

    Returns:
        Activity after the step (B, N), next trace (B, N, N) and, with retroactive modulation, next eligibility trace
        (B, N, N). Nothing is changed in place.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, device, shape or name.
        RuntimeError: a backend asked for by name that cannot serve the call.
    """
    name, inputs = "plastic_rnn_step", Inputs(drive, None, clamp)
    program = program_of(name, "rnn", plasticity, nonlinearity)
    state = State(hidden, None, trace, eligibility)
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    return tuple(run(name, ("B", "N"), program, inputs, state, connection, backend))


def plastic_rnn_sequence(
    drive: Tensor,
    hidden: Tensor | None,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor | None,
    *,
    eligibility: Tensor | None = None,
    eligibility_eta: Tensor | None = None,
    modulator: Modulator | None = None,
    plasticity: Plasticity = Plasticity(),
    nonlinearity: str = "tanh",
    clamp: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: Sequence[Tensor | None] | None = None,
    batch_first: bool = False,
    checkpoint_every: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """A whole sequence of :func:`plastic_rnn_step` in one call.

    Args:
        drive: (T, B, N), or (B, T, N) with ``batch_first``. T and B may be 0.
        hidden, trace, weight, alpha, eta, eligibility, eligibility_eta, modulator, plasticity, nonlinearity, backend:
            as in :func:`plastic_rnn_step`.
        clamp: bool of the shape of ``drive``.
        lengths: steps of each element (B,), integers from 0 to T. An element that has ended keeps its hidden state
            and its traces, and its outputs are 0. Default: T for all.
        reset: bool (T, B), or (B, T) with ``batch_first``: an episode begins at these steps, so that the state before
            them is that of ``reset_state``, and nothing of the steps before reaches it, forward or backward. Before
            the first step, too: ``hidden`` and ``trace`` then count for the elements that go on. Beyond an element's
            end nothing is reset. A mask on a GPU is waited for; one on the CPU is not. Default: no resets.
        reset_state: what a reset gives, in the order of what is returned (hidden, trace and, with retroactive
            modulation, eligibility), each in the shape of the first state; None is zero. For the first state itself
            it is given twice. Only with ``reset``.
        batch_first: the layout of ``drive``, ``clamp`` and the output.
        checkpoint_every: spacing of the trace checkpoints that the fused backward keeps. By default the library
            chooses: about sqrt(T) steps, more for the rule ``decay`` at a small fixed rate. Between checkpoints the
            traces of recurrent networks are run backwards where that is accurate and nothing was clipped (rule
            ``hebb``; bounded activities; with a modulator the constraint ``clip`` only), else they are computed again.
            A spacing given here always computes them again. What runs backwards starts from the last traces, which
            must then not be changed in place before the backward pass. The reference backend keeps what autograd keeps.

    Returns:
        Activities in the layout of ``drive``, last activity (B, N), last trace (B, N, N) and, with retroactive
        modulation, last eligibility trace (B, N, N).

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`plastic_rnn_step`.
    """
    name, inputs = "plastic_rnn_sequence", Inputs(drive, None, clamp)
    program, over = (
        program_of(name, "rnn", plasticity, nonlinearity),
        Over(lengths, batch_first, checkpoint_every, reset, reset_state),
    )
    layout, state = layout_of(name, batch_first, "N"), State(hidden, None, trace, eligibility)
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    return tuple(run(name, layout, program, inputs, state, connection, backend, over))


def plastic_lstm_step(
    drive: Tensor,
    hidden: Tensor | None,
    cell: Tensor | None,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor | None,
    *,
    eligibility: Tensor | None = None,
    eligibility_eta: Tensor | None = None,
    modulator: Modulator | None = None,
    plasticity: Plasticity = Plasticity(),
    post: str = "candidate",
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    r"""One step of an LSTM whose candidate has a plastic recurrent connection.

    :math:`i, f, o = \sigma(u_{i,f,o} + W_{i,f,o} h)`, :math:`g = \tanh(u_g + (W_g + \alpha \circ H) h)`,
    :math:`c' = f c + i g`, :math:`h' = o \tanh c'`; then the trace changes, with :math:`h` as pre.

    Args:
        drive: :math:`u` (B, 4 N), gates in the order i, f, g, o of ``torch.nn.LSTM``.
        hidden, cell: (B, N); None is zero.
        trace: :math:`H` (B, N, N), ``trace[b, post, pre]``; None is zero.
        weight: :math:`W` (4 N, N) in the same order, as ``torch.nn.LSTM.weight_hh_l0``.
        alpha, eta, eligibility, eligibility_eta, modulator, plasticity, backend: as in :func:`plastic_rnn_step`.
        post: the post-synaptic signal of the trace: ``"candidate"`` :math:`g`, ``"recurrent"`` :math:`(W_g + \alpha
            \circ H) h`, ``"cell"`` :math:`c'` or ``"hidden"`` :math:`h'`.

    Returns:
        Next hidden and cell (B, N), next trace (B, N, N) and, with retroactive modulation, next eligibility trace.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`plastic_rnn_step`.

    Source: Backpropamine (ICLR 2019), section 4.3.
    """
    name, inputs = "plastic_lstm_step", Inputs(drive)
    program = program_of(name, "lstm", plasticity, post=post)
    state = State(hidden, cell, trace, eligibility)
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    return tuple(run(name, ("B", "4 N"), program, inputs, state, connection, backend))


def plastic_lstm_sequence(
    drive: Tensor,
    hidden: Tensor | None,
    cell: Tensor | None,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor | None,
    *,
    eligibility: Tensor | None = None,
    eligibility_eta: Tensor | None = None,
    modulator: Modulator | None = None,
    plasticity: Plasticity = Plasticity(),
    post: str = "candidate",
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: Sequence[Tensor | None] | None = None,
    batch_first: bool = False,
    checkpoint_every: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """A whole sequence of :func:`plastic_lstm_step` in one call.

    Args:
        drive: (T, B, 4 N), or (B, T, 4 N) with ``batch_first``. T and B may be 0.
        hidden, cell, trace, weight, alpha, eta, eligibility, eligibility_eta, modulator, plasticity, post, backend: as
            in :func:`plastic_lstm_step`.
        lengths, reset, batch_first, checkpoint_every: as in :func:`plastic_rnn_sequence`.
        reset_state: likewise: hidden, cell, trace and, with retroactive modulation, eligibility.

    Returns:
        Activities (T, B, N), or (B, T, N); last hidden and cell (B, N), last trace (B, N, N) and, with retroactive
        modulation, last eligibility trace.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`plastic_rnn_step`.
    """
    name, inputs = "plastic_lstm_sequence", Inputs(drive)
    program, over = (
        program_of(name, "lstm", plasticity, post=post),
        Over(lengths, batch_first, checkpoint_every, reset, reset_state),
    )
    layout, state = layout_of(name, batch_first, "4 N"), State(hidden, cell, trace, eligibility)
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    return tuple(run(name, layout, program, inputs, state, connection, backend, over))


def plastic_gru_step(
    drive: Tensor,
    hidden: Tensor | None,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor | None,
    *,
    eligibility: Tensor | None = None,
    eligibility_eta: Tensor | None = None,
    modulator: Modulator | None = None,
    plasticity: Plasticity = Plasticity(),
    post: str = "candidate",
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    r"""One step of a GRU whose candidate has a plastic recurrent connection.

    :math:`r, z = \sigma(u_{r,z} + W_{r,z} h)`, :math:`s = u_s + (W_n + \alpha \circ H) h`,
    :math:`n = \tanh(u_n + r s)`, :math:`h' = (1 - z) n + z h`; then the trace changes, with :math:`h` as pre.

    Args:
        drive: :math:`u` (B, 4 N) in the order r, z, s, n. What ``torch.nn.GRU`` adds to the recurrent sum of its
            candidate within the reset gate, the last N values of ``bias_hh_l0``, is :math:`u_s`.
        hidden: (B, N); None is zero.
        trace: :math:`H` (B, N, N), ``trace[b, post, pre]``; None is zero.
        weight: :math:`W` (3 N, N) in the order r, z, n of ``torch.nn.GRU.weight_hh_l0``.
        alpha, eta, eligibility, eligibility_eta, modulator, plasticity, backend: as in :func:`plastic_rnn_step`.
        post: the post-synaptic signal of the trace: ``"candidate"`` :math:`n`, ``"recurrent"`` :math:`s` or
            ``"hidden"`` :math:`h'`.

    Returns:
        Next hidden (B, N), next trace (B, N, N) and, with retroactive modulation, next eligibility trace.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`plastic_rnn_step`.

    Source: the GRU of Cho et al. (EMNLP 2014) as ``torch.nn.GRU`` has it, plastic where the LSTM of Backpropamine (ICLR
    2019, section 4.3) is.
    """
    name, inputs = "plastic_gru_step", Inputs(drive)
    program = program_of(name, "gru", plasticity, post=post)
    state = State(hidden, None, trace, eligibility)
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    return _present(*run(name, ("B", "4 N"), program, inputs, state, connection, backend))


def plastic_gru_sequence(
    drive: Tensor,
    hidden: Tensor | None,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor | None,
    *,
    eligibility: Tensor | None = None,
    eligibility_eta: Tensor | None = None,
    modulator: Modulator | None = None,
    plasticity: Plasticity = Plasticity(),
    post: str = "candidate",
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: Sequence[Tensor | None] | None = None,
    batch_first: bool = False,
    checkpoint_every: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """A whole sequence of :func:`plastic_gru_step` in one call.

    Args:
        drive: (T, B, 4 N), or (B, T, 4 N) with ``batch_first``. T and B may be 0.
        hidden, trace, weight, alpha, eta, eligibility, eligibility_eta, modulator, plasticity, post, backend: as in
            :func:`plastic_gru_step`.
        lengths, reset, reset_state, batch_first, checkpoint_every: as in :func:`plastic_rnn_sequence`.

    Returns:
        Activities (T, B, N), or (B, T, N); last hidden (B, N), last trace (B, N, N) and, with retroactive modulation,
        last eligibility trace.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`plastic_rnn_step`.
    """
    name, inputs = "plastic_gru_sequence", Inputs(drive)
    program, over = (
        program_of(name, "gru", plasticity, post=post),
        Over(lengths, batch_first, checkpoint_every, reset, reset_state),
    )
    layout, state = layout_of(name, batch_first, "4 N"), State(hidden, None, trace, eligibility)
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    return _present(*run(name, layout, program, inputs, state, connection, backend, over))


def plastic_linear_step(
    input: Tensor,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor | None,
    *,
    drive: Tensor | None = None,
    eligibility: Tensor | None = None,
    eligibility_eta: Tensor | None = None,
    modulator: Modulator | None = None,
    plasticity: Plasticity = Plasticity(),
    nonlinearity: str = "softmax",
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    r"""One step of a plastic layer: :math:`y = \phi(u + (w + \alpha \circ H) x)`, then the trace changes.

    Args:
        input: :math:`x` (B, I).
        trace: :math:`H` (B, O, I), ``trace[b, post, pre]``; None is zero.
        weight: :math:`w` (O, I).
        alpha: (O, I), (O,) or (), as ``plasticity.alpha`` says.
        eta: (), (O,) or (O, I), as ``plasticity.eta`` says; None where a modulator governs every neuron.
        drive: :math:`u` (B, O), such as a bias, or a label times 1,000 that forces the output; None is zero.
        eligibility, eligibility_eta, modulator, plasticity, backend: as in :func:`plastic_rnn_step`, with (B, O, I) in
            place of (B, N, N); the modulator's input is the output, O neurons.
        nonlinearity: :math:`\phi`: ``"softmax"`` over the O outputs, ``"tanh"``, ``"relu"``, ``"sigmoid"`` or
            ``"identity"``.

    Returns:
        Output (B, O), next trace (B, O, I) and, with retroactive modulation, next eligibility trace (B, O, I).

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`plastic_rnn_step`.

    Source: Differentiable plasticity (ICML 2018), section 4.4.
    """
    name, state = "plastic_linear_step", State(None, None, trace, eligibility)
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    program = program_of(name, "linear", plasticity, nonlinearity)
    inputs = _linear_inputs(name, input, drive, weight, ("B", "I"))
    return tuple(run(name, ("B", "O"), program, inputs, state, connection, backend))


def plastic_linear_sequence(
    input: Tensor,
    trace: Tensor | None,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor | None,
    *,
    drive: Tensor | None = None,
    eligibility: Tensor | None = None,
    eligibility_eta: Tensor | None = None,
    modulator: Modulator | None = None,
    plasticity: Plasticity = Plasticity(),
    nonlinearity: str = "softmax",
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: Sequence[Tensor | None] | None = None,
    batch_first: bool = False,
    checkpoint_every: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """A whole sequence of :func:`plastic_linear_step` in one call.

    Args:
        input: (T, B, I), or (B, T, I) with ``batch_first``. T and B may be 0.
        drive: (T, B, O), or (B, T, O) with ``batch_first``; None is zero.
        trace, weight, alpha, eta, eligibility, eligibility_eta, modulator, plasticity, nonlinearity, backend: as in
            :func:`plastic_linear_step`.
        lengths, reset, batch_first, checkpoint_every: as in :func:`plastic_rnn_sequence`.
        reset_state: likewise: trace and, with retroactive modulation, eligibility.

    Returns:
        Outputs (T, B, O), or (B, T, O); last trace (B, O, I) and, with retroactive modulation, last eligibility trace.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`plastic_rnn_step`.
    """
    name, state = "plastic_linear_sequence", State(None, None, trace, eligibility)
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    program, over = (
        program_of(name, "linear", plasticity, nonlinearity),
        Over(lengths, batch_first, checkpoint_every, reset, reset_state),
    )
    layout = layout_of(name, batch_first, "O")
    inputs = _linear_inputs(name, input, drive, weight, (*layout[:2], "I"))
    return tuple(run(name, layout, program, inputs, state, connection, backend, over))


def modulator_signal(source: Tensor, modulator: Modulator, plasticity: Plasticity) -> Tensor:
    r"""The neuromodulator :math:`M = \psi(v \cdot s + b)`, as the networks compute it at every step.

    Args:
        source: the modulator's input (..., N), such as the activities that a sequence returns.
        modulator: its parameters.
        plasticity: names its nonlinearity.

    Returns:
        M (...,), in the dtype of ``source``; under autocast in float32 where that is in half precision.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, device or shape.
    """
    name = "modulator_signal"
    if not isinstance(plasticity, Plasticity):
        raise TypeError(f"{name}: plasticity must be a Plasticity; got {described(plasticity)}")
    if not isinstance(modulator, Modulator):
        raise TypeError(f"{name}: modulator must be a Modulator; got {described(modulator)}")
    if not isinstance(source, Tensor) or not source.is_floating_point():
        raise TypeError(f"{name}: source must be a floating-point tensor; got {described(source)}")
    check_dense(name, "source", source)
    check_dtype(name, "source", source, DTYPES)
    if source.dim() == 0:
        raise ValueError(f"{name}: source must have shape (..., N); got ()")
    dtypes = (
        (torch.float32, *HALF)
        if source.dtype in HALF or under_autocast(source)
        else (source.dtype,)
    )
    check_tensor(name, "modulator.weight", modulator.weight, (source.shape[-1],), source, *dtypes)
    if one_number(modulator.bias):
        modulator = modulator._replace(bias=modulator.bias.reshape(()))
    check_tensor(name, "modulator.bias", modulator.bias, (), source, *dtypes)
    with without_autocast(source):
        signal = reference.modulator_signal(
            _wide(source), _wide(modulator), plasticity.modulator_nonlinearity
        )
    return signal if under_autocast(source) else signal.to(source.dtype)


def _wide(value: Any) -> Any:
    """In single precision what is in half: a tensor, or all tensors of a record."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in HALF else value
    return (
        type(value)(*map(_wide, value))
        if isinstance(value, (Inputs, State, Connection, Modulator, Over))
        else value
    )


class Over(NamedTuple):
    """What a call of a whole sequence is told besides.

    Attributes:
        reset: a mask, or :class:`~plastikern.episodes.Resets` where it has been looked at.
    """

    lengths: Any
    batch_first: bool
    checkpoint_every: Any
    reset: Any = None
    reset_state: Any = None


def run(
    name: str, layout: tuple[str, ...], program: Program, inputs: Inputs, state: State, connection: Connection,
    backend: str | None, over: Over | None = None,
) -> Sequence[Tensor]:  # fmt: skip
    """One step, or a sequence: its output and the last state; of a recurrent network's step the state alone.

    The native operators check shapes, dtypes and devices. Where nothing else could be wrong, they do so alone, since
    to check all of that here, too, would take longer than a small step; what they refuse is then explained here.
    """
    drive = inputs.drive
    if over is not None and over.reset_state is not None:
        given = reset_state_of(name, program, over.reset, over.reset_state)
        over = over._replace(reset_state=given)
    plain = (
        type(drive) is Tensor
        and drive.dtype in PLAIN
        and not torch.compiler.is_compiling()
        and not torch._C._is_any_autocast_enabled()
        and (over is None or over.lengths is over.reset is over.reset_state is None)
        and _plausible(program, inputs, state, connection, over)
    )
    if not plain:
        if isinstance(drive, Tensor) and under_autocast(drive):
            with without_autocast(drive):
                wide = _wide(inputs), _wide(state), _wide(connection)
                return run(name, layout, program, *wide, backend, _wide(over))
        fresh = None if over is None else over.reset_state
        check_call(name, program, inputs, state, connection, layout, fresh)
        if (dtype := activities_of(inputs).dtype) in HALF:
            wide = _wide(inputs), _wide(state), _wide(connection)
            found = run(name, layout, program, *wide, backend, _wide(over))
            # Activities in the precision that they came in; traces, which gather small changes, stay in single.
            traces = 2 if program.retroactive else 1
            return [*(x.to(dtype) for x in found[:-traces]), *found[-traces:]]
    if over is not None:
        if over.checkpoint_every is not None:
            check_positive(name, "checkpoint_every", over.checkpoint_every)
        if over.lengths is not None:
            sizes = (drive.shape[layout.index(letter)] for letter in "TB")
            over = over._replace(lengths=checked_lengths(name, over.lengths, *sizes))
        if over.reset is not None and not isinstance(over.reset, Resets):
            resets = resets_of(name, over.reset, over.lengths, drive, over.batch_first)
            over = over._replace(reset=resets)
    quick = plain and backends.by_cpu(backend, drive)
    chosen = "cpu" if quick else backends.select(backend, drive)
    if chosen == "reference":
        if plain:
            check_call(name, program, inputs, state, connection, layout)
        return _reference(program, inputs, state, connection, over)
    try:
        if over is None or over.reset is None:
            return fused.run(chosen, inputs, state, connection, program, over and over[:3])
        return _with_resets(chosen, inputs, state, connection, program, over)
    except RuntimeError as error:
        if plain and refused(error):
            check_call(name, program, inputs, state, connection, layout)
        raise fused.told(error) from None


def _with_resets(
    backend: str, inputs: Inputs, state: State, connection: Connection, program: Program, over: Over
) -> Sequence[Tensor]:  # fmt: skip
    """On kernels: episodes that begin inside a sequence become elements of their own."""
    resets, fresh = over.reset, over.reset_state or State(None, None, None, None)
    pairs = list(zip(State._fields, state, fresh, strict=True))
    state = State(**{field: resets.first(*of) for field, *of in pairs})
    segments = resets.segments(over.batch_first, True, any(x is not None for x in fresh))
    if segments is None:
        return fused.run(backend, inputs, state, connection, program, over[:3])
    absent = [None] * len(segments.waves)
    packed = zip(*(absent if x is None else segments.gathered(x) for x in inputs), strict=True)
    begin = [segments.starting(*of) for of in zip(state, fresh, strict=True)]
    starts = zip(*(segments.of_waves(tensor) for tensor in begin), strict=True)
    outputs, lasts = [], []
    for wave, given, start in zip(segments.waves, packed, starts, strict=True):
        each = wave.lengths, False, over.checkpoint_every
        output, *last = fused.run(backend, Inputs(*given), State(*start), connection, program, each)
        outputs.append(output)
        lasts.append(last)
    return [segments.scattered(outputs), *map(segments.last, zip(*lasts, strict=True))]


def _reference(
    program: Program, inputs: Inputs, state: State, connection: Connection, over: Over | None
) -> Sequence[Tensor]:
    """By the definition: of a sequence ``over`` its lengths."""
    batch_first, drive = over is not None and over.batch_first, inputs.drive
    if batch_first:
        inputs = Inputs(*(None if tensor is None else tensor.transpose(0, 1) for tensor in inputs))  # type: ignore[arg-type]
    state = _filled(
        program,
        state,
        connection,
        inputs.drive[..., 0] if over is None else inputs.drive.new_empty(inputs.drive.shape[1]),
    )
    if over is None:
        output, last = reference.step(inputs, state, connection, program)
        return _present(*(() if program.kind != "linear" else (output,)), *last)
    lengths = None if over.lengths is None else lengths_on(over.lengths, drive.device)
    begins = None if over.reset is None else over.reset.on_device()
    output, last = reference.sequence(
        inputs, state, connection, program, lengths, begins, over.reset_state
    )
    return _present(output.transpose(0, 1) if batch_first else output, *last)


PLAIN = (torch.float32, torch.float64)


def _plausible(
    program: Program, inputs: Inputs, state: State, connection: Connection, over: Over | None
) -> bool:
    """Whether what there is and how much of it fits the options: shapes, dtypes and devices could be wrong alone."""
    weight, alpha, eta, fading, modulator = connection
    plasticity = program.plasticity
    # Rates per connection are expanded on their way to the operator, which would not see their shapes.
    if plasticity.eta == "connection" or plasticity.fan_out == "connection":
        return False
    rate = DIMS[plasticity.eta]
    tensors: tuple[Tensor | None, ...]
    wanted: tuple[int | None, ...]
    if modulator is None:
        if plasticity.modulation != "none" or eta is None:
            return False
        tensors, wanted = (alpha, eta, fading), (DIMS[plasticity.alpha], rate, None)
    else:
        if type(modulator) is not Modulator or modulator.modulated is not None:
            return False
        if plasticity.modulation == "none" or eta is not None:
            return False
        fan_out = DIMS.get(plasticity.fan_out)
        fading_dims = rate if program.retroactive else None
        source, bias, *fan_outs, _ = modulator
        if not TENSORS.issuperset((type(source), type(bias))) or source.dim() != 1:
            return False
        tensors, wanted = (
            (alpha, fading, *fan_outs),
            (DIMS[plasticity.alpha], fading_dims, fan_out, fan_out),
        )
    others = map(type, (*tensors, inputs.features, inputs.clamp, *state))
    if type(weight) not in TENSORS or not TENSORS_OR_NONE.issuperset(others):
        return False
    for tensor, dims in zip(tensors, wanted, strict=True):
        if tensor is None or dims is None:
            if tensor is not None or dims is not None:
                return False
        elif tensor.dim() != dims and not (dims == 0 and tensor.shape == ONE):
            return False
    if over is not None:
        drive = inputs.drive
        for tensor in (
            state.hidden,
            eta,
            fading,
        ):  # their values decide how far checkpoints lie apart
            if tensor is not None and (tensor.dtype, tensor.device) != (drive.dtype, drive.device):
                return False
    return True


DIMS, ONE = {"layer": 0, "neuron": 1, "connection": 2}, (1,)
TENSORS = frozenset((Tensor, torch.nn.Parameter))
TENSORS_OR_NONE = TENSORS | {type(None)}


def _filled(program: Program, state: State, connection: Connection, like: Tensor) -> State:
    """The state with zeros for what is missing; ``like`` is (B,)."""
    batch, posts = like.shape[0], _posts(program, connection)
    pres = connection.weight.shape[1]
    shapes: list[tuple[int, ...] | None] = [
        None if program.kind == "linear" else (batch, posts),
        (batch, posts) if carries(program.kind) else None,
        (batch, posts, pres),
        (batch, posts, pres) if program.retroactive else None,
    ]
    return State(*(
        like.new_zeros(shape) if tensor is None and shape is not None else tensor
        for tensor, shape in zip(state, shapes, strict=True)
    ))  # fmt: skip


def _present(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    return tuple([tensor for tensor in tensors if tensor is not None])


def _posts(program: Program, connection: Connection) -> int:
    return connection.weight.shape[0] // program.weights


def _linear_inputs(
    name: str, input: Tensor, drive: Tensor | None, weight: Tensor, layout: tuple[str, ...]
) -> Inputs:
    """Features and drive of a layer; everything else is measured by the drive."""
    check_floating(name, "input", input, layout)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        got = tuple(weight.shape) if isinstance(weight, Tensor) else described(weight)
        raise ValueError(f"{name}: weight must have shape (O, {input.shape[-1]}); got {got}")
    if drive is None:
        drive = input.new_zeros(*input.shape[:-1], weight.shape[0])
    return Inputs(drive, input)
