"""A campaign three times: undisturbed, stopped and started again, and killed at random moments.

    PYTHONPATH=. python tests/experiments/killed_campaign.py [--table FILE] [--kills 20] [--seed 0]
        [--folder DIR] [--root CHECKOUT]

It compares what they end in, bit for bit, and tells for every kill how far the run was, what its checkpoint held and
where it went on. Exit status 1: something differs, or a kill lost more than the updates since the last checkpoint.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.campaign.workers import LOG
from experiments.common import checkpoint, ownership
from experiments.common.metrics import METRICS, read, read_end
from experiments.common.training import CHECKPOINT

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_suffix(".toml")
VARYING = ("seconds", "seconds_per_episode", "update_share", "command")
KINDS = ("worker", "campaign", "machine")
"""What a kill ends: one run; the campaign's own process; that with all its runs, as when the power fails."""
BEGUN = re.compile(rb"seed \d+:[^\r\n]*?\| (\d+)/\d+ \[")


@dataclass
class Kill:
    """What a kill met, in episodes.

    Attributes:
        had: of the last line that the run had written.
        saved: of its last checkpoint.
        size: of its log, behind which the next process tells where it begins.
        spacing: between two checkpoints.
        begun: where the next process began; None where there was none.
    """

    kind: str
    run: Path
    had: int
    saved: int
    size: int
    spacing: int
    begun: int | None = None

    @property
    def fault(self) -> str:
        """What must not be; empty where all is as promised."""
        if self.begun is None:
            return "nobody went on"
        if self.begun < self.saved:
            return "it went on from before its last checkpoint"
        if self.kind != "campaign" and self.begun != self.saved:
            return "it did not go on from its last checkpoint"
        if self.had - self.begun > self.spacing:
            return "it lost more than the updates since its last checkpoint"
        return ""

    def __str__(self) -> str:
        lost = "?" if self.begun is None else max(self.had - self.begun, 0)
        told = f"{self.kind}: {self.run.parent.name} {self.run.name} had {self.had}, checkpoint {self.saved}"
        return f"{told}, went on from {self.begun}, lost {lost} of at most {self.spacing} {self.fault}".rstrip()


class Campaigns:
    """Campaigns on one folder.

    Args:
        folder: where the command is run; its results are in ``runs``.
        table: of the runs.
        root: of the source code.
    """

    def __init__(self, folder: Path, table: Path, root: Path = ROOT):
        self.folder, self.runs = folder, folder / "runs"
        folder.mkdir(parents=True)
        self._command = [
            sys.executable,
            "-m",
            "experiments",
            "campaign",
            "--table",
            str(table.resolve()),
            "--jobs",
            "2",
        ]
        self._environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    def begin(self) -> subprocess.Popen[bytes]:
        """The command."""
        log = open(self.folder / "campaign.txt", "ab")  # noqa: SIM115, of the child
        with log:
            return subprocess.Popen(
                self._command, cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )

    def whole(self) -> float:
        """Run it to its end; the seconds that took."""
        start = time.monotonic()
        if status := self.begin().wait():
            raise RuntimeError((self.folder / "campaign.txt").read_text()[-2000:] + f"\n{status}")
        return time.monotonic() - start

    def stopped_after(self, seconds: float) -> None:
        """Stop it as Ctrl-C does, and run it to its end."""
        process = self.begin()
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT, "it was not stopped in the middle"
        self.whole()

    def killed(self, kills: int, moments: random.Random) -> Iterator[Kill]:
        """Two campaigns share the folder, as on two machines; what is killed, and then the end of all runs."""
        running = [self.begin(), self.begin()]
        done = 0
        while done < kills:
            time.sleep(moments.uniform(0.5, 6.0))
            for place, process in enumerate(running):
                if process.poll() is not None:
                    assert process.returncode in (0, -signal.SIGKILL), (
                        self.folder / "campaign.txt"
                    ).read_text()[-2000:]
                    assert process.returncode, (
                        f"all runs had ended after {done} kills: train longer"
                    )
                    running[place] = self.begin()
            place, kind = moments.randrange(2), moments.choice(KINDS)
            met = self._kill(running[place], kind, moments)
            if not met:
                continue  # it had nothing in training yet
            done += 1
            yield from met
        for process in running:
            process.wait()
        self.whole()

    def _kill(
        self, campaign: subprocess.Popen[bytes], kind: str, moments: random.Random
    ) -> list[Kill]:
        """Kill something of a campaign; the runs that it was training."""
        trained = {
            number: run
            for run in self._folders()
            if (number := _owner(run)) in workers(campaign.pid)
        }
        if not trained:
            return []
        if kind == "worker":
            number = moments.choice(sorted(trained))
            trained = {number: trained[number]}
        for number in [
            *([] if kind == "worker" else [campaign.pid]),
            *([] if kind == "campaign" else trained),
        ]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if kind == "worker":
            _wait_for(next(iter(trained)))
        else:
            campaign.wait()
        return [_met(kind, run) for run in trained.values()]

    def _folders(self) -> list[Path]:
        return sorted(self.runs.glob("*/seed-*"))


