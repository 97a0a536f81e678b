"""An expression of a synapse cut into what is computed once a row and what for every synapse of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .adjoint import level
from .operations import SUMS
from .schedule import Stage, arguments_of
from .symbols import Symbol, walk


class BeyondRows(Exception):
    """Something is computed once a column, or summed over the rows inside the expression."""


@dataclass(frozen=True)
class Pass:
    """A pass over the synapses of a row, whose sums the passes after it need.

    Attributes:
        gather: the summands ``g0``, ... of the sums.
        settle: the values of the row that follow from the sums.
    """

    gather: Stage
    settle: Stage


@dataclass
class Cutting:
    """What is known of a row: one set of names for all expressions that are cut by it."""

    row: dict[Symbol, str] = field(default_factory=dict)
    gathers: list[Stage] = field(default_factory=list)
    sums: dict[Symbol, tuple[int, str]] = field(default_factory=dict)
    """By sum inside an expression: the pass that gathers it, and its name there."""

    def cut(self, outputs: dict[str, Symbol]) -> tuple[Stage, Stage]:
        """What is computed for every synapse, and for a row from the sums ``s0``, ... of that.

        Sums inside the outputs, which are regrouped, come from passes before; new ones are appended to ``gathers``.

        Raises:
            BeyondRows: rows alone do not do.
        """
        self._gather(outputs)
        order = self._reached(outputs.values())
        totals = {s: f"s{k}" for k, s in enumerate(s for s in order if s.operation == "over_pre")}
        outputs = {name: s for s in order for name, symbol in outputs.items() if symbol is s}
        of_row = {name: symbol for name, symbol in outputs.items() if "pre" not in symbol.axes}
        of_row = {n: s for n, s in of_row.items() if s not in totals} | of_row
        after = {*totals}
        for symbol in order:
            if after & {*symbol.arguments}:
                after.add(symbol)
        ready = [s for s in of_row.values() if s not in after]
        given = self._arguments(after - {*totals}, of_row) + ready
        known = self._of_row(s for s in given if s not in after)
        finish = Stage("row", 1, {name: s for s, name in totals.items()} | known, of_row, {})
        made = {name: s for name, s in outputs.items() if "pre" in s.axes and s.operation == "leaf"}
        made |= {name: s for name, s in outputs.items() if level(s) == "synapse"}
        summed = {s: name for name, s in outputs.items() if s.operation == "over_post"} | totals
        axes = {summed[s]: SUMS[s.operation] for s in order if s in summed}
        made |= {summed[s]: s.arguments[0] for s in order if s in summed}
        return self._synapses(0, made, axes), finish

    def rows(self) -> Stage:
        """The values of a row beforehand. To be called last, after ``passes``: what is known by then is all of it."""
        outputs = self._settled(-1)
        leaves = [s for s in walk(outputs.values()) if s.operation == "leaf"]
        return Stage("row", 0, {s.payload: s for s in leaves}, outputs, {})

    def passes(self) -> list[Pass]:
        """Those that come before the last one, in their order."""
        settles = [self._settle(place) for place in reversed(range(len(self.gathers)))]
        return [*map(Pass, self.gathers, reversed(settles))]

    def _gather(self, outputs: dict[str, Symbol]) -> None:
        """The passes that the sums inside take."""
        order = self._reached(outputs.values())
        returned = {*outputs.values()}
        for symbol in order:
            inside = symbol.operation == "over_post" and symbol not in returned
            alone = level(symbol) == "column" and symbol.operation not in ("leaf", "over_post")
            if inside or alone:
                raise BeyondRows
        inner = [symbol for symbol in order if "pre" in symbol.axes]
        needed = [s for s in self._arguments(inner, outputs) if "pre" not in s.axes]
        left = [s for s in self._reached(needed) if s.operation == "over_pre"]
        while left:
            ready = [s for s in left if not {*walk(s.arguments)} & {*left}]
            left = [s for s in left if s not in {*ready}]
            named = {f"g{k}": s.arguments[0] for k, s in enumerate(ready)}
            place = len(self.gathers)
            self.gathers.append(self._synapses(place, named, dict.fromkeys(named, "pre")))
            self.sums |= {s: (place, f"g{k}") for k, s in enumerate(ready)}

    def _synapses(self, number: int, made: dict[str, Symbol], axes: dict[str, str]) -> Stage:
        inner = [s for s in self._reached(made.values()) if level(s) == "synapse"]
        given = self._arguments(inner, made)
        leaves = [s for s in (*made.values(), *given) if "pre" in s.axes and s.operation == "leaf"]
        known = self._of_row(s for s in given if "pre" not in s.axes)
        return Stage("synapse", number, {str(s.payload): s for s in leaves} | known, made, axes)

    def _settle(self, place: int) -> Stage:
        outputs = self._settled(place)
        own = {s: name for s, (at, name) in self.sums.items() if at == place}
        inside = {s for s in walk(outputs.values()) if self._place(s) == place}
        before = self._of_row(
            s for s in self._arguments(inside - {*own}, outputs) if s not in inside
        )
        return Stage("row", place + 1, {n: s for s, n in own.items()} | before, outputs, {})

    def _settled(self, place: int) -> dict[str, Symbol]:
        """Values of the row that are known after that pass."""
        return {name: symbol for symbol, name in self.row.items() if self._place(symbol) == place}

    def _place(self, symbol: Symbol) -> int:
        """The last pass whose sums a value of the row needs; -1: none."""
        return max((self.sums[s][0] for s in walk([symbol]) if s in self.sums), default=-1)

    def _of_row(self, symbols: Iterable[Symbol]) -> dict[str, Symbol]:
        found = {}
        for symbol in symbols:
            own = str(symbol.payload) if symbol.operation == "leaf" else f"v{len(self.row)}"
            found[self.row.setdefault(symbol, own)] = symbol
        return found

    def _reached(self, outputs: Iterable[Symbol]) -> list[Symbol]:
        """What outputs are made of beyond the sums that are known."""
        outputs = list(outputs)
        stack, found = list(outputs), set()
        while stack:
            symbol = stack.pop()
            if symbol not in found and symbol not in self.sums:
                found.add(symbol)
                stack.extend(symbol.arguments)
        return [symbol for symbol in walk(outputs) if symbol in found]

    def _arguments(self, symbols: Iterable[Symbol], outputs: dict[str, Symbol]) -> list[Symbol]:
        """What symbols are made of, in the order of the outputs."""
        found = {argument for symbol in symbols for argument in arguments_of(symbol)}
        return [symbol for symbol in walk(outputs.values()) if symbol in found]
