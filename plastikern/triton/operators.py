"""The operators ``step``, ``sequence`` and ``sequence_backward`` of csrc/registration.cpp, in their own namespace."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ..hooks import count_flops
from ..ops import fakes
from ..program import (
    GRADIENTS,
    KEPT,
    OPERANDS,
    RESULTS,
    UPSTREAM,
    Facts,
    by_name,
    forward_facts,
    gradients_of,
    read,
    require,
    results_of,
)
from .call import Call, compact
from .drivers import backward, forward

NAMESPACE = "plastikern_triton"
SCHEMAS = (
    "step(Tensor[] tensors, str names, str program, float clip, bool keep) -> Tensor[]",
    "sequence(Tensor[] tensors, str names, str program, float clip, bool batch_first, int checkpoint_every, "
    "bool reversible) -> Tensor[]",
    "sequence_backward(Tensor[] tensors, str names, str program, float clip, "
    "bool batch_first, int checkpoint_every, str wanted) -> Tensor[]",
)
Tensors = Sequence[Tensor]


def step(tensors: Tensors, names: str, program: str, clip: float, keep: bool) -> list[Tensor]:
    """One step."""
    facts, named = read(program), by_name(tensors, names, OPERANDS)
    call = Call(facts, forward_facts(facts, True, keep), named, clip)
    results = fakes.step(tensors, names, program, clip, keep)
    _compute(call, facts, results, keep, 0)
    return results


def sequence(
    tensors: Tensors, names: str, program: str, clip: float, batch_first: bool, checkpoint_every: int, reversible: bool
) -> list[Tensor]:  # fmt: skip
    """A whole sequence; traces are never run backwards."""
    facts, named, every = read(program), by_name(tensors, names, OPERANDS), checkpoint_every
    call = Call(facts, forward_facts(facts, False, every > 0), named, clip, batch_first, every)
    results = fakes.sequence(
        tensors, names, program, clip, batch_first, every, reversible, native=False
    )
    _compute(call, facts, results, every > 0, every)
    return results


def _compute(call: Call, facts: Facts, results: list[Tensor], keep: bool, every: int) -> None:
    found = [result.name for result in results_of(facts, call.sizes.step, keep)]
    by_name = dict(zip(found, results, strict=False))
    forward(call, tuple(by_name.get(result.name) for result in RESULTS[:-1]), every)


def sequence_backward(
    tensors: Tensors, names: str, program: str, clip: float, batch_first: bool, checkpoint_every: int, wanted: str
) -> list[Tensor]:  # fmt: skip
    """Gradients of a step or a whole sequence."""
    facts, every = read(program), checkpoint_every
    named = by_name(tensors, names, OPERANDS, KEPT, UPSTREAM)
    require("output" in named, "output is missing")
    require(every > 0, f"checkpoint_every must be positive; got {every}")
    true = forward_facts(facts, named["output"].dim() == 2, True) - {"driven"}
    if "trace_out" in named:
        true |= {"reverses"}
    call = Call(facts, true, named, clip, batch_first, every)
    for operand in (*KEPT, *UPSTREAM):
        call.check(operand, named.get(operand.name))
    results = fakes.sequence_backward(tensors, names, program, clip, batch_first, every, wanted)
    found = gradients_of(facts, "clamp" in named, wanted)
    room = dict(zip((grad.name for grad in found), results, strict=True))
    upstream, kept = (
        tuple(compact(named.get(operand.name)) for operand in table)
        for table in (UPSTREAM, KEPT[:4])
    )
    grads = backward(call, upstream, kept, tuple(room.get(grad.name) for grad in GRADIENTS), every)
    return [grad for grad, operand in zip(grads, GRADIENTS, strict=True) if operand in found]  # type: ignore[misc]


@cache
def register() -> str:
    """Make the operators known to torch, once; the name of their namespace."""
    library = torch.library.Library(NAMESPACE, "DEF")
    for schema, operator in zip(SCHEMAS, (step, sequence, sequence_backward), strict=True):
        library.define(schema)
        library.impl(re.match(r"\w+", schema)[0], operator, "CompositeExplicitAutograd")  # type: ignore[index]
    fakes.register(NAMESPACE, library, native=False)
    _LIBRARIES.append(library)
    count_flops(NAMESPACE)
    return NAMESPACE


_LIBRARIES: list[torch.library.Library] = []
"""Operators live as long as their library."""
