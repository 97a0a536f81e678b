"""Metrics of a run as JSON lines: one ``run`` line, ``train`` lines, one ``result`` line at the end."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.common.config import ExperimentError

Line = dict[str, Any]


METRICS = "metrics.jsonl"
TAIL = 1 << 16
"""Bytes of the end of a file that :func:`read_end` looks at: many lines."""


class MetricsFile:
    """A file that is only added to, from a given position on; what lay behind that position is cut off.

    Args:
        path: the file, created where it does not exist.
        position: bytes to keep: 0 for a new run, and what :meth:`sync` gave at the checkpoint for a resumed one.
        tensorboard: whether to write the numbers of every line for TensorBoard as well, beside the file.
    """

    def __init__(self, path: Path, position: int = 0, tensorboard: bool = False):
        if position > (path.stat().st_size if path.exists() else 0):
            raise ExperimentError(
                f"{path} lacks lines that its checkpoint counts: start anew with --overwrite"
            )
        path.touch()
        self._file = open(path, "r+b")  # noqa: SIM115, closed by close()
        self._file.truncate(position)
        self._file.seek(position)
        self._board = _board(path) if tensorboard else None

    def write(self, line: Line) -> None:
        """Add one line; it can be read at once by whoever watches the file."""
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise ExperimentError(f"{self._file.name} could not be written: {error}") from error
        if self._board is not None and "episode" in line:
            step = _step(line["episode"])
            for name, value in line.items():
                if isinstance(value, (int, float)) and name != "episode":
                    self._board.add_scalar(f"{line['kind']}/{name}", value, step)

    def sync(self) -> int:
        """Force all lines to the disk; the position behind them."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        # What is still to be written then has been refused before.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._board is not None:
            self._board.close()


def _board(path: Path) -> Any:
    """A TensorBoard writer beside the metrics file, that goes on behind its last episode."""
    from torch.utils.tensorboard import SummaryWriter

    last = max((line.get("episode", 0) for line in read(path)), default=0)
    return SummaryWriter(str(path.parent), purge_step=_step(last) + 1)


def _step(episode: float) -> int:
    """TensorBoard counts in whole numbers: thousandths of episodes that take many updates."""
    return episode if isinstance(episode, int) else round(1000 * episode)


def read(path: Path) -> list[Line]:
    """All whole lines of a metrics file; a last line that a kill left unfinished is dropped."""
    return _parsed(path, path.read_bytes().split(b"\n")[:-1], "line")


def read_end(path: Path) -> list[Line]:
    """The last whole lines of a metrics file, however long it is; none where it is not there."""
    try:
        with open(path, "rb") as file:
            start = max(os.fstat(file.fileno()).st_size - TAIL, 0)
            file.seek(start)
            texts = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return _parsed(path, texts[1:] if start else texts, "line at the end,")


def _parsed(path: Path, texts: Sequence[bytes], noun: str) -> list[Line]:
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            raise ExperimentError(f"{path}: {noun} {number} is not JSON: {error}") from error
    return lines


def read_runs(folder: Path) -> list[list[Line]]:
    """The lines of every run in a result folder, by seed."""
    paths = sorted(
        folder.glob(f"seed-*/{METRICS}"),
        key=lambda path: int(path.parent.name.removeprefix("seed-")),
    )
    if not paths:
        raise ExperimentError(f"{folder} holds no runs")
    return [read(path) for path in paths]
