"""Launches that come again are captured once and replayed: by a device that is played here, for want of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from conftest import VARIANTS, assert_close, assert_same_bits, run
from tolerances import fp32
from torch import Tensor

from benchmarks.triton_resources import WORKLOADS, launches
from plastikern import backends
from plastikern.triton import graphs
from plastikern.triton.graphs import Graphs, Replay


class Device:
    """Runs what is launched, or, while a graph is captured, only notes it there."""

    def __init__(self) -> None:
        self.graph: list[Callable[[], object]] | None = None
        self.calls = self.captures = self.replays = 0

    def add(self, source: Tensor, target: Tensor, times: int = 1) -> None:
        """What a pass is: a function that launches."""
        self.calls += 1
        if self.graph is None:
            target.add_(source, alpha=times)
        else:
            self.graph.append(lambda: target.add_(source, alpha=times))

    def capture(self, run: Callable[[], None]) -> Replay:
        self.captures += 1
        graph: list[Callable[[], object]] = []
        self.graph = graph
        try:
            run()
        finally:
            self.graph = None

        def replay() -> None:
            self.replays += 1
            for launch in graph:
                launch()

        return replay


def test_launches_that_come_again_are_captured_once_and_replayed() -> None:
    device, source, target = Device(), torch.ones(3), torch.zeros(3)
    known = Graphs(device.capture)
    for count in range(1, 6):
        known.run(device.add, source, target)
        assert target.tolist() == [count] * 3
    # Called to compile, and to be captured.
    assert (device.calls, device.captures, device.replays) == (2, 1, 4)
    source.fill_(10)
    known.run(device.add, source, target)
    assert target.tolist() == [15] * 3 and device.calls == 2


def test_another_address_shape_or_number_is_another_graph() -> None:
    device, source, target = Device(), torch.ones(4), torch.zeros(4)
    known = Graphs(device.capture)
    for arguments in (
        (source, target), (source.clone(), target), (source[:2], target[:2]), (source, target, 2),
        (source[::2], target[:2]),
    ):  # fmt: skip
        known.run(device.add, *arguments)
    assert (device.calls, device.captures) == (5, 0)
    assert target.tolist() == [6, 6, 4, 4]


def test_only_the_graphs_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    monkeypatch.setattr(graphs, "MAX_SEEN", 2)
    device, source, target = Device(), torch.ones(1), torch.zeros(1)
    known = Graphs(device.capture)
    for times in (1, 1, 2, 2, 1, 3, 3):
        known.run(device.add, source, target, times)
    assert (device.captures, device.replays) == (3, 4)
    known.run(device.add, source, target, 1)
    assert (device.captures, device.replays) == (3, 5)
    known.run(device.add, source, target, 2)  # gave way to 3
    assert (device.captures, device.replays) == (3, 5)
    # What comes again only after others is not remembered for ever either.
    for times in (4, 5, 6, 4, 5, 6):
        known.run(device.add, source, target, times)
    assert device.captures == 3


def test_where_a_capture_fails_all_is_launched() -> None:
    device, source, target = Device(), torch.ones(1), torch.zeros(1)

    def refuse(run: Callable[[], None]) -> Replay:
        device.captures += 1
        raise RuntimeError("operation not permitted when stream is capturing")

    known = Graphs(refuse)
    known.run(device.add, source, target)
    with pytest.warns(UserWarning, match="PLASTIKERN_TRITON_GRAPHS=0.*not permitted"):
        known.run(device.add, source, target)
    known.run(device.add, source, target)
    assert target.item() == 3 and device.captures == 1


@pytest.mark.parametrize(
    "device, steps, variable, capturing, used",
    [
        ("cuda", 2, None, False, True), ("cpu", 2, None, False, False), ("cuda", 1, None, False, False),
        ("cuda", 2, "0", False, False), ("cuda", 2, None, True, False),
    ],
)  # fmt: skip
def test_graphs_are_for_sequences_on_a_gpu_that_nobody_else_captures(
    device: str,
    steps: int,
    variable: str | None,
    capturing: bool,
    used: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Any] = []
    monkeypatch.delenv(graphs.GRAPHS, raising=False)
    if variable is not None:
        monkeypatch.setenv(graphs.GRAPHS, variable)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(
        graphs._GRAPHS, "run", lambda function, *arguments: found.append(("graph", *arguments))
    )
    graphs.run(
        lambda *arguments: found.append(("launched", *arguments)),
        7,
        device=torch.device(device),
        steps=steps,
    )
    assert found == [("graph" if used else "launched", 7)]


def tensors(argument: Any) -> Iterator[Tensor]:
    if isinstance(argument, Tensor):
        yield argument
    elif isinstance(argument, tuple):
        for part in argument:
            yield from tensors(part)


@pytest.mark.skipif(find_spec("triton") is None, reason="the package triton is not installed")
@pytest.mark.parametrize(
    "workload", ["rnn", "rnn, oja, fan-out", "rnn, retroactive", "lstm, simple", "linear"]
)
def test_a_graph_is_known_by_all_that_its_launches_depend_on(
    workload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plastikern.triton.launch import recorded

    passes = []

    def check(function: Callable[..., None], *arguments: Any, **_: Any) -> None:
        runs = []
        for _ in range(2):
            with recorded() as found:
                function(*arguments)
            runs.append(
                [
                    (one.kernel, graphs.identity(one.arguments), str(one.constants), one.warps)
                    for one in found
                ]
            )
        assert runs[0] == runs[1]
        given = {tensor.untyped_storage().data_ptr() for tensor in tensors(arguments)}
        used = {
            tensor.untyped_storage().data_ptr()
            for one in found
            for tensor in tensors(one.arguments)
        }
        assert used <= given
        hash(graphs.identity(arguments))
        passes.append(function.__name__)

    monkeypatch.setattr(graphs, "run", check)
    launches(WORKLOADS[workload].network, 160, steps=5)
    assert passes == ["forward_steps", "backward_steps"]


@pytest.mark.skipif(find_spec("triton") is None, reason="the package triton is not installed")
def test_a_step_reads_its_traces_once_where_no_row_waits_for_another() -> None:

    counts = {}
    for name in ("rnn", "lstm, simple", "linear"):
        found = launches(WORKLOADS[name].network, 160, steps=5)
        names = [one.kernel.__name__ for one in found]
        counts[name] = sum(
            name.startswith("plastic_step") and name.endswith("forward") for name in names
        )
    assert counts == {"rnn": 5, "lstm, simple": 6 + 5, "linear": 6 + 5}


@pytest.mark.skipif(backends.FUSED["triton"].missing() is not None, reason="no GPU, or no Triton")
@pytest.mark.skipif(torch.version.hip is not None, reason="not an NVIDIA GPU")
@pytest.mark.parametrize("name", ["rnn-simple", "rnn-retroactive-half"])
def test_on_a_gpu_a_replay_gives_the_bits_of_its_launches(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = replace(VARIANTS[name], steps=6, batch=2, neurons=160, lengths=None, device="cuda")
    inputs = case.inputs(torch.float32)
    monkeypatch.setenv(graphs.GRAPHS, "0")
    expected = case.results(case.sequence(inputs, "triton"), inputs)
    on_cpu = {key: tensor.cpu() for key, tensor in expected.items()}
    assert_close(on_cpu, run(replace(case, device="cpu"), "reference"), fp32(6, 160, "rnn", True))
    monkeypatch.delenv(graphs.GRAPHS)
    known = Graphs(graphs._captured)
    monkeypatch.setattr(graphs, "_GRAPHS", known)
    for _ in range(10):
        assert_same_bits(case.results(case.sequence(inputs, "triton"), inputs), expected)
    assert known._graphs and not known.failed
