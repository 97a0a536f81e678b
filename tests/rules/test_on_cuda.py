"""What NVRTC makes of a user's rule for a CUDA device, and which backend serves it; test_launches.py has what follows.

A CUDA build of torch brings NVRTC. Elsewhere a few lines stand in the compiler's place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plastikern import rule_sequence
from plastikern.rules import cuda, sequences
from plastikern.rules.compiling import CompilationError
from plastikern.rules.programs import Program

from .ten import RULES
from .test_ten_rules import drawn, of_use

SIZES = 7, 3, 20, 33
"""T, B, O, I."""


def has_nvrtc() -> bool:
    try:
        return bool(cuda.nvrtc())
    except CompilationError:
        return False


NVRTC = pytest.mark.skipif(not has_nvrtc(), reason="no NVRTC: a CUDA build of torch brings it")


def text(tag: str) -> str:
    return Program(RULES[tag], of_use(tag)).text


# What is compiled.


def test_a_device_gets_code_of_its_own_or_ptx() -> None:
    known = (75, 80, 86, 89, 90, 100, 120)
    found = [
        cuda.target(of, known) for of in ((7, 5), (8, 0), (8, 9), (9, 0), (10, 3), (12, 1), (13, 0))
    ]
    assert found == ["sm_75", "sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "compute_120"]


def test_a_device_older_than_nvrtc_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "nvrtc", lambda: ("13.0", (75, 80)))
    with pytest.raises(
        CompilationError, match=r"NVRTC 13\.0 compiles for .* 7\.5 and newer; the device has 7\.0"
    ):
        cuda.target((7, 0), (75, 80))


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A program in the place of the one that calls NVRTC, and a folder of compiled rules of its own."""
    monkeypatch.setenv("PLASTIKERN_CACHE", str(tmp_path / "compiled"))
    monkeypatch.setattr(cuda, "nvrtc", lambda: ("13.0", (90,)))
    cuda._compiled.cache_clear()

    def write(lines: str) -> Path:
        script = tmp_path / "nvrtc.py"
        script.write_text(lines)
        monkeypatch.setattr(cuda, "SCRIPT", script)
        return script

    yield write
    cuda._compiled.cache_clear()


COPIES = (
    "import sys, pathlib as p; p.Path(sys.argv[2]).write_bytes(p.Path(sys.argv[1]).read_bytes())"
)


def test_code_is_kept_for_the_next_process(compiler: Any) -> None:
    script = compiler(COPIES)
    assert cuda.compiled("text", "float", "sm_90") == b"text"
    script.write_text("raise SystemExit(1)")
    cuda._compiled.cache_clear()
    assert cuda.compiled("text", "float", "sm_90") == b"text"
    for other in (
        ("text", "double", "sm_90"),
        ("text", "float", "sm_80"),
        ("texts", "float", "sm_90"),
    ):
        with pytest.raises(CompilationError):
            cuda.compiled(*other)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("import sys; sys.exit('rule.cu(3): error: what is this')", r"failed: rule\.cu\(3\): error: what is this"),
        ("import os; os.kill(os.getpid(), 11)", "failed: it ended with -11"),
        ("", "failed: it ended with 0"),
    ],
)  # fmt: skip
def test_a_compiler_that_fails_or_crashes_is_one_error_and_is_not_asked_again(
    compiler: Any, lines: str, why: str
) -> None:
    script = compiler(lines)
    for _ in range(2):
        with pytest.raises(CompilationError, match=why):
            cuda.compiled("text", "float", "sm_90")
        script.write_text(COPIES)


@NVRTC
@pytest.mark.parametrize(
    ("tag", "scalar", "architecture"),
    [
        *(("A1", "float", f"sm_{each}") for each in (80, 86, 89, 100, 120)),
        ("A6", "double", "sm_90"), ("A9", "double", "sm_90"), ("A1", "float", "compute_90"),
    ],
)  # fmt: skip
def test_nvrtc_compiles_rules(tag: str, scalar: str, architecture: str) -> None:
    code = cuda.compiled(text(tag), scalar, architecture)
    assert code.startswith(b"\x7fELF" if architecture.startswith("sm") else b"//")
    for way in cuda.PASSES:
        assert f"plastikern_rule_{way}".encode() in code


@NVRTC
def test_registers_are_those_of_the_table() -> None:
    rule_kernels = pytest.importorskip("benchmarks.rule_kernels")
    version, table = rule_kernels.written()
    if cuda.nvrtc()[0] != version:
        pytest.skip(f"the table is of NVRTC {version}")
    of_a1 = cuda.used(text("A1"), "float", "sm_90")
    assert [*of_a1] == [*cuda.PASSES]
    assert " / ".join(str(one.registers) for one in of_a1.values()) == table["A1", "float"]["sm_90"]
    assert {one.stack for one in of_a1.values()} == {0}
    assert cuda.used(text("A1"), "float", "compute_90") == {}


@NVRTC
def test_an_error_of_nvrtc_names_the_line() -> None:
    with pytest.raises(
        CompilationError, match=r"rule\.cu\(2\): error: identifier \"nothing\" is undefined"
    ):
        cuda.compiled("int first;\nint second = nothing;", "float", "sm_90")


# Who serves.


def on(device: str, tag: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Arguments of ``rule_sequence``."""

    def moved(found: Any) -> Any:
        if isinstance(found, Tensor):
            return found.detach().to(device, dtype).requires_grad_()
        return (
            {name: moved(each) for name, each in found.items()}
            if isinstance(found, dict)
            else found
        )

    return {name: moved(each) for name, each in drawn(tag, SIZES).items()}


def test_backend_cuda_is_for_cuda_devices() -> None:
    given = on("cpu", "A3")
    with pytest.raises(
        ValueError, match="drive must be on a CUDA device for backend='cuda'; got cpu"
    ):
        rule_sequence(RULES["A3"], **given, backend="cuda")


def test_without_nvrtc_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise CompilationError("NVRTC is not to be had")

    monkeypatch.setattr(sequences.cuda, "code_for", missing)
    program, drive = Program(RULES["A3"], of_use("A3")), torch.zeros(1, 1, 1)
    pytest.importorskip("triton")
    with pytest.warns(UserWarning, match="A3 runs on triton: NVRTC is not to be had"):
        assert sequences._served(program, "cuda", drive, asked=False) == "triton"
    with pytest.raises(CompilationError, match="NVRTC is not to be had"):
        sequences._served(program, "cuda", drive, asked=True)
