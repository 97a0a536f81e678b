"""Plastic networks on the fused kernels: what is saved for the backward pass, and how."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import backends
from ..backends import FUSED
from ..checks import exporting, has_values, lengths_on, without_autocast
from ..network import KINDS, Connection, Inputs, Network, State, per_connection, rate_terms
from ..plasticity import LINEAR_NONLINEARITIES, POSTS
from ..rules.updates import runs_backwards
from . import fakes

MAX_AMPLIFICATION = 10.0
"""How far running traces backwards may magnify rounding errors between two checkpoints."""
GATHERED_ROUNDINGS = 14000.0
"""How many of them may gather there, times the steps: see :func:`reach_backwards`. Chosen by random networks of 200 to
20,000 steps: with as many, gradients of rates were about as far off as those of traces that are computed again."""

FORWARD_MODE = "the fused backends have no forward-mode derivatives; backend='reference' has"


class Operands(NamedTuple):
    """The tensors of a native call that have gradients, in the order of the operators; those that are missing, None."""

    drive: Tensor | None  # which the backward pass does not need
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


class Masks(NamedTuple):
    """Further tensors of a native call, which have no gradients."""

    modulated: Tensor | None
    clamp: Tensor | None


class Options(NamedTuple):
    """Everything else of a native call: the numbers of the enums in csrc, and how a sequence is kept."""

    backend: str
    network: Network
    codes: tuple[int, ...]
    clip: float
    batch_first: bool = False
    checkpoint_every: int = 1
    reversible: bool = False


class Kept(NamedTuple):
    """What a forward pass leaves for the backward pass."""

    output: Tensor
    history: Tensor | None = None
    modulators: Tensor | None = None
    checkpoints: Tensor | None = None
    lost: Tensor | None = None
    trace: Tensor | None = None
    eligibility: Tensor | None = None


def _look_up(backend: str, name: str) -> Any:
    return getattr(getattr(torch.ops, FUSED[backend].operators()), name).default


_looked_up = cache(_look_up)


def _operator(backend: str, name: str) -> Any:
    """An operator of a backend, without looking it up at every call (torch.compile does not see through a cache)."""
    return (_look_up if torch.compiler.is_compiling() else _looked_up)(backend, name)


def _call(backend: str, name: str, *arguments: Any) -> Any:
    try:
        return _operator(backend, name)(*arguments)
    except RuntimeError as error:
        # The stable ABI tells that torch has refused something, which is memory, but not how much: asked for the same
        # memory from here, torch says so.
        if "API call failed" in str(error):
            held = [argument.contiguous() for argument in arguments if isinstance(argument, Tensor)]
            held += [getattr(fakes, name)(*arguments)]
        raise


def codes(network: Network) -> tuple[int, ...]:
    """What the operators are told of a network: the numbers of the enums in csrc, and whether it is retroactive."""
    rule, constraint, retroactive, modulator_input, modulator_nonlinearity = (
        network.plasticity.codes
    )
    nonlinearity, post = (
        LINEAR_NONLINEARITIES.index(network.nonlinearity),
        POSTS.index(network.post),
    )
    kind = KINDS.index(network.kind)
    return (
        kind,
        rule,
        constraint,
        nonlinearity,
        post,
        retroactive,
        modulator_input,
        modulator_nonlinearity,
    )


def checkpoint_spacing(
    backend: str, inputs: Inputs, connection: Connection, network: Network, first: Tensor | None = None,
    batch_first: bool = False,
) -> tuple[int, bool]:  # fmt: skip
    """Steps between two trace checkpoints, and whether the backward pass may run the trace backwards between them.

    Computing a segment again costs memory for its traces, so sqrt(T) is the spacing that balances segment and
    checkpoints. Many rules can instead be solved for the trace before the step: where nothing was clipped, what a step
    added is taken off again, and the kernels note which rows lost something in which segment. The error is that of
    rounding the largest trace of a segment: pre and post must lie in [-1, 1], the ``first`` activities, too, and what a
    modulator gates must be clipped, since its size may change from step to step. What fades, under ``decay`` or as an
    eligibility trace, is divided by (1 - eta): rounding errors grow by (1 - eta)^-1 a step, so that the rate decides
    how far apart the checkpoints may be, and must be the same at all steps.
    """
    plasticity, steps = network.plasticity, inputs.drive.shape[1 if batch_first else 0]
    if not has_values(inputs.drive):
        # One number for many lengths, or each new length would be compiled anew; nor may values decide.
        return (16 if steps <= 1024 else 128), False
    root, constraint = math.isqrt(max(steps - 1, 0)) + 1, plasticity.constraint
    bounded = {
        "rnn": network.nonlinearity in ("tanh", "sigmoid"),
        "lstm": network.post in ("candidate", "hidden"),
        "linear": False,
    }[network.kind]
    if connection.modulator is not None and (
        constraint != "clip" or plasticity.clip > MAX_AMPLIFICATION
    ):
        bounded = False
    if (
        not FUSED[backend].reverses
        or not bounded
        or not runs_backwards(plasticity.rule, constraint)
    ):
        return root, False
    if inputs.clamp is not None and not _in_unit_range(inputs.drive):
        return root, False
    if first is not None and not _in_unit_range(first):
        return root, False
    fading = connection.eta if constraint == "decay" else connection.eligibility_eta
    if fading is None:
        return root, True
    rates = fading.detach()
    shrink = abs(1 - rates.item()) if rates.numel() == 1 else float((1 - rates).abs().min())
    reach = reach_backwards(shrink, steps, connection.weight.shape[-1])
    if reach < root:
        return root, False
    # Rows that lost something are computed again from checkpoints, which ``decay`` never needs.
    return (max(min(reach, steps), 1) if constraint == "decay" else root), True


def _in_unit_range(tensor: Tensor) -> bool:
    return tensor.numel() == 0 or float(tensor.detach().abs().max()) <= 1


def reach_backwards(shrink: float, steps: int, neurons: int) -> int:
    """Steps that a trace may be run backwards without a checkpoint where it shrinks by ``shrink`` a step.

    Every step back adds one rounding and magnifies those before it: K steps gather (shrink^-K - 1) / (1 - shrink) of
    them. Where activities hardly change, a trace is rounded in the same direction at every step, and the gradient of
    its rate sums up errors of one sign over all T steps: between two checkpoints there must be fewer, so that their
    sum does not grow with T. The factor sqrt(N) / 2 + 4 is that of the tolerance (tests/tolerances.py).
    """
    if not shrink > 0 or not math.isfinite(shrink):
        return 0
    gathered = GATHERED_ROUNDINGS * (math.sqrt(neurons) / 2 + 4) / max(steps, 1)
    if shrink >= 1:
        return min(steps, int(gathered))
    most = min(MAX_AMPLIFICATION, 1 + gathered * (1 - shrink))
    return int(math.log(most) / -math.log(shrink))


def _operands(inputs: Inputs, state: State, connection: Connection, network: Network) -> Operands:
    alpha, modulator = connection.alpha, connection.modulator
    rate, scale = rate_terms(connection)
    fading = connection.eligibility_eta
    if (
        (rate is not None and rate.dim() == 2)
        or (scale is not None and scale.dim() == 2)
        or (fading is not None and fading.dim() == 2)
    ):
        # The kernels know rates per connection only together with everything else per connection.
        if modulator is not None and rate is None:
            rate, scale = alpha.new_zeros(()), alpha.new_ones(())
        rows = connection.weight.shape[0] // (4 if network.kind == "lstm" else 1)
        shape = (rows, connection.weight.shape[1])
        alpha = per_connection(alpha).expand(shape)
        rate, scale, fading = (
            None if tensor is None else per_connection(tensor).expand(shape)
            for tensor in (rate, scale, fading)
        )
    weight, bias = (None, None) if modulator is None else modulator[:2]
    return Operands(
        *inputs[:2], *state, connection.weight, alpha, rate, scale, fading, weight, bias
    )


def _masks(inputs: Inputs, connection: Connection, network: Network) -> Masks:
    # Without eligibility traces it is the rates alone that tell modulated neurons from others.
    modulator, retroactive = connection.modulator, network.plasticity.modulation == "retroactive"
    return Masks(
        modulator.modulated if retroactive and modulator is not None else None, inputs.clamp
    )


def _differentiated(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether autograd must record the call.

    Not while a program is exported: torch keeps of it the operators alone, and what they would leave for a backward
    pass depends on the number of steps in ways that exclude others.

    Raises:
        RuntimeError: a tensor carries a forward-mode derivative.
    """
    if forward_ad._current_level >= 0:
        for tensor in tensors:
            if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
                raise RuntimeError(FORWARD_MODE)
    wanted = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )
    return wanted and not exporting()


