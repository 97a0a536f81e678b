"""Networks under a rule of one's own, as functions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..backends import FUSED, named, where_none_can
from ..checks import (
    HALF,
    check_positive,
    check_tensor,
    checked_lengths,
    has_values,
    running_steps,
    under_autocast,
    without_autocast,
)
from ..episodes import Resets, chosen, resets_of
from ..reference import ACTIVATIONS
from . import cuda
from .calls import ACTIVITIES, CELL, CLAMP, GATES, Spec, rows_apart, target_of
from .cells import CELLS, carries, drives
from .compiling import CompilationError, compiled
from .decorator import GRANULARITIES, Rule, granular_shape, kind_shape
from .firing import Fired, fired, gated
from .operators import words_of
from .programs import Program
from .running import SCALARS, PlasticRule
from .uses import DROPPED, RUNNING
from .variants import program_of

State = dict[str, Tensor]
FROZEN = "_frozen"  # among the inputs of episodes
SHUT = 1e4
"""A drive at which a gate is 1, whatever else it gets."""
UNBOUNDED = ("relu", "identity")
"""Activities that may grow without an end."""
RESTING = 0.5
"""An activity that every function and its derivative is likely to bear, logarithms among them."""
PRE = "pre"
"""Name of the activities before the first step, among what a reset gives."""
BACKENDS = ("reference", "cpu", "cuda", "triton")
FOLLOWING = {"cuda": "triton", "triton": "reference", "cpu": "reference"}
"""What serves where a backend cannot, and none is named."""


def rule_sequence(
    rule: Rule, drive: Tensor, pre: Tensor, state: Mapping[str, Tensor], parameters: Mapping[str, Tensor],
    signals: Mapping[str, Tensor] | None = None, *, granularities: Mapping[str, str] | None = None,
    activity: str = "tanh", clamp: Tensor | None = None, lengths: Tensor | Iterable[int] | None = None,
    reset: Tensor | None = None, reset_state: Mapping[str, Tensor] | None = None,
    checkpoint_every: int | None = None, backend: str | None = None,
) -> tuple[Tensor, State]:  # fmt: skip
    """All steps of a plastic layer whose synapses change by a rule.

    Args:
        rule: declared by :func:`plastikern.rule`.
        drive: (T, B, O), what is added to the sums.
        pre: (T, B, I), the pre-synaptic activities. Of a recurrent layer, (B, O): its activities before the first step;
            those before any other step are its own.
        state: the first states, by name: of kind ``"synapse"`` (B, O, I), ``"pre"`` (B, I), ``"post"`` (B, O),
            ``"element"`` (B,).
        parameters: coefficients by name, and ``w`` (O, I) and ``alpha`` where the rule takes them: of one number, (I,),
            (O,) or (O, I).
        signals: by name, the shapes of states with T before them.
        granularities: by name of a parameter, ``"layer"``, ``"pre"``, ``"post"`` or ``"connection"``; needed only for
            vectors.
        activity: ``"tanh"``, ``"relu"``, ``"sigmoid"``, ``"identity"``, or ``"softmax"`` over the O neurons.
        clamp: bool (T, B, O); where True the activity is the drive.
        lengths: steps of each element (B,), from 0 to T; one that has ended keeps its states, its outputs are 0.
        reset: bool (T, B): an episode begins at these steps, so that the states before them are those of
            ``reset_state``, as :func:`plastikern.functional.plastic_rnn_sequence` has it.
        reset_state: states that a reset gives, by name, in the shapes of ``state``; of a recurrent layer also ``pre``.
            What is missing is zero. Only with ``reset``.
        checkpoint_every: spacing of the checkpoints of states that the backward pass keeps; None: the library chooses.
        backend: ``"cpu"`` and ``"cuda"`` compile the rule on first use, by the C++ compiler and by NVRTC; ``"triton"``
            is for CUDA devices, too; ``"reference"`` is the rule's function, run by torch, for derivatives of any
            order. None takes the fused one of the device: on NVIDIA's ``"cuda"``, whose pass is one launch, each
            element a block that changes the states in place. ``"triton"``, with one program an element as well, makes a
            launch for each of T + 1 units, writes new states at each, and leaves sums and activities to torch. So it
            serves AMD's devices, and those where NVRTC or the driver cannot, which a warning says.

    Returns:
        The activities (T, B, O), and the last states by name; all differentiable, as is everything that goes in.

    Raises:
        ValueError, TypeError: an argument is missing, unknown, or has another shape, dtype or device than it must have.
        RuleError: the rule does not allow these granularities, or no kernel can be made of it and ``backend`` asks for
            one.
        CompilationError: no compiler, or it failed, and ``backend`` is ``"cpu"`` or ``"cuda"``.
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"rule must be declared by @rule; got {type(rule).__name__}")
    if activity not in ACTIVITIES:
        raise ValueError(f"activity must be one of {', '.join(ACTIVITIES)}; got {activity!r}")
    for what, found in (("state", state), ("signals", signals or {}), ("parameters", parameters)):
        if not isinstance(found, Mapping):
            raise TypeError(f"{what} must be tensors by name; got {type(found).__name__}")
    if not isinstance(drive, Tensor) or drive.dim() != 3:
        got = tuple(drive.shape) if isinstance(drive, Tensor) else type(drive).__name__
        raise ValueError(f"drive must be a tensor (T, B, O); got {got}")
    if clamp is not None:
        check_tensor("rule_sequence", "clamp", clamp, tuple(drive.shape), drive, torch.bool)
    if checkpoint_every is not None:
        check_positive("rule_sequence", "checkpoint_every", checkpoint_every)
    how = How(activity=activity, every=checkpoint_every, backend=backend)
    layer = Layer(rule, granularities or {}, parameters, clamp=clamp)
    lengths = checked_lengths("rule_sequence", lengths, *drive.shape[:2])  # type: ignore[arg-type]
    starts = None
    if reset is not None:
        resets = resets_of("rule_sequence", reset, lengths, drive, False)
        starts = Starts(resets, {} if reset_state is None else reset_state)
        _check_fresh(rule, starts.fresh, state, pre)
    elif reset_state is not None:
        raise ValueError("reset_state is for calls with reset; got reset=None")
    output, _, last = run(layer, drive, pre, state, signals or {}, lengths, how, starts)
    return output, last


