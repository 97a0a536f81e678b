"""The operators ``step``, ``sequence`` and ``sequence_backward`` of csrc/registration.cpp, in their own namespace."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..ops import fakes
from .call import Call, check, compact
from .drivers import backward, forward

NAMESPACE = "plastikern_triton"
OPERANDS = (
    "Tensor? features, Tensor? hidden, Tensor? cell, Tensor? trace, Tensor? eligibility, Tensor weight, Tensor alpha, "
    "Tensor? rate, Tensor? rate_scale, Tensor? eligibility_rate, Tensor? modulator_weight, Tensor? modulator_bias, "
    "Tensor? modulated, Tensor? clamp"
)
SCHEMAS = (
    f"step(Tensor drive, {OPERANDS}, int[] codes, float clip, bool keep) -> (Tensor output, Tensor? cell, "
    "Tensor trace, Tensor? eligibility, Tensor? history, Tensor? modulators)",
    f"sequence(Tensor drive, {OPERANDS}, Tensor? lengths, int[] codes, float clip, bool batch_first, "
    "int checkpoint_every, bool reversible) -> (Tensor output, Tensor? hidden, Tensor? cell, Tensor trace, "
    "Tensor? eligibility, Tensor? history, Tensor? modulators, Tensor? checkpoints, Tensor? lost)",
    "sequence_backward(Tensor? grad_output, Tensor? grad_hidden, Tensor? grad_cell, Tensor? grad_trace, "
    "Tensor? grad_eligibility, Tensor output, Tensor? history, Tensor? modulators, Tensor? checkpoints, Tensor? lost, "
    f"Tensor? trace_out, Tensor? eligibility_out, {OPERANDS}, Tensor? lengths, int[] codes, float clip, "
    "bool batch_first, int checkpoint_every, bool reversible, int needs) -> (Tensor drive, Tensor? sum, "
    "Tensor? features, Tensor? hidden, Tensor? cell, Tensor? trace, Tensor? eligibility, Tensor? alpha, Tensor? rate, "
    "Tensor? rate_scale, Tensor? eligibility_rate, Tensor? modulator)",
)


def step(*given: Any) -> tuple[Tensor | None, ...]:
    """One step: arguments and results of ``step``."""
    output, cell, trace, eligibility, history, modulators = fakes.step(*given)
    *operands, codes, clip, _ = given
    arguments: list[Any] = [*operands, None, codes, clip, False]
    call = Call("drive", *arguments)
    forward(call, (output, None, cell, trace, eligibility, history, modulators, None), 0)
    return output, cell, trace, eligibility, history, modulators


def sequence(*given: Any) -> tuple[Tensor | None, ...]:
    """A whole sequence: arguments and results of ``sequence``; traces are never run backwards."""
    *arguments, every, _ = given
    call = Call("drive", *arguments)
    irreversible: list[Any] = [*arguments, every, False, False]
    *results, _ = fakes.sequence(*irreversible)
    forward(call, tuple(results), every)
    return *results, None


def sequence_backward(*given: Any) -> tuple[Tensor | None, ...]:
    """Gradients of a whole sequence: arguments and results of ``sequence_backward``."""
    upstream, (output, history, modulators, checkpoints) = given[:5], given[5:9]
    *arguments, every, _, needs = given[12:]
    call = Call("output", output, *arguments)
    size = call.sizes
    shapes = (
        size.over_time(size.posts),
        (size.batch, size.posts),
        (size.batch, size.posts),
        size.traces,
        size.traces,
    )
    for name, tensor, shape in zip(
        ("output", "hidden", "cell", "trace", "eligibility"), upstream, shapes, strict=True
    ):
        check(f"grad_{name}", tensor, shape, like=call.like)
    results = fakes.sequence_backward(*given)
    count = (size.steps - 1) // every if size.steps else 0
    check("checkpoints", checkpoints, (count, call.options.traces, *size.traces), like=call.like)
    kept = tuple(compact(tensor) for tensor in (output, history, modulators, checkpoints))
    return backward(
        call, tuple(compact(tensor) for tensor in upstream), kept, results, every, needs
    )


@cache
def register() -> str:
    """Make the operators known to torch, once; the name of their namespace."""
    library = torch.library.Library(NAMESPACE, "DEF")
    for schema, operator in zip(SCHEMAS, (step, sequence, sequence_backward), strict=True):
        library.define(schema)
        library.impl(re.match(r"\w+", schema)[0], operator, "CompositeExplicitAutograd")  # type: ignore[index]
    fakes.register(NAMESPACE, library, native=False)
    _LIBRARIES.append(library)
    return NAMESPACE


_LIBRARIES: list[torch.library.Library] = []
"""Operators live as long as their library."""
