"""The Triton of an update and of a read: classes of functions of values, which kernels choose among at compilation.

A class has a change or a read once with coefficients by row and once by synapse. Its functions take and return
tuples: values of a row, states in their order, sums, coefficients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from textwrap import wrap

from .neurons import Neuron
from .printers import TRITON, statements
from .schedule import Stage
from .structs import added
from .updates import Names, Read, Update

INDENT = "    "
WIDTH = 100


@dataclass(frozen=True)
class _Tuple:
    """A parameter that is a tuple, and the local names of its members."""

    parameter: str
    members: Names


def update_class(by_row: Update, by_synapse: Update) -> list[str]:
    """The class of a change; plastikern/triton/changes.py calls its functions."""
    both = {"by_row": by_row, "by_synapse": by_synapse}
    return _class(by_row.name, {name: _update_functions(update) for name, update in both.items()})


def read_class(by_row: Read, by_synapse: Read) -> list[str]:
    """The class of a read; plastikern/triton/synapses.py and alpha.py call its functions."""
    both = {"by_row": by_row, "by_synapse": by_synapse}
    return _class(by_row.name, {name: _read_functions(read) for name, read in both.items()})


def neuron_class(name: str, neuron: Neuron) -> list[str]:
    """The class of a neuron's step; plastikern/triton/neurons.py calls its functions."""
    forward, backward = neuron.forward, neuron.adjoint
    functions = [
        _function("forward", list(forward.inputs), forward, next(iter(forward.inputs)),
                  list(forward.outputs)),
        _function("adjoint", list(backward.inputs), backward, next(iter(backward.inputs)),
                  list(backward.outputs)),
    ]  # fmt: skip
    lines = [f"class {name}:"]
    for function in functions:
        lines += [*(INDENT + line for line in function), ""]
    return lines[:-1]


def _class(name: str, members: dict[str, list[list[str]]]) -> list[str]:
    lines = [f"class {name}:"]
    for member, functions in members.items():
        lines.append(f"{INDENT}class {member}:")
        for function in functions:
            lines += [*(2 * INDENT + line for line in function), ""]
    return lines[:-1]


def _update_functions(update: Update) -> list[list[str]]:
    sums = tuple(name for name, axis in update.adjoint.sums.items() if axis == "pre")
    inner = [stage for each in update.passes for stage in (each.gather, each.settle)]
    users = (*inner, update.next, update.adjoint, update.finish)
    needed = _needed(update.row, users)
    rows = [tuple(needed.outputs)]
    given = _Tuple("given", update.coefficients)
    # Coefficients by row are in what is computed of a row.
    given_there = given if update.by_synapse else "given"
    before = _Tuple("before", update.states)
    grad = _Tuple("grad", tuple(f"grad_{state}" for state in update.states))
    grads = [f"grad_{name}" for name in update.coefficients]
    like = update.states[0]
    adjoint: list[str | Names] = [tuple(f"grad_{state}" for state in update.states), "grad_x", sums]
    passes: list[list[str]] = []
    for place, each in enumerate(update.passes):
        row, gathered = _Tuple("row", rows[place]), tuple(each.gather.outputs)
        settled = _needed(each.settle, users)
        of_adjoint = [grad] if place >= update.passes_of_next else []
        passes += [
            _function(
                f"gather{place}", [row, before, "x", given_there, *of_adjoint], each.gather, like,
                list(gathered),
            ),
            _function(
                f"settle{place}", [row, _Tuple("sums", gathered)], settled, gathered[0],
                list(settled.outputs),
            ),
        ]  # fmt: skip
        rows.append((*rows[place], *settled.outputs))
    row_of_next, row = (_Tuple("row", rows[place]) for place in (update.passes_of_next, -1))
    return [
        [f"sum_count, passes_of_next, passes = {len(sums)}, {update.passes_of_next}, {len(update.passes)}",
         f"rests = {update.rests}"],
        _function("row", ["y", "c", "pre_count", given], needed, "y", list(needed.outputs)),
        *passes,
        _function("next", [row_of_next, before, "x", given_there], update.next, like, list(update.states)),
        _function(
            "adjoint", [row, before, "x", given_there, grad], update.adjoint, like,
            [*adjoint, *([tuple(grads)] if update.by_synapse else [])],
        ),
        _function(
            "finish", [row, _Tuple("sums", sums)], update.finish, sums[0],
            ["grad_y", *([] if update.by_synapse else grads)],
        ),
    ]  # fmt: skip


