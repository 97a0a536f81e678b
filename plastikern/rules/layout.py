"""That a compiled rule and Python mean the same structures.

The text of a rule states what Python's structures are, so that the compiler refuses one that is not csrc/rule.h's; and
the library tells which ones it was made for, so that a file that does not belong here is refused before it is called.
"""

from __future__ import annotations

import ctypes
import hashlib
from functools import cache


class LayoutError(RuntimeError):
    """A compiled rule was made for other structures."""


def structures() -> dict[str, type[ctypes.Structure]]:
    """Python's structures by their names in csrc/rule.h."""
    from . import running

    return {
        "Source": running._Source, "Addition": running._Addition, "Binding": running._Binding,
        "Job": running._Job,
    }  # fmt: skip


@cache
def stated() -> tuple[str, ...]:
    """What the text of a rule says of each structure and member."""
    lines = []
    for name, structure in structures().items():
        whole = f"plastikern::{name}<PLASTIKERN_SCALAR>"
        lines.append(_assertion(f"sizeof({whole}) == {ctypes.sizeof(structure)}", name))
        for member, *_ in structure._fields_:
            place = getattr(structure, member)
            of = f"{whole}, {member}"
            lines.append(
                _assertion(f"__builtin_offsetof({of}) == {place.offset}", f"{name}.{member}")
            )
            of = f"{whole}::{member}"
            lines.append(_assertion(f"sizeof({of}) == {place.size}", f"{name}.{member}"))
    return tuple(lines)


def _assertion(condition: str, name: str) -> str:
    return f'static_assert({condition}, "{name} is another one in plastikern/rules/running.py");'


@cache
def number() -> int:
    """Stands for all of it."""
    return int.from_bytes(hashlib.sha256("".join(stated()).encode()).digest()[:4], "big") >> 1


def check(library: ctypes.CDLL, rule: str) -> None:
    """That a library was made for these structures.

    Raises:
        LayoutError: see there.
    """
    found = library.plastikern_layout()
    if found != number():
        raise LayoutError(
            f"the compiled {rule} was made for other structures ({found}; this release has {number()}): remove "
            f"{library._name}"
        )
