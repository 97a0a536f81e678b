"""The benchmark as a user runs it: processes, protocol, checks and report, on the tiny workload."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import accuracy, memory, variants
from benchmarks.pool import WorkerFailed, worker
from benchmarks.worker import Worker
from benchmarks.workloads import PASSES, workload_named

ROW_FIELDS = {
    "workload", "variant", "pass", "median_ms", "p20_ms", "p80_ms", "peak_bytes", "compile_s", "max_rel_error",
    "host_ms", "form", "device", "clock", "torch",
}  # fmt: skip


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("benchmarks") / "tiny.pt"
    torch.save(accuracy.reference(workload_named("tiny")), path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> SimpleNamespace:
    """One whole run with a stand-in for the fused library, and a backend that does not exist."""
    path = tmp_path_factory.mktemp("benchmarks") / "report.json"
    arguments = [
        "--workloads",
        "tiny",
        "--variants",
        "plastikern-reference,plastikern-nonsense,eager-recycled",
    ]
    arguments += ["--repeats", "3", "--threads", "1", "--no-memory", "--json", str(path)]
    with contextlib.redirect_stdout(io.StringIO()) as table:
        status = command.main(arguments)
    return SimpleNamespace(
        status=status, table=table.getvalue(), report=json.loads(path.read_text())
    )


def test_report_has_one_row_per_workload_variant_and_pass(run):
    rows = run.report["rows"]
    expected = [(v, p) for v in ("plastikern-reference", "eager-recycled") for p in PASSES]
    assert sorted((row["variant"], row["pass"]) for row in rows) == sorted(expected)
    for row in rows:
        assert row.keys() >= ROW_FIELDS
        assert row["workload"] == "tiny"
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["max_rel_error"] < accuracy.TOLERANCE
        assert row["compile_s"] == 0
        assert row["samples"] == 3
        assert row["peak_bytes"] is None and row["host_ms"] is None and row["form"] is None
        assert (row["device"], row["clock"], row["torch"]) == (
            "cpu",
            "wall clock",
            torch.__version__,
        )


def test_report_tells_machine_bandwidth_floors_and_ratios(run):
    report = run.report
    assert report["machine"]["threads"] == 1
    assert report["machine"]["torch"] == torch.__version__
    assert report["bandwidth"]["tiny"].keys() == {"forward", "backward"}
    assert all(
        probe["gb_per_s"] > 0 and probe["probe"] for probe in report["bandwidth"]["tiny"].values()
    )
    assert [floor["kernel"] for floor in report["floors"]] == ["forward", "backward"]
    assert all(ratio["best_rival"] == "eager-recycled" for ratio in report["ratios"])


def test_variant_that_makes_no_sense_for_a_workload_is_left_out_and_said(
    monkeypatch, tmp_path, capsys
):
    acting = dataclasses.replace(workload_named("maze-act"), batch=2, steps=4, neurons=5)
    # Without a variant that has something to do no more than the reference and the probe run.
    monkeypatch.setitem(command.WORKLOADS, "maze-act", acting)
    path = tmp_path / "report.json"
    arguments = [
        "--workloads",
        "maze-act",
        "--variants",
        "compile-chunk,compile-chunk-recycled",
        "--repeats",
        "1",
    ]
    assert command.main([*arguments, "--threads", "1", "--no-memory", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert not report["failures"] and not report["rows"]
    assert report["left_out"].keys() == {
        "compile-chunk on maze-act",
        "compile-chunk-recycled on maze-act",
    }
    assert "left out compile-chunk on maze-act: each step" in capsys.readouterr().out


def test_table_shows_every_variant_and_what_failed(run):
    for name in ("plastikern-reference", "eager-recycled", "floor ms", "best PyTorch rival"):
        assert name in run.table
    assert "FAILED plastikern-nonsense on tiny, forward:" in run.table


def test_variant_of_the_library_that_cannot_run_is_reported_and_fails_the_run(run):
    assert run.status == 1
    failures = run.report["failures"]
    assert {(failure["variant"], failure["pass"]) for failure in failures} == {
        ("plastikern-nonsense", p) for p in PASSES
    }
    assert all("nonsense" in failure["reason"] for failure in failures)


@pytest.mark.parametrize("which", PASSES)
def test_variant_that_is_wrong_is_refused(which, truth, tmp_path):
    wrong = torch.load(truth, weights_only=True)
    worst = wrong["output" if which == "forward" else "gradients"][-1]
    worst *= 1 + 1e-3
    path = tmp_path / "wrong.pt"
    torch.save(wrong, path)
    eager = Worker(workload_named("tiny"), variants.parse("eager"))
    answer = eager.prepare(which, str(path))
    assert answer.keys() == {"failed"}
    assert "error 1.0e-03 is beyond" in answer["failed"]
    assert eager.prepare(which, str(truth))["max_rel_error"] < accuracy.TOLERANCE


def test_error_of_nan_or_of_another_shape_is_never_accepted():
    truth = [torch.ones(3, dtype=torch.float64), torch.ones(2, dtype=torch.float64)]
    broken = accuracy.max_rel_error([torch.tensor([1.0, float("nan"), 1.0]), torch.ones(2)], truth)
    assert not broken <= accuracy.TOLERANCE
    with pytest.raises(ValueError, match="shape"):
        accuracy.max_rel_error([torch.ones(3), torch.ones(1)], truth)
    assert accuracy.max_rel_error([torch.tensor([1.0, 1.5, 1.0]), torch.ones(2)], truth) == 0.5


def test_reference_is_the_gradient_of_the_whole_batch(truth):
    workload = workload_named("tiny")
    inputs = workload.inputs().map(torch.Tensor.double)
    for tensor in inputs.differentiated():
        tensor.requires_grad_()
    output, _ = workload.library(inputs.parameters, inputs.state, inputs.drives, "reference")
    gradients = torch.autograd.grad(output, inputs.differentiated(), inputs.upstream)
    saved = torch.load(truth, weights_only=True)
    torch.testing.assert_close([output.detach()], saved["output"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(list(gradients), saved["gradients"], rtol=1e-12, atol=1e-12)


def test_worker_measures_memory_answers_errors_and_is_missed_when_it_dies(tmp_path):
    with worker("tiny", variants.parse("eager"), 1, tmp_path) as process:
        peak = process.ask("memory", which="forward_backward", program="addcmul")["peak_bytes"]
        assert peak is None or 0 <= peak < 100 * 2**20
        with pytest.raises(WorkerFailed, match="KeyError: 'no such program'"):
            process.ask("memory", which="forward", program="no such program")
        assert process.ask("ready")["threads"] == 1
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(WorkerFailed, match=f"ended with status {-signal.SIGKILL}"):
            process.ask("ready")


def test_recycled_variant_runs_with_its_own_environment(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    assert variants.parse("eager-recycled").environment().items() >= variants.RECYCLING.items()
    assert not variants.RECYCLING.keys() & variants.parse("eager").environment().keys()


@pytest.mark.parametrize("name", ["plastikern-", "compile", "recycled", "eager-recycled-recycled"])
def test_unknown_variant_is_refused(name, capsys):
    with pytest.raises(SystemExit):
        command.main(["--variants", name])
    assert "variant must be one of" in capsys.readouterr().err


def test_absent_jax_is_left_out_and_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(variants.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(command, "measure", lambda workload, plan, workers, say, told: {
        "rows": [], "failures": [], "floors": [], "left_out": {},
        "bandwidth": {"asked": [v.name for v in plan.variants]},
    })  # fmt: skip
    monkeypatch.setattr(command, "render", lambda report: str(report["left_out"]))
    path = tmp_path / "report.json"
    assert (
        command.main(["--workloads", "tiny", "--variants", "eager,jax", "--json", str(path)]) == 0
    )
    report = json.loads(path.read_text())
    assert report["left_out"] == {"jax": "jax is not installed"}
    assert report["bandwidth"]["tiny"]["asked"] == ["eager"]


@pytest.mark.skipif(not memory.CLEAR_REFS.exists(), reason="peak memory is measured on Linux only")
def test_added_peak_memory_counts_what_is_freed_again_and_what_is_returned():
    size = 2**24  # 64 MiB of fp32

    def call() -> torch.Tensor:
        kept = torch.ones(size)
        return kept + (kept + kept).sum()

    torch.ones(3 * size)
    _, added = memory.with_added_peak(call)
    assert added is not None and 125 < added / 2**20 < 200
    assert memory.with_added_peak(lambda: None)[1] < 8 * 2**20
