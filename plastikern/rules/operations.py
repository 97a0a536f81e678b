"""The operations of which rules are made: for each its axes, its derivative and what it is on tensors.

One table. Derivatives at kinks, ties and NaN are those of torch's autograd. ``lowered`` writes the
operations that a comparison and a choice can express in those, so that the printers know few words.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .symbols import HINTS, NUMBER, Bound, RuleError, Symbol, constant, leaf, symbol_of, walk

Gradients = tuple["Symbol | None", ...]


def apply(operation: str, *arguments: object) -> Symbol:
    """The operation of symbols or numbers; what is constant is computed."""
    symbols = tuple(symbol_of(argument) for argument in arguments)
    simple = _simpler(operation, symbols)
    if simple is not None:
        return simple
    axes: frozenset[str] = frozenset().union(*(symbol.axes for symbol in symbols))
    if operation in SUMS:
        axis = SUMS[operation]
        if axis not in axes:
            raise RuleError(
                f"{operation} sums over {axis}; its argument is the same for all of them"
            )
        axes = axes - {axis}
    return Symbol(operation, symbols, None, axes)


def _simpler(operation: str, symbols: tuple[Symbol, ...]) -> Symbol | None:
    values = [symbol.value for symbol in symbols]
    if operation == "add" and 0 in values:
        return symbols[1 - values.index(0)]
    if operation == "sub" and values[1] == 0:
        return symbols[0]
    if operation == "mul" and 1 in values:
        return symbols[1 - values.index(1)]
    if operation in ("add", "sub") and symbols[1].operation == "neg":
        return apply("sub" if operation == "add" else "add", symbols[0], symbols[1].arguments[0])
    if operation == "add" and symbols[0].operation == "neg":
        return apply("sub", symbols[1], symbols[0].arguments[0])
    if operation == "mul" and -1 in values:
        return apply("neg", symbols[1 - values.index(-1)])
    if operation == "div" and values[1] == 0:
        raise RuleError("a rule cannot divide by the constant zero")
    if operation in ("div", "pow") and values[1] == 1:
        return symbols[0]
    if operation == "neg" and symbols[0].operation == "neg":
        return symbols[0].arguments[0]
    if operation == "where" and symbols[1] is symbols[2]:
        return symbols[1]
    if operation in FOLDED and None not in values:
        return constant(
            FUNCTIONS[operation](*(torch.tensor(v, dtype=torch.float64) for v in values))
        )
    return None


def over_pre(value: Any) -> Any:
    """Sum over the pre-synaptic neurons: of a symbol, or of a tensor (B, O, I) to (B, O, 1)."""
    if isinstance(value, (int, float)):
        raise RuleError(f"over_pre sums what differs between neurons; {NUMBER}")
    return apply("over_pre", value) if isinstance(value, Symbol) else value.sum(-1, keepdim=True)


def over_post(value: Any) -> Any:
    """Sum over the post-synaptic neurons: of a symbol, or of a tensor (B, O, I) to (B, 1, I)."""
    return apply("over_post", value) if isinstance(value, Symbol) else value.sum(-2, keepdim=True)


def as_pre(value: Any) -> Any:
    """On a recurrent connection, what belongs to post-synaptic neurons in their other role: of a symbol, or of a tensor
    (B, N, 1) to (B, 1, N)."""
    if not isinstance(value, Symbol):
        return value.transpose(-1, -2)
    if value.operation != "leaf" or value.axes != {"batch", "post"}:
        raise RuleError(
            "as_pre takes a state, a signal or an activity of the post-synaptic neurons as it is given"
        )
    return leaf(f"{value.payload}_as_pre", "pre")


SUMS = {"over_pre": "pre", "over_post": "post"}

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "neg": torch.neg,
    "lt": torch.lt, "le": torch.le, "eq": torch.eq, "where": torch.where,
    "abs": torch.abs, "sign": torch.sign, "minimum": torch.minimum, "maximum": torch.maximum,
    "clamp": torch.clamp, "clamp_min": torch.clamp_min, "clamp_max": torch.clamp_max,
    "relu": torch.relu, "exp": torch.exp,
    "log": torch.log, "log1p": torch.log1p, "sqrt": torch.sqrt, "pow": torch.pow, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "softplus": torch.nn.functional.softplus,
    "over_pre": over_pre, "over_post": over_post,
}  # fmt: skip
"""What each operation is on tensors."""
COMPARISONS = ("lt", "le", "eq")
"""Their results are no numbers: only a choice takes them."""
FOLDED = ("add", "sub", "mul", "div", "neg")


def _where(condition: Symbol, yes: object, no: object) -> Symbol:
    return apply("where", condition, yes, no)


def _lt(a: object, b: object) -> Symbol:
    return apply("lt", a, b)


def _maximum(less: Callable[[Symbol, Symbol], Symbol]) -> Callable[..., Gradients]:
    def gradients(g: Symbol, out: Symbol, a: Symbol, b: Symbol) -> Gradients:
        shared = _where(apply("eq", a, b), g / 2, g)
        return _where(less(a, b), 0, shared), _where(less(b, a), 0, shared)

    return gradients


def _clamp(g: Symbol, out: Symbol, x: Symbol, low: Symbol, high: Symbol) -> Gradients:
    if _ordered(low, high):
        inside = _where(apply("eq", out, x), g, 0)
    else:
        inside = _where(apply("le", low, x), _where(apply("le", x, high), g, 0), 0)
    ordered = _where(_lt(low, high), _where(_lt(x, low), g, 0), 0)
    above = _where(_lt(high, low), g, _where(_lt(high, x), g, 0))
    return (
        inside, None if low.value is not None else ordered, None if high.value is not None else above,
    )  # fmt: skip


def _ordered(low: Symbol, high: Symbol) -> bool:
    """Whether it is known that low <= high."""
    if low.value is not None and high.value is not None:
        return low.value <= high.value
    return isinstance(high.payload, Bound) and low is -high


def _clamp_min(g: Symbol, out: Symbol, x: Symbol, low: Symbol) -> Gradients:
    return _where(apply("le", low, x), g, 0), _where(_lt(x, low), g, 0)


def _clamp_max(g: Symbol, out: Symbol, x: Symbol, high: Symbol) -> Gradients:
    return _where(apply("le", x, high), g, 0), _where(_lt(high, x), g, 0)


def _pow(g: Symbol, out: Symbol, x: Symbol, y: Symbol) -> Gradients:
    if y.value is not None:
        return (None if y.value == 0 else g * (y.value * apply("pow", x, y.value - 1))), None
    base = _where(apply("eq", y, 0), 0, g * (y * apply("pow", x, y - 1)))
    power = g * (out * apply("log", x))
    return base, _where(apply("eq", x, 0), _where(apply("le", 0, y), 0, power), power)


DERIVATIVES: dict[str, Callable[..., Gradients]] = {
    "add": lambda g, out, a, b: (g, g),
    "sub": lambda g, out, a, b: (g, -g),
    "mul": lambda g, out, a, b: (g * b, g * a),
    "div": lambda g, out, a, b: (g / b, -(g * out) / b),
    "neg": lambda g, out, a: (-g,),
    "where": lambda g, out, c, a, b: (None, _where(c, g, 0), _where(c, 0, g)),
    "abs": lambda g, out, x: (g * apply("sign", x),),
    "sign": lambda g, out, x: (None,),
    "minimum": _maximum(lambda a, b: _lt(b, a)),
    "maximum": _maximum(_lt),
    "clamp": _clamp,
    "clamp_min": _clamp_min,
    "clamp_max": _clamp_max,
    "relu": lambda g, out, x: (_where(apply("le", out, 0), 0, g),),
    "exp": lambda g, out, x: (g * out,),
    "log": lambda g, out, x: (g / x,),
    "log1p": lambda g, out, x: (g / (1 + x),),
    "sqrt": lambda g, out, x: (g / (2 * out),),
    "pow": _pow,
    "tanh": lambda g, out, x: (g * (1 - out * out),),
    "sigmoid": lambda g, out, x: (g * (out * (1 - out)),),
    "softplus": lambda g, out, x: (_where(_lt(20, x), g, g * apply("sigmoid", x)),),
    "over_pre": lambda g, out, x: (g,),
    "over_post": lambda g, out, x: (g,),
}
"""Gradients of an operation's arguments from that of its result; None where there is none."""


