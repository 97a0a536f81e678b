"""A rule and a constraint are added to a copy of the library, each in one file; everything else is derived."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = """
from build_backend import native, toolchain
toolchain._CAPABILITY_PROBES.clear()  # one instruction set says what there is to say
native.build(native.Path.cwd(), "cpu")
"""
# What docs/rules.md adds, and a constraint.
INSTAR = """
def instar(H: Value, x: Value, y: Value) -> Value:
    return y * (x - H)


INCREMENTS["instar"] = instar


def fading(H: Value, change: Value, r: Value, c: float) -> Value:
    return 0.9 * H + change * torch.exp(-torch.abs(H))


CONSTRAINTS["fading"] = fading
"""


@pytest.mark.slow  # compiles the CPU's kernels
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_a_rule_and_a_constraint_are_one_file(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("plastikern", "csrc", "build_backend"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    definitions = tmp_path / "plastikern" / "rules" / "papers.py"
    definitions.write_text(definitions.read_text() + INSTAR)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "instar_none.h: written" in run("-m", "plastikern.rules")
    run("-c", BUILD)
    said = run("-m", "plastikern", "selftest", "--backend", "cpu", "--repeats", "0")
    assert "pass: 153 of 153 networks" in said
