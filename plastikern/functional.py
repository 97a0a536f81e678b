"""Plastic networks as functions without parameters: one step, or one whole sequence.

With retroactive modulation every function takes an eligibility trace, and returns one more tensor behind the trace: the
next eligibility trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import backends, reference
from .arguments import activities_of, check_call, check_floating, layout_of
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
from .network import Connection, Inputs, Modulator, Network, State
from .ops import fused
from .plasticity import Plasticity, one_number

__all__ = [
    "modulator_signal",
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
    name, inputs, state = (
        "plastic_rnn_step",
        Inputs(drive, None, clamp),
        State(hidden, None, trace, eligibility),
    )
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    network = Network("rnn", plasticity, nonlinearity)
    return _present(*_step(name, ("B", "N"), network, inputs, state, connection, backend)[1])


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
    name, inputs, state = (
        "plastic_rnn_sequence",
        Inputs(drive, None, clamp),
        State(hidden, None, trace, eligibility),
    )
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    network = Network("rnn", plasticity, nonlinearity)
    layout = layout_of(name, batch_first, "N")
    further = lengths, batch_first, checkpoint_every, backend
    output, last = _sequence(name, layout, network, inputs, state, connection, *further)
    return _present(output, *last)


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
    name, inputs, state = (
        "plastic_lstm_step",
        Inputs(drive),
        State(hidden, cell, trace, eligibility),
    )
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    network = Network("lstm", plasticity, post=post)
    return _present(*_step(name, ("B", "4 N"), network, inputs, state, connection, backend)[1])


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
    batch_first: bool = False,
    checkpoint_every: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """A whole sequence of :func:`plastic_lstm_step` in one call.

    Args:
        drive: (T, B, 4 N), or (B, T, 4 N) with ``batch_first``. T and B may be 0.
        hidden, cell, trace, weight, alpha, eta, eligibility, eligibility_eta, modulator, plasticity, post, backend: as
            in :func:`plastic_lstm_step`.
        lengths, batch_first, checkpoint_every: as in :func:`plastic_rnn_sequence`.

    Returns:
        Activities (T, B, N), or (B, T, N); last hidden and cell (B, N), last trace (B, N, N) and, with retroactive
        modulation, last eligibility trace.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`plastic_rnn_step`.
    """
    name, inputs, state = (
        "plastic_lstm_sequence",
        Inputs(drive),
        State(hidden, cell, trace, eligibility),
    )
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    network = Network("lstm", plasticity, post=post)
    layout = layout_of(name, batch_first, "4 N")
    further = lengths, batch_first, checkpoint_every, backend
    output, last = _sequence(name, layout, network, inputs, state, connection, *further)
    return _present(output, *last)


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
    network = Network("linear", plasticity, nonlinearity)
    inputs = _linear_inputs(name, input, drive, weight, ("B", "I"))
    output, last = _step(name, ("B", "O"), network, inputs, state, connection, backend)
    return _present(output, *last)


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
        lengths, batch_first, checkpoint_every: as in :func:`plastic_rnn_sequence`.

    Returns:
        Outputs (T, B, O), or (B, T, O); last trace (B, O, I) and, with retroactive modulation, last eligibility trace.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`plastic_rnn_step`.
    """
    name, state = "plastic_linear_sequence", State(None, None, trace, eligibility)
    connection = Connection(weight, alpha, eta, eligibility_eta, modulator)
    network = Network("linear", plasticity, nonlinearity)
    layout = layout_of(name, batch_first, "O")
    inputs = _linear_inputs(name, input, drive, weight, (*layout[:2], "I"))
    further = lengths, batch_first, checkpoint_every, backend
    output, last = _sequence(name, layout, network, inputs, state, connection, *further)
    return _present(output, *last)


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
        if isinstance(value, (Inputs, State, Connection, Modulator))
        else value
    )


def _narrowed(output: Tensor, state: State, dtype: torch.dtype) -> tuple[Tensor, State]:
    """Activities in the precision that they came in; traces, which gather small changes, stay in single precision."""
    hidden, cell = (None if tensor is None else tensor.to(dtype) for tensor in state[:2])
    return output.to(dtype), State(hidden, cell, state.trace, state.eligibility)


def _step(
    name: str, layout: tuple[str, ...], network: Network, inputs: Inputs, state: State, connection: Connection,
    backend: str | None,
) -> tuple[Tensor, State]:  # fmt: skip
    if not torch.is_grad_enabled() and _plausible(network, inputs, state, connection):
        try:
            chosen = backends.select(backend, inputs.drive)
            if chosen != "reference":
                return fused.step(chosen, inputs, state, connection, network)
        except Exception:
            pass  # explained below, or served there under autocast
    if isinstance(inputs.drive, Tensor) and under_autocast(inputs.drive):
        with without_autocast(inputs.drive):
            return _step(
                name, layout, network, _wide(inputs), _wide(state), _wide(connection), backend
            )
    check_call(name, network, inputs, state, connection, layout)
    if (dtype := activities_of(inputs).dtype) in HALF:
        wide = _wide(inputs), _wide(state), _wide(connection)
        return _narrowed(*_step(name, layout, network, *wide, backend), dtype)
    chosen = backends.select(backend, inputs.drive)
    if chosen != "reference":
        return fused.step(chosen, inputs, state, connection, network)
    return reference.step(
        inputs, _filled(network, state, connection, inputs.drive[..., 0]), connection, network
    )


