"""An expression cut into stages: what is computed once an element, column or row, and what for every
synapse, in as many passes as the sums inside ask for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .adjoint import LEVELS, level
from .operations import COMPARISONS, SUMS
from .symbols import Symbol, walk


@dataclass(frozen=True)
class Stage:
    """Values of one level that need no further sum.

    Attributes:
        level: one of :data:`~plastikern.rules.adjoint.LEVELS`.
        number: how many sums follow each other before this stage.
        inputs: leaves, values of earlier stages and sums, by name.
        outputs: values that later stages or the caller need; a sum's summand by the sum's name.
        sums: of ``outputs``, those that are added up, with the axis they are summed over. One over
            ``post`` is known when all rows of the layer have been passed: there stands a barrier.
    """

    level: str
    number: int
    inputs: dict[str, Symbol]
    outputs: dict[str, Symbol]
    sums: dict[str, str]


def stages(outputs: dict[str, Symbol]) -> list[Stage]:
    """The stages of an expression, in the order in which they are run.

    Of two outputs that are the same value, the last one's name is used.
    """
    order = walk(outputs.values())
    depth: dict[Symbol, int] = {}
    for symbol in order:
        inner = max((depth[argument] for argument in symbol.arguments), default=0)
        depth[symbol] = inner + (symbol.operation in SUMS)
    wanted = {symbol: name for name, symbol in outputs.items()}
    place = {symbol: (depth[symbol], LEVELS.index(level(symbol))) for symbol in order}
    names: dict[Symbol, str] = {}
    for symbol in order:
        if symbol.operation == "leaf":
            names[symbol] = symbol.payload
    found: list[Stage] = []
    for where in sorted(set(place.values())):
        here = {s for s in order if place[s] == where and s.operation not in _NOWHERE}
        sums = [s for s in order if s.operation in SUMS and place[s.arguments[0]] == where]
        later = _arguments(s for s in order if s not in here and s.operation not in SUMS)
        kept = [s for s in order if s in here and (s in wanted or s in later)]
        if not kept and not sums:
            continue
        for symbol in kept:
            names[symbol] = wanted.get(symbol) or f"v{len(names)}"
        for symbol in sums:
            names[symbol] = wanted.get(symbol) or f"s{len(names)}"
        needed = (here - _comparisons(here)) | {*kept}
        given = _arguments((*needed, *sums)) - here
        found.append(
            Stage(
                LEVELS[where[1]],
                where[0],
                {names[s]: s for s in order if s in given and s.operation != "constant"},
                {names[s]: s for s in kept} | {names[s]: s.arguments[0] for s in sums},
                {names[s]: SUMS[s.operation] for s in sums},
            )
        )
    return found


_NOWHERE = (*SUMS, "leaf", "constant")


def _comparisons(symbols: Iterable[Symbol]) -> set[Symbol]:
    return {symbol for symbol in symbols if symbol.operation in COMPARISONS}


def _arguments(symbols: Iterable[Symbol]) -> set[Symbol]:
    """What they are made of. A comparison is made again where it is needed, not handed on."""
    found = {argument for symbol in symbols for argument in symbol.arguments}
    comparisons = _comparisons(found)
    return found - comparisons | {a for symbol in comparisons for a in symbol.arguments}