def _check_fresh(
    rule: Rule, fresh: Mapping[str, Tensor], state: Mapping[str, Tensor], pre: Tensor
) -> None:
    """That a reset gives states of the layer, in their shapes."""
    if not isinstance(fresh, Mapping):
        raise TypeError(f"reset_state must be tensors by name; got {type(fresh).__name__}")
    firsts = {**state, PRE: pre} if pre.dim() == 2 else {**state}
    for name, tensor in fresh.items():
        if name not in firsts:
            raise ValueError(
                f"reset_state: {rule.name} has no {name} that is handed on; it has {', '.join(sorted(firsts))}"
            )
        _fits(f"reset_state {name}", tensor, tuple(firsts[name].shape), firsts[name])


class Starts(NamedTuple):
    """Where episodes begin inside a sequence, and in which states, by name, with :data:`PRE` and :data:`CELL`."""

    resets: Resets
    fresh: Mapping[str, Tensor]


class How(NamedTuple):
    """Options of a call.

    Attributes:
        kind: ``"rnn"``, ``"linear"``, ``"lstm"`` or ``"gru"``.
        post: what the rule of a network with gates takes as ``y``.
        every: spacing of checkpoints, or None.
    """

    activity: str = "tanh"
    kind: str = "rnn"
    post: str = "candidate"
    every: int | None = None
    backend: str | None = None


class Masks(NamedTuple):
    """What a call lets stay, or leaves out.

    Attributes:
        frozen: bool (T, B), steps at which the states of synapses stay as they are while the neurons go on.
        dropout: (B, I), by which activities before a step are multiplied wherever they go (Gal and Ghahramani 2016).
        zoneout, zoneout_cell: (T, B, N), bool or a share from 0 to 1, of the activities before a step and of the cells
            that stay (Krueger et al. 2017).
    """

    frozen: Tensor | None = None
    dropout: Tensor | None = None
    zoneout: Tensor | None = None
    zoneout_cell: Tensor | None = None

    def in_time(self, change: Callable[[Tensor], Tensor]) -> Masks:
        """In another layout, those that belong to steps."""
        frozen, dropout, *others = self
        changed = [None if mask is None else change(mask) for mask in (frozen, *others)]
        return Masks(changed[0], dropout, *changed[1:])

    def defined(self, kind: str) -> str | None:
        """Of what there is, the first that only the reference has."""
        if self.zoneout is not None or self.zoneout_cell is not None:
            return "zoneout"
        if self.dropout is not None and kind in CELLS:
            return f"recurrent_dropout of {'an LSTM' if kind == 'lstm' else 'a GRU'}"
        return None