def _plausible(network: Network, inputs: Inputs, state: State, connection: Connection) -> bool:
    """Whether shapes, dtypes and devices are all that could be wrong.

    The native operator checks those as well. While a network acts, step by step, to check them here, too, would take
    longer than the step; what the operator refuses is then explained by :func:`check_call`.
    """
    plasticity, modulator, dims = (
        network.plasticity,
        connection.modulator,
        {"layer": 0, "neuron": 1, "connection": 2},
    )
    if not (
        isinstance(inputs.drive, Tensor)
        and isinstance(plasticity, Plasticity)
        and len(inputs.drive.shape) == 2
    ):
        return False
    if inputs.drive.dtype in HALF:
        return False
    alpha, eta, fading = connection.alpha, connection.eta, connection.eligibility_eta
    retroactive = plasticity.modulation == "retroactive"
    if (modulator is None) != (plasticity.modulation == "none") or (
        state.eligibility is not None and not retroactive
    ):
        return False
    if not isinstance(alpha, Tensor) or _dims(alpha) != dims[plasticity.alpha]:
        return False
    rates = [(eta, modulator is None, plasticity.eta), (fading, retroactive, plasticity.eta)]
    if modulator is not None:
        if not isinstance(modulator, Modulator) or modulator.modulated is not None:
            return False
        fans_out = plasticity.fan_out != "none"
        rates += [
            (tensor, fans_out, plasticity.fan_out)
            for tensor in (modulator.fan_out_weight, modulator.fan_out_bias)
        ]
    # Rates per connection are expanded on their way to the operator, which would not see their shapes.
    return all(
        (isinstance(rate, Tensor) and _dims(rate) == dims[granularity] < 2)
        if wanted
        else rate is None
        for rate, wanted, granularity in rates
    )


def _dims(coefficient: Tensor) -> int:
    return 0 if coefficient.shape == (1,) else coefficient.dim()


def _sequence(
    name: str,
    layout: tuple[str, ...],
    network: Network,
    inputs: Inputs,
    state: State,
    connection: Connection,
    lengths: Tensor | Sequence[int] | None,
    batch_first: bool,
    checkpoint_every: int | None,
    backend: str | None,
) -> tuple[Tensor, State]:
    further: tuple[Any, ...] = lengths, batch_first, checkpoint_every, backend
    if isinstance(inputs.drive, Tensor) and under_autocast(inputs.drive):
        with without_autocast(inputs.drive):
            return _sequence(
                name, layout, network, _wide(inputs), _wide(state), _wide(connection), *further
            )
    check_call(name, network, inputs, state, connection, layout)
    if (dtype := activities_of(inputs).dtype) in HALF:
        wide = _wide(inputs), _wide(state), _wide(connection)
        return _narrowed(*_sequence(name, layout, network, *wide, *further), dtype)
    if checkpoint_every is not None:
        check_positive(name, "checkpoint_every", checkpoint_every)
    steps, batch = (
        inputs.drive.shape[1 if batch_first else 0],
        inputs.drive.shape[0 if batch_first else 1],
    )
    steps_of_each = checked_lengths(name, lengths, steps, batch)
    chosen = backends.select(backend, inputs.drive)
    if chosen != "reference":
        return fused.sequence(
            chosen, inputs, state, connection, network, steps_of_each, batch_first, checkpoint_every
        )
    if batch_first:
        inputs = Inputs(*(None if tensor is None else tensor.transpose(0, 1) for tensor in inputs))  # type: ignore[arg-type]
    if steps_of_each is not None:
        steps_of_each = lengths_on(steps_of_each, inputs.drive.device)
    like = inputs.drive.new_empty(batch)
    output, last = reference.sequence(
        inputs, _filled(network, state, connection, like), connection, network, steps_of_each
    )
    return output.transpose(0, 1) if batch_first else output, last


def _filled(network: Network, state: State, connection: Connection, like: Tensor) -> State:
    """The state with zeros for what is missing; ``like`` is (B,)."""
    batch, posts = like.shape[0], _posts(network, connection)
    pres = connection.weight.shape[1]
    shapes: list[tuple[int, ...] | None] = [
        None if network.kind == "linear" else (batch, posts),
        (batch, posts) if network.kind == "lstm" else None,
        (batch, posts, pres),
        (batch, posts, pres) if network.plasticity.modulation == "retroactive" else None,
    ]
    return State(*(
        like.new_zeros(shape) if tensor is None and shape is not None else tensor
        for tensor, shape in zip(state, shapes, strict=True)
    ))  # fmt: skip


def _present(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in tensors if tensor is not None)


def _posts(network: Network, connection: Connection) -> int:
    return connection.weight.shape[0] // (4 if network.kind == "lstm" else 1)


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
