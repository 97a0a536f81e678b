"""A user's rule from ``rule_sequence`` to the driver, under a CUDA build of torch that believes in a card.

As test_cuda_chain.py: ``make test-cuda-build`` runs it, and no kernel runs. Tested is what is launched, with what and
where.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import pytest
import torch
from test_cuda_chain import STAND_IN, Record, compiled, elsewhere, record

from plastikern import PlasticLinear, PlasticLSTM, PlasticRNN, rule_sequence
from plastikern.rules import cuda, running
from plastikern.rules.compiling import CompilationError
from plastikern.rules.programs import VARIANTS
from plastikern.rules.sequences import serving

from .ten import RULES
from .test_on_cuda import SIZES, on

__all__ = ["record"]


def train(tag: str, device: str = "cuda:0", **further: Any) -> None:
    output, last = rule_sequence(RULES[tag], **on(device, tag), **further)
    torch.autograd.backward(
        [output, *last.values()], [torch.zeros_like(each) for each in (output, *last.values())]
    )


def train_module(module: Any) -> None:
    output, _ = module(torch.zeros(6, 3, 4, device="cuda:0"))
    output.sum().backward()


def bytes_behind(address: int) -> int:
    STAND_IN.stand_in_bytes_behind.restype = ctypes.c_int64
    return STAND_IN.stand_in_bytes_behind(ctypes.c_int64(address))


class Reach:
    """Whether all that a launch touches lies in memory that the device has handed out."""

    def __init__(self, given: Any, way: str) -> None:
        self.memory, self.way = bytes(given), way
        self.job = running._Job.from_buffer_copy(given)
        self.units = self.job.steps + 1 - self.job.read_after
        self.count = (1, self.job.posts, self.job.pres, self.job.posts * self.job.stride)
        self.seen = 0

    def at(self, kind: Any, address: int, count: int) -> Any:
        """An array behind the job."""
        return (kind * count).from_buffer_copy(self.memory, address - self.job.home)

    def holds(self, address: int, count: int) -> None:
        assert count == 0 or bytes_behind(address) >= 4 * count, (self.way, address, count)
        self.seen += 1

    def source(self, source: Any, count: int, last: int) -> None:
        if source.role in (0, 1) and source.base:  # memory and parity
            units = 1 if source.role == 1 else last + source.offset
            self.holds(
                source.base, units * source.step + (self.job.batch - 1) * source.batch + count
            )

    def binding(self, binding: Any, last: int) -> None:
        for level, (count, address) in enumerate(zip(binding.counts, binding.sources, strict=True)):
            for source in self.at(running._Source, address, count):
                self.source(source, self.count[level], last)
        for addition in self.at(running._Addition, binding.added, binding.additions):
            assert addition.slot < binding.counts[addition.level]
            self.source(addition.to, addition.count, last)

    def check(self) -> None:
        job = self.job
        if job.read_after:
            last = {"both": job.steps - 1}
        else:
            last = {"both": job.steps - 1, "read": 0, "change": job.steps}
        for name, binding in zip(VARIANTS, getattr(job, self.way), strict=True):
            if name in last:
                self.binding(binding, last[name])
        matrix, steps = job.posts * job.stride, job.steps * job.batch * job.posts
        whole = (
            {"drive", "z", "y"}
            if self.way == "forward"
            else {"z", "y", "grad_y", "grad_z", "grad_drive"}
        )
        for name in whole:
            self.holds(getattr(job, name), steps)
        room = (job.slots + job.sums) * job.width + (job.every + 1) * job.states * matrix
        self.holds(job.work, job.workers * room)
        if self.way == "forward":
            for address in self.at(ctypes.c_int64, job.state, job.states):
                self.holds(address, job.batch * matrix)
        else:
            self.binding(job.again, job.steps - 1 - job.read_after + job.ahead)
            self.holds(job.totals_of, job.workers * job.totals)
            kept = (job.steps - 1) // job.every
            for address in self.at(ctypes.c_int64, job.checkpoint, job.states):
                self.holds(address, kept * job.batch * matrix)
        for address in self.at(ctypes.c_int64, job.first, job.states):
            self.holds(address, job.batch * job.posts * job.pres)


def check_reach(tags: list[str]) -> None:
    """Of the launches of rules; torch must not keep memory, whose blocks would be larger than what was asked for."""
    launch = cuda.launch

    def checked(text: str, scalar: str, way: str, device: Any, given: Any, *more: Any) -> None:
        reach = Reach(given, way)
        reach.check()
        assert reach.seen > 10
        launch(text, scalar, way, device, given, *more)

    running.cuda.launch = checked  # type: ignore[assignment]
    for tag in tags:
        train(tag)
        print(tag)


@pytest.mark.parametrize("tag", RULES)
def test_every_rule_gets_to_its_launches_with_what_it_was_given(
    record: Record, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, str, int]] = []
    launch = cuda.launch

    def noted(text: str, scalar: str, way: str, device: Any, packed: Any, *more: Any) -> None:
        given.append((f"plastikern_rule_{way}", bytes(packed).hex(), more[-1]))
        launch(text, scalar, way, device, packed, *more)

    monkeypatch.setattr(running.cuda, "launch", noted)
    train(tag)
    launches = record.launches()
    assert [(one["kernel"], one["argument"], one["shared"]) for one in launches] == given
    assert len(given) == 2
    for one in launches:
        assert one["grid"] == [SIZES[1], 1, 1] and one["block"] == [cuda.THREADS, 1, 1]
        assert (one["error"], one["architecture"], one["ptx"]) == (0, 90, 0)
        assert one["stream"] == 0 and one["shared"] <= one["allowed_shared"]


@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM, PlasticLinear])
@pytest.mark.parametrize("backend", [None, "cuda"])
def test_a_compiled_module_under_a_rule_gets_to_the_same_launches(
    record: Record, kind: Any, backend: str | None
) -> None:
    use = RULES["A3"].use(eta="post")
    module = kind(4, SIZES[2], plasticity=use, backend=backend, device="cuda:0")
    found = []
    for way in (module, compiled(module)):
        record.take()
        train_module(way)
        found.append([
            (one["kernel"], one["grid"], one["block"], one["shared"], one["error"])
            for one in record.launches()
        ])  # fmt: skip
    of_calls, of_compiled = found
    assert [kernel for kernel, *_ in of_calls] == [f"plastikern_rule_{way}" for way in cuda.PASSES]
    assert of_compiled == of_calls
    record.take()
    with torch.no_grad():
        compiled(module)(torch.zeros(6, 3, 4, device="cuda:0"))
    assert [one["kernel"] for one in record.launches()] == ["plastikern_rule_forward"]


def test_all_that_a_launch_touches_lies_in_memory_of_the_device() -> None:
    program = "from rules.test_launches import check_reach; from rules.ten import RULES; check_reach([*RULES])"
    done = elsewhere(program, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    assert done.stdout.split() == [*RULES], done.stdout + done.stderr[-3000:]


def test_a_rule_is_launched_on_the_current_stream_of_its_device() -> None:
    program = """
