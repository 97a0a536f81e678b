"""Many runs from one table: what is trained in which order, by whom, and what is told about it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.__main__ import EXPERIMENTS
from experiments.campaign import state, table
from experiments.campaign.command import Campaign
from experiments.campaign.state import State
from experiments.campaign.table import TABLE
from experiments.campaign.workers import Workers
from experiments.common import ownership
from experiments.common.cli import main
from experiments.common.config import ExperimentError

TINY = """
[first]
experiment = "patterns"
preset = "quick"
nets = ["plastic"]
seeds = "0-1"
episodes = 8
set = ["bits=16", "patterns=2", "cycles=1", "show_steps=2", "gap_steps=1", "test_steps=2", "log_every=2",
       "checkpoint_every=4", "evaluation_episodes=2"]

[agents]
experiment = "maze"
preset = "quick"
nets = ["simple", "rnn"]
seeds = "0-1"
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def tasks(path: Path, *arguments: object) -> list[table.Task]:
    return table.tasks(table.read(path), EXPERIMENTS, Path("runs"), *arguments)


def test_the_table_of_the_papers_claims_is_sound() -> None:
    names = {task.name for task in tasks(TABLE)}
    assert {"cue_reward-ours-simple", "patterns-paper-plastic", "omniglot-ours-leaky-free"} <= names


def test_runs_come_row_by_row_and_in_a_row_seed_by_seed(tiny: Path) -> None:
    first, agents = "patterns-quick-plastic", "maze-quick"
    assert [str(task) for task in tasks(tiny)] == [
        f"{first} seed 0", f"{first} seed 1", f"{agents}-simple seed 0", f"{agents}-rnn seed 0",
        f"{agents}-simple seed 1", f"{agents}-rnn seed 1",
    ]  # fmt: skip
    assert {task.seed for task in tasks(tiny, "1-5")} == {1}
    rows = table.chosen(table.read(tiny), ["maze"])
    assert list(rows) == ["agents"] == list(table.chosen(table.read(tiny), ["agents"]))


def test_a_later_row_goes_on_with_runs_and_other_settings_need_a_label(tiny: Path) -> None:
    longer = (
        TINY
        + TINY.replace("[first]", "[more]")
        .replace("episodes = 8", "episodes = 9")
        .partition("[agents]")[0]
    )
    tiny.write_text(longer)
    patterns = [task for task in tasks(tiny) if task.name == "patterns-quick-plastic"]
    assert [(task.seed, task.episodes) for task in patterns] == [(0, 8), (1, 8), (0, 9), (1, 9)]
    tiny.write_text(longer.replace('"bits=16"', '"bits=18"', 1))
    with pytest.raises(
        ExperimentError,
        match=r"\[more\]: patterns-quick-plastic is in the table with other settings",
    ):
        tasks(tiny)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"patterns"\n', '"pattern"\n', r"\[first\]: no experiment 'pattern'"),
        ('["plastic"]', '["plastik"]', r"\[first\]: preset 'quick' has no network 'plastik'"),
        ("bits=16", "bit=16", r"\[first\]: --set bit: no such setting"),
        ("bits=16", "bits=1", r"\[first\]: bits must be at least 2"),
        ('"0-1"', '"1-0"', r"\[first\]: --seeds: the range 1-0 runs backwards"),
        ("preset =", "presets =", r"\[first\]: no such key: presets; there are: episodes"),
        (
            'preset = "quick"\n',
            "",
            r"\[first\]: missing 1 required keyword-only argument: 'preset'",
        ),
        ('"0-1"', "0", r"\[first\]: expected a string for seeds; got 0"),
        (
            '["plastic"]',
            '"plastic"',
            r"\[first\]: expected a list of strings for nets; got 'plastic'",
        ),
        (
            "episodes = 8",
            "episodes = true",
            r"\[first\]: expected a whole number for episodes; got True",
        ),
        ("[first]", "[first", r"tiny.toml: .*line 2"),
        ("[first]", "number = 1\n[first]", r"expected tables only; got number = 1"),
    ],
)
def test_mistakes_in_a_table_are_named(tiny: Path, old: str, new: str, message: str) -> None:
    tiny.write_text(TINY.replace(old, new, 1))
    with pytest.raises(ExperimentError, match=message):
        tasks(tiny)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--only", "omniglot"],
            "--only: no row or experiment 'omniglot'; there are: agents, first, maze, patterns",
        ),
        (["--seeds", "7"], "the table has no such runs"),
        (["--jobs", "0"], "--jobs: expected at least 1; got 0"),
        (["--data", "maze"], "--data maze: expected EXPERIMENT=PATH"),
        (
            ["--data", "labyrinth=x"],
            f"--data labyrinth=x: no experiment 'labyrinth'; there are: {', '.join(EXPERIMENTS)}",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(
    tiny: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            EXPERIMENTS,
            ["campaign", "--table", str(tiny), "--folder", str(tiny.parent / "runs"), *arguments],
        )
        == 2
    )
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tiny.parent / "runs").exists()


def task(folder: Path, name: str = "a-b-net", seed: int = 0) -> table.Task:
    return table.Task(name, name.rpartition("-")[0], seed, folder / name / f"seed-{seed}", 100, ())


