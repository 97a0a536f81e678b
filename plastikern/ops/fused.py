"""Plastic networks on the fused kernels: what is saved for the backward pass, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import backends
from ..backends import FUSED
from ..checks import exporting, has_values, lengths_on, without_autocast
from ..network import Connection, Inputs, State, per_connection, rate_terms
from ..program import (
    GRADIENTS,
    NO_MEMORY,
    PLACE,
    RESULTS,
    Program,
    given,
    gradients_of,
    names,
    results_of,
    spacing,
)
from ..rules.cells import CELLS, PLASTIC, history_of
from ..rules.updates import runs_backwards
from . import fakes

MAX_AMPLIFICATION = 10.0
"""How far running traces backwards may magnify rounding errors between two checkpoints."""
GATHERED_ROUNDINGS = 14000.0
"""How many of them may gather there, times the steps: see :func:`reach_backwards`. Chosen by random networks of 200 to
20,000 steps: with as many, gradients of rates were about as far off as those of traces that are computed again."""

FORWARD_MODE = "the fused backends have no forward-mode derivatives; backend='reference' has"
Tensors = Sequence[Tensor | None]


class Pass(NamedTuple):
    """How a program is run, on which tensors, and what is kept: see the schemas in csrc/registration.cpp.

    Attributes:
        given, results: names of the tensors that go in and come out.
        returned: how many of these, the first ones, the caller gets. The others are for the backward pass.
        kept: places of those that the backward pass needs, and ``kept_names`` what it calls them.
    """

    backend: str
    program: Program
    given: str
    results: tuple[str, ...]
    returned: int
    kept: tuple[int, ...]
    kept_names: tuple[str, ...]
    step: bool
    batch_first: bool
    checkpoint_every: int
    reversible: bool


def pass_of(
    backend: str, program: Program, given: str, step: bool, batch_first: bool = False, checkpoint_every: int = 1,
    reversible: bool = False,
) -> Pass:  # fmt: skip
    """The pass of these options: the same one again at the next call."""
    options = (backend, given, step, batch_first, checkpoint_every, reversible)
    if torch.compiler.is_compiling():
        return _made_pass(program, *options)
    known = (id(program), *options)
    if (found := _passes.get(known)) is None:
        if len(_passes) >= 1024:
            _passes.clear()
        found = _passes[known] = _made_pass(program, *options)
    return found


# A pass holds its program, whose identity stays its own: to hash a program would take longer.
_passes: dict[tuple[Any, ...], Pass] = {}


def _made_pass(
    program: Program, backend: str, given: str, step: bool, batch_first: bool, checkpoint_every: int,
    reversible: bool,
) -> Pass:  # fmt: skip
    results = names(results_of, program.key, step, True, reversible)
    public = [result.name for result in RESULTS[:5]]
    last = {"trace": "trace_out", "eligibility": "eligibility_out"} if reversible else {}
    kept = {"output": "output", **{result.name: result.name for result in RESULTS[5:]}, **last}
    places = tuple(place for place, name in enumerate(results) if name in kept)
    return Pass(
        backend, program, given, results,
        returned=sum(name in public for name in results),
        kept=places,
        kept_names=tuple(kept[results[place]] for place in places),
        step=step, batch_first=batch_first, checkpoint_every=checkpoint_every, reversible=reversible,
    )  # fmt: skip


def _look_up(backend: str, name: str) -> Any:
    return getattr(getattr(torch.ops, FUSED[backend].operators()), name).default


_looked_up = cache(_look_up)


def _operator(backend: str, name: str) -> Any:
    """An operator of a backend, without looking it up at every call (torch.compile does not see through a cache)."""
    return (_look_up if torch.compiler.is_compiling() else _looked_up)(backend, name)


def told(error: RuntimeError) -> RuntimeError:
    """An operator's error, as torch's own where that is want of memory."""
    text = str(error)
    return torch.OutOfMemoryError(text) if text.startswith(NO_MEMORY) else error


def checkpoint_spacing(
    backend: str, inputs: Inputs, connection: Connection, program: Program, first: Tensor | None = None,
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
    plasticity, steps = program.plasticity, inputs.drive.shape[1 if batch_first else 0]
    if not has_values(inputs.drive):
        # One number for many lengths, or each new length would be compiled anew; nor may values decide.
        return (16 if steps <= 1024 else 128), False
    root, constraint = spacing(steps), plasticity.constraint
    bounded = {
        "rnn": program.nonlinearity in ("tanh", "sigmoid"),
        **dict.fromkeys(CELLS, program.post in ("candidate", "hidden")),
        "linear": False,
    }[program.kind]
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
    if fading is None or fading.numel() == 0:
        return root, fading is None
    shrink = (
        abs(1 - fading.item()) if fading.numel() == 1 else float((1 - fading.detach()).abs().min())
    )
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


def operands_of(
    inputs: Inputs, state: State, connection: Connection, program: Program, lengths: Tensor | None
) -> list[Tensor | None]:
    """The tensors of a call, in the order of :data:`~plastikern.program.OPERANDS`."""
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
        shape = (connection.weight.shape[0] // program.weights, connection.weight.shape[1])
        alpha = per_connection(alpha).expand(shape)
        rate, scale, fading = (
            None if tensor is None else per_connection(tensor).expand(shape)
            for tensor in (rate, scale, fading)
        )
    weight = bias = modulated = None
    if modulator is not None:
        weight, bias = modulator.weight, modulator.bias
        # Without eligibility traces it is the rates alone that tell modulated neurons from others.
        modulated = modulator.modulated if program.retroactive else None
    return [
        inputs.drive, inputs.features, *state, connection.weight, alpha, rate, scale, fading, weight, bias,
        modulated, inputs.clamp, lengths,
    ]  # fmt: skip


def _differentiated(tensors: Tensors) -> bool:
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
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return not exporting()
    return False


def run(
    backend: str, inputs: Inputs, state: State, connection: Connection, program: Program,
    over: tuple[Tensor | None, bool, int | None] | None,
) -> Sequence[Tensor]:  # fmt: skip
    """A call: of a sequence ``over`` its lengths, in the layout batch_first, with a spacing of checkpoints; or a step.

    Returns its output and its last state, those that there are; of a recurrent network's step the state alone.

    The tensors are checked by :mod:`plastikern.functional`, or by the operator.

    Raises:
        RuntimeError: the operator refuses them (:data:`~plastikern.program.REFUSED`), or something else.
    """
    step = over is None
    lengths, batch_first, every = (None, False, 1) if over is None else over
    # Once for both passes. Compiled code leaves them where they are, for the operators to check their values.
    if lengths is not None and FUSED[backend].device_lengths and not torch.compiler.is_compiling():
        lengths = lengths_on(lengths, inputs.drive.device)
    operands = operands_of(inputs, state, connection, program, lengths)
    tensors, present = given(operands)
    if not _differentiated(tensors):
        start = (tensors, present, program.key, program.plasticity.clip)
        if step:
            found: list[Tensor] = _operator(backend, "step")(*start, False)
        else:
            found = _operator(backend, "sequence")(*start, batch_first, 0, False)
        return found
    reversible = False
    if every is None:
        every, reversible = checkpoint_spacing(
            backend, inputs, connection, program, state.hidden, batch_first
        )
    call = pass_of(backend, program, present, step, batch_first, every, reversible)
    found = _recorder()(call, None, *tensors)
    return found[: call.returned]


def _recorder() -> Callable[..., Any]:
    """Autograd's way to :class:`PlasticNetwork`: a function of a :class:`Pass`, results or None, and tensors."""
    # What torch's own apply does before, looking up a signature, takes as long as a small step; and its transforms,
    # which need that, have been refused.
    return PlasticNetwork.apply if torch.compiler.is_compiling() else _recorded


