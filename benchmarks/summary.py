"""What the rows say: how the library compares with its rivals, and how far it is from the floor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .variants import EAGER, LIBRARY, RECYCLED, TORCH_RIVALS
from .workloads import FORWARD, FORWARD_BACKWARD, Workload

Row = Mapping[str, Any]


def group_of(row: Row) -> tuple[str, str]:
    """Workload and pass: rows of one group are compared with each other."""
    return row["workload"], row["pass"]


def quotient(numerator: Row | None, denominator: Row | None, field: str) -> float | None:
    """Ratio of a field of two rows; None where a row or its value is missing, or the denominator is 0."""
    if (
        numerator is None
        or denominator is None
        or numerator[field] is None
        or not denominator[field]
    ):
        return None
    return numerator[field] / denominator[field]


def best_rival(rows: Iterable[Row]) -> Row | None:
    """The fastest of the PyTorch rivals, with and without recycled memory, among rows of one group."""
    rivals = [row for row in rows if row["variant"].removesuffix(RECYCLED) in TORCH_RIVALS]
    return min(rivals, key=lambda row: row["median_ms"], default=None)


def ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each row of the library: how many times faster than the rivals it is, and how much less memory it adds.

    Ratios above 1 are in the library's favour; a ratio is None where a row for it is missing.
    """
    found = []
    for ours in (row for row in rows if row["variant"].startswith(LIBRARY)):
        group = [row for row in rows if group_of(row) == group_of(ours)]
        rival = best_rival(group)
        eager = next((row for row in group if row["variant"] == EAGER), None)
        found.append(
            {
                "workload": ours["workload"],
                "pass": ours["pass"],
                "variant": ours["variant"],
                "best_rival": rival["variant"] if rival else None,
                "over_best_rival": quotient(rival, ours, "median_ms"),
                "over_eager": quotient(eager, ours, "median_ms"),
                "memory_of_eager": quotient(eager, ours, "peak_bytes"),
            }
        )
    return found


def floors(
    workload: Workload, rows: Sequence[Row], bandwidth: Mapping[str, Row]
) -> list[dict[str, Any]]:
    """For each variant of the library and each kernel: its time and its floor.

    The backward kernel's time is that of forward + backward less that of forward alone.
    """
    times = {
        (row["variant"], row["pass"]): row["median_ms"]
        for row in rows
        if row["variant"].startswith(LIBRARY)
    }
    found = []
    for variant in dict.fromkeys(variant for variant, _ in times):
        forward, both = times.get((variant, FORWARD)), times.get((variant, FORWARD_BACKWARD))
        if forward is None:
            continue
        found.append(_floor(workload, variant, "forward", forward, bandwidth))
        if both is not None:
            found.append(_floor(workload, variant, "backward", both - forward, bandwidth))
    return found


def _floor(
    workload: Workload, variant: str, kernel: str, milliseconds: float, bandwidth: Mapping[str, Row]
) -> dict[str, Any]:
    traffic, rate = workload.traffic(kernel), bandwidth[kernel]["gb_per_s"]
    floor_ms = traffic.floor_ms(rate)
    return {
        "workload": workload.name,
        "variant": variant,
        "kernel": kernel,
        "bytes": traffic.bytes,
        "gb_per_s": rate,
        "floor_ms": floor_ms,
        "measured_ms": milliseconds,
        "over_floor": milliseconds / floor_ms,
    }