def step(
    backend: str, inputs: Inputs, state: State, connection: Connection, network: Network
) -> tuple[Tensor, State]:
    """One fused step; arguments checked by :mod:`plastikern.functional`."""
    operands, numbers, clip = (
        _operands(inputs, state, connection, network),
        codes(network),
        network.plasticity.clip,
    )
    masks = _masks(inputs, connection, network)
    if _differentiated(operands):
        output, cell, trace, eligibility = _Step.apply(
            Options(backend, network, numbers, clip), masks, *operands
        )
    else:
        output, cell, trace, eligibility, _, _ = _call(
            backend, "step", *operands, *masks, numbers, clip, False
        )
    return output, State(None if network.kind == "linear" else output, cell, trace, eligibility)


def sequence(
    backend: str,
    inputs: Inputs,
    state: State,
    connection: Connection,
    network: Network,
    lengths: Tensor | None,
    batch_first: bool,
    checkpoint_every: int | None,
) -> tuple[Tensor, State]:
    """All steps in one call; arguments checked by :mod:`plastikern.functional`."""
    # Once for both passes. Compiled code leaves them where they are, for the operators to check their values.
    if lengths is not None and FUSED[backend].device_lengths and not torch.compiler.is_compiling():
        lengths = lengths_on(lengths, inputs.drive.device)
    operands, masks = (
        _operands(inputs, state, connection, network),
        _masks(inputs, connection, network),
    )
    numbers, clip = codes(network), network.plasticity.clip
    if not _differentiated(operands):
        output, *last = _call(
            backend, "sequence", *operands, *masks, lengths, numbers, clip, batch_first, 0, False
        )[:5]
        return output, State(*last)
    spacing, reversible = checkpoint_every, False
    if spacing is None:
        spacing, reversible = checkpoint_spacing(
            backend, inputs, connection, network, state.hidden, batch_first
        )
    options = Options(backend, network, numbers, clip, batch_first, spacing, reversible)
    output, *last = _Sequence.apply(options, masks, lengths, None, *operands)
    return output, State(*last)