NO_MASKS = Masks()


class Layer(NamedTuple):
    """A rule with the tensors of a layer under it.

    Attributes:
        gates: of a network with gates, its recurrent weights that are not plastic (3 N, N), of a GRU (2 N, N).
        cell: the first one of an LSTM (B, N).
    """

    rule: Rule
    granularities: Mapping[str, str]
    parameters: Mapping[str, Tensor]
    clamp: Tensor | None = None
    gates: Tensor | None = None
    cell: Tensor | None = None
    masks: Masks = NO_MASKS


def run(
    layer: Layer, drive: Tensor, pre: Tensor, state: Mapping[str, Tensor], signals: Mapping[str, Tensor],
    lengths: Tensor | None, how: How, starts: Starts | None = None,
) -> tuple[Tensor, Tensor | None, State]:  # fmt: skip
    """All steps: the activities (T, B, O), the last cell of an LSTM, and the last states by name."""
    if drive.dtype in HALF or under_autocast(drive):
        with without_autocast(drive):
            wide = [
                {n: _wide(x) for n, x in each.items()}
                for each in (layer.parameters, state, signals)
            ]
            parts = layer._replace(
                parameters=wide[0], gates=_wide(layer.gates), cell=_wide(layer.cell)
            )
            if starts is not None:
                starts = starts._replace(fresh={n: _wide(x) for n, x in starts.fresh.items()})
            output, cell, last = run(
                parts, _wide(drive), _wide(pre), wide[1], wide[2], lengths, how, starts
            )
        # Activities in the precision that they came in; states, which gather small changes, stay in single.
        narrow = output.to(drive.dtype), None if cell is None else cell.to(drive.dtype)
        return *narrow, last
    rule, granularities, parameters, clamp, gates, cell, masks = layer
    if (what := masks.defined(how.kind)) is not None:
        if (asked := named(how.backend)) not in (None, "reference"):
            raise RuntimeError(
                f"backend {asked!r} cannot serve this call: it has no kernels for {what}; backend='reference' has"
            )
        how = how._replace(backend="reference")
    posts = drive.shape[-1] // drives(how.kind)
    of_use = _checked(rule, drive, pre, state, parameters, signals, granularities, posts)
    if starts is not None and _backend(rule, drive, how.backend) != "reference":
        return _of_episodes(layer, drive, pre, state, signals, lengths, how, starts)
    running = None
    if lengths is not None:
        running = running_steps(lengths, len(drive), drive.device)
        drive, pre, signals = _held(running, drive, pre, signals)
        if carries(how.kind):
            drive = _closed(running, drive)
        elif pre.dim() == 2 and how.activity in UNBOUNDED:
            drive, clamp = _resting(running, drive, clamp)
    if masks.dropout is not None:
        rule = rule.with_dropout
        signals = {**signals, DROPPED: masks.dropout.to(drive.dtype).expand(len(drive), -1, -1)}
    changing, frozen = running, masks.frozen
    if frozen is not None:
        changing = ~frozen if running is None else running & ~frozen
    if changing is not None:
        rule = rule.with_lengths
        signals = {**signals, RUNNING: changing.to(drive.dtype)}
    given = {**state, **signals, **parameters}
    others = {CLAMP: clamp, GATES: gates, CELL: cell}
    given |= {name: tensor for name, tensor in others.items() if tensor is not None}
    output, cell, last = _run(rule, drive, pre, given, of_use, how, starts, masks)
    if running is not None:
        output = torch.where(running.unsqueeze(-1), output, 0)
    return output, cell, last