def write(task: table.Task, *lines: dict[str, object]) -> None:
    task.folder.mkdir(parents=True)
    (task.folder / "metrics.jsonl").write_text(
        "".join(f"{json.dumps(line)}\n" for line in lines) + '{"kind": "tra'
    )


def test_the_state_of_a_run_is_read_from_its_files(tmp_path: Path) -> None:
    run = task(tmp_path)
    assert state.describe(run, state.reached(run)) == "a-b-net seed 0: waiting"
    begun = {"kind": "train", "episode": 40, "reward_last_250": 1.5, "seconds": 80.0}
    write(run, {"kind": "run"}, begun)
    assert state.reached(run) == State(40, 80.0, False, "reward 1.5")
    assert (
        state.describe(run, state.reached(run))
        == "a-b-net seed 0: 40.0%, 1 min 20 s; reward 1.5; interrupted"
    )
    with ownership.hold(run.folder):
        assert f"; process {os.getpid()} on {socket.gethostname()}" in state.describe(
            run, state.reached(run)
        )
    ended, result = (
        {**begun, "episode": 100},
        {"kind": "result", "episode": 100, "test_reward": 1.4},
    )
    other = task(tmp_path, seed=1)
    write(other, ended, result)
    assert state.reached(other).finished
    longer = task(tmp_path, seed=2)
    write(longer, ended, {**begun, "episode": 140})
    assert state.reached(longer).finished, "another row went on with it"
    short = task(tmp_path, seed=3)
    write(short, begun, {**result, "episode": 40})
    assert not state.reached(short).finished, "a result of fewer episodes"


def test_what_is_left_follows_from_the_speeds_measured(tmp_path: Path) -> None:
    begun, same, net, other = (
        task(tmp_path, name, seed)
        for name, seed in (("a-b-x", 0), ("a-b-x", 1), ("a-b-y", 0), ("c-d-x", 0))
    )
    states = [(begun, State(40, 80.0)), (same, State()), (net, State()), (other, State())]
    assert state.time_left(states, jobs=1) == (60 * 2 + 100 * 2 + 100 * 2, 1)
    assert state.time_left(states, jobs=8) == (100 * 2, 1), "a run is not shared out"
    text = state.summary(states, [begun], jobs=2)
    assert text.startswith(
        "0 of 4 runs finished, 1 running, about 4 min 20 s left by the speeds measured"
    )
    assert text.endswith("besides 1 run without a measure yet")
    assert state.time_left([(begun, State(100, 80.0, True))], jobs=1) == (0.0, 0)


HOLDER = """
    import sys, time
    from pathlib import Path
    from experiments.common import ownership
    with ownership.hold(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(600)
"""


def test_a_run_belongs_to_one_process_until_that_ends_however_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(out / "seed-1")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        whole = (out / "seed-1" / "metrics.jsonl", out / "seed-1" / "checkpoint.pt")
        for path in whole:
            path.write_bytes(b"of the other")
        tiny = [
            "patterns",
            "--seeds",
            "0-1",
            "--overwrite",
            "--episodes",
            "2",
            "--set",
            "bits=16",
            "patterns=2",
        ]
        assert (
            main(EXPERIMENTS, [*tiny, "--threads", "1", "--out", str(out)]) == ownership.TAKEN_AWAY
        )
        error = capsys.readouterr().err
        assert re.fullmatch(
            rf"error: .*seed-1 is being trained by process {holder.pid} on \S+; if .*\n", error
        )
        assert [path.read_bytes() for path in whole] == [b"of the other"] * 2, (
            "nothing of it was overwritten"
        )
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert ownership.owner(out / "seed-1"), "it left its lock behind"
    with ownership.hold(out / "seed-1"):
        pass
    assert not ownership.owner(out / "seed-1")


def test_a_lock_whose_owner_was_killed_before_it_wrote_its_name_is_taken(tmp_path: Path) -> None:
    (tmp_path / ownership.LOCK).touch()
    assert ownership.owner(tmp_path) == "an unknown process"
    with ownership.hold(tmp_path):
        assert ownership.owner(tmp_path).startswith(f"process {os.getpid()} on ")
    assert not ownership.owner(tmp_path)


def waited_for(event: Callable[[], object]) -> bool:
    """Whether something happens within a minute."""
    return any(event() or time.sleep(0.05) for _ in range(1200))


def test_a_run_of_another_machine_is_taken_over_when_nothing_is_heard_of_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.1)
    run = task(tmp_path)
    campaign = Campaign([run], Workers(EXPERIMENTS, 1), 1)
    assert campaign._free(run)
    lost = []
    monkeypatch.setattr(ownership, "_leave", lost.append)
    with ownership.hold(run.folder):
        lock = run.folder / ownership.LOCK
        elsewhere = re.sub(r"host=.*", "host=elsewhere", lock.read_text())
        for _ in range(20):
            assert not campaign._free(run), "its owner gives signs of life"
            time.sleep(0.1)
        # That owner is cut off, and what is left of it is its lock.
        lock.unlink()
        lock.write_text(elsewhere)
        assert ownership.owner(run.folder) == f"process {os.getpid()} on elsewhere"
        assert not campaign._free(run), "that may be only late"
        assert waited_for(lambda: campaign._free(run))
        assert waited_for(lambda: lost)
    assert lost == [run.folder], "the former owner notices, before it writes"