def _read_functions(read: Read) -> list[list[str]]:
    grads = {name: read.adjoint.outputs[name] for name in ("grad_H", "grad_x")}
    backward = replace(read.adjoint, outputs=grads)
    alone = (read.alpha,) if read.by_synapse else ()
    needed = _needed(read.row, (read.sum, backward, *alone))
    row = _Tuple("row", tuple(needed.outputs))
    functions = [
        _function("row", ["c", "alpha", "grad_sum"], needed, "grad_sum", list(needed.outputs)),
        _function("sum", [row, "w", "alpha", "H", "x"], read.sum, "H", ["sum"]),
        _function(
            "adjoint", [row, "w", "alpha", "H", "x", "so_far_H"],
            added(backward, {"grad_H": "so_far_H"}), "H", ["grad_H", "grad_x"],
        ),
    ]  # fmt: skip
    if read.by_synapse:
        functions.append(_function(
            "alpha", [row, "H", "x", "so_far"], added(read.alpha, {"grad_alpha": "so_far"}), "H",
            ["grad_alpha"],
        ))  # fmt: skip
    return functions


def _needed(row: Stage, by: Iterable[Stage]) -> Stage:
    """The values of a row without those that nothing here is computed from."""
    used = {str(name) for stage in by for name in stage.inputs}
    outputs = {str(name): symbol for name, symbol in row.outputs.items() if str(name) in used}
    return replace(row, outputs=outputs)


def _function(
    name: str, parameters: list[str | _Tuple], stage: Stage, like: str, returned: list[str | Names]
) -> list[str]:
    """A function whose tuples are taken apart first; members that it does not need are ``_``."""
    known = {str(given): symbol for given, symbol in stage.inputs.items()}
    words = TRITON | {"constant": f"number({{0}}, {like})"}
    texts, outputs = statements(replace(stage, inputs=known), words, lambda to, _: f"{to} = {{}}")
    result = [_tuple(map(outputs.__getitem__, each)) if isinstance(each, tuple) else outputs[each]
              for each in returned]  # fmt: skip
    text = f" {' '.join([*texts, *result])} "
    lines = []
    for each in (each for each in parameters if isinstance(each, _Tuple)):
        members = [member if _uses(text, member) else "_" for member in each.members]
        if {*members} != {"_"}:
            lines.append(f"{_members(members)} = {each.parameter}")
    for statement in texts:
        to, value = statement.split(" = ", 1)
        lines += _wrapped(f"{to} = ", [value])
    lines += _wrapped("return ", result, name.startswith(("row", "next", "gather", "settle")))
    signature = [each.parameter if isinstance(each, _Tuple) else each for each in parameters]
    return [
        "@triton.jit", f"def {name}({', '.join(signature)}):", *(INDENT + line for line in lines),
    ]  # fmt: skip


def _uses(text: str, name: str) -> bool:
    return any(f"{start}{name}{end}" in text for start in " (-" for end in " ,)")


def _tuple(values: Iterable[str]) -> str:
    found = list(values)
    return f"({found[0]},)" if len(found) == 1 else f"({', '.join(found)})"


def _members(names: list[str]) -> str:
    return _tuple(names) if len(names) == 1 else ", ".join(names)


def _wrapped(start: str, values: list[str], always_a_tuple: bool = False) -> list[str]:
    """The values after ``start``, in brackets where they take more than a line, each then on lines of its own."""
    several = len(values) > 1 or always_a_tuple
    whole = _members(values) if several else values[0]
    width = WIDTH - 3 * len(INDENT)
    if len(start + whole) <= width:
        return [start + whole]
    end = "," if several else ""
    inside = [
        line for value in values
        for line in wrap(value + end, width, initial_indent=INDENT, subsequent_indent=2 * INDENT)
    ]  # fmt: skip
    return [f"{start}(", *inside, ")"]