from rules.test_launches import train
record, stream = Record(), torch.cuda.Stream(1)
train("A3", "cuda:1")
record.take()
with torch.cuda.stream(stream):
    train("A3", "cuda:1")
launches = record.launches()
assert len(launches) == 2 and torch.cuda.current_device() == 0
assert {(one["stream"], one["device"], one["error"]) for one in launches} == {(stream.cuda_stream, 1, 0)}
"""
    done = elsewhere(program, cards="H100,H100")
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_pass_of_a_rule_is_captured(record: Record) -> None:
    given = on("cuda", "A3")
    leaves = [given["drive"], given["pre"]]

    def pass_() -> None:
        output, _ = rule_sequence(RULES["A3"], **given)
        torch.autograd.grad(output.sum(), leaves)

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        for _ in range(3):
            pass_()
    record.take()
    with torch.cuda.graph(graph, stream=stream):
        pass_()
    events = record.take()
    assert not [event for event in events if event.get("refused") == "captured"]
    launches = [event for event in events if "plastikern" in event.get("kernel", "")]
    assert [one["captured"] for one in launches] == [1, 1]


def test_a_host_thread_that_was_never_on_the_device_launches(record: Record) -> None:
    given, failed = on("cuda", "A3"), []

    def work() -> None:
        try:
            rule_sequence(RULES["A3"], **given)
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed and len(record.launches()) == 1


def test_an_error_of_the_driver_is_one_clear_error_and_the_next_call_works(
    record: Record,
) -> None:
    train("A3")
    record.order("launch of plastikern", 701)
    with pytest.raises(RuntimeError, match=r"the launch of a rule's forward pass: .*701"):
        train("A3")
    record.take()
    train("A3")
    assert [one["error"] for one in record.launches()] == [0, 0]


def test_where_nvrtc_is_missing_triton_is_launched(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise CompilationError("NVRTC is not to be had")

    monkeypatch.setattr(cuda, "nvrtc", missing)
    with pytest.warns(UserWarning, match="A3 runs on triton: NVRTC is not to be had"):
        train("A3")
    kernels = [event["kernel"] for event in record.take() if event["call"] == "launch"]
    assert sum(kernel in ("forward_both", "backward_both") for kernel in kernels) == 2 * (
        SIZES[0] - 1
    )
    with pytest.raises(CompilationError, match="NVRTC is not to be had"):
        train("A3", backend="cuda")
    found = serving(RULES["A3"], torch.device("cuda"), None)
    assert found.backend == "triton" and found.said.startswith("triton, ")
    assert found.said.endswith("not by cuda: NVRTC is not to be had")


@pytest.mark.parametrize(("card", "architecture"), [("T4", 75), ("A100", 80), ("B200", 100)])
def test_other_cards_get_code_of_their_own(card: str, architecture: int) -> None:
    program = f"""
from rules.test_launches import train
train("A3")
assert {{(one["architecture"], one["ptx"], one["error"]) for one in Record().launches()}} == {{({architecture}, 0, 0)}}
"""
    done = elsewhere(program, card)
    assert done.returncode == 0, done.stderr[-3000:]
