"""Whether what is compiled of a rule is the rule that was written: every backend against the function itself."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..backends import FUSED
from . import cuda
from .compiling import found_compiler
from .decorator import GRANULARITIES, Rule, granular_shape, kind_shape
from .sequences import BACKENDS, rule_sequence
from .symbols import RuleError

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Of an error over 1 + the largest value: sums are regrouped, in at most 40 terms and 7 steps, and functions are exact
to some units in the last place; the rest is what a gradient through all steps makes of that."""
SIZES = ((7, 3, 5, 9), (4, 2, 18, 33), (3, 2, 1, 1), (1, 1, 8, 3))
"""T, B, O and I of the cases: whole vectors of a processor, parts of them, and one neuron."""
RANGES = {"coefficients": (0.1, 0.5), "alpha": (0.2, 0.6)}
DEFAULT_RANGE = (-0.5, 0.5)

Range = tuple[float, float]


@dataclass(frozen=True)
class Case:
    """What a rule is used with; ``recurrent`` layers have as many pre as posts."""

    sizes: tuple[int, int, int, int]
    recurrent: bool
    granularities: Mapping[str, str]
    dtype: torch.dtype

    def __str__(self) -> str:
        steps, batch, posts, pres = self.sizes
        sizes = f"T {steps}, B {batch}, " + (
            f"N {posts}, recurrent" if self.recurrent else f"O {posts}, I {pres}"
        )
        return f"{sizes}; {', '.join(f'{n} {g}' for n, g in self.granularities.items())}"


@dataclass(frozen=True)
class Row:
    """One result of one backend, over all cases of a dtype.

    Attributes:
        what: ``output``, ``last STATE`` or ``gradient of NAME``.
        error: the largest one, over 1 + the largest value of the reference.
        case: where it is that large.
    """

    backend: str
    dtype: torch.dtype
    what: str
    error: float
    tolerance: float
    case: Case

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; NaN is not."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Report:
    """What :func:`check` found; its text is a table."""

    rule: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether every row is."""
        return all(row.passed for row in self.rows)

    def __str__(self) -> str:
        head = ("backend", "dtype", "what", "largest error", "tolerance", "passed")
        table = [head] + [
            (
                row.backend, str(row.dtype).removeprefix("torch."), row.what, f"{row.error:.1e}",
                f"{row.tolerance:.0e}", "yes" if row.passed else f"NO   {row.case}",
            )
            for row in self.rows
        ]  # fmt: skip
        widths = [max(len(line[column]) for line in table) for column in range(len(head) - 1)]
        lines = ["  ".join([*map(str.ljust, line, widths), line[-1]]) for line in table]
        return "\n".join([self.rule, *lines])


def check(
    rule: Rule, *, ranges: Mapping[str, Range] | None = None, granularities: Mapping[str, str] | None = None,
    activity: str = "tanh", backends: tuple[str, ...] | None = None, seed: int = 0,
) -> Report:  # fmt: skip
    """Checks what is compiled of a rule against its function, run by torch: outputs, last states, every gradient.

    The cases are a sample: several sizes, layers that are recurrent and not, single and double precision, and
    coefficients of every granularity that the rule allows. All are drawn from the seed.

    Args:
        rule: declared by :func:`plastikern.rule`.
        ranges: (least, largest) of the numbers that are drawn for a state, a signal, a coefficient, ``x``, ``w``,
            ``alpha`` or ``drive``. Default: 0.1 to 0.5 for coefficients, 0.2 to 0.6 for ``alpha``, -0.5 to 0.5
            else. A rule that takes the logarithm of a state needs one of positive states.
        granularities: of coefficients, ``w`` and ``alpha``: only these are checked.
        activity: as in :func:`plastikern.rule_sequence`.
        backends: default: ``"cpu"`` where there is a compiler, on a CUDA device ``"cuda"`` where there is NVRTC, and
            ``"triton"``, also in Triton's interpreter (``TRITON_INTERPRET=1``) without a device. ``"reference"`` asks
            only whether the function is finite.

    Returns:
        The report, whose text is a table.

    Raises:
        AssertionError: something differs; the message is the table of what does. Or the function itself gives
            something that is not finite, so that nothing can be compared: choose ranges.
        ValueError: a name or a range is none.
        RuntimeError: there is no backend to check.
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"check: rule must be declared by @rule; got {type(rule).__name__}")
    _check_ranges(rule, ranges or {})
    chosen = _chosen(backends)
    worst: dict[tuple[str, torch.dtype, str], Row] = {}
    for number, case in enumerate(_cases(rule, granularities, random.Random(seed))):
        given = _drawn(rule, case, ranges or {}, seed + number)
        wide = {name: tensor.double() for name, tensor in given.items()}
        right = _results(rule, case, wide, activity, "reference", seed + number)
        for what, value in right.items():
            if not value.isfinite().all():
                raise AssertionError(
                    f"{rule.name}: {what} of the function itself is not finite ({case}): choose ranges, as in "
                    'check(rule, ranges={"x": (0.1, 1.0)})'
                )  # fmt: skip
        for backend in chosen:
            found = _results(rule, case, given, activity, backend, seed + number)
            for what, value in found.items():
                place, tolerance = (backend, case.dtype, what), TOLERANCES[case.dtype]
                row = Row(backend, case.dtype, what, _error(value, right[what]), tolerance, case)
                if place not in worst or not row.error <= worst[place].error:
                    worst[place] = row
    report = Report(rule.name, tuple(worst.values()))
    if not report.passed:
        failed = tuple(row for row in report.rows if not row.passed)
        raise AssertionError(
            str(Report(f"{rule.name} differs from its function (seed {seed}):", failed))
        )
    return report