def _of_episodes(
    layer: Layer, drive: Tensor, pre: Tensor, state: Mapping[str, Tensor], signals: Mapping[str, Tensor],
    lengths: Tensor | None, how: How, starts: Starts,
) -> tuple[Tensor, Tensor | None, State]:  # fmt: skip
    """What :func:`run` is given, with every episode as an element of its own."""
    resets, fresh = starts
    recurrent = pre.dim() == 2
    firsts = {**state, CELL: layer.cell, **({PRE: pre} if recurrent else {})}
    begin: dict[str, Any] = {n: resets.first(first, fresh.get(n)) for n, first in firsts.items()}
    segments = resets.segments(False, False, bool(fresh))
    if segments is None:
        cell = begin.pop(CELL)
        pre = begin.pop(PRE) if recurrent else pre
        return run(layer._replace(cell=cell), drive, pre, begin, signals, lengths, how)
    begin = {name: segments.starting(first, fresh.get(name)) for name, first in begin.items()}
    starts_of = {name: segments.of_waves(tensor) for name, tensor in begin.items()}
    masks = layer.masks
    inputs = {"drive": drive, CLAMP: layer.clamp, **signals, **({} if recurrent else {PRE: pre})}
    inputs[FROZEN] = masks.frozen
    if masks.dropout is not None:  # Each episode has the mask of its element.
        inputs[DROPPED] = masks.dropout.expand(len(drive), -1, -1).contiguous()
    given = {name: segments.gathered(x) for name, x in inputs.items() if x is not None}
    found = []
    for k, wave in enumerate(segments.waves):
        start = {name: tensors[k] for name, tensors in starts_of.items()}
        here: dict[str, Any] = {name: tensors[k] for name, tensors in given.items()}
        dropped = here.pop(DROPPED, None)
        own = layer._replace(
            clamp=here.pop(CLAMP, None),
            cell=start.pop(CELL),
            masks=Masks(here.pop(FROZEN, None), None if dropped is None else dropped[0]),
        )
        x = start.pop(PRE) if recurrent else here.pop(PRE)
        found.append(run(own, here.pop("drive"), x, start, here, wave.lengths, how))
    outputs, cells, lasts = zip(*found, strict=True)
    last = {name: segments.last([each[name] for each in lasts]) for name in lasts[0]}
    return segments.scattered(outputs), None if cells[0] is None else segments.last(cells), last


def _held(
    running: Tensor, drive: Tensor, pre: Tensor, signals: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, State]:
    """Inputs that stay as they are at an element's last step: what lies beyond it, be it NaN, reaches no gradient, and
    what a rule cannot bear, such as the logarithm of 0, is not made up."""
    steps = running.sum(0)
    step = torch.arange(len(running), device=running.device).unsqueeze(-1)
    step = step.clamp(max=(steps - 1).clamp(min=0))
    elements = torch.arange(running.shape[1], device=running.device)
    if len(steps):
        # All that an element without steps has is padding: it takes those of the longest one.
        elements = torch.where(steps > 0, elements, steps.argmax())

    def held(tensor: Tensor) -> Tensor:
        there = running.view(*running.shape, *(1,) * (tensor.dim() - 2))
        return torch.where(there, tensor, tensor.detach()[step, elements].nan_to_num(0.0, 0.0, 0.0))

    recurrent = pre.dim() == 2
    return held(drive), pre if recurrent else held(pre), {n: held(x) for n, x in signals.items()}


def _resting(running: Tensor, drive: Tensor, clamp: Tensor | None) -> tuple[Tensor, Tensor]:
    """Drives and clamps with which the neurons of elements that have ended rest at an activity that is usual. Left to
    themselves they may grow beyond all numbers, and then gradients of 0 would become NaN."""
    ended = ~running.unsqueeze(-1)
    clamp = ended.expand(drive.shape) if clamp is None else clamp | ended
    return torch.where(ended, RESTING, drive), clamp


def _closed(running: Tensor, drive: Tensor) -> Tensor:
    """Drives (T, B, 4 N) with which the cells of elements that have ended stay: no input, nothing forgotten."""
    to_input, to_forget, *others = drive.chunk(4, -1)
    there = running.unsqueeze(-1)
    shut = torch.where(there, to_input, -SHUT), torch.where(there, to_forget, SHUT)
    return torch.cat([*shut, *others], -1)


def _wide(tensor: Tensor | None) -> Any:
    return tensor.float() if tensor is not None and tensor.dtype in HALF else tensor


