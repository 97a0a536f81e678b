"""What only a GPU can show: streams, graphs, more than one device. Parity is in test_cuda_parity.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import VARIANTS, Case, assert_close, run
from tolerances import FP64, fp32

from plastikern import Plasticity, PlasticRNNCell, RNNState
from plastikern.backends import FUSED

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or FUSED["cuda"].missing() is not None,
    reason="no GPU, or no CUDA kernels",
)
PLASTICITY = Plasticity(modulation="simple", constraint="clip")


def state_of(cell: PlasticRNNCell, batch: int, device: str) -> RNNState:
    neurons = cell.hidden_size
    shapes = ((batch, neurons), (batch, neurons, neurons))
    return RNNState(*(0.1 * torch.randn(shape, device=device) for shape in shapes), None)


def test_a_step_is_captured_in_a_graph() -> None:
    cell = PlasticRNNCell(5, 100, plasticity=PLASTICITY, backend="cuda", device="cuda")
    input, state = torch.randn(30, 5, device="cuda"), state_of(cell, 30, "cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        expected = cell(input, state)
        with torch.cuda.graph(graph):
            captured = cell(input, state)
        graph.replay()
    for found, right in zip(captured[:2], expected[:2], strict=True):
        assert torch.equal(found, right)


def test_work_goes_to_the_current_stream() -> None:
    cell = PlasticRNNCell(5, 100, plasticity=PLASTICITY, backend="cuda", device="cuda")
    state = state_of(cell, 30, "cuda")
    stream = torch.cuda.Stream()
    with torch.inference_mode():
        expected = cell(torch.ones(30, 5, device="cuda"), state)
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(100_000_000)  # what is launched elsewhere would not wait for it
            input = torch.zeros(30, 5, device="cuda")
            input += 1
            found = cell(input, state)
        stream.synchronize()
    assert torch.equal(found.hidden, expected.hidden) and torch.equal(found.trace, expected.trace)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
def test_every_device_of_a_process_serves_its_tensors() -> None:
    for index in (1, 0):
        case = replace(VARIANTS["rnn-retroactive"], device=f"cuda:{index}")
        found = {name: tensor.cpu() for name, tensor in run(case, "cuda").items()}
        assert_close(found, run(replace(case, device="cpu"), "reference"), FP64)


@pytest.mark.parametrize("batch, neurons", [(30, 200), (1, 1001), (8, 1025), (64, 300)])
def test_sizes_of_the_experiments(batch: int, neurons: int) -> None:
    case = Case(
        9, batch, neurons, Plasticity(modulation="retroactive", constraint="clip"), device="cuda"
    )
    found = {name: tensor.cpu() for name, tensor in run(case, "cuda", torch.float32).items()}
    assert_close(
        found, run(replace(case, device="cpu"), "reference"), fp32(9, neurons, "rnn", True)
    )
