"""The report as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .summary import Row, group_of, quotient
from .variants import LIBRARY

NAMES = ("variant", "workload", "kernel", "program")


def render(report: Mapping[str, Any]) -> str:
    """Everything that was measured, what was not, and why."""
    rows: Sequence[Row] = report["rows"]
    lines = []
    for key in dict.fromkeys(map(group_of, rows)):
        where = next(f"{row['device']}, {row['clock']}" for row in rows if group_of(row) == key)
        lines += [f"{key[0]}, {key[1].replace('_', ' + ')} ({where})"]
        lines += _timings([row for row in rows if group_of(row) == key])
        lines += [_comparison(ratio) for ratio in report["ratios"] if group_of(ratio) == key]
        lines.append("")
    if report["floors"]:
        lines.append(
            "floor: bytes that must move, over this machine's bandwidth for the same working set"
        )
        lines += _floors(report["floors"])
    for workload, kernels in report["bandwidth"].items():
        lines += [f"  {workload} {kernel}: {_probe(probe)}" for kernel, probe in kernels.items()]
    for failure in report["failures"]:
        lines.append(
            f"FAILED {failure['variant']} on {failure['workload']}, {failure['pass']}: {failure['reason']}"
        )
    lines += [f"left out {name}: {reason}" for name, reason in report["left_out"].items()]
    return "\n".join(lines)


def _timings(group: Sequence[Row]) -> list[str]:
    ours = next((row for row in group if row["variant"].startswith(LIBRARY)), None)
    cells = [
        (
            "variant",
            "median ms",
            "p20",
            "p80",
            "host ms",
            "x ours",
            "peak MiB",
            "compile s",
            "error",
            "program",
        )
    ]
    for row in sorted(group, key=lambda row: row["median_ms"]):
        cells.append(
            (
                row["variant"],
                f"{row['median_ms']:.2f}",
                f"{row['p20_ms']:.2f}",
                f"{row['p80_ms']:.2f}",
                _number(row["host_ms"], 2),
                _number(quotient(row, ours, "median_ms"), 2),
                _number(None if row["peak_bytes"] is None else row["peak_bytes"] / 2**20, 1),
                f"{row['compile_s']:.1f}",
                f"{row['max_rel_error']:.1e}",
                row["program"] if row["form"] is None else f"{row['program']}, {row['form']}",
            )
        )
    return _aligned(cells)


def _comparison(ratio: Row) -> str:
    return (
        f"  {ratio['variant']}: {_times_as_fast(ratio['over_best_rival'])} as the best PyTorch rival "
        f"({ratio['best_rival']}), {_times_as_fast(ratio['over_eager'])} as eager; "
        f"eager adds {_number(ratio['memory_of_eager'], 1)} times its memory"
    )


def _times_as_fast(ratio: float | None) -> str:
    if ratio is None:
        return "as fast (not measured)"
    return f"{ratio:.2f} times as fast" if ratio >= 1 else f"SLOWER, {ratio:.2f} times as fast"


def _floors(floors: Sequence[Row]) -> list[str]:
    cells = [("variant", "workload", "kernel", "MB", "GB/s", "floor ms", "measured ms", "x floor")]
    for row in floors:
        cells.append(
            (
                row["variant"],
                row["workload"],
                row["kernel"],
                f"{row['bytes'] / 1e6:.0f}",
                f"{row['gb_per_s']:.1f}",
                f"{row['floor_ms']:.2f}",
                f"{row['measured_ms']:.2f}",
                f"{row['over_floor']:.2f}",
            )
        )
    return _aligned(cells)


def _probe(probe: Row) -> str:
    return (
        f"{probe['gb_per_s']:.1f} GB/s ({probe['p20_gb_per_s']:.1f} to {probe['p80_gb_per_s']:.1f}) "
        f"by {probe['probe']}: {probe['reads']} read and {probe['writes']} written, "
        f"{probe['arrays']} arrays of {4 * probe['length'] / 2**20:.1f} MiB"
    )


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text in columns: names to the left, figures to the right."""
    columns = []
    for header, *column in zip(*cells, strict=True):
        width = max(map(len, (header, *column)))
        align = str.ljust if header in NAMES else str.rjust
        columns.append([align(cell, width) for cell in (header, *column)])
    return ["  " + "  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