class Recording:
    """Steps that a recurrent network takes one at a time, kept as the forward pass of a sequence keeps them.

    The traces stay in the kernels' own layout and are changed in place: a step reads and writes them once. Arguments
    are checked by :mod:`plastikern.nn.rollout`.

    Args:
        like: (B, N), an LSTM (B, 4 N): of the dtype and on the device of the drive.
        steps: at most so many.
    """

    def __init__(
        self,
        backend: str,
        like: Tensor,
        state: State,
        connection: Connection,
        network: Network,
        steps: int,
    ) -> None:
        inputs = Inputs(like.detach().unsqueeze(0).expand(steps, *like.shape))
        numbers, clip = codes(network), network.plasticity.clip
        spacing, reversible = checkpoint_spacing(backend, inputs, connection, network, state.hidden)
        self._options = Options(backend, network, numbers, clip, False, spacing, reversible)
        self._advance, self._empty = _operator(backend, "advance"), _operator(backend, "empty")
        self._numbers, self.taken = (numbers, clip, spacing), 0
        # Autograd could not keep for the backward pass what was made in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            self._masks = _masks(inputs, connection, network)
            given = (*_operands(inputs, state, connection, network)[1:], *self._masks)
            self._operands = tuple(
                None if tensor is None else tensor.detach().contiguous() for tensor in given
            )
            shapes = [
                None if tensor is None else tensor.to("meta")
                for tensor in (inputs.drive, *self._operands)
            ]
            results = fakes.sequence(*shapes, None, list(numbers), clip, False, spacing, reversible)  # type: ignore
            output, *self._last = results[:5]
            self.output = self._new(like, output)
            self._history, self._modulators, self._checkpoints = (
                self._new(like, tensor) for tensor in results[5:8]
            )
            self._lost = (
                None if results[8] is None else torch.zeros_like(results[8], device=like.device)
            )
            if self._checkpoints is not None and self._masks.modulated is not None:
                self._checkpoints.zero_()  # rows without eligibility traces leave theirs unwritten
            # The traces of all elements, and parameters per synapse in rows of the same length.
            batch, posts, pres = results[3].shape
            kinds = 2 if network.plasticity.modulation == "retroactive" else 1
            self._memory = self._empty(
                like, [(kinds * batch + 5) * posts * fakes.padded(like, pres)]
            )
            self._steps = self.output.unbind()
            self._version: int | None = self.output._version

    def _new(self, like: Tensor, shape: Tensor | None) -> Any:
        return None if shape is None else self._empty(like, shape.shape)

    @property
    def _kept(self) -> tuple[Tensor | None, ...]:
        return self._history, self._modulators, self._checkpoints, self._lost

    def unchanged(self) -> bool:
        """Whether nobody else has written into the activities, from which the next step is computed."""
        return self._version is None or self.output._version == self._version

    def step(self, drive: Tensor) -> Tensor:
        """The activities (B, N) after one more step, without gradients."""
        k = self.taken
        self._advance(
            drive, *self._operands, None, self.output, None, None, None, None, self._history, self._modulators,
            self._checkpoints, self._lost, self._memory, *self._numbers, k,
        )  # fmt: skip
        self.taken = k + 1
        # The operator's own writing counts where autograd sees it. Compiled code sees another number.
        self._version = None if torch.compiler.is_compiling() else self.output._version
        return self._steps[k]

    def state(self) -> State:
        """The state after the steps so far."""
        with torch.inference_mode(False), torch.no_grad():
            last = State(*(self._new(self.output, shape) for shape in self._last))
            lengths = torch.full((self.output.shape[1],), self.taken)
            self._advance(
                None, *self._operands, lengths, self.output, *last, *self._kept, self._memory, *self._numbers,
                self.taken,
            )  # fmt: skip
            self._version = self.output._version
        return last

    def finish(self, drive: Tensor, state: State, connection: Connection) -> tuple[Tensor, State]:
        """Activities (T, B, N) of the T steps so far and the last state, as :func:`sequence` returns them.

        Args:
            drive: (T, B, N), an LSTM (T, B, 4 N); that of the steps: gradients go there, its numbers are not read.
            state: the first state.
            connection: the parameters.
        """
        options, taken, last = self._options, self.taken, self.state()
        operands, output = _operands(Inputs(drive), state, connection, options.network), self.output
        history, modulators, checkpoints, lost = self._kept
        if taken < output.shape[0]:
            output, every = output[:taken].clone(), options.checkpoint_every
            history, modulators = (
                None if tensor is None else tensor[:taken] for tensor in (history, modulators)
            )
            checkpoints = None if checkpoints is None else checkpoints[: max(taken - 1, 0) // every]
            lost = None if lost is None else lost[: -(-taken // every)]
        if not _differentiated(operands):
            return output, last
        found = (output, *last, history, modulators, checkpoints, lost)
        output, *results = _Sequence.apply(options, self._masks, None, found, *operands)
        return output, State(*results)


def _backward(
    grads: tuple[Tensor | None, ...], options: Options, kept: Kept, operands: Operands,
    masks: Masks, lengths: Tensor | None, needs: tuple[bool, ...],
) -> list[Tensor | None]:  # fmt: skip
    """Gradients of the operands, None where nobody asks for one. ``grads``: of output, hidden, cell, trace, E."""
    if all(grad is None for grad in grads):
        return [None] * len(operands)
    if backends.under_transform(*grads):
        raise RuntimeError(backends.TRANSFORMED)
    # Autocast would compute the products below in half precision where somebody calls backward inside its block.
    with torch.no_grad(), without_autocast(kept.output):
        return _gradients(grads, options, kept, operands, masks, lengths, needs)


def _gradients(
    grads: tuple[Tensor | None, ...], options: Options, kept: Kept, operands: Operands,
    masks: Masks, lengths: Tensor | None, needs: tuple[bool, ...],
) -> list[Tensor | None]:  # fmt: skip
    wanted = Operands(*needs)  # type: ignore[arg-type]
    mask = sum(1 << position for position, needed in enumerate(needs) if needed)
    drive, total, features, hidden, cell, trace, eligibility, alpha, rate, scale, eligibility_rate, modulator = (
        _call(options.backend, "sequence_backward",
            *grads, *kept, *operands[1:], *masks, lengths,
            options.codes, options.clip, options.batch_first, options.checkpoint_every, options.reversible, mask,
        )
    )  # fmt: skip
    weight = modulator_weight = modulator_bias = None
    if wanted.weight or wanted.modulator_weight:
        before = _before(operands, kept, options, lengths)
        weight = _weight_gradient(drive, total, before, options) if wanted.weight else None
        modulator_weight = (
            _modulator_gradient(modulator, before, kept, options)
            if wanted.modulator_weight
            else None
        )
    if wanted.modulator_bias:
        assert operands.modulator_bias is not None
        modulator_bias = modulator.sum().view(operands.modulator_bias.shape)
    found = Operands(
        drive, features, hidden, cell, trace, eligibility, weight, alpha, rate, scale, eligibility_rate,  # type: ignore[arg-type]
        modulator_weight, modulator_bias,
    )  # fmt: skip
    return [grad if needed else None for grad, needed in zip(found, needs, strict=True)]


def _weight_gradient(
    grad_drive: Tensor, grad_sum: Tensor | None, before: Tensor, options: Options
) -> Tensor:
    """Of the baseline weight: the products of what came back to every sum with what went into it, over all steps."""
    if grad_sum is None:  # it is the drive's gradient
        return _products(grad_drive, before)
    if options.network.kind != "lstm":
        return _products(grad_sum, before)
    grad, size = _products(grad_drive, before), grad_sum.shape[-1]
    grad[2 * size : 3 * size] = _products(grad_sum, before)
    return grad


def _before(operands: Operands, kept: Kept, options: Options, lengths: Tensor | None) -> Tensor:
    """The activity before each step, in the layout of the output."""
    time = 1 if options.batch_first else 0
    if operands.features is None:
        first = kept.output.new_zeros(()) if operands.hidden is None else operands.hidden
        shifted = kept.output.roll(1, time)
        if shifted.shape[time]:
            shifted.select(time, 0).copy_(first)
        return shifted
    if lengths is None:
        return operands.features
    # What lies beyond an element's end, be it NaN, must not reach a gradient.
    if lengths.device != operands.features.device:
        lengths = lengths_on(lengths, operands.features.device)
    steps = torch.arange(operands.features.shape[time], device=operands.features.device).view(
        (1, -1) if time else (-1, 1)
    )
    running = steps < (lengths.view(-1, 1) if time else lengths)
    return torch.where(running.unsqueeze(-1), operands.features, 0)


def _products(grad: Tensor, before: Tensor) -> Tensor:
    """Sum over steps and elements of ``grad`` (T, B, O) times ``before`` (T, B, I): (O, I)."""
    # Contiguous, so that the bits do not depend on the memory layout that came in.
    return grad.flatten(0, 1).mT @ before.contiguous().flatten(0, 1)


def _modulator_gradient(grad: Tensor, before: Tensor, kept: Kept, options: Options) -> Tensor:
    """Of the modulator's weight, from the gradient (T, B) of what goes into its nonlinearity."""
    source, size = options.network.plasticity.modulator_input, kept.output.shape[-1]
    activity = before if source == "previous_hidden" else kept.output
    if source == "cell" and kept.history is not None:
        activity = kept.history[..., 4 * size : 5 * size]
    return grad.flatten() @ activity.flatten(0, 1)


def _first_order(found: list[Tensor | None]) -> list[Tensor | None]:
    """Gradients that raise where somebody differentiates them again, also where what came back was a constant."""
    if not torch.is_grad_enabled():
        return found
    message = b"the fused backends have first derivatives only; backend='reference' has those of any order"
    refuse = torch._C._functions.DelayedError(message, len(found))
    fresh: list[Any] = [None if g is None else g.detach().requires_grad_() for g in found]
    return list(refuse(*fresh))


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: Options, masks: Masks, *operands: Tensor | None) -> Any:
        output, cell, trace, eligibility, history, modulators = _call(
            options.backend, "step", *operands, *masks, options.codes, options.clip, True
        )
        ctx.set_materialize_grads(False)
        ctx.options = options
        ctx.save_for_backward(output, history, modulators, *masks, *operands[1:])
        return output, cell, trace, eligibility

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *grads: Tensor | None) -> Any:
        output, history, modulators, modulated, clamp, *rest = ctx.saved_tensors
        operands, kept = Operands(None, *rest), Kept(output.unsqueeze(0), history, modulators)
        if operands.features is not None:
            operands = operands._replace(features=operands.features.unsqueeze(0))
        masks = Masks(modulated, None if clamp is None else clamp.unsqueeze(0))
        upstream = (None if grad_output is None else grad_output.unsqueeze(0), None, *grads)
        found = _backward(
            upstream, ctx.options, kept, operands, masks, None, ctx.needs_input_grad[2:]
        )
        for index in (0, 1):
            grad = found[index]
            found[index] = None if grad is None else grad.squeeze(0)
        return None, None, *_first_order(found)


class _Sequence(torch.autograd.Function):
    """``found``: what the operator would return, where a :class:`Recording` has it already."""

    @staticmethod
    def forward(
        ctx: Any, options: Options, masks: Masks, lengths: Tensor | None, found: tuple[Tensor | None, ...] | None,
        *operands: Tensor | None,
    ) -> Any:  # fmt: skip
        if found is None:
            found = _call(
                options.backend, "sequence", *operands, *masks, lengths, options.codes, options.clip,
                options.batch_first, options.checkpoint_every, options.reversible,
            )  # fmt: skip
        *results, history, modulators, checkpoints, lost = found
        output: Any = results[0]
        trace, eligibility = results[3:]
        ctx.set_materialize_grads(False)
        ctx.options = options
        # Backwards starts from the last traces.
        last = (trace, eligibility) if options.reversible else (None, None)
        kept = Kept(output, history, modulators, checkpoints, lost, *last)
        ctx.save_for_backward(*kept, *masks, lengths, *operands[1:])
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = ctx.saved_tensors
        kept, masks, lengths, operands = (
            Kept(*saved[:7]),
            Masks(*saved[7:9]),
            saved[9],
            Operands(None, *saved[10:]),
        )
        found = _backward(
            grads, ctx.options, kept, operands, masks, lengths, ctx.needs_input_grad[4:]
        )
        return None, None, None, None, *_first_order(found)
