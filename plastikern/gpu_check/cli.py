"""The command line of gpu-check."""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import commands
from .results import OUTCOMES, Record, Results
from .runner import Runner
from .setup import ROOT, Setup
from .stages import Stage, stages

WELL, FAILED, NOTHING_RAN, INTERRUPTED = 0, 1, 3, 130
BUDGET = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command; ``python -m plastikern`` has them, too."""
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for results.jsonl and the logs",
    )
    parser.add_argument(
        "--only", type=_names, default=None, metavar="STAGES", help="comma-separated: no others"
    )
    parser.add_argument(
        "--skip", type=_names, default=(), metavar="STAGES", help="comma-separated: all but these"
    )
    parser.add_argument(
        "--budget",
        type=_seconds,
        default=BUDGET,
        metavar="SECONDS",
        help="for all stages (default: %(default).0f)",
    )
    parser.add_argument(
        "--programs",
        type=Path,
        metavar="DIR",
        help="programs built elsewhere, for a machine without nvcc",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="without a card: the emulator of the tests in its place",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run gpu-check by itself; returns the exit status."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    add_arguments(parser)
    return run(parser, parser.parse_args(arguments))


def run(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    """Run the stages that were chosen.

    Returns:
        The exit status: 0 where all is well, 1 where something failed, crashed or hung, or results could not be
        written, 2 for wrong arguments, 3 where nothing could run, 130 where it was interrupted.
    """
    setup = Setup(
        chosen.out.resolve(), chosen.dry_run, chosen.programs and chosen.programs.resolve()
    )
    if chosen.dry_run and not setup.repository:
        parser.error(
            "--dry-run: the emulator is in the repository, and only the package is installed"
        )
    known = [stage.name for stage in stages(setup)]
    for option, names in (("--only", chosen.only or ()), ("--skip", chosen.skip)):
        if unknown := [name for name in names if name not in known]:
            parser.error(f"{option}: got {', '.join(unknown)}, expected some of {', '.join(known)}")
    names = [
        name
        for name in known
        if name not in chosen.skip and (chosen.only is None or name in chosen.only)
    ]
    if not names:
        parser.error(f"--only and --skip leave no stage of {', '.join(known)}")
    wanted = ("constants",) if not {"smoke", "ncu", "compute-sanitizer"} & set(names) else ()
    setup = Setup(setup.out, setup.dry_run, setup.prebuilt, wanted, setup.root)
    try:
        results = Results(setup.out)
    except OSError as error:
        print(f"error: --out {chosen.out}: {error.strerror}", file=sys.stderr)
        return NOTHING_RAN
    runner = Runner(setup, results, chosen.budget)
    runner.write(
        "run", schema=1, version=_version(), dry_run=chosen.dry_run, budget=chosen.budget, stages=names,
        started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )  # fmt: skip
    return _run(runner, results, [stage for stage in stages(setup) if stage.name in names])


def _run(runner: Runner, results: Results, chosen: list[Stage]) -> int:
    interrupted = False
    try:
        for stage in chosen:
            runner.run(stage)
    except KeyboardInterrupt:
        interrupted = True
    shutil.rmtree(commands.compiled(runner.setup), ignore_errors=True)
    status = INTERRUPTED if interrupted else status_of(runner.ends.values(), chosen)
    if results.lost:
        status = status or FAILED
    outcomes = {name: end["outcome"] for name, end in runner.ends.items()}
    runner.write("summary", outcomes=outcomes, status=status)
    print(table(runner.ends.values(), chosen))
    if results.lost:
        print(
            f"error: {len(results.lost)} records could not be written: {results.error}",
            file=sys.stderr,
        )
    print(f"results: {results.path}")
    results.close()
    return status


def status_of(ends: Iterable[Record], chosen: Sequence[Stage]) -> int:
    """0 where all that ran is well, 1 where something is not, 3 where none of those on the card could run."""
    on_card = {stage.name for stage in chosen if stage.on_card}
    outcomes = {end["stage"]: end["outcome"] for end in ends}
    tried = [outcome for name, outcome in outcomes.items() if name in on_card or not on_card]
    if all(outcome == "skipped" for outcome in tried):
        return NOTHING_RAN
    return (
        WELL if all(outcome in ("passed", "skipped") for outcome in outcomes.values()) else FAILED
    )


def table(ends: Iterable[Record], chosen: Sequence[Stage]) -> str:
    """The summary."""
    what = {stage.name: stage.what for stage in chosen}
    rows = [
        (end["stage"], end["outcome"], f"{end['took']:.1f} s", end["reason"] or what[end["stage"]])
        for end in ends
    ]
    room = shutil.get_terminal_size((120, 24)).columns
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = []
    for stage, outcome, took, reason in rows:
        line = f"{stage:<{widths[0]}}  {outcome:<{widths[1]}}  {took:>{widths[2]}}  {reason}"
        lines.append(line[: max(room, 80)])
    counts = {outcome: sum(row[1] == outcome for row in rows) for outcome in OUTCOMES}
    return "\n".join(
        [*lines, ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)]
    )


def _version() -> str:
    """That of plastikern, which is not imported for it."""
    names: dict[str, str] = {}
    exec((ROOT / "plastikern" / "version.py").read_text(), names)
    return names["__version__"]


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in text.split(",") if name))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds; got {text!r}")
    return value
