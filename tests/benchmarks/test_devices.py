"""The benchmark of a GPU: on the emulated backend, and its clock on a GPU that is made up."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import needs_native

from benchmarks import __main__ as command
from benchmarks import accuracy, devices, pool, programs, variants
from benchmarks.devices import DEVICES, Cuda, Device
from benchmarks.pool import WorkerFailed, Workers, worker
from benchmarks.variants import parse
from benchmarks.worker import Worker
from benchmarks.workloads import small, workload_named

EMULATED = DEVICES["emulated"]
ROW_FIELDS = {
    "workload", "variant", "pass", "median_ms", "p20_ms", "p80_ms", "host_ms", "peak_bytes", "max_rel_error", "form",
    "device", "clock", "torch", "program", "compile_s", "samples",
}  # fmt: skip
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@needs_native
def test_the_benchmark_of_a_gpu_runs_on_the_emulated_backend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    arguments = [
        "--device",
        "emulated",
        "--workloads",
        "tiny,maze-act",
        "--repeats",
        "2",
        "--threads",
        "1",
    ]
    arguments += ["--variants", "plastikern-cuda-streaming,eager-graph", "--jsonl", str(path)]
    assert command.main(arguments) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    both = ("plastikern-cuda-streaming", "eager-graph")
    expected = [("tiny", which, name) for which in ("forward", "forward_backward") for name in both]
    assert [(row["workload"], row["pass"], row["variant"]) for row in rows] == [
        *expected, *(("maze-act", "forward", name) for name in both)
    ]  # fmt: skip
    for row in rows:
        assert row.keys() == ROW_FIELDS
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"] and row["host_ms"] > 0
        assert row["max_rel_error"] < accuracy.TOLERANCE and row["samples"] == 2
        assert row["form"] == ("streaming" if row["variant"] == both[0] else None)
        assert row["device"] == "emulated A100" and "says nothing about a GPU" in row["clock"]
    # The same process served both workloads, and nobody takes its table for figures of a GPU.
    shown = capsys.readouterr().out
    assert shown.count("says nothing about a GPU") == 3 and "FAILED" not in shown


@needs_native
@pytest.mark.parametrize("name", ["plastikern-cuda-graph", "eager-graph"])
def test_a_graph_is_checked_by_what_its_replays_give(name: str, tmp_path: Path) -> None:
    EMULATED.start()
    subject = Worker(workload_named("cue-reward"), parse(name), EMULATED)
    path = tmp_path / "truth.pt"
    subject.reference(str(path))
    assert subject.prepare("forward_backward", str(path))["max_rel_error"] < accuracy.TOLERANCE
    wrong = torch.load(path, weights_only=True)
    wrong["gradients"][-1] *= 1 + 1e-3
    torch.save(wrong, path)
    assert "is beyond" in subject.prepare("forward_backward", str(path))["failed"]


def test_the_truth_of_the_whole_batch_is_that_of_its_elements() -> None:
    workload = small(workload_named("maze"))
    one, whole = accuracy.reference(workload), accuracy.reference(workload, whole_batch=True)
    for name in ("output", "gradients"):
        torch.testing.assert_close(one[name], whole[name], rtol=1e-12, atol=1e-12)


@without_gpu
def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--device", "cuda"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("--device cuda: no CUDA device: torch ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_the_default_variants_are_known_and_not_refused(device: Device) -> None:
    for name in device.variants:
        assert parse(name).name == name
        assert device.refuses(parse(name)) is None


def test_what_needs_a_gpu_is_refused_on_the_cpu_and_jax_on_a_gpu() -> None:
    for name in ("eager-graph", "plastikern-cuda-graph", "plastikern-cuda-resident"):
        assert "--device cuda" in str(DEVICES["cpu"].refuses(parse(name)))
    assert "CPU" in str(DEVICES["cuda"].refuses(parse("jax")))


def test_a_form_is_asked_for_in_the_processes_of_its_variant_only() -> None:
    asked = parse("plastikern-cuda-cooperative-graph")
    assert (asked.backend, asked.form, asked.graph, asked.family) == (
        "cuda",
        "cooperative",
        True,
        "plastikern-graph",
    )
    assert asked.environment()[variants.FORM_VARIABLE] == "cooperative"
    assert parse("plastikern-cuda").environment().get(variants.FORM_VARIABLE) == os.environ.get(
        variants.FORM_VARIABLE
    )
    with pytest.raises(ValueError, match="variant must be one of"):
        parse("eager-resident")


class MadeUpGpu:
    """As much of torch.cuda as a clock needs; a call takes 3 ms of its time and 5 ms of the host's."""

    def __init__(self) -> None:
        self.now, self.host, self.log = 0.0, 0.0, [""]
        self.allocated = self.peak = 1000

    def call(self) -> str:
        self.now += 3.0
        self.host += 5e-3
        self.peak = max(self.peak, self.allocated + 70)
        self.log.append("call")
        return "result"

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def memory_allocated(self) -> int:
        return self.allocated

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.allocated

    def max_memory_allocated(self) -> int:
        return self.peak

    def Event(self, enable_timing: bool) -> Any:
        assert enable_timing
        return MadeUpEvent(self)


