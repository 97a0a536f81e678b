"""What is learned does not depend on the number of processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.__main__ import EXPERIMENTS
from experiments.common import parallel
from experiments.common.cli import main
from experiments.common.config import ExperimentError
from experiments.common.metrics import read

ROOT = Path(__file__).parents[2]
TINY = [
    "maze", "--preset", "code2", "--net", "retroactive", "--threads", "1", "--episodes", "20", "--set", "batch=4",
    "steps=12", "hidden=6", "burn_in=0", "log_every=1", "evaluation_episodes=8", "evaluate_every=2", "scale=0.3",
    "learning_rate=0.003", "size=3",
]  # fmt: skip


def launch(processes, *arguments):
    """The same command in processes of their own."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, "-m", "experiments", *TINY, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def numbers(out):
    skipped = ("kind", "seconds", "seconds_per_episode", "update_share")
    return [
        {key: value for key, value in line.items() if key not in skipped}
        for line in read(out / "seed-0" / "metrics.jsonl")[1:]
    ]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    out = tmp_path_factory.mktemp("single")
    threads = torch.get_num_threads()
    assert main(EXPERIMENTS, [*TINY, "--out", str(out)]) == 0
    torch.set_num_threads(threads)
    return out


def state(out):
    return torch.load(out / "seed-0" / "checkpoint.pt", weights_only=True)


def test_two_processes_learn_what_one_learns(single, tmp_path):
    finished = launch(2, "--out", str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("result of 1 seed") == 1, "one process reports"
    assert "in each of 2 processes" in finished.stdout
    header = read(tmp_path / "seed-0" / "metrics.jsonl")[0]
    assert header["command"].startswith(
        "torchrun --nproc-per-node 2 -m experiments maze --preset code2"
    )
    for ours, theirs in zip(numbers(tmp_path), numbers(single), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    weights, expected = state(tmp_path), state(single)
    torch.testing.assert_close(weights["model"], expected["model"], rtol=1e-4, atol=1e-6)
    # The optimiser's averages are sums of gradients.
    for found, wanted in zip(
        weights["optimizer"]["state"].values(), expected["optimizer"]["state"].values(), strict=True
    ):
        assert float(wanted["exp_avg"].abs().max()) > 0
        torch.testing.assert_close(found["exp_avg"], wanted["exp_avg"], rtol=1e-3, atol=1e-7)


def test_a_batch_is_shared_out_whole_or_refused(monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        shares += range(12)[parallel.share(12)]
    assert shares == list(range(12))
    with pytest.raises(
        ExperimentError, match="batch must be a multiple of the number of processes, 3; got 10"
    ):
        parallel.share(10)
