"""An expression of a whole layer cut by level and by sums, in the order in which a kernel goes through it.

A kernel goes through all synapses once or more often, in *sweeps*: a sum over the post-synaptic neurons is
known when a sweep ends. Within a sweep it takes the rows one after another, each in one *pass* or more: a
sum over a row is known when the pass ends. Before the passes stands what belongs to the element, to columns
and to rows. Values of a synapse are not handed on; a later pass computes them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .adjoint import LEVELS, level
from .operations import COMPARISONS, SUMS
from .symbols import Symbol, walk

Place = tuple[int, int]
"""Sweep and pass."""
START: Place = (0, 0)


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


@dataclass(frozen=True)
class Part(Stage):
    """A stage in a sweep; its number is that of the pass.

    Attributes:
        inputs: leaves, and values of this level and of those above it.
    """

    sweep: int

    @property
    def place(self) -> Place:
        """Sweep and pass."""
        return self.sweep, self.number


@dataclass
class Schedule:
    """The parts of regrouped outputs.

    Attributes:
        outputs: by name.
        parts: in their order.
        values: names of everything that one part makes and another one takes, or that is returned.
        last: where the outputs of synapses are made.
    """

    outputs: dict[str, Symbol]
    parts: list[Part] = field(default_factory=list)
    values: dict[Symbol, str] = field(default_factory=dict)
    last: Place = START

    def __post_init__(self) -> None:
        """Cuts the outputs."""
        order = walk(self.outputs.values())
        made = self._made(order)
        named = {symbol: name for name, symbol in self.outputs.items()}
        handed_on = {*named}
        for symbol in order:
            for argument in arguments_of(symbol):
                alone = level(argument) == level(symbol) and made[argument] == made[symbol]
                if level(argument) != "synapse" and not alone:
                    handed_on.add(argument)
        found: dict[tuple[Place, str], tuple[dict[str, Symbol], dict[str, str]]] = {}
        for symbol in order:
            if symbol.operation == "leaf":
                self.values[symbol] = str(symbol.payload)
            elif symbol.operation != "constant" and (
                symbol in handed_on or symbol.operation in SUMS
            ):
                name = self.values.setdefault(symbol, named.get(symbol, f"made_{len(self.values)}"))
                value = symbol.arguments[0] if symbol.operation in SUMS else symbol
                late = level(value) == "synapse" and symbol not in self.waited
                outputs, sums = found.setdefault(
                    (self.last if late else made[value], level(value)), ({}, {})
                )
                outputs[name] = value
                if symbol.operation in SUMS:
                    sums[name] = SUMS[symbol.operation]
        for name, symbol in self.outputs.items():
            if self.values.get(symbol) != name:  # a leaf, a constant, or the same value once more
                place = self.last if level(symbol) == "synapse" else made[symbol]
                found.setdefault((place, level(symbol)), ({}, {}))[0][name] = symbol
        for place, of in sorted(found, key=_turn):
            outputs, sums = found[place, of]
            self.parts.append(
                Part(of, place[1], self._inputs(outputs.values()), outputs, sums, place[0])
            )

    def sweeps(self) -> list[tuple[list[Part], list[Part]]]:
        """Of each sweep, the parts that come before the rows, and those of rows and synapses."""
        count = 1 + max((part.sweep for part in self.parts), default=0)
        found: list[tuple[list[Part], list[Part]]] = [([], []) for _ in range(count)]
        for part in self.parts:
            found[part.sweep][part.level in ("row", "synapse")].append(part)
        return found

    def limited(self, part: Part, outputs: dict[str, Symbol]) -> Part:
        """A part with some of its outputs only."""
        sums = {name: axis for name, axis in part.sums.items() if name in outputs}
        return replace(part, inputs=self._inputs(outputs.values()), outputs=outputs, sums=sums)

    def _made(self, order: list[Symbol]) -> dict[Symbol, Place]:
        """Where each value is known at the earliest."""
        needed = walk(a for s in order if level(s) == "synapse" for a in arguments_of(s))
        self.waited = {
            s for s in needed if s.operation in SUMS and level(s.arguments[0]) == "synapse"
        }
        made: dict[Symbol, Place] = {}
        late = self._late(order)
        for symbol in sorted(order, key=lambda s: s in late):
            sweep, turn = max((made[a] for a in symbol.arguments), default=START)
            if symbol.operation in SUMS:
                if level(symbol.arguments[0]) == "synapse" and symbol not in self.waited:
                    sweep, turn = self.last
                across = symbol.operation == "over_post"
                sweep, turn = (sweep + 1, 0) if across else (sweep, turn + 1)
            made[symbol] = (sweep, turn)
            if level(symbol) == "synapse":
                self.last = max(self.last, made[symbol])
        return made

    def _late(self, order: list[Symbol]) -> set[Symbol]:
        """What follows from sums that no synapse waits for."""
        late: set[Symbol] = set()
        for symbol in order:
            summed = symbol.operation in SUMS and level(symbol.arguments[0]) == "synapse"
            if (summed and symbol not in self.waited) or not late.isdisjoint(symbol.arguments):
                late.add(symbol)
        return late

    def _inputs(self, made: Iterable[Symbol]) -> dict[str, Symbol]:
        """What these are computed from."""
        made = list(made)
        stack, seen, found = list(made), set(), set()
        while stack:
            symbol = stack.pop()
            known = symbol in self.values and level(symbol) != "synapse"
            known = known and (symbol not in {*made} or symbol.operation in SUMS)
            if symbol.operation == "leaf" or known:
                found.add(symbol)
            elif symbol not in seen:
                seen.add(symbol)
                stack.extend(symbol.arguments)
        return {self.values[s]: s for s in walk(made) if s in found}


def _turn(at: tuple[Place, str]) -> tuple[int, bool, int, int]:
    """Rows go through a sweep one after another, so that what they all need comes first."""
    (sweep, turn), of = at
    return sweep, of in ("row", "synapse"), turn, LEVELS.index(of)


def arguments_of(symbol: Symbol) -> list[Symbol]:
    """What a symbol is made of. A comparison is made again where it is needed, not handed on."""
    found: dict[Symbol, None] = {}
    for argument in symbol.arguments:
        if argument.operation in COMPARISONS:
            found |= dict.fromkeys(arguments_of(argument))
        elif argument.operation != "constant":
            found[argument] = None
    return list(found)
