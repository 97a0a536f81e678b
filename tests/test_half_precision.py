"""Half-precision activities and parameters: computed in single precision, with traces that stay in it."""

from __future__ import annotations

import pytest
import torch
from conftest import BACKENDS, Case, each_variant
from torch import Tensor

from plastikern import Plasticity, PlasticRNN, PlasticRNNCell

TRACES = ("trace", "eligibility")
half_precisions = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def in_half(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    inputs = {name: tensor.detach() for name, tensor in case.inputs(torch.float32).items()}
    return {
        name: (tensor if name in TRACES else tensor.to(dtype)).clone().requires_grad_()
        for name, tensor in inputs.items()
    }


@half_precisions
@pytest.mark.parametrize("backend", BACKENDS)
@each_variant
def test_activities_are_those_of_single_precision_rounded_once(
    backend: str, case: Case, dtype: torch.dtype
) -> None:
    half = in_half(case, dtype)
    whole = {name: tensor.detach().float().requires_grad_() for name, tensor in half.items()}
    found, expected = case.sequence(half, backend), case.sequence(whole, backend)
    for name, tensor in found.items():
        assert torch.equal(
            tensor, expected[name] if name in TRACES else expected[name].to(dtype)
        ), name
    # What comes back is rounded as the activities are.
    found, expected = case.results(found, half), case.results(expected, whole)
    for name, tensor in found.items():
        assert tensor.dtype == (torch.float32 if name.removeprefix("grad_") in TRACES else dtype), (
            name
        )
        error = (tensor.float() - expected[name]).abs().max() / expected[name].abs().max().clamp(
            min=1
        )
        assert error <= 4 * torch.finfo(dtype).eps * case.steps**0.5, name


@half_precisions
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_module_in_half_precision_hands_its_state_on(backend: str, dtype: torch.dtype) -> None:
    network = PlasticRNN(3, 5, plasticity=Plasticity(), backend=backend, dtype=dtype)
    output, state = network(torch.randn(4, 2, 3, dtype=dtype))
    again, last = network(torch.randn(4, 2, 3, dtype=dtype), state)
    again.sum().backward()
    assert (
        output.dtype == again.dtype == last.hidden.dtype == dtype
        and last.trace.dtype == torch.float32
    )
    assert all(
        value.grad is not None and value.grad.dtype == dtype for value in network.parameters()
    )
    cell = PlasticRNNCell(3, 5, backend=backend, dtype=dtype)
    with torch.no_grad():
        state = cell(torch.randn(2, 3, dtype=dtype), cell(torch.randn(2, 3, dtype=dtype)))
    assert state.hidden.dtype == dtype and state.trace.dtype == torch.float32


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_trace_in_half_precision_is_refused(backend: str) -> None:
    case = Case()
    half = in_half(case, torch.bfloat16)
    half["trace"] = half["trace"].bfloat16()
    with pytest.raises(
        TypeError, match=r"trace must have dtype torch\.float32; got torch\.bfloat16"
    ):
        case.sequence(half, backend)