def _run(
    rule: Rule, drive: Tensor, pre: Tensor, given: Mapping[str, Tensor], of_use: Mapping[str, str],
    how: How, starts: Starts | None = None, masks: Masks = NO_MASKS,
) -> tuple[Tensor, Tensor | None, State]:  # fmt: skip
    chosen = _backend(rule, drive, how.backend)
    if chosen == "reference" or 0 in (*drive.shape, pre.shape[-1]):
        return _by_torch(rule, drive, pre, given, of_use, how, starts, masks)
    if torch.compiler.is_compiling() or _watched(drive):
        return _as_operator(rule, chosen, drive, pre, given, of_use, how)
    program = program_of(rule, of_use)
    recurrent = pre.dim() == 2
    apart = rows_apart(program, recurrent, how.activity)
    chosen = _served(program, chosen, drive, named(how.backend) is not None, apart)
    if chosen == "reference":
        return _by_torch(rule, drive, pre, given, of_use, how)
    spec = Spec(
        program,
        tuple(given),
        how.activity,
        recurrent,
        target=target_of(chosen),
        kind=how.kind,
        post=how.post,
        every=how.every,
    )
    tensors = [_plain(tensor) for tensor in (drive, pre, *given.values())]
    return _named(rule, how, _sequence(chosen).apply(spec, *tensors))


def _watched(drive: Tensor) -> bool:
    """Whether a mode such as FlopCounterMode looks at the operators that are called, and is to see one."""
    return _get_current_dispatch_mode() is not None and has_values(drive)


def _named(rule: Rule, how: How, found: Iterable[Tensor]) -> tuple[Tensor, Tensor | None, State]:
    """What a sequence returns, in its places; what it keeps besides is left out."""
    output, *rest = found
    # torch.compile of PyTorch 2.11 takes the rest for a tuple.
    if carries(how.kind):
        return output, rest[0], dict(zip(rule.states, rest[1:], strict=False))
    return output, None, dict(zip(rule.states, rest, strict=False))


def _as_operator(
    rule: Rule, backend: str, drive: Tensor, pre: Tensor, given: Mapping[str, Tensor], of_use: Mapping[str, str],
    how: How,
) -> tuple[Tensor, Tensor | None, State]:  # fmt: skip
    backend, _ = _to_be_had(backend, how.backend)
    words = words_of(rule, backend, tuple(given), of_use, how, pre.dim() == 2)
    tensors = [drive, pre, *given.values()]
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return _named(rule, how, torch.ops.plastikern_rules.sequence(words, tensors, keep))


def _plain(tensor: Tensor) -> Tensor:
    """With all its values in memory: not negated on the way, not a zero that has none."""
    if torch._is_zerotensor(tensor):
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return tensor.resolve_neg().contiguous()


def _sequence(backend: str) -> Any:
    if backend != "triton":
        return PlasticRule
    from ..triton.rules import PlasticRule as OnTriton

    return OnTriton


def _served(program: Program, backend: str, drive: Tensor, asked: bool, apart: bool = False) -> str:
    """The first backend that can be had, from one on; that it is another one is said where none is asked for."""
    while True:
        try:
            if backend == "cpu":
                text = program.text_apart if apart else program.text
                compiled(text, SCALARS[drive.dtype])
            elif backend == "cuda":
                cuda.code_for(program.text, SCALARS[drive.dtype], drive.device)
            elif backend == "triton":
                _sequence(backend)
            return backend
        except (CompilationError, ImportError) as error:
            if asked:
                raise
            backend = FOLLOWING[backend]
            where = "the reference, slowly" if backend == "reference" else backend
            warnings.warn(f"{program.rule.name} runs on {where}: {error}", stacklevel=2)


def _backend(rule: Rule, drive: Tensor, backend: str | None) -> str:
    """The one that is asked for, or that serves the tensors."""
    backend = named(backend)
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
    if backend in (None, "reference") and (backend or not rule.fused):
        return "reference"
    if not rule.fused:
        raise rule.error(
            f"is declared with fused=False: backend='reference' runs it, {backend!r} cannot"
        )
    if (reason := where_none_can()) is not None:
        if backend is not None:
            raise RuntimeError(f"backend {backend!r} cannot serve this call: {reason}")
        return "reference"
    if backend is None:
        on_gpu = "cuda" if torch.version.hip is None else "triton"
        return {"cuda": on_gpu, "cpu": "cpu"}.get(drive.device.type, "reference")
    if backend == "cpu" and drive.device.type != "cpu":
        raise ValueError(f"drive must be on the CPU for backend='cpu'; got {drive.device}")
    if backend == "cuda" and not drive.is_cuda:
        raise ValueError(f"drive must be on a CUDA device for backend='cuda'; got {drive.device}")
    if backend == "triton" and not drive.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"drive must be on a CUDA device for backend='triton'; got {drive.device}")
    return backend


