"""The Triton backend without a GPU: kernels run under the interpreter, and are compiled for every target."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VARIANTS, Case, each_variant

import plastikern
from benchmarks import triton_resources
from benchmarks.triton_resources import compiled, configurations, launches, resources
from plastikern import Plasticity, backends
from plastikern.program import program_of

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="the package triton is not installed"
)


def no_interpreter() -> str | None:
    """Why Triton's interpreter cannot run kernels here."""
    if find_spec("triton") is None:
        return "the package triton is not installed"
    versions = backends._triton_version() or "", metadata.version("numpy")
    triton, numpy = (tuple(map(int, re.findall(r"\d+", version)[:2])) for version in versions)
    # It makes integers of arrays of one value.
    return (
        "the interpreter of Triton 3.6 needs numpy below 2.4"
        if () < triton < (3, 7) and numpy >= (2, 4)
        else None
    )


needs_interpreter = pytest.mark.skipif(no_interpreter() is not None, reason=str(no_interpreter()))
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
TESTS = Path(__file__).parent


def interpreted(*arguments: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        TESTS / "triton_interpreted.py",
    ]
    done = subprocess.run(
        [*command, *arguments], env=environment, cwd=TESTS.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@needs_interpreter
def test_kernels_under_the_interpreter_equal_the_reference() -> None:
    interpreted("-m", "not slow")


@needs_interpreter
@pytest.mark.slow
def test_kernels_under_the_interpreter_equal_the_reference_in_all_combinations() -> None:
    interpreted("-m", "slow")


def test_importing_the_package_imports_no_kernel() -> None:
    text = (
        "import sys, plastikern; plastikern.build_info(); "
        "print([m for m in sys.modules if 'plastikern.triton' in m])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(plastikern.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@without_gpu
def test_without_a_gpu_the_backend_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = Case()
    with pytest.raises(
        RuntimeError, match=r"'triton' cannot serve this call: .*(no GPU|not installed)"
    ):
        case.sequence(case.inputs(), "triton")
    assert "not available" in plastikern.build_info()["backends"]["triton"]


@without_gpu
def test_the_interpreter_serves_only_who_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert plastikern.backends.select(None, torch.zeros(1)) != "triton"
    assert (
        find_spec("triton") is None
        or plastikern.backends.select("triton", torch.zeros(1)) == "triton"
    )


def recorded_launches(
    case: Case,
    monkeypatch: pytest.MonkeyPatch,
    form: str = "one launch",
    dtype: torch.dtype = torch.float64,
) -> list[Any]:
    """What a case would launch, forward and backward."""
    from plastikern.triton import launch

    monkeypatch.setattr(backends, "select", lambda requested, tensor: requested)
    if form == "steps":
        monkeypatch.setattr(launch, "RESIDENT_BYTES", 0)
    inputs = case.inputs(dtype)
    with launch.recorded() as found:
        outputs = case.sequence(inputs, "triton").values()
        torch.autograd.backward(list(outputs), [torch.ones_like(tensor) for tensor in outputs])
    return found


class Kernel:
    """Notes how it is launched."""

    def __init__(self) -> None:
        self.launches: list[tuple[tuple[int, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **constants: self.launches.append((grid, constants))


@needs_triton
@pytest.mark.parametrize("autotune", ["0", None, "1"])
def test_nothing_is_timed_unless_somebody_asks_for_it(
    autotune: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plastikern.triton import launch

    monkeypatch.delenv(launch.AUTOTUNE, raising=False)
    if autotune is not None:
        monkeypatch.setenv(launch.AUTOTUNE, autotune)
    (options,) = {
        found.constants["network"]
        for found in launches(program_of("benchmark", "rnn", Plasticity()), 64)
    }
    fixed, tuned = Kernel(), Kernel()
    monkeypatch.setattr(launch, "_tuned", lambda kernel, candidates: tuned)
    launch.launch(fixed, (3,), (), options, tunable=True, POSTS=64)
    launch.launch(fixed, (5,), (), options, tunable=False, POSTS=64)
    assert [grid for grid, _ in fixed.launches] == ([(5,)] if autotune == "1" else [(3,), (5,)])
    assert [grid for grid, _ in tuned.launches] == ([(3,)] if autotune == "1" else [])


CONFIGURATIONS = """
import sys
from triton.runtime.jit import JITFunction
from benchmarks.triton_resources import WORKLOADS, calls

found = set()

def launch(kernel, *arguments, grid, warmup, num_warps, network, **blocks):
    blocks = {name: value for name, value in blocks.items() if name.isupper()}
    found.add(str((kernel.__name__, network.kind, network.posts, sorted(blocks.items()), num_warps)))

JITFunction.run = launch
for batch in map(int, sys.argv[1:]):
    for workload in ("rnn", "lstm, retroactive", "linear"):
        calls(WORKLOADS[workload].network, 100, batch=batch)
        calls(WORKLOADS[workload].network, 200, batch=batch)
print("\\n".join(sorted(found)))
"""


@needs_triton
def test_two_processes_take_the_same_configurations_whatever_sizes_come_first() -> None:
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    for variable in ("PLASTIKERN_AUTOTUNE", "TRITON_INTERPRET"):
        environment.pop(variable, None)
    command = [sys.executable, "-c", CONFIGURATIONS]
    runs = [
        subprocess.Popen([*command, *sizes], env=environment, stdout=subprocess.PIPE, text=True)
        for sizes in (("2", "7"), ("7", "2"))
    ]
    first, second = (run.communicate()[0].splitlines() for run in runs)
    assert first == second and {run.returncode for run in runs} == {0}
    # Each kernel of each network and size once: numbers of warps do not depend on the batch.
    kernels = [line.rsplit(",", 1)[0] for line in first]
    assert len(kernels) == len(set(kernels)) > 20


def integers(arguments: tuple[Any, ...], inside: bool = False) -> Iterator[int]:
    """Numbers in tuples of arguments."""
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from integers(argument, inside=True)
        elif inside and isinstance(argument, int):
            yield argument


@needs_triton
@each_variant
@pytest.mark.parametrize("batch_first", [False, True])
def test_no_tuple_has_an_integer_1_which_triton_makes_a_constant_and_may_lose(
    case: Case, batch_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = set()
    for steps, batch, neurons in ((3, 2, 5), (3, 1, 1), (1, 3, 1)):
        changed = replace(
            case, steps=steps, batch=batch, neurons=neurons, batch_first=batch_first, lengths=None
        )
        for launch in recorded_launches(changed, monkeypatch):
            numbers |= set(integers(launch.arguments))
    assert numbers and 1 not in numbers


GRID = (2**31 - 1, 65_535, 65_535)
"""Most programs that a device runs along each axis (CUDA C++ Programming Guide, compute capabilities)."""


@needs_triton
@pytest.mark.parametrize("form", ["one launch", "steps"])
@pytest.mark.parametrize("name", ["rnn-simple-fan-out", "lstm-simple", "linear"])
def test_a_batch_of_70000_stays_within_the_limits_of_the_grid(
    name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = replace(
        VARIANTS[name],
        steps=2,
        batch=70_000,
        neurons=2,
        features=2,
        lengths=None,
        checkpoint_every=2,
    )
    found = recorded_launches(case, monkeypatch, form)
    assert len(found) > 2 and all(
        70_000 in launch.grid for launch in found if "alpha" not in launch.kernel.__name__
    )
    for launch in found:
        assert all(size <= most for size, most in zip(launch.grid, GRID, strict=False)), launch.grid


@needs_triton
def test_programs_of_a_step_lie_on_the_axis_that_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(VARIANTS["rnn-simple-fan-out"], steps=2, batch=3, neurons=5, lengths=None)
    monkeypatch.setattr("plastikern.triton.launch.TILE_BYTES", 64)
    grids = {
        launch.kernel.__name__: launch.grid
        for launch in recorded_launches(case, monkeypatch, "steps")
    }
    # A row of 8 a program.
    assert grids["plastic_step_forward"] == grids["plastic_step_synapses_backward"] == (5 * 3,)


@pytest.mark.parametrize(
    "version, served", [("3.5.1", False), ("2.3.1", False), ("3.6.0", True), ("4.0.0+git1", True)]
)
def test_a_triton_that_is_too_old_is_refused_by_name(
    version: str, served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_TRITON", version)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    reason = backends.FUSED["triton"].missing()
    assert (reason is None) == served
    if reason is not None:
        assert (
            "\n" not in reason
            and f"triton {version} is installed, and the kernels need 3.6 or newer" in reason
        )
        with pytest.raises(
            RuntimeError, match=rf"backend 'triton' cannot serve this call: triton {version}"
        ):
            backends.select("triton", torch.zeros(1))
    # Where nobody asks for it by name, the next one serves.
    next_one = backends.FUSED["cpu"]._replace(missing=lambda: None)
    listed = {"triton": backends.FUSED["triton"]._replace(device="cpu"), "cpu": next_one}
    monkeypatch.setattr(backends, "FUSED", listed)
    assert backends.select(None, torch.zeros(1)) == ("triton" if served else "cpu")


def test_the_version_of_triton_is_known_without_importing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> str:
        if name == "triton":
            raise metadata.PackageNotFoundError
        return {"pytorch-triton-rocm": "3.5.1"}[name]

    if find_spec("triton") is not None:
        assert backends._triton_version() == metadata.version("triton")
        monkeypatch.setattr(backends.metadata, "version", absent)
        monkeypatch.setattr(
            backends.metadata, "packages_distributions", lambda: {"triton": ["pytorch-triton-rocm"]}
        )
        assert backends._triton_version() == "3.5.1"
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert backends._triton_version() is None


@needs_triton
@pytest.mark.slow
@each_variant
@pytest.mark.parametrize("target", ["sm_90"])
def test_every_network_compiles_in_either_form(
    case: Case, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = {}
    for form in ("one launch", "steps"):
        changed = replace(case, steps=3, batch=1, lengths=(2,), checkpoint_every=2)
        for launch in recorded_launches(changed, monkeypatch, form, torch.float32):
            kernels.setdefault(launch.kernel.__name__, launch)
    assert len(kernels) >= 6
    for launch in kernels.values():
        assert resources(compiled(launch, target), target)[0] > 0


@needs_triton
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_kernels_of_a_single_step_compile_without_a_gpu_and_spill_nothing(target: str) -> None:
    # Numbers that are 1 become constants of a kernel, unless it asks to be spared that.
    found = launches(program_of("benchmark", "rnn", Plasticity()), 32, steps=1, batch=1)
    defaults = {launch.kernel.__name__: launch for launch in reversed(found)}
    assert defaults.keys() == {
        "plastic_sequence_forward",
        "plastic_sequence_backward",
        "plastic_alpha_gradient",
    }
    for launch in defaults.values():
        registers, spills, _ = resources(compiled(launch, target), target)
        assert registers > 16 and spills == 0


@needs_triton
def test_kernels_are_compiled_again_where_a_printed_function_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from plastikern.triton import generated, vocabulary

    folder = Path(generated.__file__).parent
    shutil.copytree(folder, tmp_path / "generated")
    monkeypatch.setattr(generated, "__file__", str(tmp_path / "generated" / "__init__.py"))
    assert vocabulary._digest() == vocabulary.TEXT
    (tmp_path / "generated" / "reads.py").write_text("# something else")
    assert vocabulary._digest() != vocabulary.TEXT
    launch = launches(program_of("benchmark", "rnn", Plasticity()), 16)[-1]
    options = launch.constants["network"]
    assert options.text == vocabulary.TEXT
    changed = {**launch.constants, "network": replace(options, text=vocabulary._digest())}
    found = {compiled(each, "sm_90").hash for each in (launch, launch._replace(constants=changed))}
    assert len(found) == 2


@needs_triton
def test_the_page_has_every_configuration_that_the_library_may_choose() -> None:
    _, table = triton_resources.written()
    assert [
        line for workload in triton_resources.ALL for line, _ in configurations(workload)
    ] == list(table)


def test_default_configurations_spill_nothing_but_a_few_values_on_two_targets() -> None:
    _, table = triton_resources.written()
    assert all(tuple(cells) == triton_resources.TARGETS for cells in table.values())
    defaults = {line: cells for line, cells in table.items() if not line.warps.startswith("(")}
    assert len(defaults) > 50
    spilled = [
        (line, target, cell)
        for line, cells in defaults.items()
        for target, cell in cells.items()
        if "(" in cell
    ]
    # What docs/kernels-triton.md says of 128 neurons.
    assert {(line.network, line.kernel, target) for line, target, _ in spilled} == {
        ("rnn", "`plastic_alpha_gradient`", "sm_100"),
        ("lstm, simple", "`plastic_alpha_gradient`", "sm_100"),
        ("rnn, retroactive", "`plastic_sequence_forward`", "sm_100"),
        ("rnn, retroactive", "`plastic_sequence_forward`", "sm_120"),
        ("lstm, retroactive", "`plastic_sequence_forward`", "sm_120"),
        ("rule A4", "`backward_read`", "sm_90"),
    }
    assert all(int(re.findall(r"\((\d+) spilled", cell)[0]) <= 24 for _, _, cell in spilled)


def test_a_kernel_that_changed_is_found() -> None:
    line = triton_resources.Line("rnn", "128", "`kernel`", "ROWS=16", "4")
    known = {line: {"sm_80": triton_resources.cell(64, 0, 512)}}
    assert triton_resources.differences(known, known) == []
    changed = {line: {"sm_80": triton_resources.cell(64, 8, 512)}}
    assert changed[line]["sm_80"] == "64 / 512 **(8 spilled)**"
    assert (
        len(triton_resources.differences(changed, known))
        == len(triton_resources.differences(changed, {}))
        == 1
    )


@needs_triton
@pytest.mark.slow
def test_the_kernels_are_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert triton_resources.main(["--check"]) == 0, capsys.readouterr().out
