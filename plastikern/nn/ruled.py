"""Modules under a rule of one's own: a call of one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..checks import check_positive, check_tensor, checked_lengths, lengths_on
from ..functional import Over
from ..network import Inputs
from ..rules import ours
from ..rules.calls import CELL
from ..rules.cells import CELLS, PLASTIC
from ..rules.sequences import NO_MASKS, PRE, How, Layer, Masks, Starts, run

if TYPE_CHECKING:
    from .base import PlasticModule

Signals = Mapping[str, Tensor] | None
STEP = Over(None, False, None)
"""What a step is told: it is a sequence of one."""


def check_signals(
    module: PlasticModule, signals: Any, leading: tuple[int, ...], like: Tensor
) -> None:
    """That a call gives the signals that its rule takes, in shapes that begin with ``leading``.

    Raises:
        TypeError, ValueError: it does not.
    """
    owner, rule = type(module).__name__, module._rule
    needed = [] if rule is None else rule.given_signals
    if signals is not None and not isinstance(signals, Mapping):
        raise TypeError(f"{owner}: signals must be tensors by name; got {type(signals).__name__}")
    found = signals or {}
    if [*needed] != [name for name in needed if name in found] or len(found) != len(needed):
        raise ValueError(
            f"{owner}: signals must be {', '.join(needed) or 'None'}, as the rule says; got "
            f"{', '.join(map(str, found)) or 'none'}"
        )
    for name in needed:
        assert rule is not None
        shape = (*leading, *module._kind_shape(rule.rule.signals[name]))
        check_tensor(owner, f"signals[{name!r}]", found[name], shape, like, *module._dtypes(like))


def with_eligibility(module: PlasticModule, first: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The first state as the library's kernels take it, which serve the module's rule: with a place for an eligibility
    trace."""
    missing = len(type(module).State._fields) - len(first)
    return [*first, *[None] * missing]


def run_rule(
    module: PlasticModule, inputs: Inputs, first: Sequence[Tensor | None],
    parameters: Any, signals: Signals, over: Over | None, masks: Masks = NO_MASKS,
) -> list[Tensor]:  # fmt: skip
    """A step (B, ...), or a sequence in the layout that ``over`` says: what a layer puts out, but for a recurrent step,
    and the tensors of its last state."""
    owner, rule = type(module).__name__, cast("Any", module._rule)
    if rule is None:  # one of the library's, whose parameters are a Connection
        post = getattr(module, "post", "hidden")
        rule, parameters = ours.used(owner, module.plasticity, parameters, post)

    def in_time(tensor: Tensor) -> Tensor:
        if over is None:
            return tensor.unsqueeze(0)
        return tensor.transpose(0, 1) if over.batch_first else tensor

    drive, features, clamp = (None if x is None else in_time(x) for x in inputs)
    assert drive is not None
    steps, batch, _ = drive.shape
    fields = _fields(module, rule)
    state: dict[str, Any] = dict(zip(fields, first[: len(fields)], strict=True))
    for name, tensor in state.items():
        if tensor is None:
            shape = (batch, *module._state_shape(name))
            state[name] = drive.new_full(shape, rule.initial.get(name, 0.0))
    hidden, cell = state.pop("hidden", None), state.pop("cell", None)
    parameters, gates = dict(parameters), None
    if module.gates > 1:
        parts = parameters.pop("w").unflatten(0, (module.gates, module._posts))
        gates = torch.cat([parts[number] for number in CELLS[module.kind].others])
        if "w" in rule.inner.taken:
            parameters["w"] = parts[PLASTIC]
    options = over or STEP
    if options.checkpoint_every is not None:
        check_positive(owner, "checkpoint_every", options.checkpoint_every)
    lengths = checked_lengths(owner, options.lengths, steps, batch)
    starts = None
    if options.reset is not None:
        starts = Starts(options.reset, _fresh(module, rule, options.reset_state, drive))
    how = How(
        getattr(module, "nonlinearity", "tanh"), module.kind, getattr(module, "post", "candidate"),
        options.checkpoint_every, module.backend,
    )  # fmt: skip
    masks = masks.in_time(in_time)
    layer = Layer(rule.inner, rule.granularities, parameters, clamp, gates, cell, masks)
    pre = hidden if features is None else features
    assert pre is not None
    given = {name: in_time(tensor) for name, tensor in (signals or {}).items()}
    output, last_cell, last = run(layer, drive, pre, state, given, lengths, how, starts)
    found = [] if last_cell is None else [last_cell]
    found += [last[name] for name in rule.inner.states]
    if hidden is not None:
        found.insert(0, _at_end(hidden.to(output.dtype), output, lengths))
    if over is None:
        return found if features is None else [output[0], *found]
    return [output.transpose(0, 1) if over.batch_first else output, *found]


def _fields(module: PlasticModule, rule: Any) -> list[str]:
    """Names of a layer's state: one of the library's may do without the last, the eligibility trace."""
    return [n for n in module.State._fields if n in ("hidden", "cell") or n in rule.inner.states]


def _fresh(
    module: PlasticModule, rule: Any, given: Sequence[Tensor | None] | None, drive: Tensor
) -> dict[str, Tensor]:
    """What a reset gives, by the names that the rule's sequence knows; what is missing is zero."""
    fields = _fields(module, rule)
    found: dict[str, Tensor] = {}
    for name, tensor in zip(fields, given or (None,) * len(fields), strict=False):
        if tensor is None and (initial := rule.initial.get(name, 0.0)):
            tensor = drive.new_full((drive.shape[1], *module._state_shape(name)), initial)
        if tensor is not None:
            found[{"hidden": PRE, "cell": CELL}.get(name, name)] = tensor
    return found


def _at_end(first: Tensor, output: Tensor, lengths: Tensor | None) -> Tensor:
    """The activities after the last step of each element."""
    if lengths is None:
        # A copy: who changes the output in place means no state.
        return output[-1].clone() if len(output) else first
    after = torch.cat([first.unsqueeze(0), output])
    return after[lengths_on(lengths, first.device), torch.arange(len(first), device=first.device)]