def _to_be_had(chosen: str, asked: str | None) -> tuple[str, str]:
    """The backend, and why it is none that stands before it, where nobody asked for one by name."""
    reasons = []
    if named(asked) is None:
        for backend, missing in (("cuda", cuda.missing), ("triton", FUSED["triton"].missing)):
            if chosen == backend and (reason := missing()):
                reasons.append(f"not by {backend}: {reason}")
                chosen = FOLLOWING[backend]
    return chosen, "; ".join(reasons)


class Serving(NamedTuple):
    """Which backend serves a rule on a device, in a sentence besides, and why another one does not."""

    backend: str
    said: str


def serving(rule: Rule, device: torch.device, backend: str | None) -> Serving:
    """What serves on a device where ``backend`` is asked for; compilers are not asked yet."""
    chosen, reasons = _to_be_had(_backend(rule, torch.empty(0, device=device), backend), backend)
    why = "as it is asked for" if named(backend) else f"as tensors are on {device.type}"
    said = {
        "reference": "reference, the rule's function run by torch",
        "cpu": "cpu, a launch for each pass, compiled on first use",
        "cuda": "cuda, a launch for each pass, compiled by NVRTC on first use",
        "triton": "triton, a launch for each unit: one more than there are steps",
    }[chosen]
    return Serving(chosen, "; ".join(filter(None, (said, why, reasons))))


def _by_torch(
    rule: Rule, drive: Tensor, pre: Tensor, given: Mapping[str, Tensor], of_use: Mapping[str, str],
    how: How, starts: Starts | None = None, masks: Masks = NO_MASKS,
) -> tuple[Tensor, Tensor | None, State]:  # fmt: skip
    """All steps on the reference, of what :func:`_run` is given."""
    posts = drive.shape[-1] // drives(how.kind)
    states = {name: given[name] for name in rule.states}
    parameters = {
        name: given[name].unsqueeze(-1) if kind_of == "post" else given[name]
        for name, kind_of in of_use.items()
    }
    clamps = given.get(CLAMP)
    outputs = []
    active, cell = pre, given.get(CELL)
    fresh, begins = ({}, None) if starts is None else (starts.fresh, starts.resets.on_device())
    for t in range(drive.shape[0]):
        if begins is not None:
            states = {n: chosen(begins[t], fresh.get(n), x) for n, x in states.items()}  # type: ignore[misc]
            cell = chosen(begins[t], fresh.get(CELL), cell)
            if pre.dim() == 2:
                active = chosen(begins[t], fresh.get(PRE), active)  # type: ignore[assignment]
        x = active if pre.dim() == 2 else pre[t]

        def neurons(total: Tensor, t: int = t, x: Tensor = x, cell: Tensor | None = cell) -> Fired:
            if how.kind in CELLS:
                seen = x if masks.dropout is None else x * masks.dropout.to(x.dtype)
                before = x if cell is None else cell
                left = gated(how.kind, drive[t], total, seen @ given[GATES].mT, before, how.post)
                return _zoned(left, x, cell, masks, t, how)
            clamp = None if clamps is None else clamps[t]
            return _zoned(
                fired(drive[t], total, ACTIVATIONS[how.activity], clamp), x, cell, masks, t, how
            )

        here = {name: given[name][t] for name in rule.signals}
        left, states = rule.stepped(neurons, posts, states, {"x": x, **parameters, **here})
        active, cell = left.output, left.cell
        outputs.append(active)
    return (torch.stack(outputs) if outputs else drive[..., :posts].clone()), cell, states


def _zoned(
    left: Fired, before: Tensor, cell: Tensor | None, masks: Masks, t: int, how: How
) -> Fired:
    """What a step leaves where some activities and cells stay as they were before it."""
    output, after = left.output, left.cell
    if masks.zoneout is not None:
        output = _stays(masks.zoneout[t], before, output)
    if masks.zoneout_cell is not None:
        assert cell is not None and after is not None
        after = _stays(masks.zoneout_cell[t], cell, after)
    y: Tensor | None = output
    if how.kind in CELLS:
        y = {"hidden": output, "cell": after}.get(how.post, left.y)
    assert y is not None
    return Fired(output, y, left.z, after)


