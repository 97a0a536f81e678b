"""What ``torch.utils.flop_counter`` counts of the fused operators. To import this file says the formulas to torch.

A step of a connection with B elements, O post- and I pre-synaptic neurons has B O I synapses. Of each synapse are
counted the arithmetic operations of the definitions (:mod:`plastikern.rules.papers`, or a rule of one's own) that
belong to it, a product and a sum one each, any function one, and one for each sum over a row that it adds to:

- forward: the read, ``(w + alpha H) x``, and the change of the states;
- backward: the adjoints of both, and the change once more, which is computed again or run backwards. The gradient of
  weights is a product of torch's, which counts it itself; under a rule of one's own the operator has it, and 2;
- of a network with gates besides 2 forward and 2 backward for the connection of each gate, as of any product of
  matrices; under a rule of one's own 4 backward, for the same reason.

What belongs to a neuron or an element is left out, as torch's own formulas leave out all that is no product.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from . import library
from .program import read
from .rules import operators, updates
from .rules.adjoint import level
from .rules.cells import drives, weights
from .rules.programs import Printed, Program
from .rules.schedule import Stage
from .rules.symbols import Symbol

Shape = Sequence[int]


def operations(stages: Iterable[Stage]) -> int:
    """Arithmetic operations of a synapse in these stages."""
    return sum(map(_of_stage, stages))


def _of_stage(stage: Stage) -> int:
    stack, found = [*stage.outputs.values()], set[Symbol]()
    while stack:
        value = stack.pop()
        # A sum over a row, and all else that belongs to one, is made by another stage.
        if value not in found and value.arguments and level(value) == "synapse":
            found.add(value)
            stack += value.arguments
    return len(found) + len(stage.sums)


@cache
def _of_plasticity(key: str, alphas: bool, rates: bool) -> tuple[int, int]:
    """Forward and backward, of a synapse; whether each has an alpha and a rate of its own."""
    words = read(key).words
    update = updates.update(
        words["rule"], words["constraint"], words["modulation"] == "retroactive", rates
    )
    seen = updates.read(words["constraint"], alphas)
    passes = [each.gather for each in update.passes]
    change = operations([*passes[: update.passes_of_next], update.next])
    back = operations([*passes[update.passes_of_next :], update.adjoint, seen.adjoint])
    # The sum that is read is the kernels'; the gradient of the weight is a product of torch's, which counts it itself.
    return operations([seen.sum]) + 1 + change, back + change


@cache
def _of_rule(program: Program) -> tuple[int, int]:
    def counted(printed: Printed) -> int:
        return operations(part for part in printed.schedule.parts if part.level == "synapse")

    change = counted(program.forward["change"])
    back = counted(program.backward["both"]) + 2 * program.multiplies
    return counted(program.forward["both"]), back + change


def _total(elements: int, posts: int, pres: int, of_synapse: int) -> int:
    return elements * posts * pres * of_synapse


def _of_gates(kind: str) -> int:
    """Of the connections that are not plastic: a product and a sum, forward or back to the activities."""
    return 2 * (weights(kind) - 1)


def _call(tensors: Sequence[Shape], names: str, key: str, backward: bool) -> int:
    """Of an operator of csrc/registration.cpp, from the shapes of its tensors."""
    shapes = dict(zip(names.split(), tensors, strict=True))
    driven = "output" not in shapes
    if driven and "drive" not in shapes:
        return 0  # the end of a rollout computes nothing
    kind = read(key).words["kind"]
    rows, pres = shapes["weight"]
    posts = rows // weights(kind)
    per_step = posts * drives(kind) if driven else posts
    elements = prod(shapes["drive" if driven else "output"]) // per_step
    rates = any(
        len(shapes.get(name, ())) == 2 for name in ("rate", "rate_scale", "eligibility_rate")
    )
    counts = _of_plasticity(key, len(shapes["alpha"]) == 2, rates)
    return _total(elements, posts, pres, counts[backward] + _of_gates(kind))


def _forward(
    tensors: Sequence[Shape], names: str, program: str, *args: Any, out_shape: Any = None
) -> int:
    return _call(tensors, names, program, False)


def _backward(
    tensors: Sequence[Shape], names: str, program: str, *args: Any, out_shape: Any = None
) -> int:
    return _call(tensors, names, program, True)


def _advance(
    tensors: Sequence[Shape],
    names: str,
    written: Any,
    program: str,
    *args: Any,
    out_shape: Any = None,
) -> int:
    return _call(tensors, names, program, False)


def _rule(words: str, tensors: Sequence[Shape], backward: bool) -> int:
    spec, _ = operators.spec_of(words)
    steps, batch, rows = tensors[0]
    gates = _of_gates(spec.kind) * (
        2 if backward else 1
    )  # The gradient of their weights is inside of it.
    of_synapse = _of_rule(spec.program)[backward] + gates
    return _total(steps * batch, rows // drives(spec.kind), tensors[1][-1], of_synapse)


def _rule_forward(words: str, tensors: Sequence[Shape], *args: Any, out_shape: Any = None) -> int:
    return _rule(words, tensors, False)


def _rule_backward(words: str, tensors: Sequence[Shape], *args: Any, out_shape: Any = None) -> int:
    return _rule(words, tensors, True)


_known: set[str] = set()


def register(namespace: str, **formulas: Any) -> None:
    """Says to torch what the operators of a namespace count, once."""
    if namespace not in _known:
        _known.add(namespace)
        formulas = formulas or {
            "step": _forward,
            "sequence": _forward,
            "sequence_backward": _backward,
        }
        for name, formula in formulas.items():
            register_flop_formula(getattr(getattr(torch.ops, namespace), name))(formula)


if library.MISSING is None:
    register(
        "plastikern",
        step=_forward,
        sequence=_forward,
        advance=_advance,
        sequence_backward=_backward,
    )
register("plastikern_rules", sequence=_rule_forward, gradients=_rule_backward)
