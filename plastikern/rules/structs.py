"""The C++ of an update and of a read: structs of functions of values, which kernels are templates over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from .cells import CELLS
from .neurons import Neuron
from .printers import CPP, statements
from .schedule import Stage
from .symbols import leaf
from .updates import Read, Update

INDENT = "    "


def update_struct(by_row: Update, by_synapse: Update) -> list[str]:
    """The struct of a change, with coefficients by row and by synapse; csrc/update.h says what its functions are."""
    states, coefficients = by_row.states, by_row.coefficients
    fades = _truth(by_row.fades[:1] == coefficients[:1])
    lines = [
        f"static constexpr bool reverses = {_truth(by_row.reverse)}, fades = {fades};",
        *_record("States", states), *_record("Coefficients", coefficients),
        *_visitor("states", states), *_visitor("coefficients", coefficients),
        *_update_struct("by_row", by_row), *_update_struct("by_synapse", by_synapse),
    ]  # fmt: skip
    return _struct(by_row.name, lines)


def _struct(name: str, lines: list[str]) -> list[str]:
    return [f"struct {name} {{", *(INDENT + line for line in lines), "};"]


def _update_struct(name: str, update: Update) -> list[str]:
    states, coefficients = update.states, update.coefficients
    sums = [name for name, axis in update.adjoint.sums.items() if axis == "pre"]
    own = coefficients if update.by_synapse else ()
    names = {
        **{state: f"before.{state}" for state in states},
        **{f"grad_{state}": f"grad.{state}" for state in states},
        **{f"after_{state}": f"after.{state}" for state in states},
        **{coefficient: f"given.{coefficient}" for coefficient in own},
        **{value: f"row.{value}" for value in update.of_row},
        "x": "x", "so_far_x": "so_far.x", **{f"so_far_{sum}": f"so_far.sums.{sum}" for sum in sums},
    }  # fmt: skip
    for_row = {"y": "y", "c": "c", "pre_count": "pre_count"}
    for_row |= {name: f"given.{name}" for name in coefficients}
    to_finish = {**for_row, **names, **{sum: f"sums.{sum}" for sum in sums}}
    adjoint = added(update.adjoint, {"grad_x": "so_far_x", **{s: f"so_far_{s}" for s in sums}})
    grads = [f"grad_{name}" for name in coefficients]
    row = "const Row<V>& row"
    given = "const Coefficients<V>& given"
    synapse = f"{row}, const States<V>& before, V x, {given}"
    lines = [
        f"static constexpr int sum_count = {len(sums)};",
        f"static constexpr int passes_of_next = {update.passes_of_next}, passes = {len(update.passes)};",
        f"static constexpr bool rests = {_truth(update.rests)};",
        *_record("Sums", sums), *_record("Row", update.of_row),
        *_record("Adjoint", (), "States<V> states;", "V x;", "Sums<V> sums;",
                 *["Coefficients<V> coefficients;"] * update.by_synapse),
        *_record("Finished", (), "V y;",
                 *["Coefficients<V> coefficients;"] * (not update.by_synapse)),
        *_visitor("sums", sums),
        *_function("Row<V>", "row", f"V y, V c, V pre_count, {given}", update.row, for_row,
                   lambda of: _filled(map(of, update.row.outputs), update.of_row)),
        *_passes(update, names, synapse),
        *_function("States<V>", "next", synapse, update.next, names,
                   lambda of: _braces(map(of, states))),
        *_function("Adjoint<V>", "adjoint",
                   f"{synapse}, const States<V>& grad, const Adjoint<V>& so_far", adjoint, names,
                   lambda of: _braces([
                       _braces(of(f"grad_{state}") for state in states), of("grad_x"),
                       _braces(map(of, sums)), *([_braces(map(of, grads))] if own else [])])),
        *_function("Finished<V>", "finish", f"{row}, const Sums<V>& sums", update.finish, to_finish,
                   lambda of: _braces([
                       of("grad_y"), *([] if own else [_braces(map(of, grads))])])),
    ]  # fmt: skip
    if update.reverse is not None:
        lines += _function(
            "States<V>", "reverse", f"{row}, const States<V>& after, V x, {given}", update.reverse,
            names, lambda of: _braces(of(f"before_{state}") for state in states),
        )  # fmt: skip
    return _struct(name, lines)


def _passes(update: Update, names: dict[str, str], synapse: str) -> list[str]:
    """The passes before the last one: ``gather`` adds up sums over the row, ``settle`` what follows from them."""
    most = max((list(each.gather.outputs) for each in update.passes), key=len, default=[])
    lines = [*_record("Gathered", most), *_visitor("gathered", most)] if most else []
    known = list(update.row.outputs)
    for place, each in enumerate(update.passes):
        sums = list(each.gather.outputs)
        grad = "" if place < update.passes_of_next else ", const States<V>& grad"
        to_add = names | {f"so_far_{sum}": f"so_far.{sum}" for sum in sums}
        lines += _function(
            "Gathered<V>", "gather", f"Pass<{place}> place, {synapse}{grad}, const Gathered<V>& so_far",
            added(each.gather, {sum: f"so_far_{sum}" for sum in sums}), to_add,
            lambda of, sums=sums: _filled(map(of, sums), most),  # type: ignore[misc]
        )  # fmt: skip
        before, after = [f"row.{name}" for name in known], list(each.settle.outputs)
        lines += _function(
            "Row<V>", "settle", f"Pass<{place}> place, const Row<V>& row, const Gathered<V>& sums",
            each.settle, names | {sum: f"sums.{sum}" for sum in sums},
            lambda of, before=before, after=after: _filled([*before, *map(of, after)], update.of_row),  # type: ignore[misc]
        )  # fmt: skip
        known += after
    return lines


def read_struct(by_row: Read, by_synapse: Read) -> list[str]:
    """The struct of a read, with alpha by row and by synapse."""
    return _struct(
        by_row.name, [*_read_struct("by_row", by_row), *_read_struct("by_synapse", by_synapse)]
    )


def _read_struct(name: str, read: Read) -> list[str]:
    grad_alpha = "grad_alpha" if read.by_synapse else "s0"
    names = {
        **{value: f"row.{value}" for value in read.row.outputs},
        "w": "w", "H": "H", "x": "x", "so_far": "so_far", "so_far_H": "so_far.H", "so_far_x": "so_far.x",
        **({"alpha": "alpha"} if read.by_synapse else {}), "s0": "sum",
    }  # fmt: skip
    rest = replace(
        read.adjoint, outputs={n: s for n, s in read.adjoint.outputs.items() if n != grad_alpha}
    )
    lines = [
        *_record("Row", read.row.outputs), *_record("Adjoint", ("H", "x")),
        *_function("Row<V>", "row", "V c, V alpha, V grad_sum", read.row,
                   {"c": "c", "alpha": "alpha", "grad_sum": "grad_sum"},
                   lambda of: _braces(of(name) for name in read.row.outputs)),
        *_function("V", "sum", "const Row<V>& row, V w, V alpha, V H, V x, V so_far",
                   added(read.sum, {"sum": "so_far"}), names, lambda of: of("sum")),
        *_function("Adjoint<V>", "adjoint",
                   "const Row<V>& row, V w, V alpha, V H, V x, const Adjoint<V>& so_far",
                   added(rest, {"grad_H": "so_far_H", "grad_x": "so_far_x"}), names,
                   lambda of: _braces([of("grad_H"), of("grad_x")])),
        *_function("V", "alpha", "const Row<V>& row, V H, V x, V so_far",
                   added(read.alpha, {grad_alpha: "so_far"}), names, lambda of: of(grad_alpha)),
    ]  # fmt: skip
    if not read.by_synapse:
        lines += _function(
            "V", "finish", "const Row<V>& row, V sum", read.finish, names, lambda of: of("grad_alpha")
        )  # fmt: skip
    return _struct(name, lines)


def neuron_struct(name: str, neuron: Neuron) -> list[str]:
    """The struct of a neuron's step: ``forward`` and ``adjoint`` take and return records of values."""
    lines = []
    for function in ("forward", "adjoint"):
        stage: Stage = getattr(neuron, function)
        given, found = function.title() + "Given", function.title()
        lines += [
            *_record(given, stage.inputs), *_record(found, stage.outputs),
            *_function(f"{found}<V>", function, f"const {given}<V>& given", stage,
                       {name: f"given.{name}" for name in stage.inputs},
                       partial(_members, stage.outputs)),
        ]  # fmt: skip
    return _struct(name, lines)


