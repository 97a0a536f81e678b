"""The committed text of the library's own rules, by the path of its file."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap

from .. import program
from . import papers
from .cells import ACTIVITIES, CELLS, PLASTIC, history_of
from .classes import neuron_class, read_class, update_class
from .neurons import Neuron, activity, gated
from .structs import cell_struct, neuron_struct, read_struct, update_struct
from .updates import Read, Update, read, stem, update

WRITTEN = (
    "Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit."
)
HEADER = f"// {WRITTEN}"
INCLUDE = [
    "#pragma once", "", '#include "../arithmetic.h"', "", "namespace plastikern::generated {", "",
    "using arithmetic::exp, arithmetic::log, arithmetic::log1p, arithmetic::pow, arithmetic::sqrt;",
    "using arithmetic::fused, arithmetic::number, arithmetic::sigmoid, arithmetic::tanh;",
    "using arithmetic::Pass;", "",
]  # fmt: skip
IMPORTS = [
    "from __future__ import annotations",
    "",
    "import triton",
    "import triton.language as tl",
    "",
]
WIDTH = 100


def files() -> dict[str, str]:
    """All of it."""
    stems = {stem(*pair): pair for pair in papers.pairs()}
    found = {f"csrc/generated/{name}.h": _update_file(*pair) for name, pair in stems.items()}
    found["csrc/generated/reads.h"] = _reads_file()
    found["csrc/generated/neurons.h"] = _neurons_file()
    found["csrc/generated/rules.h"] = _table(sorted(stems))
    found["csrc/generated/program.h"] = _program_file()
    return found | _triton_files(stems)


def _updates(rule: str, constraint: str) -> list[tuple[Update, Update]]:
    """With coefficients by row and by synapse, without eligibility traces and with them."""
    return [
        (update(rule, constraint, retroactive, False), update(rule, constraint, retroactive, True))
        for retroactive in (False, True)
    ]


def _reads() -> list[tuple[Read, Read]]:
    return [(read(constraint, False), read(constraint, True)) for constraint in ("none", *papers.READS)]  # fmt: skip


def _update_file(rule: str, constraint: str) -> str:
    return _text([
        [*_commented(both[0].formula), *update_struct(*both)] for both in _updates(rule, constraint)
    ])  # fmt: skip


def _reads_file() -> str:
    return _text([[*_commented(both[0].formula), *read_struct(*both)] for both in _reads()])


def _one_of_each() -> dict[str, str]:
    """By name of an activity, the first name of the same function."""
    first = {function: name for name, function in reversed(ACTIVITIES.items())}
    return {name: first[function] for name, function in ACTIVITIES.items()}


def _activities() -> dict[str, Neuron]:
    return {name: activity(name) for name, first in _one_of_each().items() if name == first}


def _neurons_file() -> str:
    structs = [neuron_struct(f"activity_{name}", of) for name, of in _activities().items()]
    names = " ".join(f"X({name})" for name in _activities())
    cells_of = [cell_struct(kind, gated(kind)) for kind in CELLS]
    text = _text([*structs, *cells_of], ['#include "program.h"'])
    of_cells = " ".join(f"X({kind})" for kind in CELLS)
    return f"{text}\n#define PLASTIKERN_ACTIVITIES(X) {names}\n#define PLASTIKERN_CELLS(X) {of_cells}\n"


def _table(stems: list[str]) -> str:
    rules, constraints = [*papers.INCREMENTS], [*papers.CONSTRAINTS]
    rows = []
    for rule, constraint in papers.pairs():
        free = papers.WHERE_NOTHING_IS_CLIPPED.get(constraint, constraint)
        places = f"{rules.index(rule)}, {constraints.index(constraint)}"
        name = stem(rule, constraint)
        alike = [
            other for own, other in papers.pairs() if own == rule and stem(rule, other) == name
        ]
        reads = [read(read_as, True).name for read_as in (constraint, alike[0])]
        rows.append(f"    X({', '.join([places, name, stem(rule, free), *reads])})")
    return "\n".join([
        HEADER, "#pragma once", "", *(f'#include "{name}.h"' for name in (*stems, "reads")), "",
        *_commented("What goes together: rule and constraint, by their places in "
                    "plastikern/rules/papers.py; the change, the change where a step loses nothing, the read, and the "
                    "one that serves it with bounds that may be infinite: what changes traces alike shares a kernel."),
        "#define PLASTIKERN_RULES(X) \\", " \\\n".join(rows), "",
    ])  # fmt: skip


ENUMS = {
    "kind": "NetworkKind", "nonlinearity": "Nonlinearity", "post": "Post", "modulator_input": "ModulatorInput",
}  # fmt: skip
TABLES = {
    "Operands": program.OPERANDS, "Results": program.RESULTS, "Kept": program.KEPT,
    "Upstream": program.UPSTREAM, "Grads": program.GRADIENTS,
}  # fmt: skip


def _program_file() -> str:
    lines = [HEADER, "#pragma once", "", "#include <cstdint>", "", "namespace plastikern {", ""]
    for name, words in program.WORDS.items():
        if name in ENUMS:
            lines.append(f"enum class {ENUMS[name]} : int64_t {{ {', '.join(words)} }};")
    activities = ", ".join(
        f"Nonlinearity::{one}" for name in program.WORDS["modulator_nonlinearity"] for one in [_one_of_each()[name]]
    )  # fmt: skip
    lines += [
        f"constexpr Nonlinearity kModulatorNonlinearities[] = {{{activities}}};",
        "// Of networks with gates: the block of the drive that the plastic sum goes to; the row of the history",
        "// that a post is, -1 for the output; how many rows are kept. Of all: blocks of N values of the drive,",
        "// and of N rows of the recurrent weights.",
        f"constexpr int64_t kPlastic = {PLASTIC};",
        *_function("post_row", "Post post", {
            f"kind == NetworkKind::{kind} && post == Post::{post}": of.history(post).index(post)
            for kind, of in CELLS.items() for post in of.posts if post in of.history(post)
        }, -1),
        *_function("history_rows", "Post post", {
            f"kind == NetworkKind::{kind} && post == Post::{post}": len(history_of(kind, post))
            for kind, of in CELLS.items() for post in of.posts
        }, 0),
        *_function("drive_blocks", "", {f"kind == NetworkKind::{x}": len(of.sums) for x, of in CELLS.items()}, 1),
        *_function("weight_blocks", "", {f"kind == NetworkKind::{x}": of.weights for x, of in CELLS.items()}, 1),
        "", "// What a key says, in its order, and by which words.",
        "constexpr const char* kWords[][9] = {",
        *(_row([name, *words], "    ") for name, words in program.WORDS.items()), "};", "",
        "// What may be true of a program or of a call of it.", "namespace fact {",
        *(f"constexpr unsigned {name} = 1u << {bit};" for bit, name in enumerate(program.FACTS)),
        "}  // namespace fact",
        "constexpr const char* kFacts[] = {", *(f'    "{text}",' for text in program.FACTS.values()), "};", "",
        "// The tensors of a call: plastikern/program.py says what this means.",
        "enum class Value { number, flag, integer };",
        "struct Operand {", "    const char *name, *shape;", "    unsigned when, needed;", "    Value value;",
        "    bool asked;", "};",
    ]  # fmt: skip
    for name, table in TABLES.items():
        lines += [
            f"enum class {name} : int {{ {', '.join(each.name for each in table)} }};",
            f"constexpr Operand k{name}[] = {{", *map(_operand, table), "};",
        ]  # fmt: skip
    lines.append(f"constexpr int kDifferentiable = {program.DIFFERENTIABLE};")
    return "\n".join([*lines, "", "}  // namespace plastikern", ""])


def _function(name: str, more: str, cases: dict[str, int], other: int) -> list[str]:
    """The value of the first case that is true."""
    taken = ", ".join(["NetworkKind kind", *([more] if more else [])])
    return [
        f"PLASTIKERN_INLINE constexpr int64_t {name}({taken}) {{",
        *(f"    if ({case}) return {value};" for case, value in cases.items()), f"    return {other};", "}",
    ]  # fmt: skip


def _row(words: list[str], indent: str) -> str:
    return f"{indent}{{{', '.join(f'{chr(34)}{word}{chr(34)}' for word in words)}}},"


def _operand(operand: program.Operand) -> str:
    when, needed = (
        " | ".join(f"fact::{fact}" for fact in facts.split()) or "0"
        for facts in (operand.when, operand.needed)
    )
    asked = "true" if operand.asked else "false"
    return f'    {{"{operand.name}", "{operand.shape}", {when}, {needed}, Value::{operand.value}, {asked}}},'


def _triton_files(stems: dict[str, tuple[str, str]]) -> dict[str, str]:
    found = {
        name: _module([
            [*_commented(both[0].formula, "# "), *update_class(*both)] for both in _updates(*pair)
        ])
        for name, pair in stems.items()
    }  # fmt: skip
    found["reads"] = _module([
        [*_commented(both[0].formula, "# "), *read_class(*both)] for both in _reads()
    ])  # fmt: skip
    found["__init__"] = _triton_table(sorted(found))
    activities = [neuron_class(f"activity_{name}", of) for name, of in _activities().items()]
    cells_of = [neuron_class(kind, gated(kind)) for kind in CELLS]
    found["neurons"] = _module([*activities, *cells_of])
    return {f"plastikern/triton/generated/{name}.py": text for name, text in found.items()}


def _triton_table(modules: list[str]) -> str:
    activities = [
        f'    "{name}": neurons.activity_{first},' for name, first in _one_of_each().items()
    ]
    imports = [
        "from . import neurons",
        *(
            f"from .{name} import {'read_clipped, read_trace' if name == 'reads' else f'{name}, {name}_retroactive'}"
            for name in modules
        ),
    ]
    changes = [
        f'    ("{rule}", "{constraint}"): ({name}, {name}_retroactive),'
        for rule, constraint in papers.pairs() for name in [stem(rule, constraint)]
    ]  # fmt: skip
    reads = [
        f'    "{constraint}": {read(constraint, True).name},' for constraint in papers.CONSTRAINTS
    ]
    return "\n".join([
        f"# {WRITTEN}", *imports, "",
        "# By rule and constraint: the change of traces at once, and that by eligibility traces.",
        "CHANGES = {", *changes, "}", "",
        "# What the sums read, by constraint.", "READS = {", *reads, "}", "",
        "# Activities by name.", "ACTIVITIES = {", *activities, "}", "",
        "# Cells by the kind of their network.",
        "CELLS = {", *(f'    "{kind}": neurons.{kind},' for kind in CELLS), "}", "",
    ])  # fmt: skip


def _module(classes: list[list[str]]) -> str:
    """A module of Triton: the formula above each class."""
    lines = [line for each in classes for line in ("", "", *each)]
    text = "\n".join(lines)
    called = [word for word in ("log1p", "number", "pow", "sigmoid", "tanh") if f"{word}(" in text]
    imports = [*IMPORTS, f"from ..arithmetic import {', '.join(called)}", ""]
    return "\n".join([f"# {WRITTEN}", *imports, *lines[1:], ""])


def _commented(text: str, sign: str = "// ") -> list[str]:
    return wrap(text, WIDTH, initial_indent=sign, subsequent_indent=sign)


def _text(structs: list[list[str]], includes: Iterable[str] = ()) -> str:
    before = INCLUDE.index("", 2)
    found = [HEADER, *INCLUDE[:before], *includes, *INCLUDE[before:]]
    for line in (line for struct in structs for line in (*struct, "")):
        indent = line[: len(line) - len(line.lstrip())] + " " * 8
        long = len(line) > WIDTH
        found += (
            wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False) if long else [line]
        )
    return "\n".join([*found, "}  // namespace plastikern::generated", ""])
