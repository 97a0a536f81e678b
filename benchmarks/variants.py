"""Names of what is compared, and the environment that each of them runs in."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

LIBRARY = "plastikern-"
RECYCLED = "-recycled"
EAGER = "eager"
TORCH_RIVALS = (EAGER, "compile-step", "compile-chunk")
JAX = "jax"

# glibc hands large blocks back to the system when they are freed, and faults in every page anew at the next allocation.
# With these settings it keeps them: the allocator of a careful user.
RECYCLING = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "MALLOC_TOP_PAD_": str(2**26),
}

DEFAULT = (*(base + suffix for base in (f"{LIBRARY}cpu", *TORCH_RIVALS) for suffix in ("", RECYCLED)), JAX)


@dataclass(frozen=True)
class Variant:
    """``kind`` is ``plastikern-<backend>``, ``eager``, ``compile-step``, ``compile-chunk`` or ``jax``."""

    kind: str
    recycled: bool

    @property
    def name(self) -> str:
        return self.kind + (RECYCLED if self.recycled else "")

    @property
    def backend(self) -> str | None:
        """Backend of the library, None for a rival."""
        return self.kind.removeprefix(LIBRARY) if self.kind.startswith(LIBRARY) else None

    @property
    def compiled(self) -> bool:
        return self.kind == JAX or self.kind.startswith("compile-")

    def missing(self) -> str | None:
        """Why the variant cannot be measured on this machine at all; None where it can."""
        if self.kind == JAX and importlib.util.find_spec("jax") is None:
            return "jax is not installed"
        return None

    def environment(self) -> dict[str, str]:
        """Environment of the variant's processes."""
        inherited = {name: value for name, value in os.environ.items() if name not in RECYCLING}
        return {**inherited, **(RECYCLING if self.recycled else {})}


def parse(name: str) -> Variant:
    """A variant by its name in the table.

    Raises:
        ValueError: there is no such variant.
    """
    kind = name.removesuffix(RECYCLED)
    if not (kind in (*TORCH_RIVALS, JAX) or (kind.startswith(LIBRARY) and kind != LIBRARY)):
        known = ", ".join((f"{LIBRARY}BACKEND", *TORCH_RIVALS, JAX))
        raise ValueError(f"variant must be one of {known}, each also with the suffix {RECYCLED}; got {name!r}")
    return Variant(kind, recycled=name.endswith(RECYCLED))
