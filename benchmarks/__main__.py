"""``python -m benchmarks``: measure, print the table, write the JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import against, variants
from .devices import DEVICES
from .machine import available_cores, machine
from .measure import Plan, Told, measure
from .pool import Workers
from .summary import ratios
from .table import render
from .workloads import PASSES, WORKLOADS, Workload, workload_named

DEFAULT_WORKLOADS = ("patterns", "images", "images-b8")
DEFAULT_AGAINST = (f"{variants.LIBRARY}cpu",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status.

    0: measured. 1: a variant of the library was wrong or could not run, or is slower than REV. 2: nothing can be
    measured on this device.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    device = DEVICES[options.device]
    if (missing := device.missing()) is not None:
        print(f"--device {device.name}: {missing}", file=sys.stderr)
        return 2
    if options.against and (device.name != "cpu" or options.check_only):
        parser.error("--against compares speed, on the CPU only")
    names = DEFAULT_AGAINST if options.against else device.variants
    options.variants = options.variants or [variants.parse(name) for name in names]
    if options.against and any(variant.backend is None for variant in options.variants):
        parser.error(f"--against compares variants of the library only: {variants.LIBRARY}BACKEND")
    if options.against and options.repeats is not None and options.repeats < against.LEAST_PAIRS:
        parser.error(
            f"--against needs --repeats {against.LEAST_PAIRS} or more: fewer pairs tell nothing"
        )
    left_out = {
        variant.name: reason
        for variant in options.variants
        if (reason := variant.missing() or device.refuses(variant)) is not None
    }
    plan = Plan(
        variants=[variant for variant in options.variants if variant.name not in left_out],
        passes=options.passes,
        repeats=options.repeats or device.repeats,
        budget=options.budget,
        threads=options.threads,
        memory=not options.no_memory,
        device=device,
        check_only=options.check_only,
    )
    return _against(options, plan) if options.against else _measured(options, plan, left_out)


def _measured(options: argparse.Namespace, plan: Plan, left_out: dict[str, str]) -> int:
    report: dict[str, Any] = {
        "machine": machine(plan.threads), "bandwidth": {}, "rows": [], "ratios": [], "floors": [], "failures": [],
        "left_out": left_out,
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="plastikern-benchmarks-"))
        workers = stack.enter_context(
            Workers(
                plan.threads, Path(scratch), plan.device, limit=options.limit, cache=options.cache
            )
        )
        told = stack.enter_context(_lines(options.jsonl))
        for workload in options.workloads:
            _add(report, workload, measure(workload, plan, workers, _say, told))
            # Written after every workload, so that a run that is stopped leaves what it has.
            if options.json:
                _write(options.json, report)
    print(render(report))
    return int(
        any(failure["variant"].startswith(variants.LIBRARY) for failure in report["failures"])
    )


@contextlib.contextmanager
def _lines(path: Path | None) -> Iterator[Told]:
    """Appends one line of JSON for each row and failure, which is in the file before the next one is measured."""
    if path is None:
        yield lambda row: None
        return
    with path.open("a") as file:
        yield lambda row: print(json.dumps(row), file=file, flush=True)


def _against(options: argparse.Namespace, plan: Plan) -> int:
    with tempfile.TemporaryDirectory(prefix="plastikern-benchmarks-") as scratch:
        try:
            report = against.run(
                plan, options.workloads, options.against, options.threshold, Path(scratch).resolve(), _say
            )  # fmt: skip
        except against.Refused as refusal:
            print(refusal, file=sys.stderr)
            return 1
    if options.json:
        _write(options.json, {"machine": machine(plan.threads), **report})
    print(against.render(report))
    return against.status_of(report)


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
        "--device", choices=DEVICES, default="cpu",
        help="where to measure (default cpu); emulated: the code of cuda on small networks, without a GPU",
    )  # fmt: skip
    parser.add_argument(
        "--workloads", type=_list_of(workload_named), default=[WORKLOADS[name] for name in DEFAULT_WORKLOADS],
        help=f"comma-separated, of {', '.join(WORKLOADS)} (default {','.join(DEFAULT_WORKLOADS)})",
    )  # fmt: skip
    parser.add_argument(
        "--variants", type=_list_of(variants.parse),
        help="comma-separated; default: "
        + "; ".join(f"on {device.name} {','.join(device.variants)}" for device in DEVICES.values()),
    )  # fmt: skip
    parser.add_argument(
        "--passes",
        type=_list_of(_pass),
        default=list(PASSES),
        help="of forward, forward_backward (default both)",
    )
    parser.add_argument(
        "--repeats", type=_positive(int),
        help="samples of each variant; default: "
        + ", ".join(f"{device.repeats} on {device.name}" for device in DEVICES.values()),
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=_positive(float), default=45.0,
        help="seconds that the samples of one variant and pass may take; at least 3 are taken (default 45)",
    )  # fmt: skip
    parser.add_argument(
        "--threads",
        type=_positive(int),
        default=available_cores(),
        help="default: the cores of this process",
    )
    parser.add_argument("--no-memory", action="store_true", help="do not measure the peak memory")
    parser.add_argument(
        "--against", metavar="REV",
        help=f"compare with the library of this git revision (variants: {','.join(DEFAULT_AGAINST)})",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=_positive(float), default=against.DEFAULT_THRESHOLD,
        help="with --against: the slowdown from which the exit status is 1 (default 0.05, 5 %%)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument(
        "--jsonl", type=Path, metavar="FILE", help="append a line of JSON for each row and failure as it comes"
    )  # fmt: skip
    parser.add_argument(
        "--check-only",
        action="store_true",
        help="compile and check every variant, and time nothing",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER",
        help="keep there what torch.compile makes; compile_s of a later run is then that of finding it again",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=_positive(float),
        help="seconds after which a process without an answer is ended: default "
        + ", ".join(f"{device.limit:g} on {device.name}" for device in DEVICES.values() if device.limit),
    )  # fmt: skip
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