def cell_struct(kind: str, neuron: Neuron) -> list[str]:
    """The struct of a cell's step. Its visitors name the members by their place: sums, what is kept in the records of
    either function, gradients of sums; and by their Post gradients that may come in for them."""
    cell = CELLS[kind]
    posts = [name for name in cell.posts if f"grad_{name}" in neuron.adjoint.inputs]
    return _struct(kind, [
        f"static constexpr int drives = {len(cell.sums)}, weights = {cell.weights}, kept_rows = {len(cell.kept)};",
        f"static constexpr bool carries = {_truth(cell.carries)};",
        *_visitor("sums", [f"{name}_sum" for name in cell.sums]),
        *_visitor("kept", cell.kept),
        *_visitor("grads", [f"grad_{name}_sum" for name in cell.sums]),
        *_visitor("posts", [f"grad_{name}" for name in posts], [f"Post::{name}" for name in posts]),
        *(line.removeprefix(INDENT) for line in neuron_struct(kind, neuron)[1:-1]),
    ])  # fmt: skip


def _members(names: Iterable[str], of: Callable[[str], str]) -> str:
    return _braces(map(of, names))


def _truth(value: object) -> str:
    return "true" if value else "false"


def _braces(values: Iterable[str]) -> str:
    return "{" + ", ".join(values) + "}"


