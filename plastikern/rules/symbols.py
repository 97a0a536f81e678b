"""Symbols: what a rule's function is given in the place of tensors, once, to become an expression.

A symbol knows its axes, ``batch``, ``post`` and ``pre``, and broadcasts as the tensors (B, O, I) do for
which it stands. Equal expressions are one object. Functions of torch work on symbols as far as
:mod:`.operations` has them; everything else is refused where the author wrote it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from weakref import WeakValueDictionary

import torch

AXES = ("batch", "post", "pre")
KINDS = {
    "layer": (), "element": ("batch",), "neuron": ("post",), "input": ("pre",),
    "connection": ("post", "pre"), "pre": ("batch", "pre"), "post": ("batch", "post"),
    "synapse": AXES, "bound": (),
}  # fmt: skip
"""Axes of what a rule is given: the first five are coefficients, ``element`` is a signal of each
element of the batch, ``pre``, ``post`` and ``synapse`` are signals and states, a ``bound`` is a positive
number that is not trained."""


class Bound(str):
    """The name of a positive number that is not trained."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"bound {self}"


class RuleError(TypeError):
    """A rule does what no rule can do; the traceback ends at the rule's own line."""


class Symbol:
    """A node of an expression: an operation of its arguments, a leaf with a name, or a constant.

    ``digest`` is the same for the same expression in every process and release of torch.
    """

    __slots__ = ("__weakref__", "arguments", "axes", "digest", "operation", "payload")
    _all: ClassVar[WeakValueDictionary[bytes, Symbol]] = WeakValueDictionary()

    digest: bytes

    operation: str
    arguments: tuple[Symbol, ...]
    payload: Any
    axes: frozenset[str]

    def __new__(
        cls, operation: str, arguments: tuple[Symbol, ...] = (), payload: Any = None,
        axes: Iterable[str] = (),
    ) -> Symbol:  # fmt: skip
        """The symbol with this content, the one there is or a new one."""
        # The constants 0.0 and -0.0 are equal, and two constants.
        said = repr((operation, payload, sorted(axes), [argument.digest for argument in arguments]))
        digest = hashlib.sha256(said.encode()).digest()
        found = cls._all.get(digest)
        if found is None:
            found = super().__new__(cls)
            found.operation, found.arguments, found.payload = operation, arguments, payload
            found.axes, found.digest = frozenset(axes), digest
            cls._all[digest] = found
        return found

    if TYPE_CHECKING:  # operations.py adds them

        def _binary(self, other: object) -> Symbol: ...
        def _unary(self) -> Symbol: ...

        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _binary
        __truediv__ = __rtruediv__ = _binary
        __neg__ = _unary

    @property
    def value(self) -> float | None:
        """The number of a constant, else None."""
        return self.payload if self.operation == "constant" else None

    def __repr__(self) -> str:
        if not self.arguments:
            return str(self.payload)
        return f"{self.operation}({', '.join(map(repr, self.arguments))})"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.endswith("_"):
            raise RuleError(f"a rule cannot change what it is given in place; got .{name}")
        hint = HINTS.get(name, "")
        raise RuleError(f"a rule has no .{name}{hint}")

    def __bool__(self) -> NoReturn:
        raise RuleError("a rule cannot branch on what it is given; use torch.where")

    def __getitem__(self, place: object) -> NoReturn:
        raise RuleError(
            "a rule has no indices: it says what one synapse does, and over_pre and over_post sum over others"
        )

    def __setitem__(self, place: object, value: object) -> NoReturn:
        raise RuleError("a rule cannot change what it is given in place; use torch.where")

    def __ne__(self, other: object) -> NoReturn:
        raise RuleError("a rule has no !=; use == and exchange what torch.where chooses")

    def _other_operator(self, other: object) -> NoReturn:
        raise RuleError("a rule has + - * / ** and comparisons; it has no // % @")

    def _of_truths(self, other: object) -> NoReturn:
        raise RuleError("a rule has no & | ^; write one torch.where inside another one")

    __mod__ = __rmod__ = __floordiv__ = __rfloordiv__ = __matmul__ = __rmatmul__ = _other_operator
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _of_truths

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        # numpy's own numbers ask here whether they can be added to a symbol.
        binary = {"add": "__add__", "subtract": "__sub__", "multiply": "__mul__", "true_divide": "__truediv__",
                  "divide": "__truediv__", "power": "__pow__"}.get(function.__name__)  # fmt: skip
        if binary is None or method != "__call__" or options:
            raise RuleError(
                f"a rule computes by torch; numpy's {function.__name__} is torch.{function.__name__}, if rules have it"
            )
        left, right = map(symbol_of, inputs)
        return getattr(left, binary)(right)

    def __iter__(self) -> NoReturn:
        raise RuleError("what a rule is given has no parts to go through")

    def __float__(self) -> NoReturn:
        raise RuleError("a rule cannot make a Python number of what it is given")

    __int__ = __index__ = __float__

    def _in_place(self, other: object) -> NoReturn:
        raise RuleError("a rule cannot change what it is given in place; write H = H + ...")

    __hash__ = object.__hash__
    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = _in_place

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Symbol:
        from .operations import of_torch

        return of_torch(function, args, kwargs or {})


NUMBER = "over_pre(1 + 0 * x) is the number of pre-synaptic neurons"
HINTS = {
    "sum": "; over_pre and over_post sum",
    "mean": f"; over_pre and over_post sum, and {NUMBER}",
    "shape": f": a rule knows no sizes; {NUMBER}",
    "size": f": a rule knows no sizes; {NUMBER}",
    "float": "; torch.where(y > 0, 1.0, 0.0) makes numbers of a comparison",
    "detach": ": a gradient goes through everything that a rule computes",
}  # fmt: skip
"""What to do instead, by the attribute that is asked for."""


def constant(value: float) -> Symbol:
    """A number that the rule's text contains."""
    value = float(value)
    if not math.isfinite(value):
        raise RuleError(f"a constant in a rule must be finite; got {value!r}")
    return Symbol("constant", (), value)


def leaf(name: str, kind: str) -> Symbol:
    """What a rule is given under that name; ``kind`` is one of :data:`KINDS`."""
    return Symbol("leaf", (), Bound(name) if kind == "bound" else name, KINDS[kind])


def symbol_of(value: object) -> Symbol:
    """The symbol itself, or that of a Python number."""
    if isinstance(value, Symbol):
        return value
    if isinstance(value, torch.Tensor):
        raise RuleError("a rule cannot take a tensor from outside; declare it as a coefficient")
    if isinstance(value, Real) and not isinstance(value, bool):
        return constant(float(value))
    raise RuleError(f"a rule computes with numbers; got {type(value).__name__}")


def walk(outputs: Iterable[Symbol]) -> list[Symbol]:
    """All symbols that the outputs are made of, arguments before what is made of them."""
    order: dict[Symbol, None] = {}
    stack = [*outputs]
    stack.reverse()
    while stack:
        symbol = stack[-1]
        missing = [argument for argument in symbol.arguments if argument not in order]
        if missing:
            missing.reverse()
            stack += missing
        else:
            order[stack.pop()] = None
    return list(order)