def _missing(backend: str) -> str | None:
    """Why a backend cannot be checked here; None: it can."""
    if backend == "cpu":
        return None if found_compiler() else "there is no C++ compiler"
    if backend == "cuda":
        if torch.version.hip is not None or not torch.cuda.is_available():
            return "there is no CUDA device"
        return cuda.missing() or None
    return FUSED["triton"].missing() if backend == "triton" else None


def _chosen(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The backends that are checked.

    Raises:
        ValueError: one is unknown, or none is named.
        RuntimeError: one cannot be checked here, or there is none to check.
    """
    if asked is None:
        missing = {backend: _missing(backend) for backend in BACKENDS if backend != "reference"}
        found = tuple(backend for backend, reason in missing.items() if reason is None)
        if not found:
            reasons = "; ".join(f"{backend}: {reason}" for backend, reason in missing.items())
            raise RuntimeError(f"check: there is no backend to check: {reasons}")
        return found
    if isinstance(asked, str) or not asked or not {*asked} <= {*BACKENDS}:
        raise ValueError(f"check: backends must be some of {', '.join(BACKENDS)}; got {asked!r}")
    for backend in asked:
        if reason := _missing(backend):
            raise RuntimeError(f"check: backend {backend!r} cannot be checked: {reason}")
    return tuple(asked)


def _check_ranges(rule: Rule, ranges: Mapping[str, Range]) -> None:
    known = ("drive", "x", "w", "alpha", *rule.states, *rule.signals, *rule.coefficients)
    for name, found in ranges.items():
        if name not in known:
            raise ValueError(f"check: ranges: {name} is none of {', '.join(known)}")
        try:
            low, high = map(float, found)
        except (TypeError, ValueError):
            low, high = 1.0, 0.0
        if not -float("inf") < low <= high < float("inf"):
            raise ValueError(
                f"check: ranges: {name} must be (least, largest), finite; got {found!r}"
            )


def _cases(rule: Rule, said: Mapping[str, str] | None, draw: random.Random) -> Iterator[Case]:
    default = rule.usual
    if said is not None:
        uses = [default | dict(said)]
    else:
        allowed = {name: _allowed(rule, default, name) for name in default}
        # The finest of all, and what is different for neighbours.
        uses = [default, {name: kinds[-1] for name, kinds in allowed.items()}]
        first = draw.randrange(len(GRANULARITIES))
        turns = enumerate(allowed.items(), first)
        uses.append({name: kinds[turn % len(kinds)] for turn, (name, kinds) in turns})
        uses = [use for k, use in enumerate(uses) if use not in uses[:k] and _allows(rule, use)]
    for number, use in enumerate(uses):
        for dtype in (torch.float64, torch.float32) if number == 0 else (torch.float64,):
            for place, (steps, batch, posts, pres) in enumerate(SIZES):
                recurrent = bool(rule.other_role) or (place + number) % 2 == 1
                sizes = (steps, batch, posts, posts if recurrent else pres)
                yield Case(sizes, recurrent, use, dtype)


def _allowed(rule: Rule, default: Mapping[str, str], name: str) -> list[str]:
    return [kind for kind in GRANULARITIES if _allows(rule, {**default, name: kind})]


def _allows(rule: Rule, use: Mapping[str, str]) -> bool:
    try:
        rule.traced(use)
    except RuleError:
        return False
    return True


def _drawn(rule: Rule, case: Case, ranges: Mapping[str, Range], seed: int) -> dict[str, Tensor]:
    """All tensors, by name."""
    steps, batch, posts, pres = case.sizes
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        _drive_name(rule): (steps, batch, posts),
        "x": (batch, posts) if case.recurrent else (steps, batch, pres),
        **{n: (batch, *kind_shape(kind, posts, pres)) for n, kind in rule.states.items()},
        **{n: (steps, batch, *kind_shape(kind, posts, pres)) for n, kind in rule.signals.items()},
        **{n: granular_shape(kind, posts, pres) for n, kind in case.granularities.items()},
    }
    found = {}
    for name, shape in shapes.items():
        of = RANGES["coefficients"] if name in rule.coefficients else DEFAULT_RANGE
        low, high = ranges.get(name, RANGES.get(name, of))
        unit = torch.rand(shape, generator=generator, dtype=torch.float64)
        found[name] = (low + (high - low) * unit).to(case.dtype)
    return found


def _drive_name(rule: Rule) -> str:
    """A rule may have something else of that name."""
    return "_drive" if "drive" in (*rule.states, *rule.signals, *rule.coefficients) else "drive"


def _results(
    rule: Rule, case: Case, given: Mapping[str, Tensor], activity: str, backend: str, seed: int
) -> dict[str, Tensor]:
    """Activities, last states and gradients of a random sum of these, in double precision on the CPU."""
    on_device = backend in ("cuda", "triton") and torch.cuda.is_available()
    device = "cuda" if on_device else "cpu"
    leaves = {n: x.detach().to(device).requires_grad_() for n, x in given.items()}
    output, last = rule_sequence(
        rule, leaves[_drive_name(rule)], leaves["x"], {n: leaves[n] for n in rule.states},
        {n: leaves[n] for n in case.granularities}, {n: leaves[n] for n in rule.signals},
        granularities=case.granularities, activity=activity, backend=backend,
    )  # fmt: skip
    found = {"output": output, **{f"last {name}": tensor for name, tensor in last.items()}}
    generator = torch.Generator().manual_seed(seed)
    loss: Any = 0
    for tensor in found.values():
        weights = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 0.5
        loss = loss + (tensor * weights.to(tensor)).sum()
    grads = torch.autograd.grad(loss, [*leaves.values()], allow_unused=True)
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        found[f"gradient of {name}"] = torch.zeros_like(leaf) if grad is None else grad
    return {what: tensor.detach().double().cpu() for what, tensor in found.items()}


def _error(found: Tensor, right: Tensor) -> float:
    error = ((found - right).abs().max() / (1 + right.abs().max())).item()
    return error if error == error else float("inf")
