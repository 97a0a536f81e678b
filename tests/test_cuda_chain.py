"""The chain from Python to the launch, under a CUDA build of torch that believes in a card (cuda_stand_in/stand_in.h).

``make test-cuda-build`` runs it. No value is right, since no kernel runs. What is tested is what is launched, with what
and where, and what becomes of errors that a driver reports.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VARIANTS, Case, each_variant, run

import plastikern
from plastikern import Plasticity, PlasticLSTM, PlasticRNN, PlasticRNNCell, library, selftest

STAND_IN = ctypes.CDLL(None)
if not hasattr(STAND_IN, "stand_in_take"):
    pytest.skip("no stand-in for the driver: make test-cuda-build", allow_module_level=True)
if not any(name.startswith("9.0") for name in library.info()["cuda_architectures"]):
    pytest.skip(
        "the library was not built for 9.0, the card of the stand-in", allow_module_level=True
    )
GPU_BACKENDS = ("cuda", "triton")
CLIPPED = Plasticity(modulation="simple", constraint="clip")
SHARED = 0x38C00
"""Bytes of shared memory that a block of an H100 may opt in to: 227 KiB."""
OURS = "launch of plastikern"
"""What an error is ordered for that torch's own kernels are not to have."""
Event = dict[str, Any]
Way = Callable[[Any], Any]


class Record:
    """What was asked of the stand-in since the last look."""

    def take(self) -> list[Event]:
        STAND_IN.stand_in_take.restype = ctypes.c_char_p
        return [json.loads(line) for line in STAND_IN.stand_in_take().decode().splitlines()]

    def launches(self) -> list[Event]:
        """Those of this library; torch's are none of its business."""
        return [event for event in self.take() if is_ours(event)]

    def order(self, call: str, error: int, times: int = 1, sticky: bool = False) -> None:
        STAND_IN.stand_in_fault(call.encode(), error, times, sticky)


def is_ours(event: Event) -> bool:
    kernel = event.get("kernel", "")
    return event["call"] == "launch" and ("plastikern" in kernel or kernel.startswith("plastic_"))


@pytest.fixture
def record() -> Iterator[Record]:
    STAND_IN.stand_in_reset()
    yield Record()
    STAND_IN.stand_in_reset()


def network(
    kind: type = PlasticRNN, size: int = 40, backend: str | None = "cuda", device: str = "cuda:0"
) -> Any:
    return kind(4, size, plasticity=CLIPPED, backend=backend, device=device)


def compiled(module: Any) -> Any:
    return torch.compile(module, fullgraph=True, backend="aot_eager")


each_way = pytest.mark.parametrize(
    "way", [lambda module: module, compiled], ids=["called", "compiled"]
)


def train(module: Any, batch: int = 3, steps: int = 6, **further: Any) -> None:
    device = next(module.parameters()).device
    output, _ = module(torch.zeros(steps, batch, 4, device=device), **further)
    output.sum().backward()


def checked(launches: list[Event], device: int = 0, architecture: int = 90) -> list[Event]:
    """That there are some, and each is one that the card takes, with the code that was built for it."""
    assert launches
    for launch in launches:
        assert launch["error"] == 0 and launch["device"] == device, launch
        assert (launch["architecture"], launch["ptx"]) == (architecture, 0), launch
        assert launch["shared"] <= launch["allowed_shared"] <= SHARED, launch
    return launches


