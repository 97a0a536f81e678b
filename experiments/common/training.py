"""The training loop: metrics, evaluations, checkpoints, exact resume, and stopping on request."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any

from torch import nn
from tqdm import tqdm

from experiments.common import checkpoint, parallel
from experiments.common.experiment import Experiment
from experiments.common.metrics import METRICS, Line, MetricsFile
from experiments.common.run import Run

CHECKPOINT = "checkpoint.pt"
REFRESH_SECONDS = 0.5
REFRESH_SECONDS_IN_A_FILE = 15.0


class Stopped(Exception):
    """Training stopped because of a signal, after a checkpoint."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class StopRequest:
    """Notes SIGINT and SIGTERM, so that training can stop between two updates; a second one acts as it always does.

    Attributes:
        signal: number of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._former = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._former[number])


class Progress:
    """A progress bar with the running means of the metrics; seldom refreshed where the output goes to a file."""

    def __init__(self, run: Run, seed: int):
        self.run = run
        self.interval = REFRESH_SECONDS if sys.stderr.isatty() else REFRESH_SECONDS_IN_A_FILE
        self._shown = perf_counter()
        self.bar = tqdm(
            total=run.experiment.config.episodes, initial=run.episode, desc=f"seed {seed}", unit="episode",
            mininterval=self.interval, dynamic_ncols=True, disable=parallel.rank() > 0,
        )  # fmt: skip

    def advance(self) -> None:
        """One update more."""
        now = perf_counter()
        if now - self._shown > self.interval or self.run.finished:
            means = self.run.means(self.run.experiment.config.window)
            self.bar.set_postfix(
                {name: f"{value:.4g}" for name, value in means.items()}, refresh=False
            )
            self._shown = now
        self.bar.n = round(self.run.episode, 3)
        self.bar.update(0)


def train(
    experiment: Experiment[Any],
    seed: int,
    folder: Path,
    resume: bool,
    stop: StopRequest,
    command: str = "",
    tensorboard: bool = False,
) -> tuple[nn.Module, Line]:
    """Train one seed to its end, from its checkpoint where ``resume`` says so and there is one.

    Args:
        command: what the user typed, for the metrics.
        tensorboard: whether to write the metrics for TensorBoard as well.

    Returns:
        The trained model and its result line: test metrics, means over the last window, seconds per episode.

    Raises:
        Stopped: after a checkpoint, when ``stop`` has noted a signal.
        ExperimentError: damaged or foreign files, or a loss that is not finite.
    """
    config, run, path = experiment.config, Run(experiment, seed), folder / CHECKPOINT
    folder.mkdir(parents=True, exist_ok=True)
    resumed = resume and path.exists()
    position = run.restore(checkpoint.load(path), path) if resumed else 0
    parallel.wait()
    metrics = MetricsFile(folder / METRICS, position, tensorboard) if parallel.rank() == 0 else None
    progress = Progress(run, seed)

    def write(line: Line) -> Line:
        if metrics is not None:
            metrics.write(line)
        return line

    try:
        if metrics is not None:
            print(f"seed {seed}: {run.trained_parameters:,} trained parameters")
        if not resumed:
            write(run.header(command))
        while not run.finished:
            start = perf_counter()
            run.train_update()
            if run.update % config.log_every == 0 or run.finished:
                write(run.line())
            if experiment.due(run.update):
                pause = perf_counter()
                write({"kind": "test", "episode": run.episode, **experiment.evaluate(run.model)})
                start += perf_counter() - pause
            progress.advance()
            run.seconds += perf_counter() - start
            stopping = parallel.largest(stop.signal or 0, experiment.device)
            if run.update % config.checkpoint_every == 0 or run.finished or stopping:
                start, state = perf_counter(), run.state()
                if metrics is not None:
                    checkpoint.save(path, {**state, "position": metrics.sync()})
                run.seconds += perf_counter() - start
            if stopping:
                reached = round(run.episode, 3)
                raise Stopped(
                    f"stopped at episode {reached} of {config.episodes} of seed {seed}", stopping
                )
        result = run.result()
        if metrics is not None:
            experiment.figures(run.model, folder)
            metrics.write(
                result
            )  # last: whoever finds it knows that nothing of this run is missing
            metrics.sync()
    finally:
        progress.bar.close()
        if metrics is not None:
            metrics.close()
    return run.model, result
