"""The quick face of the benchmarks, as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_cases_carry_error_memory_floor_and_ratio(tmp_path):
    pytest.importorskip("pytest_benchmark")
    report = tmp_path / "rows.json"
    command = [sys.executable, "-m", "pytest", "benchmarks", "-k", "tiny-forward_backward"]
    command += [
        "-p",
        "no:cacheprovider",
        "--benchmark-json",
        str(report),
        "--threads",
        "1",
        "--no-memory",
    ]
    command += ["--variants", "plastikern-reference,eager,plastikern-nonsense"]
    # A process of pytest-xdist measures nothing.
    environment = {n: value for n, value in os.environ.items() if "XDIST" not in n}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "must be one of" in done.stdout  # what is wrong with a backend that does not exist
    rival, ours = json.loads(report.read_text())["benchmarks"]
    assert rival["group"] == ours["group"] == "tiny, forward_backward"
    for case in (rival, ours):
        assert case["stats"]["median"] > 0 and case["stats"]["rounds"] >= 3
        assert 0 <= case["extra_info"]["max_rel_error"] < 1e-3
    told = ours["extra_info"]
    assert told["best_rival"] == "eager" and told["floor_ms"] > 0
    assert told["over_best_rival"] == pytest.approx(
        rival["stats"]["median"] / ours["stats"]["median"]
    )
