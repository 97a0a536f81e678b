"""``python -m benchmarks``: measure, print the table, write the JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import variants
from .machine import available_cores, machine
from .measure import Plan, measure
from .summary import ratios
from .table import render
from .workloads import PASSES, WORKLOADS, Workload, workload_named

DEFAULT_WORKLOADS = ("patterns", "images", "images-b8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where a variant of the library was wrong or could not run."""
    options = _parser().parse_args(arguments)
    left_out = {variant.name: reason for variant in options.variants if (reason := variant.missing())}
    plan = Plan(
        variants=[variant for variant in options.variants if variant.name not in left_out],
        passes=options.passes,
        repeats=options.repeats,
        budget=options.budget,
        threads=options.threads,
        memory=not options.no_memory,
    )
    report: dict[str, Any] = {
        "machine": machine(plan.threads), "bandwidth": {}, "rows": [], "ratios": [], "floors": [], "failures": [],
        "left_out": left_out,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="plastikern-benchmarks-") as scratch:
        for workload in options.workloads:
            _add(report, workload, measure(workload, plan, Path(scratch), _say))
            # Written after every workload, so that a run that is stopped leaves what it has.
            if options.json:
                _write(options.json, report)
    print(render(report))
    return int(any(failure["variant"].startswith(variants.LIBRARY) for failure in report["failures"]))


def _add(report: dict[str, Any], workload: Workload, measured: dict[str, Any]) -> None:
    report["bandwidth"][workload.name] = measured["bandwidth"]
    for name in ("rows", "floors", "failures"):
        report[name] += measured[name]
    report["left_out"] |= measured["left_out"]
    report["ratios"] = ratios(report["rows"])


def _write(path: Path, report: dict[str, Any]) -> None:
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(unfinished, path)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--workloads", type=_list_of(workload_named), default=[WORKLOADS[name] for name in DEFAULT_WORKLOADS],
        help=f"comma-separated, of {', '.join(WORKLOADS)} (default {','.join(DEFAULT_WORKLOADS)})",
    )  # fmt: skip
    parser.add_argument(
        "--variants", type=_list_of(variants.parse), default=[variants.parse(name) for name in variants.DEFAULT],
        help=f"comma-separated (default {','.join(variants.DEFAULT)})",
    )  # fmt: skip
    parser.add_argument(
        "--passes", type=_list_of(_pass), default=list(PASSES), help="of forward, forward_backward (default both)"
    )
    parser.add_argument("--repeats", type=_positive(int), default=11, help="samples of each variant (default 11)")
    parser.add_argument(
        "--budget", type=_positive(float), default=45.0,
        help="seconds that the samples of one variant and pass may take; at least 3 are taken (default 45)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=_positive(int), default=available_cores(), help="default: the cores of this process"
    )
    parser.add_argument("--no-memory", action="store_true", help="do not measure the peak memory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    return parser


def _list_of(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse_list(text: str) -> list[Any]:
        try:
            return [parse(name) for name in dict.fromkeys(text.split(","))]
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_list


def _pass(name: str) -> str:
    if name not in PASSES:
        raise ValueError(f"pass must be one of {', '.join(PASSES)}; got {name!r}")
    return name


def _positive(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected a positive number; got {text!r}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
