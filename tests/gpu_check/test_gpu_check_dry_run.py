"""The programs of the stages themselves, with the emulator in the place of a card."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plastikern.gpu_check.results import read
from plastikern.gpu_check.setup import ROOT

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def check(out: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    command = [
        sys.executable,
        str(ROOT / "plastikern" / "gpu_check"),
        "--dry-run",
        "--out",
        str(out),
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert "results: " in done.stdout, done.stderr
    (records,) = read(out / "results.jsonl")
    return done.returncode, records


def of(records: list[dict[str, Any]], stage: str) -> list[dict[str, Any]]:
    return [record for record in records if record["record"] == "fact" and record["stage"] == stage]


def test_constants_are_measured_with_the_emulator_in_the_place_of_a_card(tmp_path: Path) -> None:
    status, records = check(tmp_path, "--only", "build,constants")
    assert status == 0, records
    measured = {fact["constant"] for fact in of(records, "constants") if "constant" in fact}
    assert measured == {
        "clock", "barrier of threads", "barrier of blocks", "polling", "shared memory", "launch", "second-level cache",
        "device's memory",
    }  # fmt: skip
    assert "the emulator has no clusters" in [fact.get("note") for fact in of(records, "constants")]


@pytest.mark.slow
def test_every_stage_that_needs_no_card_is_well(tmp_path: Path) -> None:
    status, records = check(tmp_path)
    outcomes = records[-1]["outcomes"]
    assert status == 0, [record for record in records if record["record"] == "end"]
    skipped = {name for name, outcome in outcomes.items() if outcome == "skipped"}
    assert skipped <= {"ncu", "compute-sanitizer"}, "their tools may be missing, and nothing else"
    smoke = of(records, "smoke")
    assert {(fact["form"], fact["scalar"]) for fact in smoke} == {
        (form, scalar)
        for form in ("resident", "cooperative", "streaming")
        for scalar in ("float", "double")
    }
    assert all(fact["networks"] > 10 and fact["wrong"] == 0 for fact in smoke)
    assert {fact["step"] for fact in of(records, "parity") if fact["tests"]["passed"] > 0} == {
        "resident", "cooperative", "streaming",
    }  # fmt: skip
    for stage in ("timing", "rival"):
        assert any("median_ms" in fact for fact in of(records, stage)), stage
    assert json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])["dry_run"]


@pytest.mark.slow
def test_programs_for_cards_are_built_without_torch_and_say_that_there_is_none(
    tmp_path: Path,
) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    subprocess.run([sys.executable, "-m", "build_backend.programs"], cwd=ROOT, check=True)
    for name in ("smoke", "smoke-double", "constants"):
        program = ROOT / "build" / "gpu-check" / "card" / name
        libraries = subprocess.run(
            ["ldd", str(program)], capture_output=True, text=True, check=True
        ).stdout
        assert "torch" not in libraries and "libcuda" not in libraries
        done = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 77 or done.returncode == 0
        if done.returncode == 77:
            assert json.loads(done.stdout)["skip"].startswith("no CUDA device: ")
