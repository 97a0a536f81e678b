"""Kernels of rules under the sanitizers: what is right is clean, and mistakes that are planted in them are found.

All of it is slow: a rule takes g++ half a minute. ``make sanitize`` runs all ten rules.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .sanitized import CACHE, KINDS, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="libraries are loaded first as Linux does it"),
]  # fmt: skip


def run(kind: str, tag: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.rules.sanitized", kind, tag]
    known = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=ROOT, env=known, capture_output=True, text=True, check=False, timeout=1800
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_is_clean_on_both_kernels(kind: str) -> None:
    done = run(kind, "A9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "A9 cpu\nA9 emulated\nrules: nothing is reported" in done.stdout


@pytest.mark.parametrize(
    ("kind", "tag", "path", "old", "new", "reported"),
    [
        pytest.param(
            "thread", "A9", "cuda/rule.cuh",
            "        __syncthreads();\n        int first_sum = 0;", "        int first_sum = 0;",
            "ThreadSanitizer: data race", id="sums of warps are used before all warps have them",
        ),
        pytest.param(
            "thread", "A9", "cpu/team.h", "body(Team{rank, threads, &meeting})", "body(Team{0, threads, &meeting})",
            "ThreadSanitizer: data race", id="two threads have the same elements",
        ),
        pytest.param(
            "address", "A5", "rule.h", "((changes / job.every - 1) * job.batch + b)",
            "((changes / job.every) * job.batch + b)", "AddressSanitizer: heap-buffer-overflow",
            id="a checkpoint has the place of the next one",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_reported(
    tmp_path: Path, kind: str, tag: str, path: str, old: str, new: str, reported: str
) -> None:
    copy = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", copy)
    right = (copy / path).read_text()
    assert right.count(old) == 1, f"{path} has changed: the mistake needs another place"
    (copy / path).write_text(right.replace(old, new))
    found_first = f"g++ -I{copy} -I{copy / 'cpu'}"
    done = run(kind, tag, CXX=found_first, **{CACHE: str(tmp_path / "rules")})
    assert done.returncode != 0
    assert reported in done.stderr, done.stdout + done.stderr[-3000:]
