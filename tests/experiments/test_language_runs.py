"""Whole runs of language models: stopped in the middle of an epoch, resumed, in two processes, compared."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.common.cli import main
from experiments.common.metrics import read
from experiments.language import Language

ROOT = Path(__file__).parents[2]
SMALL = ["--model", "small", "--cell", "retroactive", "--set", "embedding=6", "hidden=6", "bptt=5"]
LARGE = [
    "--model",
    "large",
    "--cell",
    "simple",
    "--set",
    "embedding=6",
    "hidden=8",
    "bptt=12",
    "average_from=1",
]
COMMON = [
    "batch=4", "evaluation_batch=2", "vocabulary=30", "log_every=1", "window=3", "checkpoint_every=100", "episodes=3"
]  # fmt: skip
VARYING = ("seconds", "seconds_per_episode", "update_share", "command", "processes")


class Stopping(Language):
    """Is stopped by a signal in the update whose number the environment names."""

    updates = 0

    def update(self, model, optimizer, episode):
        values = super().update(model, optimizer, episode)
        Stopping.updates += 1
        if Stopping.updates == int(os.environ["STOP_AT"]):
            signal.raise_signal(signal.SIGTERM)
        return values


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """Threads, and the variable that says when to stop."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("STOP_AT", "0")
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    generator = torch.Generator().manual_seed(1)
    for part, lines in (("train", 40), ("valid", 12), ("test", 12)):
        words = torch.randint(29, (lines, 9), generator=generator)
        words.view(-1)[:29] = torch.arange(29)
        (folder / f"ptb.{part}.txt").write_text(
            "".join(f"{' '.join(map(str, line))}\n" for line in words.tolist())
        )
    return folder


def arguments(settings, text, out, *more):
    return [*settings, *COMMON, "--threads", "1", "--data", str(text), "--out", str(out), *more]


def run(settings, text, out, *more, stop_at=0):
    Stopping.updates = 0
    os.environ["STOP_AT"] = str(stop_at)
    return main({"language": Stopping}, arguments(settings, text, out, *more))


def numbers(out):
    lines = read(out / "seed-0" / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in VARYING} for line in lines]


def saved(out):
    return torch.load(out / "seed-0" / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("settings", [SMALL, LARGE], ids=["small", "large"])
def test_a_run_stopped_in_an_epoch_resumes_bit_for_bit(text, tmp_path, settings):
    assert run(settings, text, tmp_path / "unbroken") == 0
    unbroken = numbers(tmp_path / "unbroken")
    updates = sum(line["kind"] == "train" for line in unbroken)
    # Within the first epoch, and after the switch to averages.
    for number, stop_at in enumerate((3, updates - 6)):
        more = ["--resume"] if number else []
        assert (
            run(settings, text, tmp_path / "broken", *more, stop_at=stop_at) == 128 + signal.SIGTERM
        )
        carried = saved(tmp_path / "broken")["carried"]
        assert carried["step"] > 0
        assert all(float(state[2].abs().max()) > 0 for state in carried["states"]), (
            "traces are carried"
        )
    assert run(settings, text, tmp_path / "broken", "--resume") == 0
    assert numbers(tmp_path / "broken") == unbroken
    first, second = saved(tmp_path / "broken"), saved(tmp_path / "unbroken")
    torch.testing.assert_close(first["model"], second["model"], rtol=0, atol=0)
    assert (first["carried"]["average"] is None) == (settings is SMALL)


def test_a_run_says_what_it_is_and_what_came_out(text, tmp_path, capsys):
    assert run(SMALL, text, tmp_path, "--compare-reference") == 0
    shown = capsys.readouterr().out
    assert "seed 0: 1,210 trained parameters" in shown
    assert "words/s in training" in shown
    assert "test perplexity" in shown
    assert "speed-up over pure PyTorch" in shown
    lines = numbers(tmp_path)
    assert lines[0]["trained_parameters"] == 1_210
    tests = [line for line in lines if line["kind"] == "test"]
    assert [line["episode"] for line in tests] == [1, 2, 3]
    assert lines[-1]["validation_perplexity"] == min(
        line["validation_perplexity"] for line in tests
    )
    episodes = [line["episode"] for line in lines if line["kind"] == "train"]
    assert episodes[:3] == pytest.approx([5 / 99, 10 / 99, 15 / 99])
    assert episodes[-1] == 3
    assert (tmp_path / "learning_curves.png").stat().st_size > 0


def test_two_processes_go_on_where_one_stopped_and_the_other_way_round(text, tmp_path):
    """Dropout, averaging and carried states are those of a single process."""
    assert run(LARGE, text, tmp_path / "single") == 0
    expected = numbers(tmp_path / "single")
    assert run(LARGE, text, tmp_path / "shared", stop_at=3) == 128 + signal.SIGTERM
    script = tmp_path / "example.py"
    script.write_text(
        "import sys\nfrom experiments.common.cli import main\n"
        "from tests.experiments.test_language_runs import Stopping\n"
        "sys.exit(main({'language': Stopping}, sys.argv[1:]))\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
    ]
    stop_at = sum(line["kind"] == "train" for line in expected) - 6
    finished = subprocess.run(
        [*command, *arguments(LARGE, text, tmp_path / "shared", "--resume")], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "STOP_AT": str(stop_at)}, timeout=120, check=False,
    )  # fmt: skip
    assert "stopped at episode 2." in finished.stderr, finished.stderr
    carried = saved(tmp_path / "shared")["carried"]
    assert carried["step"] > 0
    assert carried["states"][0][0].shape == (1, 4, 8), "the states of all columns"
    assert run(LARGE, text, tmp_path / "shared", "--resume") == 0
    for ours, theirs in zip(numbers(tmp_path / "shared")[1:], expected[1:], strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=1e-4)
    torch.testing.assert_close(
        saved(tmp_path / "shared")["model"],
        saved(tmp_path / "single")["model"],
        rtol=1e-3,
        atol=1e-5,
    )