def elsewhere(
    program: str, cards: str = "H100", **environment: str
) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, with other cards."""
    known = {**os.environ, "STAND_IN_CARDS": cards, **environment}
    # Ended at once: while the interpreter ends, torch 2.14 sometimes aborts in a thread of autograd.
    end = "sys.stdout.flush()\nos._exit(0)"
    command = [sys.executable, "-c", f"from test_cuda_chain import *\n{program}\n{end}"]
    # Not where plastikern's own folder is, whose library is linked to the static runtime.
    folder = Path(__file__).parent
    return subprocess.run(
        command, cwd=folder, env=known, capture_output=True, text=True, check=False
    )


# What is launched.


@pytest.mark.parametrize("backend", GPU_BACKENDS)
@each_variant
def test_every_network_and_pass_gets_to_its_launches(
    record: Record, case: Case, backend: str
) -> None:
    for neurons in (5, 150):
        run(replace(case, neurons=neurons, device="cuda:0"), backend, torch.float32)
        launches = checked(record.launches())
        assert len({launch["kernel"] for launch in launches}) >= 2, "of both passes"
        assert {launch["stream"] for launch in launches} == {0}


@pytest.mark.parametrize("form", ["resident", "cooperative", "streaming"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["rnn-retroactive", "lstm-simple", "linear-clip"])
def test_every_form_is_launched_as_it_is_planned(
    record: Record, name: str, dtype: torch.dtype, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASTIKERN_CUDA_FORM", form)
    case = replace(VARIANTS[name], neurons=60, device="cuda:0")
    run(case, "cuda", dtype)
    passes = [launch for launch in checked(record.launches()) if "sum" not in launch["kernel"]]
    assert {launch["cooperative"] for launch in passes} == {int(form == "cooperative")}
    assert form == "streaming" or all(launch["shared"] for launch in passes)
    assert len(passes) == (2 if form != "streaming" else 2 * case.steps + 3)


def test_all_networks_of_the_selftest_are_served_without_being_named(record: Record) -> None:
    for name, module, input in selftest.cases():
        selftest.train(module.cuda(), input.cuda())
        assert any("plastikern" in launch["kernel"] for launch in checked(record.launches())), name


@pytest.mark.parametrize("backend", [None, *GPU_BACKENDS])
def test_a_compiled_network_gets_to_the_same_launches(record: Record, backend: str | None) -> None:
    module = network(backend=backend)
    train(module)
    kernels = [launch["kernel"] for launch in checked(record.launches())]
    for _ in range(2):
        record.take()
        compiled(module)(torch.zeros(6, 3, 4, device="cuda"))[0].sum().backward()
        assert [launch["kernel"] for launch in checked(record.launches())] == kernels


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_half_precision_and_steps_are_launched(record: Record, backend: str) -> None:
    cell = PlasticRNNCell(4, 40, plasticity=CLIPPED, backend=backend, device="cuda")
    with torch.inference_mode():
        cell(torch.zeros(3, 4, device="cuda"))
    checked(record.launches())
    with torch.autocast("cuda", torch.bfloat16):
        output, _ = network(backend=backend)(torch.zeros(6, 3, 4, device="cuda"))
    output.sum().backward()
    checked(record.launches())


@pytest.mark.parametrize("form", ["", "resident", "cooperative"])
def test_networks_of_every_size_fit_the_card(
    record: Record, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASTIKERN_CUDA_FORM", form)
    for size, batch in ((120, 30), (180, 30), (240, 3), (330, 1), (1001, 1), (1025, 8)):
        train(network(size=size), batch, 3)
        checked(record.launches())


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_work_goes_to_the_current_stream_of_the_tensors_device(
    record: Record, backend: str
) -> None:
    module, stream = network(backend=backend), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        train(module, lengths=[6, 4, 1])
    events = record.take()
    launches = checked([event for event in events if is_ours(event)])
    assert {launch["stream"] for launch in launches} == {stream.cuda_stream}
    memory = [event for event in events if event["call"] in ("cudaMemsetAsync", "cudaMemcpyAsync")]
    assert {event["stream"] for event in memory} == {stream.cuda_stream}
    train(module)
    assert {launch["stream"] for launch in checked(record.launches())} == {0}


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_tensors_of_the_second_card_are_served_there(backend: str) -> None:
    done = elsewhere(
        f"""
train(network(size=150, backend={backend!r}))
record, module = Record(), network(size=150, backend={backend!r}, device="cuda:1")
record.take()
train(module, lengths=[6, 2, 1])
assert torch.cuda.current_device() == 0
checked(record.launches(), device=1)
stream = torch.cuda.Stream(1)
with torch.cuda.stream(stream):
    train(module)
