"""The adjoint of an expression, and its products and sums regrouped by what they depend on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from .operations import DERIVATIVES, SUMS, apply, lowered
from .symbols import Symbol, constant, leaf, walk

SIZES = {"pre": leaf("pre_count", "layer"), "post": leaf("post_count", "layer")}
"""How many neurons a sum runs over: what it makes of a summand that is the same for all of them."""
LEVELS = ("element", "row", "column", "synapse")
"""Where a value is computed, the rarest first."""


def adjoint(
    outputs: Iterable[tuple[Symbol, Symbol]], leaves: Iterable[Symbol]
) -> dict[Symbol, Symbol]:
    """Gradients of the leaves from (output, its gradient); of a leaf without batch, of each element.

    A gradient is summed over the axes that its leaf lacks. A leaf that has none is left out.
    """
    given = list(outputs)
    order = walk(symbol for symbol, _ in given)
    grads: dict[Symbol, Symbol] = {}

    def add(symbol: Symbol, grad: Symbol | None, of: frozenset[str]) -> None:
        if grad is None or grad.value == 0 or symbol.value is not None:
            return
        for operation, axis in SUMS.items():
            if axis in of - symbol.axes:
                grad = _summed(operation, axis, grad)
        grads[symbol] = grads[symbol] + grad if symbol in grads else grad

    for symbol, grad in given:
        add(symbol, grad, symbol.axes)
    for symbol in reversed(order):
        through = grads.get(symbol)
        if through is None or not symbol.arguments:
            continue
        for argument, part in zip(
            symbol.arguments,
            DERIVATIVES[symbol.operation](through, symbol, *symbol.arguments),
            strict=True,
        ):
            add(argument, part, symbol.axes)
    return {symbol: grads[symbol] for symbol in leaves if symbol in grads}


def _summed(operation: str, axis: str, value: Symbol) -> Symbol:
    return apply(operation, value) if axis in value.axes else value * SIZES[axis]


def regrouped(outputs: dict[str, Symbol]) -> dict[str, Symbol]:
    """The same values, up to rounding, with as little as possible to do for every synapse.

    Factors and summands that lack an axis are put together first; factors that are the same for all
    that a sum runs over leave it; sums of the same summand become one; operations are ``lowered``.
    """
    return dict(_regrouped_in_passes(tuple(outputs.items())))


@lru_cache(maxsize=64)
def _regrouped_in_passes(given: tuple[tuple[str, Symbol], ...]) -> dict[str, Symbol]:
    """Kept, since the units of a rule have most of their expressions in common."""
    outputs = dict(given)
    # What one pass takes out of sums leaves products that only one other needs, for the next pass.
    for _ in range(4):
        before, outputs = outputs, _regrouped(outputs)
        if all(outputs[name] is before[name] for name in outputs):
            break
    return outputs


def _regrouped(outputs: dict[str, Symbol]) -> dict[str, Symbol]:
    found: dict[Symbol, Symbol] = {}
    order = walk(outputs.values())
    uses = Counter(argument for symbol in order for argument in symbol.arguments)
    uses.update(outputs.values())
    summed = {symbol.arguments[0] for symbol in order if symbol.operation in SUMS}
    for symbol in order:
        arguments = tuple(found[argument] for argument in symbol.arguments)
        if symbol.operation in SUMS:
            found[symbol] = _extracted(symbol.operation, arguments[0], summed)
        elif symbol.operation in ("mul", "div", "neg"):
            found[symbol] = _product(*_factors(symbol, uses, found, True))
        elif symbol.arguments:
            found[symbol] = lowered(symbol.operation, arguments)
        else:
            found[symbol] = symbol
    return {name: found[symbol] for name, symbol in outputs.items()}


def _rank(symbol: Symbol) -> tuple[int, ...]:
    """Constants, then numbers of the layer and of the element, rows, columns, synapses."""
    return (LEVELS.index(level(symbol)), "batch" in symbol.axes, symbol.value is None)


def _factors(
    symbol: Symbol, uses: Counter[Symbol], found: dict[Symbol, Symbol], first: bool
) -> tuple[bool, list[Symbol]]:
    """The sign and the factors of a product, through products that nobody else uses."""
    if symbol.operation in ("mul", "div", "neg") and (first or uses[symbol] == 1):
        a = symbol.arguments[0]
        negative, factors = _factors(a, uses, found, False)
        if symbol.operation == "neg":
            return not negative, factors
        b = symbol.arguments[1]
        if symbol.operation == "mul":
            other, more = _factors(b, uses, found, False)
            return negative != other, factors + more
        # A quotient by what many share is a product with its inverse, which is computed once.
        if _rank(found[b])[0] < _rank(found[a])[0]:
            return negative, [*factors, apply("div", 1, found[b])]
        return False, [apply("div", _product(negative, factors), found[b])]
    return False, [found[symbol]]


def _product(negative: bool, factors: list[Symbol]) -> Symbol:
    factors = sorted(factors, key=lambda factor: (_rank(factor), factor.digest))
    groups: dict[int, Symbol] = {}
    for factor in factors:
        place = _rank(factor)[0]
        groups[place] = groups[place] * factor if place in groups else factor
    result: Symbol | None = None
    for group in groups.values():
        result = group if result is None else result * group
    assert result is not None
    return -result if negative else result


Terms = list[tuple["Symbol | None", "Symbol | None"]]


def _extracted(operation: str, summand: Symbol, summed: set[Symbol]) -> Symbol:
    """A sum with what is the same for all its summands taken out of it; ``summed`` has sums of its own anyway."""
    axis = SUMS[operation]
    total: dict[Symbol | None, Symbol] = {}
    for coefficient, rest in _terms(summand, axis):
        known = coefficient if coefficient is not None else constant(1)
        total[rest] = total[rest] + known if rest in total else known
    # What has the same coefficient is one sum.
    alike: dict[Symbol, Symbol] = {}
    apart: list[Symbol] = []
    for rest, coefficient in total.items():
        opposite = -coefficient
        if rest is None:
            apart.append(coefficient * SIZES[axis])
        elif rest in summed:
            apart.append(coefficient * apply(operation, rest))
        elif opposite in alike:
            alike[opposite] = alike[opposite] - rest
        else:
            alike[coefficient] = alike[coefficient] + rest if coefficient in alike else rest
    parts = [coefficient * apply(operation, rest) for coefficient, rest in alike.items()] + apart
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def _terms(symbol: Symbol, axis: str) -> Terms:
    """(coefficient without the axis, rest with it): their products add up to the symbol."""
    if axis not in symbol.axes:
        return [(symbol, None)]
    if symbol.operation in ("add", "sub"):
        a, b = (_terms(argument, axis) for argument in symbol.arguments)
        return a + (b if symbol.operation == "add" else [(_negative(c), rest) for c, rest in b])
    if symbol.operation == "neg":
        return [(_negative(c), rest) for c, rest in _terms(symbol.arguments[0], axis)]
    if symbol.operation == "mul":
        a, b = (_whole(argument, axis) for argument in symbol.arguments)
        # A sum of squares that is taken apart may come out negative.
        same = symbol.arguments[0] is symbol.arguments[1]
        if len(a) * len(b) <= 4 and (len(a) == 1 or not same):
            return [(_times(c, d), _times(p, q)) for c, p in a for d, q in b]
    return [(None, symbol)]


def _whole(symbol: Symbol, axis: str) -> Terms:
    """The terms of a factor; one that has no coefficient to give stays whole."""
    terms = _terms(symbol, axis)
    return terms if any(coefficient is not None for coefficient, _ in terms) else [(None, symbol)]


def _negative(coefficient: Symbol | None) -> Symbol:
    return constant(-1) if coefficient is None else -coefficient


def _times(a: Symbol | None, b: Symbol | None) -> Symbol | None:
    if a is None or b is None:
        return b if a is None else a
    first, second = sorted((a, b), key=lambda symbol: (_rank(symbol), symbol.digest))
    return first * second


def level(symbol: Symbol) -> str:
    """One of :data:`LEVELS`: once an element, row or column, or for every synapse."""
    post, pre = "post" in symbol.axes, "pre" in symbol.axes
    return "synapse" if post and pre else "row" if post else "column" if pre else "element"
