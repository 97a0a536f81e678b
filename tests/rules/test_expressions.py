"""What is derived of a rule equals torch's autograd of its function, on every backend's arithmetic."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from plastikern.rules.adjoint import level
from plastikern.rules.operations import COMPARISONS, FUNCTIONS, SUMS, evaluate
from plastikern.rules.printers import computed
from plastikern.rules.schedule import Schedule
from plastikern.rules.symbols import Symbol, leaf, walk

from .derived import by_autograd, derived, given_to
from .printed import leaves_of, packed, reduced, run_cpp, triton_text
from .random_rules import random_rule

SEEDS = range(320)


@pytest.fixture(scope="module")
def values() -> dict[int, dict[str, Tensor]]:
    return {seed: given_to(random_rule(seed), seed) for seed in SEEDS}


@pytest.fixture(scope="module")
def expected(values: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
    return {seed: by_autograd(random_rule(seed), values[seed]) for seed in SEEDS}


@pytest.fixture(scope="module")
def rules() -> dict[int, dict[str, Symbol]]:
    return {seed: derived(random_rule(seed)) for seed in SEEDS}


def check(found: dict[int, dict[str, Tensor]], expected: dict[int, dict[str, Tensor]]) -> None:
    """Equal to 1e-10, of values of all sizes; a gradient that is left out is zero."""
    assert set(found) == set(expected)
    for seed, wanted in expected.items():
        for name, value in wanted.items():
            ours = found[seed].get(name, torch.zeros((), dtype=value.dtype))
            error = (ours - value).abs().max() / (1 + value.abs().max())
            assert error < 1e-10, f"rule {seed}, {name}: {error}"


def test_the_random_rules_have_every_operation_several_states_and_sums() -> None:
    operations: set[str] = set()
    sums = []
    for seed in SEEDS:
        rule = random_rule(seed)
        after = rule.function({name: leaf(name, kind) for name, kind in rule.kinds.items()})
        found = [symbol.operation for symbol in walk(after.values())]
        operations |= {*found}
        sums.append(sum(operation in SUMS for operation in found))
    assert {*FUNCTIONS} <= operations
    assert {len(random_rule(seed).states) for seed in SEEDS} == {1, 2, 3, 4}
    assert min(sums.count(count) for count in (0, 1, 2)) > 50


def test_values_and_adjoints_are_those_of_autograd(
    rules: dict[int, dict[str, Symbol]], values: dict[int, dict[str, Tensor]],
    expected: dict[int, dict[str, Tensor]],
) -> None:  # fmt: skip
    check({seed: evaluate(rules[seed], values[seed]) for seed in SEEDS}, expected)


def test_printed_cpp_computes_them(
    rules: dict[int, dict[str, Symbol]], values: dict[int, dict[str, Tensor]],
    expected: dict[int, dict[str, Tensor]], tmp_path: Path,
) -> None:  # fmt: skip
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    check(run_cpp(rules, values, tmp_path), expected)


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_printed_triton_computes_them(
    every: int, rules: dict[int, dict[str, Symbol]], values: dict[int, dict[str, Tensor]],
    expected: dict[int, dict[str, Tensor]], tmp_path: Path,
) -> None:  # fmt: skip
    pytest.importorskip("triton")
    rules, expected = ({seed: of[seed] for seed in SEEDS[::every]} for of in (rules, expected))
    (tmp_path / "printed.py").write_text(triton_text(rules))
    given = {
        seed: (packed(leaves_of(outputs), values[seed]), len(outputs))
        for seed, outputs in rules.items()
    }
    torch.save(given, tmp_path / "given.pt")
    paths = [str(tmp_path / name) for name in ("printed.py", "given.pt", "found.pt")]
    script = Path(__file__).with_name("interpreted.py")
    subprocess.run([sys.executable, str(script), *paths], check=True)
    results = torch.load(tmp_path / "found.pt")
    found = {
        seed: {
            name: reduced(results[seed][:, place], symbol)
            for place, (name, symbol) in enumerate(outputs.items())
        }
        for seed, outputs in rules.items()
    }
    check(found, expected)


def test_a_stage_computes_nothing_that_a_lower_level_could(
    rules: dict[int, dict[str, Symbol]],
) -> None:
    for outputs in rules.values():
        for stage in Schedule(outputs).parts:
            for symbol in computed(stage):
                # A comparison is no value that could be handed on.
                if symbol.arguments and symbol.operation not in COMPARISONS:
                    assert level(symbol) == stage.level