class MadeUpEvent:
    def __init__(self, gpu: MadeUpGpu) -> None:
        self.gpu = gpu

    def record(self) -> None:
        self.at = self.gpu.now

    def synchronize(self) -> None:
        self.gpu.log.append("end")

    def elapsed_time(self, end: MadeUpEvent) -> float:
        return end.at - self.at


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> MadeUpGpu:
    made_up = MadeUpGpu()
    monkeypatch.setattr(torch, "cuda", made_up)
    monkeypatch.setattr(devices.time, "perf_counter", lambda: made_up.host)
    return made_up


def test_a_gpu_is_timed_by_its_events(gpu: MadeUpGpu) -> None:
    assert Cuda().seconds(gpu.call, 4) == pytest.approx(3e-3)
    assert gpu.log[1:] == ["synchronize", *["call"] * 4, "end"]


def test_the_time_of_the_host_is_that_of_calls_that_find_the_device_idle(gpu: MadeUpGpu) -> None:
    assert Cuda().host_seconds(gpu.call) == pytest.approx(5e-3)
    calls = gpu.log.count("call")
    assert calls >= devices.HOST_SECONDS / 5e-3 - 1
    assert gpu.log[1:] == ["synchronize", "call"] * calls + ["synchronize"]


def test_peak_memory_is_counted_above_what_was_there(gpu: MadeUpGpu) -> None:
    gpu.peak = 99999
    assert Cuda().with_peak(gpu.call) == ("result", 70)


class Recording(Cuda):
    """What a program asks of a GPU, on the CPU."""

    place = "cpu"

    def __init__(self) -> None:
        self.held: list[torch.Tensor] = []
        self.begun = 0

    def hold(self, tensor: torch.Tensor) -> None:
        self.held.append(tensor)

    def begin_compiled(self) -> None:
        self.begun += 1


@pytest.mark.parametrize("kind", ["compile-step", "compile-chunk"])
def test_the_compiled_rivals_of_a_gpu_get_autotuning_and_graphs_that_copy_no_weights(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: list[dict[str, Any]] = []
    monkeypatch.setattr(
        torch, "compile", lambda function, **given: options.append(given) or function
    )
    recording = Recording()
    for program in programs.programs(parse(kind), workload_named("tiny"), recording).values():
        placed = program.place(workload_named("tiny").inputs())
        assert {id(tensor) for tensor in placed.parameters.values()} <= {
            id(tensor) for tensor in recording.held
        }
        before = recording.begun
        program.run(placed, "forward_backward")
        assert recording.begun == before + 1
    assert options and all(given == {"dynamic": False, "mode": "max-autotune"} for given in options)


def test_a_compiled_program_that_went_without_a_graph_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Skips(Recording):
        count = 0

        def facts(self) -> dict[str, Any]:
            return {}

        def skipped_graphs(self) -> int:
            self.count += 1
            return self.count

        seconds, with_peak, free_unused = Device.seconds, Device.with_peak, Device.free_unused

    monkeypatch.setattr(torch, "compile", lambda function, **given: function)
    subject = Worker(workload_named("tiny"), parse("compile-step"), Skips())
    subject.reference(str(tmp_path / "truth.pt"))
    assert "without all graphs" in subject.prepare("forward", str(tmp_path / "truth.pt"))["program"]


def test_lines_are_in_the_file_as_soon_as_they_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"earlier": 1}\n')
    with command._lines(path) as told:
        told({"workload": "tiny"})
        assert [json.loads(line) for line in path.read_text().splitlines()] == [
            {"earlier": 1},
            {"workload": "tiny"},
        ]


def test_a_process_that_hangs_is_ended(tmp_path: Path) -> None:
    with worker("tiny", parse("eager"), 1, tmp_path, limit=60.0) as process:
        process.ask("ready")
        os.kill(process.pid, signal.SIGSTOP)
        process._limit = 0.2
        start = time.monotonic()
        with pytest.raises(WorkerFailed, match=r"no answer within 0\.2 s"):
            process.ask("ready")
        assert time.monotonic() - start < 30


def test_a_process_is_kept_from_workload_to_workload_until_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    class Fake:
        failed = False

        def __init__(self, workload: str, *rest: Any, **options: Any) -> None:
            log.append(f"start {workload}")

        def ask(self, do: str, **arguments: Any) -> None:
            log.append(f"{do} {arguments}")

        def close(self) -> None:
            log.append("close")

    monkeypatch.setattr(pool, "WorkerProcess", Fake)
    with Workers(1, tmp_path, DEVICES["cuda"]) as workers:
        with workers.of("maze", parse("eager")):
            pass
        with workers.of("tiny", parse("eager")) as process:
            process.failed = True
        with workers.of("maze", parse("eager")):
            pass
    assert log == ["start maze", "begin {'workload': 'tiny'}", "close", "start maze", "close"]
    log.clear()
    with Workers(1, tmp_path, DEVICES["cpu"]) as workers:
        for name in ("maze", "tiny"):
            with workers.of(name, parse("eager")):
                pass
    assert log == ["start maze", "close", "start tiny", "close"]
