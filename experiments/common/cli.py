"""The command line that all experiments share."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from experiments.common import collection, own_rules, ownership, parallel, report
from experiments.common.config import (
    Config,
    ExperimentError,
    override,
    parse_seeds,
    require,
    select,
)
from experiments.common.experiment import Experiment
from experiments.common.metrics import METRICS, read, read_runs
from experiments.common.run import MAY_CHANGE, backend_in_use
from experiments.common.training import CHECKPOINT, Stopped, StopRequest, train
from plastikern import RuleError
from plastikern.rules.compiling import CompilationError

SIGNALLED = 128
FAILED = 2


REPORT = "report"
CAMPAIGN = "campaign"
SPEED = "speed"
INSIGHT = "insight"


def main(
    experiments: Mapping[str, str | type[Experiment[Any]]],
    arguments: Sequence[str],
    program: str = "python -m experiments",
) -> int:
    """Run one experiment, or a whole campaign, or tell of them; the exit status.

    Args:
        experiments: names, and the experiments, or the modules whose ``EXPERIMENT`` they are; a single one need not be
            named by the arguments.
        arguments: of the command line, without the program's name.
        program: what the user types before them.
    """
    others = {REPORT: _collect, CAMPAIGN: _campaign, SPEED: _speed, INSIGHT: _insight}
    if arguments and arguments[0] in others:
        try:
            return others[arguments[0]](arguments[1:], experiments, program)
        except (ExperimentError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILED
    options = _parser(experiments, program).parse_args(arguments)
    kept = [argument for argument in arguments if argument not in ("--overwrite", "--resume")]
    command = f"{parallel.launcher(program)} {shlex.join(kept)}"
    try:
        kind = experiments[options.name]
        _run(
            importlib.import_module(kind).EXPERIMENT if isinstance(kind, str) else kind,
            options,
            command,
        )
    # OSError: such as a folder that cannot be written, or a disk that is full; the last two: of a rule of one's own.
    except (ExperimentError, OSError, RuleError, CompilationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ownership.TAKEN_AWAY if isinstance(error, ownership.BusyError) else FAILED
    except Stopped as stopped:
        if parallel.rank() == 0:
            print(f"{stopped}; to resume: {command} --resume", file=sys.stderr)
        return SIGNALLED + stopped.number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return SIGNALLED + signal.SIGINT
    finally:
        parallel.finish()
    return 0


def _collect(arguments: Sequence[str], experiments: Mapping[str, Any], program: str) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{program} {REPORT}", description="Collect all runs on one page."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder with results, at any depth"
    )
    parser.add_argument(
        "--results", type=Path, help="also write a small JSON file of each result into this folder"
    )
    options = parser.parse_args(arguments)
    collection.write(options.out, options.results)
    return 0


def _campaign(arguments: Sequence[str], experiments: Mapping[str, Any], program: str) -> int:
    from experiments.campaign import command

    number = command.run(arguments, experiments, program)
    return SIGNALLED + number if number else 0


def _speed(arguments: Sequence[str], experiments: Mapping[str, Any], program: str) -> int:
    from experiments.common import speed

    speed.run(arguments, experiments, program)
    return 0


def _insight(arguments: Sequence[str], experiments: Mapping[str, Any], program: str) -> int:
    from experiments.common import insight

    insight.run(arguments, program)
    return 0


def _parser(experiments: Mapping[str, Any], program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="See docs/experiments.md.")
    add = parser.add_argument
    names = list(experiments)
    only: dict[str, Any] = {"nargs": "?", "default": names[0]} if len(names) == 1 else {}
    add(
        "name",
        metavar="NAME",
        choices=names,
        help=f"one of: {', '.join((*names, CAMPAIGN, REPORT, SPEED, INSIGHT))}",
        **only,
    )
    add("--preset", "--model", default="quick", help="settings to start from (default: quick)")
    add("--net", "--cell", help="network of the preset (default: its first)")
    add("--seeds", default="0", help="such as 0-9 or 0,3,5-7 (default: 0)")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override settings",
    )
    add("--episodes", type=int, help="the same as --set episodes=N")
    add("--backend", help="of plastikern (default: the fastest that serves the device)")
    add("--device", default="cpu", help="such as cpu or cuda:0 (default: cpu)")
    add("--threads", type=int, help="CPU threads (default: PyTorch's)")
    add("--data", type=Path, help="folder or zip with the data of images, omniglot or language")
    add(
        "--out",
        type=Path,
        help="folder of the results (default: runs/NAME-PRESET-NET; of a rule of your own runs/NAME-PRESET-RULE-NET)",
    )
    add(
        "--beside",
        type=Path,
        nargs="+",
        default=[],
        help="result folders of other runs, drawn in the same figure",
    )
    add("--tensorboard", action="store_true", help="write the metrics for TensorBoard too")
    add(
        "--compare-reference",
        action="store_true",
        help="time the pure PyTorch path too, and print the speed-up",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", action="store_true", help="continue runs from their checkpoints"
    )
    existing.add_argument("--overwrite", action="store_true", help="discard runs that are there")
    return parser


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ExperimentError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def _run(kind: type[Experiment[Any]], options: argparse.Namespace, command: str) -> None:
    if options.threads is not None:
        require(options.threads >= 1, f"--threads: expected at least 1; got {options.threads}")
        torch.set_num_threads(options.threads)
    board = not options.tensorboard or importlib.util.find_spec("tensorboard") is not None
    require(board, "--tensorboard: the package tensorboard is missing: pip install tensorboard")
    seeds, device = parse_seeds(options.seeds), parallel.start(_device(options.device))
    selected = backend_in_use(options.backend, device)
    require(
        not options.compare_reference or parallel.size() == 1,
        "--compare-reference: for a single process only",
    )
    config = select(kind.presets, options.preset, options.net)
    assignments = (
        options.set if options.episodes is None else [*options.set, f"episodes={options.episodes}"]
    )
    config = override(config, assignments)
    backend = own_rules.backend(config.own_rule, selected)
    parts = (kind.name, options.preset, *own_rules.label(config.rule), config.net)
    out = options.out or Path("runs") / "-".join(parts)
    beside = {str(folder): read_runs(folder) for folder in options.beside}
    experiment = kind(config, device, options.backend, options.data)
    folders = [out / f"seed-{seed}" for seed in seeds]
    first = parallel.rank() == 0
    with ExitStack() as held:
        if first:
            for folder in folders:
                held.enter_context(ownership.hold(folder))
            _claim(out, config, folders, options.resume, options.overwrite)
        parallel.wait()
        if first:
            print(
                f"{kind.name}, preset {options.preset}, network {config.net}; data: {experiment.describe_data()}"
            )
            if config.own_rule is not None:
                print(f"rule {config.own_rule!r}")
            threads = f"{torch.get_num_threads()} CPU threads"
            processes = "" if parallel.size() == 1 else f" in each of {parallel.size()} processes"
            print(f"backend {backend} on {device}, {threads}{processes}; results in {out}")
        results = []
        with StopRequest() as stop:
            for seed, folder in zip(seeds, folders, strict=True):
                model, result = train(
                    experiment, seed, folder, options.resume, stop, command, options.tensorboard
                )
                results.append(result)
        if first:
            report.show(experiment, model, results, out, beside, options.compare_reference)


def _claim(
    out: Path, config: Config, folders: Sequence[Path], resume: bool, overwrite: bool
) -> None:
    """Refuse to write into runs that are there, unless told how, or beside runs with other settings."""
    files = [folder / name for folder in folders for name in (METRICS, CHECKPOINT)]
    there = [file for file in files if file.exists()]
    if there and not (resume or overwrite):
        raise ExperimentError(
            f"{there[0].parent} holds a run: use --resume, --overwrite, or another --out"
        )
    if overwrite:
        for file in there:
            file.unlink()
    for path in out.glob(f"seed-*/{METRICS}"):
        _check_same_settings(path, config)


def _check_same_settings(path: Path, config: Config) -> None:
    header = next(iter(read(path)), None)
    if header is None:  # killed before its first line
        return
    of_rule = own_rules.described(config.own_rule)
    wanted = {**asdict(config), **of_rule}
    there = {**header["config"], **{key: header.get(key) for key in of_rule}}
    changed = [
        f"{key} {value}"
        for key, value in there.items()
        if value != wanted.get(key) and key not in MAY_CHANGE
    ]
    require(
        not changed,
        f"{path.parent} holds a run with {', '.join(changed)}: use another --out, or --overwrite",
    )
