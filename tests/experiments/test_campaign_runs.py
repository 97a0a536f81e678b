"""Campaigns with real workers: what they end in, whatever happens to them on the way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import killed_campaign
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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the processes are found in /proc")
def test_a_campaign_that_is_stopped_or_killed_twenty_times_ends_as_an_undisturbed_one_does(
    tmp_path: Path,
) -> None:
    assert killed_campaign.check(tmp_path, killed_campaign.TABLE, kills=20, seed=0) == []


def test_whatever_differs_between_two_campaigns_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy")
    one, other = tmp_path / "one" / "runs", tmp_path / "other" / "runs"
    one.mkdir(parents=True)
    monkeypatch.chdir(one.parent)
    name = "patterns-paper-plastic"
    trained = ["patterns", "--preset", "paper", "--threads", "1", "--episodes", "12"]
    assert main(EXPERIMENTS, [*trained, "--out", f"runs/{name}", "--set", *SETTINGS]) == 0
    assert main(EXPERIMENTS, ["report"]) == 0
    (one / name / "seed-0" / "picture.png").write_bytes(b"points")

    def found() -> list[str]:
        return killed_campaign.differences(one, other)

    def again() -> Path:
        shutil.rmtree(other, ignore_errors=True)
        return Path(shutil.copytree(one, other)) / name / "seed-0"

    def change(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    run = again()
    assert found() == []
    change(run / "metrics.jsonl", '"seconds": ', '"seconds": 1')
    assert found() == [], "times may differ"
    change(run / "metrics.jsonl", '"loss": ', '"loss": 1')
    assert [each.partition(" of the metrics: ")[0] for each in found()] == [
        f"{name}/seed-0: line 2"
    ]
    run = again()
    (run / "picture.png").write_bytes(b"lines")
    state = checkpoint.load(run / "checkpoint.pt")
    state["model"]["eta_l0"] += 1e-7
    checkpoint.save(run / "checkpoint.pt", state)
    assert found() == [
        f"{name}/seed-0: of the last checkpoint eta_l0", f"{name}/seed-0: its pictures"
    ]  # fmt: skip
    again()
    change(other / "report.md", "| undecided |", "| reproduced |")
    change(other / "report.html", "base64,iVBORw", "base64,iVBORx")
    assert [each[:12] for each in found()] == ["report.md: '", "report.html:"]


@pytest.mark.parametrize(
    ("kind", "had", "saved", "begun", "fault"),
    [
        ("worker", 250, 200, 200, ""),
        ("machine", 300, 200, 200, ""),
        ("campaign", 250, 200, 260, ""),
        ("worker", 250, 200, 100, "it went on from before its last checkpoint"),
        ("worker", 250, 200, 260, "it did not go on from its last checkpoint"),
        ("worker", 301, 200, 200, "it lost more than the updates since its last checkpoint"),
        ("machine", 250, 200, None, "nobody went on"),
    ],
)
def test_a_kill_that_loses_more_than_it_may_is_found(
    kind: str, had: int, saved: int, begun: int | None, fault: str
) -> None:
    kill = killed_campaign.Kill(kind, Path("runs/name/seed-0"), had, saved, 0, 100, begun)
    assert kill.fault == fault and str(kill).endswith(fault)
