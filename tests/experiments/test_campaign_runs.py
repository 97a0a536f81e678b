"""Campaigns with real workers: what they end in, whatever happens to them on the way."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.__main__ import EXPERIMENTS
from experiments.common import checkpoint
from experiments.common.cli import main
from experiments.common.metrics import read

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "bits=16", "patterns=2", "cycles=1", "show_steps=2", "gap_steps=1", "test_steps=2", "log_every=3", "window=5",
    "checkpoint_every=10", "evaluation_episodes=2",
]  # fmt: skip
ROW = """
[{name}]
experiment = "{experiment}"
preset = "quick"
nets = ["{net}"]
seeds = "{seeds}"
episodes = {episodes}
set = {settings}
"""
VARYING = ("seconds", "seconds_per_episode", "update_share", "command")


def table(folder: Path, *rows: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "table.toml"
    path.write_text("".join(ROW.format(**row) for row in rows).replace("'", '"'))
    return path


def patterns(episodes: int, seeds: str = "0-1") -> dict[str, Any]:
    common = {"experiment": "patterns", "net": "plastic", "settings": SETTINGS}
    return {"name": "tiny", "seeds": seeds, "episodes": episodes, **common}


def campaign(folder: Path, *arguments: str) -> list[str]:
    """A command line, to be run in ``folder``."""
    return [
        sys.executable,
        "-m",
        "experiments",
        "campaign",
        "--table",
        "table.toml",
        "--jobs",
        "2",
        *arguments,
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def numbers(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of all runs without what differs from time to time."""
    return {
        str(path.relative_to(folder)): [
            {key: value for key, value in line.items() if key not in VARYING} for line in read(path)
        ]
        for path in folder.rglob("metrics.jsonl")
    }


def page(folder: Path) -> str:
    """The report without its times and figures."""
    return re.sub(r"\d+ min \d\d s", "T", (folder / "report.md").read_text())


def test_a_campaign_ends_with_what_its_commands_give_and_names_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {
        "name": "broken",
        "experiment": "images",
        "net": "yoked",
        "seeds": "0",
        "episodes": 1,
        "settings": [],
    }
    table(tmp_path, patterns(40, "0"), broken)
    ended = subprocess.run(
        campaign(tmp_path, "--data", "images=missing"),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "1 of 2 runs finished" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(
        "error: images-quick-yoked seed 0: failed: --data missing"
    )
    monkeypatch.chdir(tmp_path)
    alone = ["patterns", "--threads", "1", "--episodes", "40", "--out", "alone", "--set", *SETTINGS]
    assert main(EXPERIMENTS, alone) == 0
    (whole,) = numbers(tmp_path / "alone").values()
    result = tmp_path / "runs" / "patterns-quick-plastic"
    assert numbers(result) == {"seed-0/metrics.jsonl": whole}
    first = page(tmp_path / "runs")
    assert "patterns, plastic" in first
    before = (result / "seed-0" / "metrics.jsonl").stat().st_mtime_ns
    assert (
        main(
            EXPERIMENTS, ["campaign", "--table", "table.toml", "--only", "tiny", "--folder", "runs"]
        )
        == 0
    )
    assert page(tmp_path / "runs") == first
    assert (result / "seed-0" / "metrics.jsonl").stat().st_mtime_ns == before, (
        "it was trained a second time"
    )


def workers(number: int) -> list[int]:
    """Processes that train for a campaign, the oldest first."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == number and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the processes are found in /proc")
def test_twenty_random_kills_of_workers_and_campaigns_change_nothing_but_the_time(
    tmp_path: Path,
) -> None:
    rows = patterns(9000, "0-2")
    for name in ("undisturbed", "killed"):
        table(tmp_path / name, rows)
    unbroken, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(campaign(unbroken), cwd=unbroken, env=environment(), check=True)

    def begin() -> subprocess.Popen[bytes]:
        return subprocess.Popen(campaign(killed), cwd=killed, env=environment())

    def updates() -> dict[Path, int]:
        saved = sorted((killed / "runs").rglob("checkpoint.pt"))
        return {path: checkpoint.load(path)["update"] for path in saved}

    moments, kills, reached = random.Random(0), 0, {}
    running = [begin(), begin()]  # two campaigns share the folder, as on two machines
    while kills < 20:
        time.sleep(moments.uniform(1.0, 8.0))
        index = moments.randrange(2)
        if running[index].poll() is not None:
            running[index] = begin()
            continue
        victims = workers(running[index].pid)
        if victims and moments.random() < 0.6:
            os.kill(moments.choice(victims), moments.choice([signal.SIGKILL, signal.SIGTERM]))
        else:
            running[index].kill()
            running[index].wait()
            running[index] = begin()
        kills += 1
        now = updates()
        assert all(now[path] >= update for path, update in reached.items()), (
            "steps before a checkpoint were lost"
        )
        reached = now
    for campaign_ in running:
        campaign_.wait()
    subprocess.run(campaign(killed), cwd=killed, env=environment(), check=True)
    assert numbers(killed / "runs") == numbers(unbroken / "runs")
    assert page(killed / "runs") == page(unbroken / "runs")
