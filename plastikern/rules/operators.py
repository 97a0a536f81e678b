"""Calls of rules of one's own as operators of torch, for code that torch.compile makes.

An operator is told a call by words that say the same in every process, since compiled code is kept for the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .calls import Spec, target_of
from .decorator import REGISTERED, Rule
from .programs import Program
from .running import Run
from .variants import program_of

SEPARATOR = "|"


def words_of(
    rule: Rule,
    backend: str,
    names: Sequence[str],
    of_use: Mapping[str, str],
    how: Any,
    recurrent: bool,
) -> str:
    """A call in words."""
    return SEPARATOR.join([
        rule.token, backend, ",".join(names), ",".join(of_use), ",".join(of_use.values()), how.activity,
        how.kind, how.post, str(how.every or ""), str(recurrent),
    ])  # fmt: skip


_programs: list[Program] = []
_numbers: dict[Program, int] = {}


def _number_of(program: Program) -> Tensor:
    """By which the backward pass finds the program of the forward pass: its rule may say something else by then."""
    if program not in _numbers:
        _numbers[program] = len(_programs)
        _programs.append(program)
    return torch.tensor([_numbers[program]])


def spec_of(words: str) -> tuple[Spec, str]:
    """What the words say, and the backend."""
    token, backend, names, used, granularities, activity, kind, post, every, recurrent = (
        words.split(SEPARATOR)
    )
    rule = REGISTERED[token]
    of_use = dict(zip(used.split(","), granularities.split(","), strict=True)) if used else {}
    spec = Spec(
        program_of(rule, of_use), tuple(names.split(",")), activity, recurrent == "True", target=target_of(backend),
        kind=kind, post=post, every=int(every) if every else None,
    )  # fmt: skip
    return spec, backend


def _run(spec: Spec, tensors: Sequence[Tensor]) -> Run:
    drive, pre, *given = tensors
    return Run(spec, drive, pre, dict(zip(spec.names, given, strict=True)))


@torch.library.custom_op("plastikern_rules::sequence", mutates_args=())
def sequence(words: str, tensors: Sequence[Tensor], keep: bool) -> list[Tensor]:
    """What comes out of a sequence of drive, pre and what else is given, then what is kept for the gradients."""
    tensors = [tensor.contiguous() for tensor in tensors]
    spec, backend = spec_of(words)
    if backend == "triton":
        from ..triton.rules import PlasticRule as OnTriton

        return [*OnTriton.alone(spec, *tensors), *([_number_of(spec.program)] if keep else [])]
    run = _run(spec, tensors)
    run.forward(keep)
    if not keep:
        return run.copies()
    return [*run.copies(), _number_of(spec.program), *_kept(run)]


@sequence.register_fake
def _(words: str, tensors: Sequence[Tensor], keep: bool) -> list[Tensor]:
    spec, backend = spec_of(words)
    run = _run(spec, tensors)
    run.allocate(keep)
    if not keep:
        return run.copies()
    number = torch.empty(1, dtype=torch.int64)
    return [*run.copies(), number, *(_kept(run) if backend != "triton" else [])]


def _kept(run: Run) -> list[Tensor]:
    return [run.kept[name] for name in run.kept_names]


@torch.library.custom_op("plastikern_rules::gradients", mutates_args=())
def gradients(
    words: str, tensors: Sequence[Tensor], kept: Sequence[Tensor], upstream: Sequence[Tensor]
) -> list[Tensor]:
    """Gradients of the tensors of a sequence; empty where there are none."""
    tensors = [tensor.contiguous() for tensor in tensors]
    spec, backend = spec_of(words)
    spec = replace(spec, program=_programs[int(kept[0])])
    if backend == "triton":
        return _again(spec, tensors, upstream)
    run = _run(spec, tensors)
    run.kept = dict(zip(run.kept_names, kept[1:], strict=True))
    output, *last = upstream
    grads = run.backward(output, dict(zip(run.spec.last_names, last, strict=True)))
    named = (grads[":drive"], grads[":pre"], *(grads.get(name) for name in run.spec.names))
    return [
        tensor.new_empty(0) if grad is None else grad.clone()
        for grad, tensor in zip(named, tensors, strict=True)
    ]


def _again(spec: Spec, tensors: list[Tensor], upstream: Sequence[Tensor]) -> list[Tensor]:
    """Gradients by Triton, which keeps lists of tensors that no operator returns: the sequence is run once more."""
    from ..triton.rules import PlasticRule as OnTriton

    with torch.enable_grad():
        leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in tensors]
        found = OnTriton.apply(spec, *leaves)[: len(upstream)]
        wanted = [x for x in leaves if x.requires_grad]
        grads = iter(torch.autograd.grad(found, wanted, [*upstream]))
    return [next(grads).clone() if x.requires_grad else x.new_empty(0) for x in leaves]


@gradients.register_fake
def _(
    words: str, tensors: Sequence[Tensor], kept: Sequence[Tensor], upstream: Sequence[Tensor]
) -> list[Tensor]:
    return [x.new_empty(x.shape) if x.is_floating_point() else x.new_empty(0) for x in tensors]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    words, tensors, _keep = inputs
    ctx.words, ctx.count = words, len(tensors)
    results = 1 + len(spec_of(words)[0].last_names)
    ctx.results = results
    ctx.save_for_backward(*tensors, *output[results:])


def _backward(ctx: Any, grads: list[Tensor]) -> Any:
    tensors, kept = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
    found = gradients(ctx.words, list(tensors), list(kept), list(grads[: ctx.results]))
    return (
        None,
        [grad if x.is_floating_point() else None for grad, x in zip(found, tensors, strict=True)],
        None,
    )


sequence.register_autograd(_backward, setup_context=_setup)
