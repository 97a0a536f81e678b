"""Runs that are killed, stopped or out of disk lose the updates since their last checkpoint, and nothing else."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.__main__ import EXPERIMENTS
from experiments.common import checkpoint
from experiments.common.cli import main
from experiments.common.config import ExperimentError
from experiments.common.metrics import read
from experiments.patterns import Patterns

resource = pytest.importorskip("resource", reason="limits of a process exist on POSIX only")

EPISODES = 60
TINY = [
    "patterns", "--backend", "reference", "--threads", "1", "--episodes", str(EPISODES), "--set", "bits=16",
    "patterns=2", "cycles=1", "show_steps=2", "gap_steps=1", "test_steps=2", "log_every=3", "window=5",
    "checkpoint_every=4", "evaluation_episodes=2",
]  # fmt: skip
VARYING = ("seconds", "seconds_per_episode", "update_share", "command")


@pytest.fixture(autouse=True, scope="module")
def _without_figures() -> Iterator[None]:
    threads, patch = torch.get_num_threads(), pytest.MonkeyPatch()
    patch.setattr("experiments.common.report.show", lambda *_: None)
    yield
    patch.undo()
    torch.set_num_threads(threads)


def run(out: Path, *arguments: str) -> int:
    return main(EXPERIMENTS, [*TINY, "--out", str(out), *arguments])


def numbers(out: Path) -> list[dict[str, Any]]:
    """The lines of a run without what differs from run to run."""
    lines = read(out / "seed-0" / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in VARYING} for line in lines]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    assert run(out) == 0
    return out


def started(out: Path) -> int:
    """A run in a process of its own; its number."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            status = run(out, "--resume")
        finally:
            os._exit(status)
    return child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_stopped_at_random_moments_ends_with_the_numbers_of_an_unbroken_one(
    tmp_path: Path, unbroken: Path, number: signal.Signals
) -> None:
    moments, saved, updates = random.Random(0), tmp_path / "seed-0" / "checkpoint.pt", 0
    for _ in range(8):
        child = started(tmp_path)
        time.sleep(moments.uniform(0.0, 0.15))
        os.kill(child, number)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) in (0, 128 + number)
        else:
            assert os.WTERMSIG(status) == number, (
                "it was not stopped before it took care of signals"
            )
        if saved.exists():
            reached = checkpoint.load(saved)["update"]
            assert reached >= updates
            updates = reached
    assert run(tmp_path, "--resume") == 0
    assert numbers(tmp_path) == numbers(unbroken)


def test_a_run_with_a_result_lacks_nothing(
    tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stopped while it draws its figures has no result yet, and draws them when it goes on."""

    def stopped(experiment: Patterns, model: object, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Patterns, "figures", stopped)
    assert run(tmp_path) == 128 + signal.SIGINT
    assert numbers(tmp_path) == numbers(unbroken)[:-1]
    drawn = []
    monkeypatch.setattr(
        Patterns, "figures", lambda experiment, model, folder: drawn.append(folder) or []
    )
    assert run(tmp_path, "--resume") == 0
    assert numbers(tmp_path) == numbers(unbroken)
    assert drawn == [tmp_path / "seed-0"]


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Every write beyond a size fails, as on a disk that is full; Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_disk_that_is_full_leaves_the_former_checkpoint(tmp_path: Path, share: float) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"weights": torch.arange(9000.0), "update": 1})
    before = path.read_bytes()
    with (
        files_end_at(int(share * len(before))),
        pytest.raises(ExperimentError, match="the former checkpoint is kept"),
    ):
        checkpoint.save(path, {"weights": torch.arange(9000.0), "update": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    checkpoint.save(path, {"weights": torch.arange(9000.0), "update": 3})
    assert checkpoint.load(path)["update"] == 3


@pytest.mark.parametrize("full", ["checkpoint.pt", "metrics.jsonl"])
def test_a_run_on_a_full_disk_ends_in_one_line_and_goes_on_when_there_is_room(
    tmp_path: Path,
    unbroken: Path,
    full: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(tmp_path, "--episodes", "42") == 0
    folder = tmp_path / "seed-0"
    size = {name: (folder / name).stat().st_size for name in ("checkpoint.pt", "metrics.jsonl")}
    before = (folder / "checkpoint.pt").read_bytes()
    capfd.readouterr()
    if full == "metrics.jsonl":
        monkeypatch.setattr(checkpoint, "save", lambda path, state: None)
    limit = size["checkpoint.pt"] // 2 if full == "checkpoint.pt" else size["metrics.jsonl"] + 300
    assert size["metrics.jsonl"] + 300 < size["checkpoint.pt"] // 2
    with files_end_at(limit):
        assert run(tmp_path, "--resume") == 2
    monkeypatch.undo()
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"error: {folder / full} could not be written")
    assert last.endswith("File too large")
    assert (folder / "checkpoint.pt").read_bytes() == before
    assert run(tmp_path, "--resume") == 0
    assert numbers(tmp_path)[1:] == numbers(unbroken)[1:]


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(tmp_path / "file" / "out") == 2
    errors = capsys.readouterr().err
    assert (
        errors.startswith("error: ")
        and errors.count("\n") == 1
        and str(tmp_path / "file") in errors
    )


def test_a_checkpoint_with_any_damage_is_refused_or_as_it_was(tmp_path: Path) -> None:
    """Some bytes of a zip mean nothing; every other flipped bit, and every missing end, is noticed."""
    path = tmp_path / "checkpoint.pt"
    state = {"weights": torch.arange(100.0), "update": 7, "identity": {"seed": 0, "net": "plastic"}}
    checkpoint.save(path, state)
    whole, where, refused = path.read_bytes(), random.Random(0), 0
    for trial in range(300):
        position = where.randrange(len(whole))
        if trial % 3 == 0:
            path.write_bytes(whole[:position])
        else:
            path.write_bytes(
                whole[:position] + bytes([whole[position] ^ 1 << trial % 8]) + whole[position + 1 :]
            )
        try:
            found = checkpoint.load(path)
        except ExperimentError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).startswith(
                f"{path} is damaged or not a checkpoint"
            )
            continue
        assert trial % 3, "what is cut off is missed"
        assert torch.equal(found.pop("weights"), state["weights"])
        assert found == {name: value for name, value in state.items() if name != "weights"}
    assert refused > 150