def _filled(values: Iterable[str], members: Sequence[str]) -> str:
    """The values of the first members of a record, zeros for the others."""
    found = list(values)
    return _braces(found + ["V{}"] * (len(members) - len(found)))


def added(stage: Stage, totals: dict[str, str]) -> Stage:
    """The stage with outputs added to what there is of them already: in a fused operation, where that is one."""
    leaves = {name: leaf(total, "synapse") for name, total in totals.items()}
    outputs = {n: leaves[n] + s if n in leaves else s for n, s in stage.outputs.items()}
    given = {str(symbol.payload): symbol for symbol in leaves.values()}
    return replace(stage, inputs={**stage.inputs, **given}, outputs=outputs)


def _record(name: str, members: Iterable[str], *lines: str) -> list[str]:
    listed = ", ".join(members)
    inside = [*([f"V {listed};"] if listed else []), *lines]
    return ["template <typename V>", f"struct {name} {{", *(INDENT + line for line in inside), "};"]


def _visitor(name: str, members: Sequence[str], keys: Iterable[Any] | None = None) -> list[str]:
    places = range(len(members)) if keys is None else keys
    calls = " ".join(
        f"f({key}, a.{member}...);" for key, member in zip(places, members, strict=True)
    )
    return [
        "template <class F, class... A>",
        f"static PLASTIKERN_INLINE void {name}(const F& f, A&... a) {{", f"{INDENT}{calls}", "}",
    ]  # fmt: skip


def _function(
    result: str, name: str, parameters: str, stage: Stage, names: dict[str, str],
    returned: Callable[[Callable[[str], str]], str],
) -> list[str]:  # fmt: skip
    renamed = {names[str(given)]: symbol for given, symbol in stage.inputs.items()}
    texts, outputs = statements(
        replace(stage, inputs=renamed), CPP,
        lambda to, truth: f"const {'auto' if truth else 'V'} {to} = {{}};",
    )  # fmt: skip
    text = " ".join([*texts, returned(outputs.__getitem__)])
    listed = []
    for parameter in parameters.split(", "):
        own = parameter.rsplit(" ", 1)[1]
        used = re.search(rf"(?<![.\w]){own}\b", text)
        listed.append(parameter if used else parameter.replace(f" {own}", f" /*{own}*/"))
    return [
        "template <typename V>", f"static PLASTIKERN_INLINE {result} {name}({', '.join(listed)}) {{",
        *(INDENT + line for line in texts), f"{INDENT}return {returned(outputs.__getitem__)};", "}",
    ]  # fmt: skip
