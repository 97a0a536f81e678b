"""Users' rules on Triton kernels, under Triton's interpreter.

It is chosen before Triton is imported, so in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNTS = {
    "test_ten_rules.py": {"not slow": 4, "slow": 9 + 40 + 10},
    "test_neurons.py": {"not slow": 13, "slow": 30},
    "test_masked.py": {"not slow": 3, "slow": 0},
}
"""Interpreted tests that each file has."""


@pytest.mark.parametrize("chosen", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_interpreted_rules_equal_the_reference(chosen: str) -> None:
    pytest.importorskip("triton")
    files = [str(Path(__file__).with_name(name)) for name in COUNTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", chosen, "-k", "interpreted", *files],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    passed = [line for line in done.stdout.splitlines() if "::" in line and " PASSED" in line]
    found = {name: sum(name in line for line in passed) for name in COUNTS}
    assert found == {name: count[chosen] for name, count in COUNTS.items()}, done.stdout[-3000:]
    assert done.returncode == 0, done.stdout[-3000:]
