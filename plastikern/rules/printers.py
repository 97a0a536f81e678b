"""The text of stages, in C++ and in Triton: functions of values, without memory, loops or schedules.

Which products are fused with a sum, and how, is fixed by the text, so that two kernels that compute a
value compute the same bits. A constant carries the type of the values beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from .operations import COMPARISONS
from .schedule import Stage
from .symbols import Symbol, walk

CPP = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}", "neg": "-{0}",
    "lt": "{0} < {1}", "le": "{0} <= {1}", "eq": "{0} == {1}", "where": "{0} ? {1} : {2}",
    "fma": "fused({0}, {1}, {2})", "exp": "exp({0})", "log": "log({0})", "log1p": "log1p({0})",
    "sqrt": "sqrt({0})", "pow": "pow({0}, {1})", "tanh": "tanh({0})", "sigmoid": "sigmoid({0})",
    "constant": "number<V>({0})",
}  # fmt: skip
TRITON = CPP | {
    "where": "tl.where({0}, {1}, {2})", "fma": "tl.fma({0}, {1}, {2})", "constant": "number({0}, like)",
    "exp": "tl.exp({0})", "log": "tl.log({0})", "sqrt": "tl.sqrt({0})",
}  # fmt: skip
OPEN = ("add", "sub", "mul", "div", "neg", "where", *COMPARISONS)
"""Operations whose text needs brackets inside another one."""


def statements(
    stage: Stage, words: dict[str, str], assign: Callable[[str, bool], str]
) -> tuple[list[str], dict[str, str]]:
    """The statements of a stage, and the text of each output."""
    texts = {symbol: name for name, symbol in stage.inputs.items()}
    inside = computed(stage)
    order = [symbol for symbol in walk(stage.outputs.values()) if symbol in inside]
    uses = Counter(argument for symbol in order for argument in symbol.arguments)
    uses.update(stage.outputs.values())
    lines: list[str] = []

    def bracketed(symbol: Symbol) -> str:
        text = texts[symbol]
        return f"({text})" if symbol.operation in OPEN and symbol not in plain else text

    named: set[Symbol] = set(texts)
    plain: set[Symbol] = set(texts)  # texts that need no brackets
    for symbol in order:
        if symbol.operation == "constant":
            texts[symbol] = words["constant"].format(repr(symbol.payload))
            continue
        fused = _fused(symbol, uses, named)
        if fused is None:
            word = words[symbol.operation]
            called = word.endswith(")")
            text = word.format(*(texts[a] if called else bracketed(a) for a in symbol.arguments))
            if called:
                plain.add(symbol)
        else:
            (a, negative), b, c, minus_c = fused
            text = words["fma"].format(
                ("-" + bracketed(a)) if negative else texts[a],
                texts[b],
                ("-" + bracketed(c)) if minus_c else texts[c],
            )
            plain.add(symbol)
        texts[symbol] = text
        if uses[symbol] > 1:
            name = f"t{len(lines)}"
            lines.append(assign(name, symbol.operation in COMPARISONS).format(text))
            texts[symbol] = name
            named.add(symbol)
            plain.add(symbol)
    return lines, {name: texts[symbol] for name, symbol in stage.outputs.items()}


def computed(stage: Stage) -> set[Symbol]:
    """What a stage computes: what its outputs need beyond its inputs."""
    known, found = set(stage.inputs.values()), set()
    stack = [symbol for symbol in stage.outputs.values() if symbol not in known]
    while stack:
        symbol = stack.pop()
        if symbol not in found:
            found.add(symbol)
            stack.extend(argument for argument in symbol.arguments if argument not in known)
    return found


def _fused(
    symbol: Symbol, uses: Counter[Symbol], named: set[Symbol]
) -> tuple[tuple[Symbol, bool], Symbol, Symbol, bool] | None:
    """((a, whether -a), b, c, whether -c) of a sum that is a b + c."""
    if symbol.operation not in ("add", "sub"):
        return None
    minus = symbol.operation == "sub"
    for place in (1, 0):
        product, other = symbol.arguments[place], symbol.arguments[1 - place]
        if product.operation == "mul" and uses[product] == 1 and product not in named:
            a, b = product.arguments
            return (a, minus and place == 1), b, other, minus and place == 0
    return None


def cpp(name: str, stage: Stage) -> str:
    """A struct of the stage's outputs and the function that computes them."""
    lines, outputs = statements(
        stage, CPP, lambda to, truth: f"    const {'auto' if truth else 'V'} {to} = {{}};"
    )
    members = ", ".join(outputs)
    taken = ", ".join(f"V {argument}" for argument in stage.inputs)
    return "\n".join([
        "template <typename V>", f"struct {name}_values {{", f"    V {members};", "};",
        "template <typename V>",
        f"PLASTIKERN_INLINE {name}_values<V> {name}({taken}) {{", *lines,
        f"    return {{{', '.join(outputs.values())}}};", "}",
    ])  # fmt: skip


def triton(name: str, stage: Stage) -> str:
    """A function of Triton that returns the stage's outputs, in their order."""
    lines, outputs = statements(stage, TRITON, lambda to, truth: f"    {to} = {{}}")
    taken = ", ".join((*stage.inputs, "like"))
    return "\n".join([
        "@triton.jit", f"def {name}({taken}):", *lines, f"    return {', '.join(outputs.values())}",
    ])  # fmt: skip


def written(value: Symbol) -> str:
    """A value as a formula."""
    words = CPP | {
        "fma": "", "constant": "{0:g}", "clamp": "clamp({0}, {1}, {2})", "sign": "sign({0})",
    }  # fmt: skip
    if value.operation == "leaf":
        return str(value.payload)
    if value.value is not None:
        return words["constant"].format(value.value)
    inner = [
        f"({written(a)})" if a.operation in OPEN and not _binds(a, value) else written(a)
        for a in value.arguments
    ]
    return words.get(value.operation, value.operation + "({0})").format(*inner)


def _binds(inner: Symbol, outer: Symbol) -> bool:
    """Whether the inner operation needs no brackets in the outer one."""
    return outer.operation not in OPEN or (
        inner.operation == "mul" and outer.operation in ("add", "sub")
    )
