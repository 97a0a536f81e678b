"""``python -m plastikern compile MODULE:RULE``: a rule is compiled before it is used."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from functools import reduce
from typing import Any

from .compiling import found_or_made
from .decorator import GRANULARITIES, Rule
from .running import SCALARS
from .variants import program_of

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in SCALARS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("rule", metavar="MODULE:RULE", help="where the rule is declared")
    parser.add_argument(
        "--dtype", nargs="+", choices=DTYPES, default=["float32"], help="default: %(default)s"
    )
    parser.add_argument(
        "--granularity", nargs="+", default=[], metavar="NAME=KIND",
        help=f"what a coefficient, w or alpha belongs to: {', '.join(GRANULARITIES)} (default: layer; connection for "
        "w and alpha)",
    )  # fmt: skip


def run(chosen: Any) -> int:
    """Compiles; says what was made, where, and how long it took.

    Raises:
        ValueError, TypeError: there is no such rule, or a granularity is none of it.
        CompilationError: there is no compiler, or it fails.
    """
    rule = _rule(chosen.rule)
    use = _use(rule, chosen.granularity)
    program = program_of(rule, use)
    texts = {"": program.text}
    if program.rows_apart:
        texts = {"; pre given": program.text_apart, "; recurrent or softmax": program.text}
    for name in chosen.dtype:
        for where, text in texts.items():
            found = found_or_made(text, SCALARS[DTYPES[name]])
            took = "was there" if found.seconds is None else f"compiled in {found.seconds:.1f} s"
            told = ", ".join(f"{n} {kind}" for n, kind in use.items()) + where
            print(f"{rule.name} {name} ({told}): {took}: {found.path}")
    return 0


def named(said: str) -> Any:
    """What ``MODULE:NAME`` stands for: a name in a module that Python can import, in the current folder or installed.

    Raises:
        ValueError: there is none.
    """
    module, _, place = said.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return reduce(getattr, place.split("."), importlib.import_module(module))
    except Exception as error:  # whatever the module raises while it is imported
        first = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{said}: expected MODULE:NAME, a module that can be imported; got {type(error).__name__}: {first}"
        ) from error


def _rule(said: str) -> Rule:
    found = named(said)
    if not isinstance(found, Rule):
        raise ValueError(f"{said} is no rule declared by @rule; got {type(found).__name__}")
    if not found.fused:
        raise ValueError(f"{said} is declared with fused=False, and has no kernels")
    return found


def _use(rule: Rule, said: list[str]) -> dict[str, str]:
    """Granularities, in the order in which a call has them."""
    use = rule.usual
    for each in said:
        name, _, kind = each.partition("=")
        if name not in use:
            raise ValueError(
                f"{rule.name} has no coefficient {name}; it has {', '.join(use) or 'none'}"
            )
        if kind not in GRANULARITIES:
            raise ValueError(f"{name} must be one of {', '.join(GRANULARITIES)}; got {kind!r}")
        use[name] = kind
    return use
