"""A rule and a constraint are added to a copy of the library, each in one file; everything else is derived."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_triton import needs_interpreter

ROOT = Path(__file__).parents[2]
BUILD = """
import shutil
from build_backend import native, toolchain
toolchain._CAPABILITY_PROBES.clear()  # one instruction set says what there is to say
shutil.copy(native.build(native.Path.cwd(), "cpu"), "plastikern")
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


# Sums over a row inside the change: one after another where rule and constraint go together.
ROWS = """
from .operations import over_pre


def centred(H: Value, x: Value, y: Value) -> Value:
    change = y * (x - 0.5 * H)
    return change - torch.tanh(over_pre(change * torch.sigmoid(H))) * x


INCREMENTS["centred"] = centred


def unit_rows(H: Value, change: Value, r: Value, c: float) -> Value:
    after = 0.9 * H + change
    return after / torch.sqrt(over_pre(after * after) + 1)


CONSTRAINTS["unit_rows"] = unit_rows
"""


# Infinite where x is 0, and where a row is: there kernels compute more than the synapses there are.
SINGULAR = """
from .operations import over_pre


def surprise(H: Value, x: Value, y: Value) -> Value:
    return y * torch.log(torch.abs(x)) - H


INCREMENTS["surprise"] = surprise


def normed(H: Value, change: Value, r: Value, c: float) -> Value:
    after = H + change
    return after / torch.sqrt(over_pre(after * after))


CONSTRAINTS["normed"] = normed
"""


UNARY = (
    "torch.tanh({})", "torch.sigmoid({})", "torch.exp(torch.clamp({}, -2, 1))", "torch.abs({})",
    "torch.relu({})", "torch.sign({})", "torch.clamp({}, -0.5, 1)", "torch.log1p(torch.pow({}, 2))",
    "torch.sqrt(1 + torch.pow({}, 2))",
)  # fmt: skip
BINARY = (
    "({} + {})", "({} - {})", "({} * {})", "torch.maximum({}, {})", "({} / (1 + torch.pow({}, 2)))",
    "torch.where({} < 0.1, {}, H)",
)  # fmt: skip


def drawn(seed: int) -> str:
    """A random increment: some bounded function of H, x and y."""
    generator = random.Random(seed)

    def expression(depth: int) -> str:
        if depth == 0:
            return generator.choice(["H", "x", "y", "(0.5 - x)", "(2 * y)"])
        if generator.random() < 0.4:
            return generator.choice(UNARY).format(expression(depth - 1))
        return generator.choice(BINARY).format(expression(depth - 1), expression(depth - 1))

    name = f"drawn{seed}"
    return f"""

def {name}(H: Value, x: Value, y: Value) -> Value:
    return torch.tanh({expression(3)} + x * y)


INCREMENTS["{name}"] = {name}
"""


FREE = """

paired = go_together


def go_together(rule: str, constraint: str) -> bool:
    return paired(rule, constraint) and ("drawn" not in rule or constraint == "none")
"""


class Copy:
    """A copy of the library and its tests, with more definitions; ``built`` with the CPU's kernels."""

    def __init__(self, folder: Path, definitions: str, built: bool = True) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        for name in ("plastikern", "csrc", "build_backend", "benchmarks", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        papers = folder / "plastikern" / "rules" / "papers.py"
        papers.write_text(papers.read_text() + definitions)
        self.written = self.run("-m", "plastikern.rules")
        if built:
            self.run("-c", BUILD)

    def tested(self, tests: str, which: str, interpreted: str = "") -> str:
        """What pytest says of the tests of that name in a file."""
        return self.run(
            "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", f"tests/{tests}", "-k", which,
            TRITON_INTERPRET=interpreted,
        )  # fmt: skip

    def run(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(self.folder), **environment},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
        return done.stdout


@pytest.mark.slow  # compiles the CPU's kernels
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_a_rule_and_a_constraint_are_one_file(tmp_path: Path) -> None:
    copy = Copy(tmp_path, INSTAR)
    assert "instar_none.h: written" in copy.written
    said = copy.run("-m", "plastikern", "selftest", "--backend", "cpu", "--repeats", "0")
    assert "pass: 153 of 153 networks" in said


@pytest.mark.slow  # compiles the CPU's and the emulated CUDA kernels
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_twelve_random_rules_are_whole_kernels_on_every_backend(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "".join(map(drawn, range(12))) + FREE)
    for tests, cases, interpreted in (
        ("test_parity.py", 72, ""), ("test_cuda_parity.py", 108, ""), ("triton_interpreted.py", 72, "1"),
    ):  # fmt: skip
        said = copy.tested(tests, "drawn and not single_precision", interpreted)
        assert f"{cases} passed" in said


@pytest.mark.slow  # compiles the CPU's and the emulated CUDA kernels
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_sums_over_a_row_inside_the_change_are_whole_kernels_on_every_backend(
    tmp_path: Path,
) -> None:
    copy = Copy(tmp_path, ROWS)
    for tests, cases, interpreted in (
        ("test_parity.py", 96, ""),
        ("test_cuda_parity.py", 72, ""),
        ("rules/sums_inside.py", 265, ""),
        ("triton_interpreted.py", 48, "1"),
        ("rules/sums_inside_interpreted.py", 113, "1"),
    ):
        # Sums of several numbers are not exact: no trace comes to lie on its bound.
        said = copy.tested(tests, "(centred or unit_rows) and not exactly", interpreted)
        assert f"{cases} passed" in said, said[-300:]


@pytest.mark.slow  # the interpreter takes a minute
@needs_interpreter
def test_a_change_may_be_infinite_where_no_synapse_is(tmp_path: Path) -> None:
    copy = Copy(tmp_path, SINGULAR, built=False)
    said = copy.tested("rules/sums_inside_interpreted.py", "surprise or normed", "1")
    assert "16 passed" in said, said[-300:]
