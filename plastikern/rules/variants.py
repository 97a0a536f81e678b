"""Which program a rule has where it is used: a function may take numbers from outside, and they may change."""

from __future__ import annotations

import builtins
import dis
import hashlib
import inspect
import warnings
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from .decorator import Rule
from .programs import Program

Use = tuple[tuple[str, str], ...]
"""Granularities by name."""
MANY = 8
"""With so many sets of constants a rule is told what coefficients are for."""
MOST_VALUES = 64
"""Of a container that a function takes numbers from."""
_LIBRARIES = ("torch", "plastikern", "math", "numpy", "builtins", "typing")
"""What these have does not change while a process runs."""

_OWN = "plastikern."
_UNSEEN = {"globals", "locals", "vars", "getattr", "eval", "exec", "__import__", "open"}
"""What finds values that no name stands for."""
_Seen = set[tuple[int, tuple[str, ...]]]
"""Functions, and modules with the names that were looked up in them."""


class _Unknown(Exception):
    """Something outside of a function, of which nobody can say cheaply whether it has changed."""


def program_of(rule: Rule, of_use: Mapping[str, str]) -> Program:
    """The program of a rule where it is used, the one there is or a new one.

    The numbers that the function takes from outside are compared at every call, its helper functions' numbers, too.
    Where something else is outside, the function is traced again: what it says then is what is compared.
    """
    granularities = tuple(of_use.items())
    kept: dict[Hashable, Program] = rule.__dict__.setdefault("_programs", {})
    try:
        seen: Hashable = (granularities, outside(rule.function), outside(rule.read))
        found = kept.get(seen)
    except (_Unknown, TypeError):  # An object need not have a hash.
        seen = found = None
    if found is not None:
        return found
    said = _said(rule, granularities)
    found = kept.get(said)
    if found is None:
        found = kept[said] = Program(rule, dict(of_use))
        # A program derives things when it is asked for them, and then the numbers may be others.
        _ = found.forward, found.backward
        _count(rule, granularities, said)
    if seen is not None:
        kept[seen] = found
    return found


def _said(rule: Rule, granularities: Use) -> bytes:
    """What the function says: a digest of its trace."""
    traced = rule.traced(dict(granularities))
    symbols = [*traced.states.values(), traced.summand]
    text = repr([granularities, *(symbol.digest for symbol in symbols)])
    return hashlib.sha256(text.encode()).digest()


_variants: dict[CodeType, dict[Use, set[bytes]]] = {}


def _count(rule: Rule, granularities: Use, said: bytes) -> None:
    """Says once that a rule is compiled again and again, because its constants change."""
    variants = _variants.setdefault(rule.function.__code__, {}).setdefault(granularities, set())
    known = len(variants)
    variants.add(said)
    if known < MANY == len(variants):
        message = (
            f"has been made with {MANY} sets of constants, and is compiled for each: take what changes as a "
            "coefficient, an argument of the function that is no state, instead of a number from outside"
        )
        warnings.warn(str(rule.error(message)), stacklevel=4)


def outside(function: Any) -> tuple[Hashable, ...]:
    """What a function takes from its module, or from the function around it: numbers, and other functions with theirs.

    Raises:
        _Unknown: it takes something that may change unseen.
    """
    found: list[Hashable] = []
    _add_function(function, found, set())
    return tuple(found)


def source_of(rule: Rule) -> str:
    """What a rule is where nothing is traced: its source and that of its helper functions, with the numbers that they
    take from outside, as they are now. The same in every process.

    Raises:
        OSError: there is no file of a function.
    """
    said = []
    for function in (rule.function, rule.read):
        said.append(inspect.getsource(function))
        try:
            said += [_told(each) for each in outside(function)]
        except _Unknown:
            said.append("and what nobody can see")
    return "\n".join(said)


def _told(found: Hashable) -> str:
    if isinstance(found, CodeType):
        return ""  # It stands beside its function.
    if isinstance(found, FunctionType) and not _of_a_library(found.__module__):
        return inspect.getsource(found)
    name = getattr(found, "__qualname__", getattr(found, "__name__", None))
    return repr(found) if name is None else f"{getattr(found, '__module__', '')}.{name}"


def is_fixed(rule: Rule) -> bool:
    """Whether a rule takes nothing from outside but what libraries have, so that it stays what it is."""
    try:
        seen = (*outside(rule.function), *outside(rule.read))
    except (_Unknown, TypeError):
        return False
    own = (rule.function, rule.read)
    values = [each for each in seen if isinstance(each, str) and each.startswith("<class ")]
    functions = [each for each in seen if type(each) is FunctionType and each not in own]
    return not values and all(_of_a_library(each.__module__) for each in functions)


def _add_function(function: FunctionType, found: list[Hashable], seen: _Seen) -> None:
    code = function.__code__
    if (id(function), ()) in seen:
        return
    seen.add((id(function), ()))
    # The code stands beside the function: some editors replace it in place.
    found.extend([function, code])
    names = _names(code)
    for cell in function.__closure__ or ():
        try:
            _add(cell.cell_contents, names, found, seen)
        except ValueError:
            raise _Unknown from None  # It has no content yet.
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        _add(default, names, found, seen)
    known = function.__globals__
    for name in names:
        if name in known:
            found.append(name)
            _add(known[name], names, found, seen)


def _add(value: Any, names: tuple[str, ...], found: list[Hashable], seen: _Seen) -> None:
    kind = type(value)
    if isinstance(value, (float, int, str)) or value is None:
        # 0.0 and -0.0, and 1 and True, are equal, and are not the same.
        found.append(f"{kind} {value!r}")
    elif kind is BuiltinFunctionType:
        found.append(value)
    elif kind is FunctionType:
        # A function of the library that was made of a rule has it in its closure.
        if _of_a_library(value.__module__) and not (
            value.__closure__ and value.__module__.startswith(_OWN)
        ):
            found.append(value)
        else:
            _add_function(value, found, seen)
    elif kind is ModuleType:
        if _of_a_library(value.__name__):
            found.append(value)
        elif (id(value), names) not in seen:
            seen.add((id(value), names))
            within = vars(value)
            for name in names:
                if name in within:
                    found.append(name)
                    _add(within[name], names, found, seen)
    elif kind is Rule:
        _add_function(value.function, found, seen)
        _add_function(value.read, found, seen)
    elif is_dataclass(kind) and vars(kind)["__dataclass_params__"].frozen:
        found.append(value)
    elif kind in (tuple, list, dict) and len(value) <= MOST_VALUES:
        found.append((kind, len(value)))
        for each in (*value, *value.values()) if kind is dict else value:
            _add(each, names, found, seen)
    elif getattr(builtins, getattr(value, "__name__", ""), None) is value:
        found.append(value)
    else:
        raise _Unknown


def _of_a_library(module: str | None) -> bool:
    return module is not None and module.split(".", 1)[0] in _LIBRARIES


@lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[str, ...]:
    """All names that code takes from outside or as attributes, that of functions inside it included."""
    return tuple(dict.fromkeys(_all_names(code)))


def _all_names(code: CodeType) -> Iterator[str]:
    imports = any(each.opname == "IMPORT_NAME" for each in dis.get_instructions(code))
    if imports or not _UNSEEN.isdisjoint(code.co_names):
        raise _Unknown
    yield from code.co_names
    for inside in code.co_consts:
        if isinstance(inside, CodeType):
            yield from _all_names(inside)
