"""The Triton of a user's rule: a kernel for each schedule, in which a program takes an element of the batch.

A program goes through the rows in blocks, each with all its columns. Values of columns and of the element
stay where they are; what the rows of one sweep leave for the next one lies in memory.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

from .adjoint import level
from .printers import TRITON, statements
from .programs import Printed, Program, level_of
from .schedule import Part
from .symbols import Symbol

IMPORTS = """import triton
import triton.language as tl

from plastikern.triton.arithmetic import log1p, number, pow, sigmoid, tanh

"""
SHAPE = {"element": "", "column": "[None, :]", "row": "[:, None]", "synapse": ""}
AT = {"element": "", "column": " + columns", "row": " + rows", "synapse": " + tile"}
MASK = {"element": "None", "column": "in_columns", "row": "in_rows", "synapse": "inside"}


@cache
def module(program: Program) -> str:
    """The module: kernels ``forward_VARIANT`` and ``backward_VARIANT``."""
    kernels = [
        kernel(f"{way}_{name}", printed, program.adds(printed))
        for way in ("forward", "backward")
        for name, printed in getattr(program, way).items()
    ]
    return IMPORTS + "\n\n".join(kernels) + "\n"


def parameters(printed: Printed) -> list[str]:
    """What a kernel takes: what its schedule is given, what it returns, and what sweeps leave for each other."""
    given = [str(s.payload) for s in printed.schedule.values if s.operation == "leaf"]
    return [*given, *printed.schedule.outputs, *_left(printed)]


def _left(printed: Printed) -> list[str]:
    """Values of rows that another sweep takes."""
    made: dict[str, int] = {}
    found: dict[str, None] = {}
    for part in printed.schedule.parts:
        for name in part.inputs:
            if name in made and made[name] != part.place[0]:
                found[name] = None
        if part.level in ("row", "synapse"):
            made |= {n: part.place[0] for n in part.outputs if level_of(part, n) == "row"}
    return [name for name in found if name not in printed.schedule.outputs]


def kernel(name: str, printed: Printed, adds: set[str]) -> str:
    """One of them; what is made of ``adds`` is added to what is there."""
    schedule, left = printed.schedule, _left(printed)
    taken = ", ".join(f"p_{each}" for each in parameters(printed))
    lines = [
        "element = tl.program_id(0).to(tl.int64)", "columns = tl.arange(0, COLUMNS)", "in_columns = columns < PRES",
        "like = tl.zeros([1], TYPE)",
    ]  # fmt: skip
    kinds = {str(s.payload): s for s in schedule.values if s.operation == "leaf"}
    lines += [_load(n, s, level(s)) for n, s in kinds.items() if level(s) in ("element", "column")]
    for before, rows in schedule.sweeps():
        for part in before:
            lines += _computed(part) + _summed(part)
        if rows:
            lines += _rows(rows, kinds, schedule.outputs, left, adds)
    for each, symbol in schedule.outputs.items():
        if level(symbol) in ("element", "column"):
            lines.append(_store(each, level(symbol), adds))
    text = "\n".join(f"    {line}" for line in lines)
    return (
        f"@triton.jit\ndef {name}({taken}, POSTS: tl.constexpr, PRES: tl.constexpr, ROWS: tl.constexpr, "
        f"COLUMNS: tl.constexpr, TYPE: tl.constexpr):\n{text}\n"
    )


def _rows(
    parts: list[Part],
    kinds: dict[str, Symbol],
    outputs: dict[str, Symbol],
    left: list[str],
    adds: set[str],
) -> list[str]:
    """A sweep."""
    needed = {name for part in parts for name in part.inputs}
    made = [name for part in parts for name in part.outputs]
    sums = [
        (part, name)
        for part in parts
        for name in part.sums
        if level_of(part, name) in ("element", "column")
    ]
    lines = [
        f"s_{name} = tl.zeros({'[1, COLUMNS]' if level_of(part, name) == 'column' else '[1, 1]'}, TYPE)"
        for part, name in sums
    ]
    inside = [
        "rows = first + tl.arange(0, ROWS).to(tl.int64)", "in_rows = rows < POSTS",
        "tile = rows[:, None] * PRES + columns[None, :]", "inside = in_rows[:, None] & in_columns[None, :]",
    ]  # fmt: skip
    inside += [
        _load(n, s, level(s))
        for n, s in kinds.items()
        if level(s) in ("row", "synapse") and n in needed
    ]
    inside += [f"n_{n} = tl.load(p_{n} + element * POSTS + rows, in_rows, 0)[:, None]" for n in left
               if n in needed and n not in made]  # fmt: skip
    for part in parts:
        inside += _computed(part) + _summed(part)
    for name in made:
        if name in outputs and level(outputs[name]) in ("row", "synapse"):
            inside.append(_store(name, level(outputs[name]), adds))
        elif name in left:
            inside.append(_store(name, "row", adds))
    return [
        *lines, "for first in range(0, POSTS, ROWS):", *(f"    {line}" for line in inside),
        *(f"n_{name} = s_{name}" for _, name in sums),
    ]  # fmt: skip


def _computed(part: Part) -> list[str]:
    """The statements of a part."""
    renamed = {f"n_{given}": symbol for given, symbol in part.inputs.items()}
    words = TRITON | {"constant": "number({0}, like)"}
    prefix = f"{part.level[0]}{part.place[0]}{part.place[1]}"
    lines, outputs = statements(
        replace(part, inputs=renamed),
        words,
        lambda to, _: f"{to} = {{}}",
    )
    named = [f"n_{name} = {text}" for name, text in outputs.items()]
    # Temporaries of parts must not meet.
    return [re.sub(r"(?<![\w.])t(\d+)\b", rf"{prefix}t\1", line) for line in (*lines, *named)]


def _summed(part: Part) -> list[str]:
    """The sums of a part, of what exists."""
    lines = []
    axes = {"synapse": ("[ROWS, COLUMNS]", "inside"), "column": ("[1, COLUMNS]", "in_columns[None, :]"),
            "row": ("[ROWS, 1]", "in_rows[:, None]")}  # fmt: skip
    for name, axis in part.sums.items():
        shape, mask = axes[part.level]
        whole = f"tl.where({mask}, tl.broadcast_to(n_{name}, {shape}), 0.0)"
        along = 1 if axis == "pre" else 0
        total = f"tl.sum({whole}, {along}, keep_dims=True)"
        over_rows = part.level in ("row", "synapse") and axis == "post"
        lines.append(f"s_{name} = s_{name} + {total}" if over_rows else f"n_{name} = {total}")
    return lines


def _load(name: str, symbol: Symbol, of: str) -> str:
    size = {"element": "1", "column": "PRES", "row": "POSTS", "synapse": "POSTS * PRES"}[of]
    base = f"p_{name} + element * {size}" if "batch" in symbol.axes else f"p_{name}"
    mask = "" if of == "element" else f", {MASK[of]}, 0"
    return f"n_{name} = tl.load({base}{AT[of]}{mask}){SHAPE[of]}"


def _store(name: str, of: str, adds: set[str]) -> str:
    size = {"element": "1", "column": "PRES", "row": "POSTS", "synapse": "POSTS * PRES"}[of]
    shape = {
        "element": "[1, 1]",
        "column": "[1, COLUMNS]",
        "row": "[ROWS, 1]",
        "synapse": "[ROWS, COLUMNS]",
    }[of]
    place = {
        "element": "tl.zeros([1, 1], tl.int64)",
        "column": "columns[None, :]",
        "row": "rows[:, None]",
        "synapse": "tile",
    }[of]
    mask = {
        "element": "None",
        "column": "in_columns[None, :]",
        "row": "in_rows[:, None]",
        "synapse": "inside",
    }[of]
    to = f"p_{name} + element * {size} + {place}"
    value = f"tl.broadcast_to(n_{name}, {shape})"
    if name in adds:
        value = f"tl.load({to}, {mask}, 0) + {value}"
    return f"tl.store({to}, {value}, {mask})"