class Recording:
    """Steps that a recurrent network takes one at a time, kept as the forward pass of a sequence keeps them.

    The traces stay in the kernels' own layout and are changed in place: a step reads and writes them once. Arguments
    are checked by :mod:`plastikern.nn.rollout`.

    Args:
        like: (B, N), of a network with gates (B, 4 N): of the dtype and on the device of the drive.
        steps: at most so many.
    """

    def __init__(
        self,
        backend: str,
        like: Tensor,
        state: State,
        connection: Connection,
        program: Program,
        steps: int,
    ) -> None:
        inputs = Inputs(like.detach().unsqueeze(0).expand(steps, *like.shape))
        spacing = checkpoint_spacing(backend, inputs, connection, program, state.hidden)
        self._advance, self._empty = _operator(backend, "advance"), _operator(backend, "empty")
        self._options, self.taken = (program.key, program.plasticity.clip, spacing[0]), 0
        # Autograd could not keep for the backward pass what was made in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            operands = operands_of(inputs, state, connection, program, None)
            tensors, present = given(operands)
            self._call = call = pass_of(backend, program, present, False, False, *spacing)
            self._operands = [tensor.detach().contiguous() for tensor in tensors]
            results = fakes.sequence(
                [tensor.to("meta") for tensor in tensors], present, program.key,
                program.plasticity.clip, False, *spacing,
            )  # fmt: skip
            self._shapes = dict(zip(call.results, results, strict=True))
            kept = {kept.name: self._new(like, self._shapes.get(kept.name)) for kept in RESULTS[5:]}
            if kept["lost"] is not None:
                kept["lost"] = torch.zeros_like(self._shapes["lost"], device=like.device)
            if kept["checkpoints"] is not None and operands[PLACE["modulated"]] is not None:
                kept[
                    "checkpoints"
                ].zero_()  # rows without eligibility traces leave theirs unwritten
            self._kept = kept
            self.output = self._new(like, self._shapes["output"])
            # The traces of all elements, and parameters per synapse in rows of the same length.
            batch, posts, _ = self._shapes["trace"].shape
            kinds, row = self._shapes["checkpoints"].shape[2:5:2]
            self._memory = self._empty(like, [(kinds * batch + 5) * posts * row])
            self._steps = self.output.unbind()
            self._nothing = like.new_empty(0)
            self._written = self._all_written({})
            self._version: int | None = self.output._version

    def _new(self, like: Tensor, shape: Tensor | None) -> Any:
        return None if shape is None else self._empty(like, shape.shape)

    def _all_written(self, last: dict[str, Tensor]) -> list[Tensor]:
        """What the operator writes; without values what is missing."""
        tensors = {"output": self.output, **last, **self._kept}
        found = [tensors.get(result.name) for result in RESULTS]
        return [*(self._nothing if tensor is None else tensor for tensor in found), self._memory]

    def unchanged(self) -> bool:
        """Whether nobody else has written into the activities, from which the next step is computed."""
        return self._version is None or self.output._version == self._version

    def step(self, drive: Tensor) -> Tensor:
        """The activities (B, N) after one more step, without gradients."""
        k = self.taken
        self._operands[0] = drive
        self._advance(self._operands, self._call.given, self._written, *self._options, k)
        self.taken = k + 1
        # The operator's own writing counts where autograd sees it. Compiled code sees another number.
        self._version = None if torch.compiler.is_compiling() else self.output._version
        return self._steps[k]

    def state(self) -> State:
        """The state after the steps so far."""
        with torch.inference_mode(False), torch.no_grad():
            last = {
                name: self._new(self.output, self._shapes[name])
                for name in State._fields
                if name in self._shapes
            }
            lengths = torch.full((self.output.shape[1],), self.taken)
            operands = [*self._operands[1:], lengths]
            names = self._call.given.removeprefix("drive ") + " lengths"
            self._advance(operands, names, self._all_written(last), *self._options, self.taken)
            self._version = self.output._version
        return State(*(last.get(name) for name in State._fields))

    def finish(self, drive: Tensor, state: State, connection: Connection) -> tuple[Tensor, State]:
        """Activities (T, B, N) of the T steps so far and the last state, as a sequence returns them.

        Args:
            drive: (T, B, N), of a network with gates (T, B, 4 N); that of the steps: gradients go there, its numbers
                are not read.
            state: the first state.
            connection: the parameters.
        """
        call, taken, last = self._call, self.taken, self.state()
        operands = operands_of(Inputs(drive), state, connection, call.program, None)
        found = {"output": self.output, **last._asdict(), **self._kept}
        if taken < self.output.shape[0]:
            every = call.checkpoint_every
            found["output"] = self.output[:taken].clone()
            rows = {"history": taken, "modulators": taken, "checkpoints": max(taken - 1, 0) // every,
                    "lost": -(-taken // every)}  # fmt: skip
            for name, count in rows.items():
                if found[name] is not None:
                    found[name] = found[name][:count]
        if not _differentiated(operands):
            return found["output"], last
        results = [found[name] for name in call.results]
        found = _recorder()(call, results, *given(operands)[0])
        named = dict(zip(call.results[: call.returned], found, strict=False))
        return found[0], State(*(named.get(name) for name in State._fields))


class PlasticNetwork(torch.autograd.Function):
    """A step or a sequence, or the ``results`` of the operator where a :class:`Recording` has them already.

    All that is kept is returned, so that :meth:`setup_context` sees it.
    """

    @staticmethod
    def forward(call: Pass, results: Sequence[Tensor] | None, *tensors: Tensor) -> Any:
        """The operator's results."""
        if results is None:
            start = (tensors, call.given, call.program.key, call.program.plasticity.clip)
            if call.step:
                results = _operator(call.backend, "step")(*start, True)
            else:
                results = _operator(call.backend, "sequence")(
                    *start, call.batch_first, call.checkpoint_every, call.reversible
                )
        return tuple(results)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keeps what gradients need."""
        call = ctx.call = inputs[0]
        ctx.set_materialize_grads(False)
        if call.returned < len(output):
            ctx.mark_non_differentiable(*output[call.returned :])
        # The backward pass does not need the drive, which comes first.
        ctx.save_for_backward(*[output[place] for place in call.kept], *inputs[3:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        """Gradients of the tensors."""
        call, needs = ctx.call, ctx.needs_input_grad[2:]
        upstream = [grad for grad in grads if grad is not None]
        if not upstream:
            return (None,) * (2 + len(needs))
        if backends.under_transform(*upstream):
            raise RuntimeError(backends.TRANSFORMED)
        plan = plan_of(call, needs, tuple([grad is not None for grad in grads]))
        tensors = [*ctx.saved_tensors, *upstream[: plan.upstream]]
        if not torch.is_grad_enabled() and not torch._C._is_any_autocast_enabled():
            return None, None, *_gradients(plan, tensors)
        # Autocast would compute products in half precision where somebody calls backward inside its block.
        with torch.no_grad(), without_autocast(upstream[0]):
            found = _gradients(plan, tensors)
        return None, None, *first_order(found, [*ctx.saved_tensors, *grads])


_recorded = super(torch.autograd.Function, PlasticNetwork).apply


class Plan(NamedTuple):
    """Of a backward pass: what its operator is given, what it is asked for, and what it returns.

    Attributes:
        call: the forward pass.
        spoken: names of the tensors that it is given, and ``places`` where each of these lies.
        upstream: how many gradients come in.
        wanted: names of gradients that are computed for who asks.
        returned: names of what comes out.
        needed: names of the call's tensors, or None, in their order.
    """

    call: Pass
    spoken: str
    places: dict[str, int]
    upstream: int
    wanted: str
    returned: tuple[str, ...]
    needed: tuple[str | None, ...]


def plan_of(call: Pass, needs: tuple[bool, ...], there: tuple[bool, ...]) -> Plan:
    """The plan for gradients of some of the tensors, from those of some of the results: the same one again."""
    if torch.compiler.is_compiling():
        return _made_plan(call, needs, there)
    known = (id(call), needs, there)
    if (found := _plans.get(known)) is None:
        if len(_plans) >= 1024:
            _plans.clear()
        found = _plans[known] = _made_plan(call, needs, there)
    return found


# A plan holds its pass, whose identity stays its own.
_plans: dict[tuple[Any, ...], Plan] = {}


def _made_plan(call: Pass, needs: tuple[bool, ...], there: tuple[bool, ...]) -> Plan:
    operands = call.given.split()
    # torch.compile gives those gradients, too, that there are not.
    pairs = zip(call.results[: call.returned], there, strict=False)
    incoming = [f"grad_{name}" for name, one in pairs if one]
    spoken = (*call.kept_names, *operands[1:], *incoming)
    needed = tuple(name if need else None for name, need in zip(operands, needs, strict=True))
    wanted = " ".join(grad.name for grad in GRADIENTS if grad.asked and grad.name in needed)
    returned = names(gradients_of, call.program.key, "clamp" in operands, wanted)
    places = {name: place for place, name in enumerate(spoken)}
    return Plan(call, " ".join(spoken), places, len(incoming), wanted, returned, needed)


def _gradients(plan: Plan, tensors: list[Tensor]) -> list[Tensor | None]:
    """Of the tensors of a call, None where nobody asks for one."""
    call, needed = plan.call, plan.needed
    program = call.program
    try:
        results = _operator(call.backend, "sequence_backward")(
            tensors, plan.spoken, program.key, program.plasticity.clip, call.batch_first,
            call.checkpoint_every, plan.wanted,
        )  # fmt: skip
    except RuntimeError as error:
        raise told(error) from None
    found: dict[str | None, Any] = dict(zip(plan.returned, results, strict=True))
    if "weight" in needed:
        found["weight"] = _weight_gradient(plan, found["drive"], found.get("sum"), tensors)
    if "modulator_weight" in needed:
        found["modulator_weight"] = _modulator_gradient(plan, found["modulator"], tensors)
    if "modulator_bias" in needed:
        shape = tensors[plan.places["modulator_bias"]].shape
        found["modulator_bias"] = found["modulator"].sum().view(shape)
    found[None] = None
    return [found[name] for name in needed]


def _weight_gradient(
    plan: Plan, grad_drive: Tensor, grad_sum: Tensor | None, tensors: list[Tensor]
) -> Tensor:
    """Of the baseline weight: the products of what came back to every sum with what went into it, over all steps."""
    program = plan.call.program
    size = grad_drive.shape[-1] // program.gates
    if grad_sum is not None and program.kind not in CELLS:
        return _products(plan, grad_sum, tensors)
    if program.weights < program.gates:
        grad_drive = grad_drive[..., : size * program.weights]
    grad = _products(plan, grad_drive, tensors)
    if grad_sum is not None:  # else it is the drive's gradient
        grad[PLASTIC * size : (PLASTIC + 1) * size] = _products(plan, grad_sum, tensors)
    return grad


def _products(plan: Plan, grad: Tensor, tensors: list[Tensor]) -> Tensor:
    """Sum over steps and elements of ``grad`` (T, B, O) times the activity before each step (T, B, I): (O, I)."""
    # Contiguous, so that the bits do not depend on the memory layout that came in.
    call, places = plan.call, plan.places
    if "lengths" in places and (rows_there := _rows_of_elements(plan, tensors)) is not None:
        sides = grad, _before(plan, tensors)
        of_grad, before = (x.flatten(0, 1).index_select(0, rows_there) for x in sides)
        return of_grad.mT @ before
    hidden = tensors[places["hidden"]].contiguous() if "hidden" in places else None
    if "features" in places or (call.batch_first and not call.step):
        return grad.flatten(0, -2).mT @ _before(plan, tensors).contiguous().flatten(0, -2)
    output = tensors[places["output"]]
    if call.step:
        if hidden is None:
            return grad.new_zeros(grad.shape[1], output.shape[1])
        return grad.t() @ hidden
    # Rows of all steps: the activity before a step lies one batch further up in the output.
    steps, batch, size = grad.shape
    rows, pres = max(steps - 1, 0) * batch, output.shape[2]
    grad, output = grad.contiguous(), output.contiguous()
    if torch.compiler.is_compiling():
        found = grad.flatten(0, 1)[batch:].t() @ output.flatten(0, 1)[:rows]
    else:
        # One view each, for each takes as long as the product of a small network.
        start = grad.storage_offset() + (batch * size if rows else 0)
        later = grad.as_strided((size, rows), (1, size), start)
        found = later @ output.as_strided((rows, pres), (pres, 1))
    if hidden is None or steps == 0:
        return found
    return found.addmm_(grad[0].t(), hidden)


MOSTLY_PADDED = 0.8
"""Where less of all steps belongs to elements, they are picked out for products: these take longer than a copy."""


def _rows_of_elements(plan: Plan, tensors: list[Tensor]) -> Tensor | None:
    """Of all steps, those that belong to elements; on the CPU, where these are few."""
    lengths, output = (tensors[plan.places[name]] for name in ("lengths", "output"))
    if not has_values(lengths) or output.device.type != "cpu":
        return None
    steps = output.shape[1 if plan.call.batch_first else 0]
    if int(lengths.sum()) > MOSTLY_PADDED * steps * len(lengths):
        return None
    running = torch.arange(steps).unsqueeze(-1) < lengths
    return (running.mT if plan.call.batch_first else running).flatten().nonzero().squeeze(-1)


def _before(plan: Plan, tensors: list[Tensor]) -> Tensor:
    """The activity before each step of a sequence, in the layout of the output."""
    call, places = plan.call, plan.places
    output, time = tensors[places["output"]], 1 if call.batch_first else 0
    if "features" not in places:
        hidden = tensors[places["hidden"]] if "hidden" in places else None
        if call.step:
            return torch.zeros_like(output) if hidden is None else hidden
        shifted: Tensor = output.roll(1, time)
        if shifted.shape[time]:
            shifted.select(time, 0).copy_(output.new_zeros(()) if hidden is None else hidden)
        return shifted
    features = tensors[places["features"]]
    if "lengths" not in places:
        return features
    # What lies beyond an element's end, be it NaN, must not reach a gradient.
    lengths = tensors[places["lengths"]]
    if lengths.device != features.device:
        lengths = lengths_on(lengths, features.device)
    steps = torch.arange(features.shape[time], device=features.device).view(
        (1, -1) if time else (-1, 1)
    )
    running = steps < (lengths.view(-1, 1) if time else lengths)
    return torch.where(running.unsqueeze(-1), features, 0)


def _modulator_gradient(plan: Plan, grad: Tensor, tensors: list[Tensor]) -> Tensor:
    """Of the modulator's weight, from the gradient (T, B) of what goes into its nonlinearity."""
    output, source = (
        tensors[plan.places["output"]],
        plan.call.program.plasticity.modulator_input,
    )
    activity = _before(plan, tensors) if source == "previous_hidden" else output
    if source == "cell":
        size, program = output.shape[-1], plan.call.program
        row = history_of(program.kind, program.post).index("cell") * size
        activity = tensors[plan.places["history"]][..., row : row + size]
    return grad.flatten() @ activity.flatten(0, -2)


def first_order(
    found: Sequence[Tensor | None], sources: Iterable[Tensor | None]
) -> list[Tensor | None]:
    """Gradients that raise where somebody differentiates them again, also where what came back was a constant.

    Args:
        found: the gradients.
        sources: what they were computed from. Torch asks only for what lies on a way to what it differentiates by.
    """
    if not torch.is_grad_enabled():
        return [*found]
    message = b"the fused backends have first derivatives only; backend='reference' has those of any order"
    fresh = [None if g is None else g.detach().requires_grad_() for g in found]
    behind = [x for x in sources if x is not None and x.requires_grad]
    refuse: Any = torch._C._functions.DelayedError(message, len(fresh) + len(behind))
    return list(refuse(*fresh, *behind)[: len(fresh)])