def workers(number: int) -> list[int]:
    """Processes that train for a campaign."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == number and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def _owner(run: Path) -> int:
    """The process that trains a run; 0 where nobody does."""
    found = re.match(r"process (\d+) on", ownership.owner(run))
    return int(found[1]) if found else 0


def _wait_for(number: int) -> None:
    """Until a process is no more, or a zombie."""
    with contextlib.suppress(OSError):
        while Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.005)


def _met(kind: str, run: Path) -> Kill:
    lines, config = read_end(run / METRICS), next(iter(read(run / METRICS)), {}).get("config", {})
    batch, saved = config.get("batch", 1), 0
    if (run / CHECKPOINT).exists():
        saved = checkpoint.load(run / CHECKPOINT)["update"] * batch
    had = max((line.get("episode", 0) for line in lines), default=0)
    return Kill(
        kind, run, had, saved, (run / LOG).stat().st_size, config.get("checkpoint_every", 0) * batch
    )


def look_up(kills: list[Kill]) -> None:
    """Where the next process of each run began, from what it wrote itself."""
    for kill in kills:
        text = (kill.run / LOG).read_bytes()[kill.size :]
        found = BEGUN.search(text)
        kill.begun = int(found[1]) if found else None


def differences(one: Path, other: Path) -> list[str]:
    """What differs between the results of two campaigns besides times: every number, weight and picture counts."""
    names = [
        sorted(path.relative_to(runs) for path in runs.glob("*/seed-*")) for runs in (one, other)
    ]
    found = [] if names[0] == names[1] else [f"runs: {names[0]} and {names[1]}"]
    for name in names[0]:
        lines = [_numbers(runs / name / METRICS) for runs in (one, other)]
        for number, pair in enumerate(zip(*lines, strict=False)):
            if pair[0] != pair[1]:
                found.append(f"{name}: line {number + 1} of the metrics: {pair[0]} and {pair[1]}")
                break
        if len(lines[0]) != len(lines[1]):
            found.append(f"{name}: {len(lines[0])} and {len(lines[1])} lines of metrics")
        found += [f"{name}: {each}" for each in _of_checkpoints(one / name, other / name)]
        pictures = [
            {path.name: path.read_bytes() for path in (runs / name).glob("*.png")}
            for runs in (one, other)
        ]
        if pictures[0] != pictures[1]:
            found.append(f"{name}: its pictures")
    return found + _of_reports(one, other)


def _of_checkpoints(one: Path, other: Path) -> list[str]:
    states = [checkpoint.load(path / CHECKPOINT) for path in (one, other)]
    parts = [{**state["model"], "episode_rng": state["episode_rng"]} for state in states]
    same = parts[0].keys() == parts[1].keys()
    different = [
        name for name in parts[0] if not (same and torch.equal(parts[0][name], parts[1][name]))
    ]
    return [f"of the last checkpoint {', '.join(different)}"] if different else []


def _of_reports(one: Path, other: Path) -> list[str]:
    """Tables with the verdicts, and every embedded figure."""
    tables, figures = [], []
    for runs in (one, other):
        tables.append(
            re.sub(
                r"\d+ (h \d\d )?min( \d\d s)?", "TIME", (runs / "report.md").read_text()
            ).splitlines()
        )
        page = (runs / "report.html").read_text()
        figures.append(
            {
                n: base64.b64decode(x)
                for n, x in re.findall(r'<img alt="(.*?)" src="data:.*?,(.*?)"', page)
            }
        )
    found = [f"report.md: {a!r} and {b!r}" for a, b in zip(*tables, strict=False) if a != b]
    if len(tables[0]) != len(tables[1]) or not any(
        "undecided" in line or "reproduced" in line for line in tables[0]
    ):
        found.append("report.md: its length, or no verdicts")
    if not figures[0] or figures[0].keys() != figures[1].keys():
        found.append(f"report.html: figures {sorted(figures[0])} and {sorted(figures[1])}")
    return found + [
        f"report.html: {name}" for name in figures[0] if figures[0][name] != figures[1].get(name)
    ]


def _numbers(path: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if key not in VARYING} for line in read(path)
    ]


def check(folder: Path, table: Path, kills: int, seed: int, root: Path = ROOT) -> list[str]:
    """Run all three and print what happened; faults and differences."""
    undisturbed = Campaigns(folder / "undisturbed", table, root)
    seconds = undisturbed.whole()
    print(f"undisturbed: {seconds:.0f} s")
    stopped = Campaigns(folder / "stopped", table, root)
    stopped.stopped_after(seconds / 2)
    found = [f"stopped: {each}" for each in differences(undisturbed.runs, stopped.runs)]
    killed, start = Campaigns(folder / "killed", table, root), time.monotonic()
    met = list(killed.killed(kills, random.Random(seed)))
    look_up(met)
    print(
        f"killed {kills} times: {time.monotonic() - start:.0f} s; runs that were in training then:"
    )
    print(*met, sep="\n")
    found += [f"killed: {kill}" for kill in met if kill.fault]
    return found + [f"killed: {each}" for each in differences(undisturbed.runs, killed.runs)]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--table", type=Path, default=TABLE, help="TOML file of a campaign's runs")
    add("--kills", type=int, default=20)
    add("--seed", type=int, default=0, help="of the moments")
    add("--folder", type=Path, help="a new folder for all results (default: a temporary one)")
    add("--root", type=Path, default=ROOT, help="checkout whose experiments are run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        found = check(folder, options.table, options.kills, options.seed, options.root.resolve())
    print(
        *found or ["nothing differs, and nothing was lost but updates since the last checkpoints"],
        sep="\n",
    )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
