"""Names of what is compared, and the environment that each of them runs in."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

LIBRARY = "plastikern-"
RECYCLED = "-recycled"
GRAPH = "-graph"
EAGER = "eager"
TORCH_RIVALS = (EAGER, f"{EAGER}{GRAPH}", "compile-step", "compile-chunk")
JAX = "jax"
# Forms of the CUDA kernels that can be asked for; without a suffix the plan chooses.
FORMS = ("resident", "cooperative", "streaming")
FORM_VARIABLE = "PLASTIKERN_CUDA_FORM"

# glibc hands large blocks back to the system when they are freed, and faults in every page anew at the next allocation.
# With these settings it keeps them: the allocator of a careful user.
RECYCLING = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "MALLOC_TOP_PAD_": str(2**26),
}

_ON_CPU = (f"{LIBRARY}cpu", EAGER, "compile-step", "compile-chunk")
DEFAULT = (*(base + suffix for base in _ON_CPU for suffix in ("", RECYCLED)), JAX)
DEFAULT_CUDA = (f"{LIBRARY}cuda", f"{LIBRARY}triton", *TORCH_RIVALS)


@dataclass(frozen=True)
class Variant:
    """One thing that is compared.

    Attributes:
        kind: ``plastikern-<backend>``, ``eager``, ``compile-step``, ``compile-chunk`` or ``jax``.
        recycled: whether its C library keeps freed memory.
        graph: whether the whole call is captured in a CUDA graph, by eager PyTorch and the library.
        form: of the CUDA kernels, where one is asked for.
    """

    kind: str
    recycled: bool = False
    graph: bool = False
    form: str | None = None

    @property
    def name(self) -> str:
        form = "" if self.form is None else f"-{self.form}"
        return (
            self.kind + form + (GRAPH if self.graph else "") + (RECYCLED if self.recycled else "")
        )

    @property
    def family(self) -> str:
        """What a workload leaves out, or does not: the kind, without a name of a backend, and whether as a graph."""
        return (LIBRARY[:-1] if self.backend else self.kind) + (GRAPH if self.graph else "")

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
        form = {} if self.form is None else {FORM_VARIABLE: self.form}
        return {**inherited, **(RECYCLING if self.recycled else {}), **form}


def parse(name: str) -> Variant:
    """A variant by its name in the table.

    Raises:
        ValueError: there is no such variant.
    """
    plain = name.removesuffix(RECYCLED)
    kind = plain.removesuffix(GRAPH)
    form = next((form for form in FORMS if kind == f"{LIBRARY}cuda-{form}"), None)
    kind = kind.removesuffix(f"-{form}")
    ours = kind.startswith(LIBRARY) and kind != LIBRARY
    if not (ours or plain in (*TORCH_RIVALS, JAX)):
        known = ", ".join((f"{LIBRARY}BACKEND", *TORCH_RIVALS, JAX))
        raise ValueError(
            f"variant must be one of {known}, each also with the suffix {RECYCLED}, {LIBRARY}BACKEND also with "
            f"{GRAPH}, {LIBRARY}cuda also with {', '.join(f'-{form}' for form in FORMS)}; got {name!r}"
        )
    return Variant(kind, name.endswith(RECYCLED), plain.endswith(GRAPH), form)
