"""The Triton backend without a GPU: kernels run under the interpreter, and are compiled for every target."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Case

import plastikern
from benchmarks import triton_resources
from benchmarks.triton_resources import compiled, configurations, launches, resources
from plastikern import Plasticity
from plastikern.network import Network

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="the package triton is not installed")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
TESTS = Path(__file__).parent


def interpreted(*arguments: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS / "triton_interpreted.py"]
    done = subprocess.run([*command, *arguments], env=environment, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@needs_triton
def test_kernels_under_the_interpreter_equal_the_reference() -> None:
    interpreted("-m", "not slow")


@needs_triton
@pytest.mark.slow
def test_kernels_under_the_interpreter_equal_the_reference_in_all_combinations() -> None:
    interpreted("-m", "slow")


def test_importing_the_package_imports_no_kernel() -> None:
    text = (
        "import sys, plastikern; plastikern.build_info(); print([m for m in sys.modules if 'plastikern.triton' in m])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(plastikern.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@without_gpu
def test_without_a_gpu_the_backend_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = Case()
    with pytest.raises(RuntimeError, match=r"'triton' cannot serve this call: .*(no GPU|not installed)"):
        case.sequence(case.inputs(), "triton")
    assert "not available" in plastikern.build_info()["backends"]["triton"]


@without_gpu
def test_the_interpreter_serves_only_who_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert plastikern.backends.select(None, torch.zeros(1)) != "triton"
    assert find_spec("triton") is None or plastikern.backends.select("triton", torch.zeros(1)) == "triton"


class Kernel:
    """Notes how it is launched."""

    def __init__(self) -> None:
        self.launches: list[tuple[tuple[int, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **constants: self.launches.append((grid, constants))


@needs_triton
@pytest.mark.parametrize("autotune", ["0", None])
def test_autotuning_can_be_switched_off(autotune: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from plastikern.triton import launch

    monkeypatch.delenv(launch.AUTOTUNE, raising=False)
    if autotune is not None:
        monkeypatch.setenv(launch.AUTOTUNE, autotune)
    (options,) = {found.constants["network"] for found in launches(Network("rnn", Plasticity()), 64)}
    fixed, tuned = Kernel(), Kernel()
    monkeypatch.setattr(launch, "_tuned", lambda kernel, candidates: tuned)
    launch.launch(fixed, (3,), (), options, tunable=True, POSTS=64)
    launch.launch(fixed, (5,), (), options, tunable=False, POSTS=64)
    assert [grid for grid, _ in fixed.launches] == ([(3,), (5,)] if autotune == "0" else [(5,)])
    assert [grid for grid, _ in tuned.launches] == ([] if autotune == "0" else [(3,)])


@needs_triton
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_kernels_of_a_single_step_compile_without_a_gpu_and_spill_nothing(target: str) -> None:
    # Numbers that are 1 become constants of a kernel, unless it asks to be spared that.
    found = launches(Network("rnn", Plasticity()), 32, steps=1, batch=1)
    defaults = {launch.kernel.__name__: launch for launch in reversed(found)}
    assert defaults.keys() == {"plastic_sequence_forward", "plastic_sequence_backward", "plastic_alpha_gradient"}
    for launch in defaults.values():
        registers, spills, _ = resources(compiled(launch, target), target)
        assert registers > 16 and spills == 0


@needs_triton
def test_the_page_has_every_configuration_that_the_library_may_choose() -> None:
    _, table = triton_resources.written()
    assert [line for workload in triton_resources.WORKLOADS for line, _ in configurations(workload)] == list(table)


def test_default_configurations_spill_nothing_but_a_few_values_on_one_target() -> None:
    _, table = triton_resources.written()
    assert all(tuple(cells) == triton_resources.TARGETS for cells in table.values())
    defaults = {line: cells for line, cells in table.items() if not line.warps.startswith("(")}
    assert len(defaults) > 50
    spilled = [
        (line, target, cell) for line, cells in defaults.items() for target, cell in cells.items() if "(" in cell
    ]
    # What docs/kernels-triton.md says of 128 neurons with eligibility traces.
    assert {(line.network, line.kernel, target) for line, target, _ in spilled} == {
        (network, "`plastic_sequence_forward`", "sm_120") for network in ("rnn, retroactive", "lstm, retroactive")
    }
    assert all(int(re.findall(r"\((\d+) spilled", cell)[0]) <= 24 for _, _, cell in spilled)


def test_a_kernel_that_changed_is_found() -> None:
    line = triton_resources.Line("rnn", "128", "`kernel`", "ROWS=16", "4")
    known = {line: {"sm_80": triton_resources.cell(64, 0, 512)}}
    assert triton_resources.differences(known, known) == []
    changed = {line: {"sm_80": triton_resources.cell(64, 8, 512)}}
    assert changed[line]["sm_80"] == "64 / 512 **(8 spilled)**"
    assert len(triton_resources.differences(changed, known)) == len(triton_resources.differences(changed, {})) == 1


@needs_triton
@pytest.mark.slow
def test_the_kernels_are_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert triton_resources.main(["--check"]) == 0, capsys.readouterr().out
