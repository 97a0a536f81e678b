"""What a rule of one's own costs where it is used: read off its schedules, nothing is measured."""

from __future__ import annotations

from collections.abc import Iterable

from . import cuda
from .adjoint import level
from .compiling import CompilationError
from .operations import SUMS
from .programs import Printed, Program
from .schedule import Schedule
from .symbols import walk
from .units import SEEN
from .uses import RulePlasticity

CLASSES = {
    "K0": "a function of one synapse with one matrix",
    "K1": "several matrices a synapse",
    "K2": "vectors of neurons besides",
    "K3": "a sum over pre-synaptic neurons inside the change or after it",
    "K4": "a sum over post-synaptic neurons inside the change or after it",
}
"""What a rule needs of the kernels, each with all that those before it need."""


def class_of(program: Program) -> str:
    """The first of :data:`CLASSES` that has the rule."""
    traced = program.rule.traced(program.granularities)
    inside = {
        SUMS[s.operation]
        for s in walk(traced.states.values())
        if s.operation in SUMS and level(s.arguments[0]) == "synapse"
    }
    if inside:
        return "K4" if "post" in inside else "K3"
    kinds = [*program.rule.states.values()]
    if {*kinds} != {"synapse"}:
        return "K2"
    return "K0" if len(kinds) == 1 else "K1"


def passes(schedule: Schedule) -> int:
    """How often a unit goes over the synapses."""
    return len({part.place for part in schedule.parts if part.level == "synapse"})


def traffic(printed: Printed, adds: Iterable[str]) -> tuple[list[str], list[str]]:
    """Matrices that a unit reads and those that it writes, once for each sweep that does so."""
    reads: list[str] = []
    writes: list[str] = []
    for sweep in printed.schedule.sweeps():
        parts = [part for each in sweep for part in each if part.level == "synapse"]
        taken = {
            # As the change has left it: of one name, whether it is written or read.
            f"next_{n.removeprefix(SEEN)}" if n.startswith(SEEN) else n: None
            for p in parts for n, s in p.inputs.items() if level(s) == "synapse"
        }  # fmt: skip
        made = {n: None for part in parts for n in part.outputs if n not in part.sums}
        reads += [*taken, *(name for name in made if name in {*adds} - {*taken})]
        writes += made
    return reads, writes


def registers(program: Program, scalar: str, card: str, capability: tuple[int, int]) -> str:
    """A line about the kernels of the backend ``cuda`` for a card, which NVRTC compiles for it."""
    try:
        version, known = cuda.nvrtc()
        architecture = cuda.target(capability, known)
        used = cuda.used(program.text, scalar, architecture)
    except CompilationError as error:
        return f"registers on {card}, by cuda: not to be told here: {error}"
    if not used:
        return f"registers on {card}, by cuda: its driver chooses them, of {architecture}"
    passes = "; ".join(
        f"{way} {one.registers}, {f'{one.stack} bytes of stack' if one.stack else 'nothing spilled'}"
        for way, one in used.items()
    )
    return f"registers on {card}, by cuda, a thread: {passes} (NVRTC {version} for {architecture})"


def described(use: RulePlasticity, program: Program, scalar_bytes: int, every: int) -> list[str]:
    """Lines about the rule, its two passes and what it keeps; ``every``: steps between checkpoints."""
    rule = use.rule
    named = class_of(program)
    lines = [
        f"rule: {rule.name}, class {named}: {CLASSES[named]}",
        f"states: {_listed(rule.states)}; signals: "
        f"{_listed({n: rule.signals[n] for n in use.given_signals})}; read out: {_listed(use.readouts)}",
        f"coefficients: {_listed(use.granularities)}; fixed: {', '.join(use.fixed) or 'none'}",
    ]
    for direction in ("forward", "backward"):
        printed = getattr(program, direction)["both"]
        reads, writes = traffic(printed, program.adds(printed))
        lines.append(
            f"{direction}: a step goes over the synapses {_times(passes(printed.schedule))}; it reads {len(reads)} and "
            f"writes {len(writes)} matrices, {(len(reads) + len(writes)) * scalar_bytes} bytes a synapse"
        )
        lines.append(
            f"    reads {', '.join(reads) or 'none'}; writes {', '.join(writes) or 'none'}"
        )
    again = program.forward["change"]
    reads, writes = traffic(again, ())
    lines.append(
        f"backward: between checkpoints every {every} steps states are computed again, "
        f"{(len(reads) + len(writes)) * scalar_bytes} bytes a synapse and step more"
    )
    adds = sorted(name.removeprefix("grad_of_") for name in program.adds(program.backward["both"]))
    product = "; that of w is one product of matrices over all steps" if program.multiplies else ""
    lines.append(
        f"accumulators: {', '.join(adds) or 'none'} (a matrix of gradients for each thread or block){product}"
    )
    return lines


def _listed(found: object) -> str:
    if not isinstance(found, dict) or not found:
        return "none"
    return ", ".join(
        f"{name} ({each if isinstance(each, str) else each.nonlinearity})"
        for name, each in found.items()
    )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
