"""``python -m experiments speed``: every experiment's speed and memory beside the pure PyTorch path, in one table."""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.common.collection import markdown
from experiments.common.comparison import REFERENCE, compare
from experiments.common.config import ExperimentError, assigned, require, select
from experiments.common.experiment import Experiment, stream
from experiments.common.run import backend_in_use

ROWS = (
    ("patterns", "code", "plastic"),
    ("images", "code", "independent"),
    ("omniglot", "ours", "free"),
    ("maze", "demo", "simple"),
    ("cue_reward", "code", "retroactive"),
    ("language", "small", "simple"),
)
"""Experiment, preset and network of each row."""
COLUMNS = (
    "experiment", "episodes/s", "updates/s", "updates/s, pure PyTorch", "times as fast", "peak memory, MiB",
    "peak memory, pure PyTorch, MiB",
)  # fmt: skip
UPDATES = 3
"""From which the peak memory is taken."""


class Subject(NamedTuple):
    """What a process measures."""

    kind: str | type[Experiment[Any]]
    preset: str
    net: str
    data: Path | None
    threads: int | None

    def make(self, backend: str | None) -> Experiment[Any]:
        """The experiment, in the process that measures it."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        kind = (
            importlib.import_module(self.kind).EXPERIMENT
            if isinstance(self.kind, str)
            else self.kind
        )
        experiment = kind(
            select(kind.presets, self.preset, self.net), torch.device("cpu"), backend, self.data
        )
        experiment.prepare(0)
        return experiment


def run(arguments: Sequence[str], experiments: Mapping[str, Any], program: str) -> None:
    """Measure and print.

    Raises:
        ExperimentError: a mistake in the options, or a process that has failed.
    """
    parser = argparse.ArgumentParser(
        prog=f"{program} speed", description="Speed and memory of every experiment."
    )
    add = parser.add_argument
    add("--only", default="", help="experiments, separated by commas (default: all)")
    add(
        "--data",
        nargs="+",
        action="extend",
        default=[],
        metavar="EXPERIMENT=PATH",
        help="data of an experiment",
    )
    add("--threads", type=int, help="CPU threads (default: PyTorch's)")
    add("--updates", type=int, default=5, help="of each path that are timed, in turn (default: 5)")
    options = parser.parse_args(arguments)
    require(options.updates >= 1, f"--updates: expected at least 1; got {options.updates}")
    require(
        options.threads is None or options.threads >= 1,
        f"--threads: expected at least 1; got {options.threads}",
    )
    require(
        backend_in_use(None, torch.device("cpu")) != REFERENCE,
        "only the pure PyTorch path is here: nothing to compare",
    )
    data = assigned(options.data, experiments)
    names = [name for name in options.only.split(",") if name]
    for name in names:
        require(
            name in experiments,
            f"--only: no experiment {name!r}; there are: {', '.join(experiments)}",
        )
    rows = []
    for name, preset, net in ROWS:
        if name in experiments and (not names or name in names):
            print(f"{name}, {preset}, {net}", file=sys.stderr, flush=True)
            subject = Subject(experiments[name], preset, net, data.get(name), options.threads)
            rows.append(
                {"experiment": f"{name}, {preset}, {net}", **_row(subject, options.updates)}
            )
    print(markdown(COLUMNS, rows), end="")


def _row(subject: Subject, updates: int) -> dict[str, str]:
    seconds, reference, episodes = alone(speeds, subject, updates)
    ours, theirs = alone(peak_memory, subject, None), alone(peak_memory, subject, REFERENCE)
    cells = (
        f"{episodes / seconds:.4g}",
        f"{1 / seconds:.4g}",
        f"{1 / reference:.4g}",
        f"{reference / seconds:.1f}",
    )
    return dict(zip(COLUMNS[1:], (*cells, f"{ours:,.0f}", f"{theirs:,.0f}"), strict=True))


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, whose memory is nobody else's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise ExperimentError(
                f"the process for {function.__name__} was killed; is there enough memory?"
            ) from None


def speeds(subject: Subject, updates: int) -> tuple[float, float, float]:
    """Seconds of an update on the fused and on the pure PyTorch path, and its episodes."""
    experiment = subject.make(None)
    comparison = compare(experiment, experiment.build(experiment.backend), updates)
    assert comparison is not None
    return comparison.seconds, comparison.reference_seconds, experiment.done(1)


def peak_memory(subject: Subject, backend: str | None) -> float:
    """The most memory, in MiB, that this process has had after some updates, Python and PyTorch included."""
    experiment = subject.make(backend)
    model, generator = experiment.build(backend), stream(0, "episodes")
    optimizer = experiment.optimizer(model)
    for _ in range(UPDATES):
        experiment.update(model, optimizer, experiment.episode(generator, held_out=False))
    status = Path("/proc/self/status")
    if (
        status.exists()
    ):  # Linux counts the memory of the process that started this one in its ru_maxrss, too.
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10
    import resource  # of POSIX

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
