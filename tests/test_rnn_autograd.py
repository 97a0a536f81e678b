"""The plastic recurrent network under the less usual uses of autograd, and on more threads than it has work for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import BACKENDS, Case, assert_close, needs_native, run, threads
from tolerances import FP64
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import plastikern.functional as PF
from plastikern import Plasticity, PlasticRNN, PlasticRNNCell


def test_autocast_leaves_the_plastic_connection_in_its_own_precision() -> None:
    for bias in (True, False):
        network = PlasticRNN(3, 4, bias=bias)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, state = network(torch.randn(5, 2, 3))
        (output.sum() + state.trace.sum()).backward()
        assert output.dtype == state.trace.dtype == torch.float32
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_of_a_cell_changes_nothing(backend: str, use_reentrant: bool) -> None:
    cell, input = PlasticRNNCell(3, 4, backend=backend), torch.randn(2, 3, requires_grad=True)
    found = []
    for again in (False, True):
        cell.zero_grad()
        hidden, trace = checkpoint(cell, input, use_reentrant=use_reentrant) if again else cell(input)
        (hidden.sum() + trace.square().sum()).backward()
        found.append([parameter.grad for parameter in cell.parameters()])
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


@needs_native
def test_forward_mode_derivatives_are_refused_by_the_fused_path_and_given_by_the_reference() -> None:
    inputs = {name: tensor.detach() for name, tensor in Case().inputs().items()}
    with forward_ad.dual_level():
        inputs["drive"] = forward_ad.make_dual(inputs["drive"], torch.ones_like(inputs["drive"]))
        output = PF.plastic_rnn_sequence(**inputs, **Case().options(), backend="reference")[0]
        assert forward_ad.unpack_dual(output).tangent is not None
        with pytest.raises(RuntimeError, match=r"forward mode|jvp"):
            PF.plastic_rnn_sequence(**inputs, **Case().options(), backend="cpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_beyond_the_end_of_an_element_reaches_no_gradient(backend: str) -> None:
    network = PlasticRNN(None, 4, bias=False, backend=backend)
    drive = torch.randn(5, 2, 4)
    drive[3:, 1] = torch.nan
    output, _ = network(drive, lengths=[5, 3])
    output.sum().backward()
    assert output.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


@needs_native
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("batch, neurons", [(1, 5), (2, 33), (4, 5), (7, 33), (1, 131), (4, 131)])
def test_any_number_of_threads_shares_any_batch(count: int, batch: int, neurons: int) -> None:
    for eta in ("layer", "connection"):
        case = replace(Case(30, batch, neurons, seed=3), plasticity=Plasticity(constraint="clip", eta=eta))
        with threads(count):
            assert_close(run(case, "cpu"), run(case, "reference"), FP64)