def _stays(mask: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Where a mask is True, or the share that it says, of the former."""
    if mask.dtype == torch.bool:
        return torch.where(mask, before, after)
    return mask.to(after.dtype) * before + (1 - mask.to(after.dtype)) * after


def _checked(
    rule: Rule, drive: Tensor, pre: Tensor, state: Mapping[str, Tensor], parameters: Mapping[str, Tensor],
    signals: Mapping[str, Tensor], granularities: Mapping[str, str], posts: int,
) -> dict[str, str]:  # fmt: skip
    """Granularities of all parameters; what does not fit is refused."""
    for name, tensor in (("drive", drive), ("pre", pre)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor; got {type(tensor).__name__}")
    if drive.dim() != 3 or drive.dtype not in SCALARS:
        raise ValueError(
            f"drive must be (T, B, O) of float32 or float64; got {tuple(drive.shape)} of {drive.dtype}"
        )
    steps, batch, _ = drive.shape
    if pre.dim() == 2:
        _fits("pre", pre, (batch, posts), drive)
    elif pre.dim() != 3 or pre.shape[:2] != drive.shape[:2]:
        raise ValueError(f"pre must have shape ({steps}, {batch}, I), or of a recurrent layer ({batch}, {posts}); "
                         f"got {tuple(pre.shape)}")  # fmt: skip
    rule.check_role(pre.dim() == 2)
    pres = pre.shape[-1]
    _fits("drive", drive, tuple(drive.shape), drive)
    _fits("pre", pre, tuple(pre.shape), drive)
    needed = {*rule.usual}
    for what, found, names in (
        ("state", state, {*rule.states}), ("signals", signals, {*rule.signals}), ("parameters", parameters, needed),
    ):  # fmt: skip
        for name in found:
            if name not in names:
                raise ValueError(
                    f"{what}: {rule.name} has no {name}; it has {', '.join(sorted(names)) or 'none'}"
                )
        for name in sorted(names):
            if name not in found:
                raise ValueError(f"{what}: {name} is missing")
    for name, kind in rule.states.items():
        _fits(f"state {name}", state[name], (batch, *kind_shape(kind, posts, pres)), drive)
    for name, kind in rule.signals.items():
        shape = (steps, batch, *kind_shape(kind, posts, pres))
        _fits(f"signal {name}", signals[name], shape, drive)
    of_use = {}
    for name in granularities:
        if name not in parameters:
            raise ValueError(f"granularities: {name} is no parameter of {rule.name}")
    for name, tensor in parameters.items():
        of_use[name] = _granularity(name, tensor, granularities.get(name), (posts, pres))
        # One number may be () or (1,).
        size = granular_shape(of_use[name], posts, pres) or tuple(tensor.shape)
        _fits(f"parameter {name}", tensor, size, drive)
    return of_use


def _granularity(name: str, tensor: Tensor, said: str | None, sizes: tuple[int, int]) -> str:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"parameter {name} must be a tensor; got {type(tensor).__name__}")
    if said is not None:
        if said not in GRANULARITIES:
            raise ValueError(
                f"granularities: {name} must be one of {', '.join(GRANULARITIES)}; got {said!r}"
            )
        if said == "layer" and tensor.numel() != 1:
            raise ValueError(
                f"parameter {name} must be one number for a layer; got {tuple(tensor.shape)}"
            )
        return said
    if tensor.dim() < 2 and tensor.numel() == 1:
        return "layer"
    if tensor.dim() == 2:
        return "connection"
    vectors = [
        kind
        for kind, size in (("post", sizes[0]), ("pre", sizes[1]))
        if tuple(tensor.shape) == (size,)
    ]
    if len(vectors) != 1:
        raise ValueError(
            f"parameter {name} of shape {tuple(tensor.shape)}: granularities must say whether it is 'post', one a "
            "post-synaptic neuron, or 'pre', one a pre-synaptic one"
        )
    return vectors[0]


def _fits(name: str, tensor: Any, shape: tuple[int, ...], like: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(tensor).__name__}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}; got {tuple(tensor.shape)}")
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} must be strided; got {tensor.layout}")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise ValueError(
            f"{name} must be of {like.dtype} on {like.device}, as drive; got {tensor.dtype} on {tensor.device}"
        )
