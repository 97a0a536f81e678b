"""The committed text of the library's own rules, by the path of its file."""

from __future__ import annotations

from itertools import product
from textwrap import wrap

from . import papers
from .cells import ACTIVITIES
from .neurons import activity, long_short_term_memory
from .structs import neuron_struct, read_struct, update_struct
from .updates import read, stem, update

HEADER = "// Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit."
INCLUDE = ['#pragma once', "", '#include "../arithmetic.h"', "",
           "namespace plastikern::generated {", "", "using arithmetic::fused, arithmetic::number, arithmetic::sigmoid, arithmetic::tanh;", ""]  # fmt: skip
WIDTH = 100


def pairs() -> list[tuple[str, str]]:
    """Rule and constraint, where they go together."""
    both = product(papers.INCREMENTS, papers.CONSTRAINTS)
    return [pair for pair in both if papers.go_together(*pair)]


def files() -> dict[str, str]:
    """All of it."""
    stems = {stem(*pair): pair for pair in pairs()}
    found = {f"csrc/generated/{name}.h": _update_file(*pair) for name, pair in stems.items()}
    found["csrc/generated/reads.h"] = _reads_file()
    found["csrc/generated/neurons.h"] = _neurons_file()
    found["csrc/generated/rules.h"] = _table(sorted(stems))
    return found


def _update_file(rule: str, constraint: str) -> str:
    structs = []
    for retroactive in (False, True):
        both = [update(rule, constraint, retroactive, by_synapse) for by_synapse in (False, True)]
        structs.append([*_commented(both[0].formula), *update_struct(*both)])
    return _text(structs)


def _reads_file() -> str:
    structs = []
    for constraint in ("none", *papers.READS):
        both = [read(constraint, by_synapse) for by_synapse in (False, True)]
        structs.append([*_commented(both[0].formula), *read_struct(*both)])
    return _text(structs)


def _neurons_file() -> str:
    activities = {function: name for name, function in reversed(ACTIVITIES.items())}
    structs = [
        neuron_struct(f"activity_{name}", activity(name)) for name in reversed(activities.values())
    ]
    structs.append(neuron_struct("lstm", long_short_term_memory()))
    names = " ".join(f"X({name})" for name in reversed(activities.values()))
    return f"{_text(structs)}\n#define PLASTIKERN_ACTIVITIES(X) {names}\n"


def _table(stems: list[str]) -> str:
    rules, constraints = [*papers.INCREMENTS], [*papers.CONSTRAINTS]
    rows = []
    for rule, constraint in pairs():
        free = "none" if constraint == "clip" else constraint
        places = f"{rules.index(rule)}, {constraints.index(constraint)}"
        name = stem(rule, constraint)
        alike = [other for own, other in pairs() if own == rule and stem(rule, other) == name]
        reads = [read(read_as, True).name for read_as in (constraint, alike[0])]
        rows.append(f"    X({', '.join([places, name, stem(rule, free), *reads])})")
    return "\n".join([
        HEADER, "#pragma once", "", *(f'#include "{name}.h"' for name in (*stems, "reads")), "",
        *_commented("What goes together: rule and constraint, by their places in "
                    "plastikern/rules/papers.py; the change, the change where a step loses nothing, the read."),
        "#define PLASTIKERN_RULES(X) \\", " \\\n".join(rows), "",
    ])  # fmt: skip


def _commented(text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent="// ", subsequent_indent="// ")


def _text(structs: list[list[str]]) -> str:
    found = [HEADER, *INCLUDE]
    for line in (line for struct in structs for line in (*struct, "")):
        indent = line[: len(line) - len(line.lstrip())] + " " * 8
        long = len(line) > WIDTH
        found += (
            wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False) if long else [line]
        )
    return "\n".join([*found, "}  // namespace plastikern::generated", ""])
