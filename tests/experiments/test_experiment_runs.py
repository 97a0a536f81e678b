"""Whole runs through the command line: resume, stopping, refusals, figures, comparison."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import plastikern
from experiments.__main__ import EXPERIMENTS
from experiments.common import comparison
from experiments.common.cli import main
from experiments.common.experiment import Experiment
from experiments.common.metrics import read
from experiments.patterns import Patterns

ROOT = Path(__file__).parents[2]
TINY = [
    "patterns", "--backend", "reference", "--threads", "1", "--set", "bits=16", "patterns=2", "cycles=1",
    "show_steps=2", "gap_steps=1", "test_steps=2", "log_every=3", "window=5", "checkpoint_every=4", "evaluate_every=6",
    "evaluation_episodes=2",
]  # fmt: skip
VARYING = ("seconds", "seconds_per_episode", "update_share", "command")


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(out, *arguments, episodes=30):
    return main(EXPERIMENTS, [*TINY, "--episodes", str(episodes), "--out", str(out), *arguments])


def numbers(out, seed=0):
    """The lines of a run without what differs from run to run."""
    lines = read(out / f"seed-{seed}" / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in VARYING} for line in lines]


def started(out, episodes):
    """The same run in a process of its own, which has written at least one checkpoint and two later lines."""
    command = [
        sys.executable,
        "-m",
        "experiments",
        *TINY,
        "--episodes",
        str(episodes),
        "--out",
        str(out),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics, saved, limit = (
        out / "seed-0" / "metrics.jsonl",
        out / "seed-0" / "checkpoint.pt",
        time.monotonic() + 60,
    )
    while not (saved.exists() and metrics.read_bytes().count(b"\n") > 5):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.005)
    return process


EPISODES_TO_KILL = 200


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    assert run(out, episodes=EPISODES_TO_KILL) == 0
    return numbers(out)


def test_a_killed_run_resumes_with_the_numbers_of_an_unbroken_one(tmp_path, unbroken):
    process = started(tmp_path, EPISODES_TO_KILL)
    process.kill()
    process.communicate()
    before = read(tmp_path / "seed-0" / "metrics.jsonl")
    assert before[-1]["kind"] != "result", "the run was over before it could be killed"
    assert run(tmp_path, "--resume", episodes=EPISODES_TO_KILL) == 0
    assert numbers(tmp_path) == unbroken


def test_sigterm_writes_a_checkpoint_and_says_how_to_resume(tmp_path, unbroken):
    process = started(tmp_path, EPISODES_TO_KILL)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    message = errors.strip().splitlines()[-1]
    assert "stopped at episode" in message
    assert message.endswith(f"--out {tmp_path} --resume")
    assert "Traceback" not in errors
    stopped_at = int(message.split("episode ")[1].split()[0])
    saved = torch.load(tmp_path / "seed-0" / "checkpoint.pt", weights_only=True)
    assert saved["update"] == stopped_at < EPISODES_TO_KILL
    assert run(tmp_path, "--resume", episodes=EPISODES_TO_KILL) == 0
    assert numbers(tmp_path) == unbroken


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: where the tests run in the background, the shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_its_episode_first_and_a_second_one_acts_at_once(
    tmp_path, monkeypatch, capsys, interruptible
):
    update, presses = Experiment.update, {5: 1, 8: 2}

    def interrupted(self, model, optimizer, episode):
        values = update(self, model, optimizer, episode)
        calls.append(1)
        for _ in range(presses.get(len(calls), 0)):
            signal.raise_signal(signal.SIGINT)
        return values

    calls = []
    monkeypatch.setattr(Experiment, "update", interrupted)
    assert run(tmp_path, episodes=15) == 128 + signal.SIGINT
    assert (
        "stopped at episode 5 of 15 of seed 0; to resume: python -m experiments"
        in capsys.readouterr().err
    )
    assert torch.load(tmp_path / "seed-0" / "checkpoint.pt", weights_only=True)["update"] == 5
    assert run(tmp_path, "--resume", episodes=15) == 128 + signal.SIGINT
    assert capsys.readouterr().err.endswith("interrupted\n")
    assert len(calls) == 8
    assert torch.load(tmp_path / "seed-0" / "checkpoint.pt", weights_only=True)["update"] == 5
    assert signal.getsignal(signal.SIGINT) is interruptible


@pytest.mark.parametrize("broken_at", [1, 5, 8, 14])
def test_any_episode_can_be_the_last_before_a_crash(tmp_path, monkeypatch, broken_at):
    assert run(tmp_path / "whole", episodes=15) == 0
    update, calls = Experiment.update, []

    def crash(self, *arguments):
        calls.append(1)
        if len(calls) == broken_at:
            raise MemoryError
        return update(self, *arguments)

    monkeypatch.setattr(Experiment, "update", crash)
    with pytest.raises(MemoryError):
        run(tmp_path / "broken", episodes=15)
    monkeypatch.undo()
    assert run(tmp_path / "broken", "--resume", episodes=15) == 0
    assert numbers(tmp_path / "broken") == numbers(tmp_path / "whole")


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(tmp_path):
    assert run(tmp_path / "a", "--seeds", "0,1") == 0
    assert run(tmp_path / "b") == 0
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert numbers(tmp_path / "a")[1] != numbers(tmp_path / "a", seed=1)[1]


def test_lines_of_the_metrics(tmp_path):
    assert run(tmp_path, episodes=13) == 0
    header, *lines, result = read(tmp_path / "seed-0" / "metrics.jsonl")
    assert header["kind"] == "run"
    assert (header["seed"], header["backend"], header["threads"]) == (0, "reference", 1)
    assert header["config"]["bits"] == 16
    assert header["trained_parameters"] == 2 * 17**2 + 1
    assert header["torch"] == torch.__version__
    assert header["plastikern"] == plastikern.__version__
    assert [line["episode"] for line in lines if line["kind"] == "train"] == [3, 6, 9, 12, 13]
    assert [line["episode"] for line in lines if line["kind"] == "test"] == [6, 12]
    train = [line for line in lines if line["kind"] == "train"]
    assert {"loss", "error", "loss_last_5", "error_last_5", "eta", "seconds"} <= set(train[0])
    assert result["episode"] == 13
    assert 0 < result["update_share"] < 1
    assert result["test_error"] <= 1
    # The last window of five episodes covers the lines 9-12 and 12-13 and the last episode of the line before.
    assert result["loss_last_5"] == train[-1]["loss_last_5"]
    assert train[0]["loss_last_5"] == pytest.approx(train[0]["loss"]), "three episodes so far"


def test_running_means_are_means_of_single_episodes(tmp_path):
    assert run(tmp_path / "single", "--set", "log_every=1", episodes=12) == 0
    assert run(tmp_path / "triple", episodes=12) == 0
    single = [line for line in numbers(tmp_path / "single") if line["kind"] == "train"]
    for line in (line for line in numbers(tmp_path / "triple") if line["kind"] == "train"):
        episode = line["episode"]
        assert line["loss"] == pytest.approx(
            sum(one["loss"] for one in single[episode - 3 : episode]) / 3
        )
        window = single[max(episode - 5, 0) : episode]
        assert line["error_last_5"] == pytest.approx(
            sum(one["error"] for one in window) / len(window)
        )


def test_an_existing_run_is_not_overwritten_unless_asked(tmp_path, capsys):
    assert run(tmp_path, episodes=6) == 0
    before = (tmp_path / "seed-0" / "metrics.jsonl").read_bytes()
    assert run(tmp_path, episodes=6) == 2
    assert (
        "seed-0 holds a run: use --resume, --overwrite, or another --out" in capsys.readouterr().err
    )
    assert (tmp_path / "seed-0" / "metrics.jsonl").read_bytes() == before
    assert run(tmp_path, "--seeds", "1", episodes=6) == 0, "another seed has a folder of its own"
    assert run(tmp_path, "--overwrite", episodes=9) == 0
    assert numbers(tmp_path)[-1]["episode"] == 9


def test_a_finished_run_can_go_on(tmp_path):
    assert run(tmp_path / "whole", episodes=24) == 0
    assert run(tmp_path / "longer", episodes=12) == 0
    assert run(tmp_path / "longer", "--resume", episodes=24) == 0
    assert numbers(tmp_path / "longer")[1:] == numbers(tmp_path / "whole")[1:]


def test_resuming_a_finished_run_repeats_its_result(tmp_path):
    assert run(tmp_path, episodes=1) == 0
    once = numbers(tmp_path)
    assert run(tmp_path, "--resume", episodes=1) == 0
    assert numbers(tmp_path) == once


@pytest.mark.parametrize("arguments", [["--resume"], ["--seeds", "1"]])
def test_other_settings_do_not_mix_with_a_run(tmp_path, capsys, arguments):
    assert run(tmp_path, episodes=6) == 0
    assert run(tmp_path, *arguments, "--set", "learning_rate=0.5", episodes=6) == 2
    assert "holds a run with learning_rate 0.001" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_refused(tmp_path, capsys):
    assert run(tmp_path / "a", episodes=6) == 0
    assert run(tmp_path / "b", "--seeds", "1", episodes=6) == 0
    (tmp_path / "a" / "seed-0" / "checkpoint.pt").replace(
        tmp_path / "b" / "seed-1" / "checkpoint.pt"
    )
    assert run(tmp_path / "b", "--seeds", "1", "--resume", episodes=6) == 2
    assert "belongs to a run with seed 0 (now 1)" in capsys.readouterr().err


def test_a_damaged_checkpoint_ends_in_one_line(tmp_path, capsys):
    assert run(tmp_path, episodes=6) == 0
    saved = tmp_path / "seed-0" / "checkpoint.pt"
    saved.write_bytes(saved.read_bytes()[:500])
    metrics = (tmp_path / "seed-0" / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert run(tmp_path, "--resume", episodes=6) == 2
    assert "is damaged or not a checkpoint" in capsys.readouterr().err.strip().splitlines()[-1]
    assert (tmp_path / "seed-0" / "metrics.jsonl").read_bytes() == metrics


def test_resuming_with_other_threads_is_noted(tmp_path, capsys):
    assert run(tmp_path, episodes=6) == 0
    assert run(tmp_path, "--resume", "--threads", "2", episodes=6) == 0
    assert "note: threads was 1 and is 2 now" in capsys.readouterr().err


def test_a_diverging_run_stops_with_advice(tmp_path, capsys):
    assert run(tmp_path, "--set", "learning_rate=1e38", "strength=1e30", episodes=30) == 2
    assert "try a smaller learning_rate" in capsys.readouterr().err


def test_figures_show_runs_beside_each_other(tmp_path, capsys):
    assert run(tmp_path / "first", "--seeds", "0-2", episodes=12) == 0
    alone = (tmp_path / "first" / "learning_curves.png").read_bytes()
    assert run(tmp_path / "second", "--beside", str(tmp_path / "first"), episodes=12) == 0
    for name in ("first", "second"):
        with Image.open(tmp_path / name / "learning_curves.png") as image:
            assert image.size[0] > 800
            image.verify()
    assert (tmp_path / "second" / "learning_curves.png").read_bytes() != alone
    assert str(tmp_path / "second" / "learning_curves.png") in capsys.readouterr().out


def test_the_summary_gives_errors_times_and_figures(tmp_path, capsys):
    assert run(tmp_path, "--seeds", "0-2", episodes=12) == 0
    printed = capsys.readouterr().out
    results = [read(tmp_path / f"seed-{seed}" / "metrics.jsonl")[-1] for seed in range(3)]
    middle = sorted(result["test_error"] for result in results)[1]
    assert f"test error: {middle:.3%} (" in printed
    assert "of the training loop in acting, forward, backward and optimiser" in printed
    assert "figures: " in printed


def test_comparison_says_plainly_that_there_is_nothing_to_compare(tmp_path, capsys):
    assert run(tmp_path, "--compare-reference", episodes=3) == 0
    assert "this run was on the pure PyTorch path" in capsys.readouterr().out


@pytest.mark.skipif(plastikern.build_info()["library"] is None, reason="no native library")
def test_comparison_times_both_paths_and_leaves_the_model_alone(tmp_path):
    config = Patterns.presets["quick"]["plastic"]
    task = Patterns(config, torch.device("cpu"))
    model = task.build(None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured = comparison.compare(task, model, updates=1)
    assert measured.backend == "cpu"
    assert measured.reference_seconds > measured.seconds > 0
    assert f"{measured.reference_seconds / measured.seconds:.1f} times" in str(measured)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