assert {{launch["stream"] for launch in checked(record.launches(), device=1)}} == {{stream.cuda_stream}}
""",
        cards="H100,H100",
        PLASTIKERN_CUDA_FORM="resident",  # which needs more shared memory than a kernel has unasked
    )
    assert done.returncode == 0, done.stderr


def test_host_threads_on_streams_of_their_own_do_not_disturb_each_other(record: Record) -> None:
    def work(index: int) -> set[int]:
        module, stream = network(size=(8, 40, 100, 160)[index]), torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(20):
                train(module)
        return {stream.cuda_stream}

    with ThreadPoolExecutor(4) as pool:
        streams = set().union(*pool.map(work, range(4)))
    launches = checked(record.launches())
    assert {launch["stream"] for launch in launches} == streams
    assert {launch["allowed_shared"] for launch in launches if launch["shared"]} == {SHARED}


def test_shared_memory_is_allowed_once_and_memory_is_not_asked_for_again(record: Record) -> None:
    module = network()
    for _ in range(3):
        train(module)
    record.take()
    for _ in range(3):
        train(module)
    calls = {event["call"] for event in record.take()}
    assert not calls & {
        "cudaFuncSetAttribute",
        "cudaMalloc",
        "cudaHostAlloc",
        "cudaDeviceSynchronize",
    }


@each_way
@pytest.mark.parametrize("backend", GPU_BACKENDS)
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM])
def test_lengths_come_without_waiting_for_the_device(
    record: Record, kind: type, backend: str, way: Way
) -> None:
    module = way(network(kind, backend=backend))
    train(module, lengths=torch.tensor([6, 4, 1]))
    record.take()
    train(module, lengths=torch.tensor([6, 4, 2]))
    events = record.take()
    copies = [
        event for event in events if event["call"].startswith("cudaMemcpy") and event["of_host"]
    ]
    lengths = [event for event in copies if event["bytes"] == 3 * 8]
    assert lengths and not any(event.get("waits") for event in events if "Memcpy" in event["call"])
    assert not [event for event in events if event["call"].endswith("Synchronize")]


def test_triton_launches_nothing_to_time_it(record: Record) -> None:
    train(network(backend="triton"))
    kernels = [launch["kernel"] for launch in record.launches()]
    assert kernels == [
        "plastic_sequence_forward",
        "plastic_sequence_backward",
        "plastic_alpha_gradient",
    ]


def test_a_batch_beyond_any_grid_axis_is_launched(record: Record) -> None:
    for backend in GPU_BACKENDS:
        for size in (3, 130 if backend == "triton" else 40):
            with torch.inference_mode():
                network(size=size, backend=backend)(torch.zeros(1, 70_000, 4, device="cuda"))
            checked(record.launches())


# What a graph captures.


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_a_call_and_its_backward_pass_are_captured(record: Record, backend: str) -> None:
    module = network(backend=backend)
    input = torch.zeros(6, 3, 4, device="cuda")
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(input)[0].sum().backward()
    record.take()
    with torch.cuda.graph(graph, stream=stream):
        module(input)[0].sum().backward()
    events = record.take()
    launches = checked([event for event in events if is_ours(event)])
    assert all(launch["captured"] for launch in launches)
    assert not [event for event in events if event.get("refused") == "captured"]
    assert not [
        event
        for event in events
        if event.get("captured") == 0 and event["call"].startswith("cudaMem")
    ]
    graph.replay()
    (replayed,) = (event for event in record.take() if event["call"] == "cudaGraphLaunch")
    assert replayed["nodes"] >= len(launches)


@each_way
def test_lengths_are_refused_by_name_while_a_graph_is_captured(record: Record, way: Way) -> None:
    module, input, lengths = (
        way(network()),
        torch.zeros(6, 3, 4, device="cuda"),
        torch.tensor([6, 4, 1]),
    )
    module(input, lengths=lengths)
    with (
        pytest.raises(RuntimeError, match="lengths are copied from the host"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        module(input, lengths=lengths)
    record.take()
    train(module, lengths=lengths)
    checked(record.launches())


def test_triton_replays_what_comes_again_as_a_graph(record: Record) -> None:
    module, input = network(size=300, backend="triton"), torch.zeros(6, 3, 4, device="cuda")
    with torch.inference_mode():
        for _ in range(3):
            module(input)
        record.take()
        module(input)
    calls = [
        event["call"]
        for event in record.take()
        if event["call"] == "cudaGraphLaunch" or is_ours(event)
    ]
    assert calls == ["cudaGraphLaunch"]


# Which card, which code.


@pytest.mark.parametrize("card, reason", [("T4", "has 7.5"), ("A100", "has 8.0")])
def test_a_card_without_code_is_served_by_the_next_backend(card: str, reason: str) -> None:
    if library.info()["cuda_architectures"] != ["9.0+PTX"]:
        pytest.skip("the library was built for other cards")
    done = elsewhere("from plastikern.__main__ import main; main([])", card)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("device cuda:0"))
    assert (
        line.startswith(
            "device cuda:0: served by triton; not by cuda: the native library has code for"
        )
        and reason in line
    )
    named = elsewhere("PlasticRNN(4, 8, backend='cuda').cuda()(torch.zeros(2, 1, 4).cuda())", card)
    refusal = (
        f"RuntimeError: backend 'cuda' cannot serve this call: {line.partition('not by cuda: ')[2]}"
    )
    assert named.returncode != 0 and refusal in named.stderr


def test_a_newer_card_runs_what_its_driver_makes_of_the_ptx() -> None:
    done = elsewhere(
        """
