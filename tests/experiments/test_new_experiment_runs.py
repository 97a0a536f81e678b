"""Whole runs of the experiments with batches: exact resume, burn-in, schedules, comparison, changing one thing."""

import importlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_omniglot import archives  # noqa: F401, a fixture

import plastikern
from experiments.__main__ import EXPERIMENTS
from experiments.common import comparison
from experiments.common.cli import main
from experiments.common.experiment import Experiment, stream
from experiments.common.metrics import read
from experiments.common.run import Run
from experiments.common.worlds import act
from experiments.maze import Maze

ROOT = Path(__file__).parents[2]
VARYING = ("seconds", "seconds_per_episode", "update_share", "command")
EVERY = [
    "log_every=2",
    "checkpoint_every=3",
    "evaluate_every=4",
    "evaluation_episodes=6",
    "window=4",
    "batch=6",
]
TINY = {
    "maze": ["--preset", "paper2", "--set", "steps=10", "hidden=6", "size=3", "burn_in=1", "scale=0.3", *EVERY],
    "cue_reward": ["--preset", "code", "--set", "steps=20", "hidden=6", "burn_in=1", "scale=0.3", *EVERY],
    "omniglot": ["--preset", "code", "--seeds", "1", "--set", "features=4", "test_classes=6", "same_drawing=true",
                 "learning_rate_episodes=12", *EVERY],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(name, out, *arguments):
    return main(
        EXPERIMENTS,
        [name, "--threads", "1", "--episodes", "48", "--out", str(out), *TINY[name], *arguments],
    )


def numbers(out):
    (path,) = out.glob("seed-*/metrics.jsonl")
    return [
        {key: value for key, value in line.items() if key not in VARYING} for line in read(path)
    ]


@pytest.fixture
def data(archives):  # noqa: F811
    return {"omniglot": ["--data", str(archives)]}


@pytest.mark.parametrize("name", TINY)
def test_any_update_can_be_the_last_before_a_crash(name, data, tmp_path, monkeypatch):
    options = data.get(name, [])
    assert run(name, tmp_path / "whole", *options) == 0
    assert run(name, tmp_path / "again", *options) == 0
    whole = numbers(tmp_path / "whole")
    assert numbers(tmp_path / "again") == whole, "the same seed gives the same numbers"
    update, calls = Experiment.update, []

    def crash(self, *arguments):
        calls.append(1)
        if len(calls) == 5:
            raise MemoryError
        return update(self, *arguments)

    monkeypatch.setattr(Experiment, "update", crash)
    with pytest.raises(MemoryError):
        run(name, tmp_path / "broken", *options)
    monkeypatch.undo()
    assert run(name, tmp_path / "broken", "--resume", *options) == 0
    assert numbers(tmp_path / "broken") == whole
    assert [line["episode"] for line in whole if line["kind"] == "train"] == [12, 24, 36, 48]
    assert [line["episode"] for line in whole if line["kind"] == "test"] == [24, 48]


def test_seeds_learn_differently(tmp_path):
    assert run("maze", tmp_path / "a") == 0
    assert run("maze", tmp_path / "b", "--seeds", "1") == 0
    assert numbers(tmp_path / "a")[1]["loss"] != numbers(tmp_path / "b")[1]["loss"]


def test_nothing_changes_during_burn_in_and_everything_after_it():
    config = replace(
        Maze.presets["paper2"]["simple"], batch=4, steps=30, hidden=5, size=3, burn_in=2, scale=0.3
    )
    training = Run(Maze(config, torch.device("cpu")), 0)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    for _ in range(2):
        training.train_update()
        assert all(
            torch.equal(value, before[name]) for name, value in training.model.state_dict().items()
        )
    training.train_update()
    assert all(
        not torch.equal(value, before[name]) for name, value in training.model.state_dict().items()
    )


def test_gradients_are_clipped_and_the_rate_falls_by_schedule():
    changes = {"learning_rate_factor": 0.5, "learning_rate_episodes": 8, "clip_gradient": 1e-3}
    config = replace(
        Maze.presets["paper2"]["plastic"], batch=4, steps=30, hidden=5, size=3, burn_in=0, **changes
    )
    training = Run(Maze(config, torch.device("cpu")), 0)
    rates = []
    for _ in range(5):
        training.train_update()
        rates.append(training.optimizer.param_groups[0]["lr"] / config.learning_rate)
        gradients = torch.cat(
            [parameter.grad.flatten() for parameter in training.model.parameters()]
        )
        assert 0 < float(gradients.norm()) <= 1.001e-3
    assert rates == pytest.approx([1, 1, 0.5, 0.5, 0.25])


@pytest.mark.skipif(plastikern.build_info()["library"] is None, reason="no native library")
def test_comparison_covers_acting_and_learning_on_both_paths(monkeypatch):
    acted = []

    def counted(agent, *episode):
        acted.append(agent.core.backend)
        return act(agent, *episode)

    monkeypatch.setattr("experiments.common.reinforcement.act", counted)
    config = replace(Maze.presets["paper2"]["simple"], batch=4, steps=10, hidden=5)
    maze = Maze(config, torch.device("cpu"))
    measured = comparison.compare(maze, maze.build(None), updates=2)
    assert acted == ["cpu", "reference"] * 3, "once to warm up, and twice timed, in turn"
    assert min(measured.seconds, measured.reference_seconds) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maze", "--set", "size=8"], "size must be odd and at least 3; got 8"),
        (
            ["maze", "--set", "see_time=late"],
            "see_time must be one of none, raw, share; got 'late'",
        ),
        (
            ["maze", "--set", "rule=decay"],
            "rule must be one of hebb, oja, or MODULE:NAME for a rule of your own",
        ),
        (["maze", "--set", "baseline=mean"], "baseline must be one of own, first; got 'mean'"),
        (["maze", "--data", "."], "--data: the maze is generated, there is nothing to read"),
        (["cue_reward", "--set", "cues=1"], "cues must be at least 2; got 1"),
        (["patterns", "--set", "batch=2"], "batch must be 1 in patterns; got 2"),
        (["omniglot", "--data", "nowhere"], "--data nowhere: expected a folder"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, arguments, message):
    assert main(EXPERIMENTS, [*arguments, "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_tensorboard_gets_the_numbers_of_the_metrics(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert run("maze", tmp_path, "--tensorboard") == 0
    board = accumulator.EventAccumulator(str(tmp_path / "seed-0"))
    board.Reload()
    events = [(event.step, event.value) for event in board.Scalars("train/reward")]
    lines = [line for line in numbers(tmp_path) if line["kind"] == "train"]
    assert events == [(line["episode"], pytest.approx(line["reward"])) for line in lines]
    assert board.Scalars("test/test_reward")


def test_missing_tensorboard_is_named_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run("maze", tmp_path / "out", "--tensorboard") == 2
    assert "the package tensorboard is missing: pip install tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_example_in_the_documentation_runs(tmp_path):
    """The file that docs/experiments.md shows, as it stands there."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/experiments.md").read_text(encoding="utf-8"), re.S
    )
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "example.py", "--episodes", "12", "--threads", "1", "--set", "steps=10", "hidden=6", *EVERY],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    header = read(next(tmp_path.rglob("metrics.jsonl")))[0]
    assert header["command"].startswith("python example.py ")


@pytest.mark.parametrize(("name", "preset"), [("maze", "code2"), ("cue_reward", "code")])
@pytest.mark.parametrize("net", ["retroactive", "rnn"])
def test_all_of_an_update_is_on_the_device(name, preset, net):
    """A device without data refuses to work with tensors that are elsewhere."""
    device, kind = torch.device("meta"), importlib.import_module(EXPERIMENTS[name]).EXPERIMENT
    experiment = kind(replace(kind.presets[preset][net], batch=3, steps=6), device)
    model = experiment.build(None)
    values = experiment.loss(model, experiment.episode(stream(0, "test"), held_out=False))
    values["loss"].backward()
    assert {value.device for value in values.values()} == {device}


ALL = [
    (name, preset, net)
    for name in ("maze", "cue_reward")
    for preset, nets in importlib.import_module(EXPERIMENTS[name]).EXPERIMENT.presets.items()
    for net in nets
]


@pytest.mark.parametrize(("name", "preset", "net"), ALL)
def test_every_network_of_every_preset_learns(name, preset, net):
    kind = importlib.import_module(EXPERIMENTS[name]).EXPERIMENT
    config = replace(kind.presets[preset][net], batch=2, steps=8, burn_in=0)
    training = Run(kind(config, torch.device("cpu")), 0)
    before = {key: value.clone() for key, value in training.model.named_parameters()}
    training.train_update()
    unchanged = [
        key for key, value in training.model.named_parameters() if torch.equal(value, before[key])
    ]
    assert not unchanged
    assert all(torch.isfinite(value).all() for value in training.model.parameters())
    assert config.net == net