def lowered(operation: str, arguments: tuple[Symbol, ...]) -> Symbol:
    """The operation in those that the printers know."""
    a, *others = arguments
    b = others[0] if others else a
    if operation == "abs":
        return _where(_lt(a, 0), -a, a)
    if operation == "sign":
        return _where(_lt(0, a), 1, _where(_lt(a, 0), -1, 0))
    if operation in ("maximum", "minimum"):
        less = _lt(b, a) if operation == "maximum" else _lt(a, b)
        return _where(less, a, _where(apply("eq", a, a), b, a))  # NaN stays NaN
    if operation in ("clamp", "clamp_min"):
        above = _where(_lt(a, b), b, a)
        return above if len(others) == 1 else _where(_lt(others[1], above), others[1], above)
    if operation == "clamp_max":
        return _where(_lt(b, a), b, a)
    if operation == "relu":
        return _where(apply("le", a, 0), 0, a)
    if operation == "softplus":
        return _where(_lt(20, a), a, apply("log1p", apply("exp", a)))
    if operation == "pow" and b.value is not None and b.value.is_integer() and abs(b.value) <= 8:
        return _power(a, int(b.value))
    return apply(operation, *arguments)


def _power(base: Symbol, exponent: int) -> Symbol:
    if exponent < 0:
        return apply("div", 1, _power(base, -exponent))
    if exponent == 0:
        return constant(1)
    half = _power(base, exponent // 2) if exponent > 1 else None
    return base if half is None else half * half * base if exponent % 2 else half * half


def of_torch(function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Symbol:
    """The operation that a call of one of torch's functions means."""
    name = getattr(function, "__name__", str(function))
    found = _TORCH.get(function)
    if found is None:
        known = ", ".join(sorted({known.__name__ for known in _TORCH}))
        raise RuleError(
            f"torch's {name} is not among the operations of rules{HINTS.get(name, '')}, which are {known}"
        )
    try:
        bound = found[1].bind(*args, **kwargs)
    except TypeError as error:
        raise RuleError(f"torch.{name} in a rule: {error}") from None
    bound.apply_defaults()
    return _call(found[0], *bound.args)


def _call(operation: str, *arguments: object) -> Symbol:
    if operation == "clamp":
        x, low, high = (*arguments, None, None)[:3]
        if low is None and high is None:
            raise RuleError("torch.clamp in a rule: at least one of min and max must be given")
        if low is None:
            return apply("clamp_max", x, high)
        return apply("clamp_min", x, low) if high is None else apply("clamp", x, low, high)
    if operation == "square":
        return apply("pow", arguments[0], 2)
    if operation == "relu_of":
        if arguments[1]:
            raise RuleError(
                "a rule cannot change what it is given in place; leave inplace=True out"
            )
        return apply("relu", arguments[0])
    if operation in ("gt", "ge"):
        return apply({"gt": "lt", "ge": "le"}[operation], arguments[1], arguments[0])
    return apply(operation, *arguments)


def _signature(text: str) -> inspect.Signature:
    return inspect.Signature([
        inspect.Parameter(name.removesuffix("?"), inspect.Parameter.POSITIONAL_OR_KEYWORD,
                          default=None if name.endswith("?") else inspect.Parameter.empty)
        for name in text.split()
    ])  # fmt: skip


_UNARY = [
    "neg",
    "abs",
    "sign",
    "relu",
    "exp",
    "log",
    "log1p",
    "sqrt",
    "tanh",
    "sigmoid",
    "softplus",
]
_BINARY = ["add", "sub", "mul", "div", "minimum", "maximum", "pow", "lt", "le", "gt", "ge", "eq"]
_ALSO = {
    "negative": "neg", "absolute": "abs", "subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div",
    "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge",
}  # fmt: skip
"""Other names that torch has for the same."""
_TORCH: dict[Any, tuple[str, inspect.Signature]] = {
    FUNCTIONS[name]: (name, _signature("input")) for name in _UNARY
}
_TORCH |= {getattr(torch, name): (name, _signature("input other")) for name in _BINARY}
_TORCH |= {getattr(torch, also): _TORCH[getattr(torch, name)] for also, name in _ALSO.items()}
_TORCH[torch.nn.functional.tanh] = _TORCH[torch.tanh]
_TORCH[torch.nn.functional.sigmoid] = _TORCH[torch.sigmoid]
_TORCH[torch.pow] = ("pow", _signature("input exponent"))
_TORCH[torch.clamp] = ("clamp", _signature("input min? max?"))
_TORCH[torch.clip] = _TORCH[torch.clamp]
_TORCH[torch.square] = ("square", _signature("input"))
_TORCH[torch.nn.functional.relu] = ("relu_of", _signature("input inplace?"))
_TORCH[torch.where] = ("where", _signature("condition input other"))


def _add_operators() -> None:
    """Python's operators and torch's methods of the same names."""

    def forwards(operation: str) -> Callable[..., Symbol]:
        return lambda self, *others: _call(operation, self, *others)

    def backwards(operation: str) -> Callable[..., Symbol]:
        return lambda self, other: apply(operation, other, self)

    for name in (*_UNARY, *_BINARY):
        setattr(Symbol, name, forwards(name))
    for name in ("add", "sub", "mul", "pow", "lt", "le", "gt", "ge", "eq", "neg", "abs"):
        setattr(Symbol, f"__{name}__", forwards(name))
    for name in ("add", "sub", "mul", "pow"):
        setattr(Symbol, f"__r{name}__", backwards(name))
    for name, method in (("__truediv__", forwards("div")), ("__rtruediv__", backwards("div"))):
        setattr(Symbol, name, method)

    def clamp(self: Symbol, min: object = None, max: object = None) -> Symbol:
        return _call("clamp", self, min, max)

    Symbol.clamp = Symbol.clip = clamp  # type: ignore[attr-defined]
    Symbol.square = forwards("square")  # type: ignore[attr-defined]


_add_operators()


def evaluate(outputs: dict[str, Symbol], leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The values of symbols on tensors that broadcast against (B, O, I)."""
    like = next(iter(leaves.values()))
    found: dict[Symbol, Tensor] = {}
    for symbol in walk(outputs.values()):
        if symbol.operation == "leaf":
            found[symbol] = leaves[symbol.payload]
        elif symbol.operation == "constant":
            found[symbol] = like.new_tensor(symbol.payload)
        else:
            found[symbol] = FUNCTIONS[symbol.operation](*(found[a] for a in symbol.arguments))
    return {name: found[symbol] for name, symbol in outputs.items()}