train(network())
assert {(launch["architecture"], launch["ptx"], launch["error"]) for launch in Record().launches()} == {(90, 1, 0)}
""",
        "B200",
    )
    assert done.returncode == 0, done.stderr


def test_explain_describes_the_card_that_is_there() -> None:
    text = plastikern.explain(network(), 30, 200)
    assert text.startswith("PlasticRNN on H100") and "runs on compute capability 9.0" in text


# What a driver reports.


def test_a_refused_cooperative_launch_is_planned_again(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASTIKERN_CUDA_FORM", "cooperative")
    STAND_IN.stand_in_limit_processors(4)
    train(network(size=300))
    launches = record.launches()
    assert [launch["cooperative"] for launch in launches if launch["error"] == 720] == [1, 1], (
        "one a pass"
    )
    assert not any(launch["cooperative"] for launch in launches if launch["error"] == 0)
    assert {launch["error"] for launch in launches} == {0, 720}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (209, r"no kernel image .*this build has no code for compute capability 9\.0"),
        (701, "launch: too many resources"),
        (1, "launch: invalid argument"),
    ],
)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_an_error_of_a_launch_is_one_clear_error_and_the_next_call_works(
    record: Record, direction: str, error: int, text: str
) -> None:
    module = network()
    output, _ = module(torch.zeros(6, 3, 4, device="cuda"))
    record.order(OURS, error)
    with pytest.raises(RuntimeError, match=text):
        if direction == "forward":
            module(torch.zeros(6, 3, 4, device="cuda"))
        else:
            output.sum().backward()
    record.take()
    train(module)
    checked(record.launches())


def test_want_of_memory_is_torchs_error_and_the_next_call_works(record: Record) -> None:
    torch.cuda.empty_cache()
    module, input = network(size=600), torch.zeros(60, 30, 4, device="cuda")
    record.order("cudaMalloc", 2, 100)
    with pytest.raises(torch.OutOfMemoryError, match=r"out of memory.*Tried to allocate"):
        module(input)
    STAND_IN.stand_in_reset()
    train(module)
    checked(record.launches())


def test_an_error_that_stays_is_told_from_an_error_of_the_call() -> None:
    done = elsewhere(
        """
module, record, input = network(), Record(), torch.zeros(6, 3, 4, device="cuda")
module(input)
record.order(OURS, 700, sticky=True)
for _ in range(2):
    try:
        module(input)
        print("no error")
    except RuntimeError as error:
        print(str(error).splitlines()[0])
"""
    )
    assert done.stdout.count("an illegal memory access was encountered") == 2, (
        done.stdout + done.stderr
    )
    assert "left by earlier work; this process cannot use the device again" in done.stdout
