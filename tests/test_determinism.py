"""The same call gives the same bits, whatever ran before it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import KINDS, Case, assert_same_bits, needs_native, run, threads, uninitialised_memory_is_nan

import plastikern.functional as PF
from plastikern import Plasticity

pytestmark = needs_native


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("thread_count", [1, 2])
@pytest.mark.parametrize(
    "shape", [(5, 1, 133), (5, 3, 133), (24, 5, 41), (3, 2, 7)], ids=["rows", "rows-3", "batch", "small"]
)
@pytest.mark.parametrize("alpha, eta", [("connection", "layer"), ("layer", "neuron"), ("connection", "connection")])
def test_two_runs_give_the_same_bits(
    dtype: torch.dtype, thread_count: int, shape: tuple[int, int, int], alpha: str, eta: str
) -> None:
    case = Case(*shape, Plasticity(alpha=alpha, eta=eta), with_clamp=True)
    with threads(thread_count):
        first = run(case, "cpu", dtype)
        for _ in range(2):
            assert_same_bits(run(case, "cpu", dtype), first)


def poison_workspace(dtype: torch.dtype) -> None:
    """Leave the kernels' own scratch memory full of NaN: by a call that needs more of it, and whose inputs are NaN."""
    case = Case(
        steps=12, batch=3, neurons=61, plasticity=Plasticity(constraint="clip"), with_clamp=True, checkpoint_every=11
    )
    inputs = {
        name: torch.full_like(tensor, torch.nan, requires_grad=True) for name, tensor in case.inputs(dtype).items()
    }
    outputs = PF.plastic_rnn_sequence(**inputs, **case.options(), backend="cpu")
    assert all(result.isnan().all() for result in outputs)
    torch.autograd.backward([result.sum() for result in outputs])


@pytest.mark.parametrize("thread_count", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule, constraint", KINDS)
def test_what_ran_before_changes_no_bit(thread_count: int, dtype: torch.dtype, rule: str, constraint: str) -> None:
    with threads(thread_count):
        for alpha, eta in (("connection", "layer"), ("layer", "connection")):
            plasticity = Plasticity(rule=rule, constraint=constraint, alpha=alpha, eta=eta)
            case = Case(7, 3, 21, plasticity, with_clamp=True, lengths=(7, 0, 4))
            for checkpoint_every in (None, 2):
                again = replace(case, checkpoint_every=checkpoint_every)
                expected = run(again, "cpu", dtype)
                poison_workspace(dtype)
                with uninitialised_memory_is_nan():
                    assert_same_bits(run(again, "cpu", dtype), expected)


def test_inputs_are_not_changed() -> None:
    case = Case(with_clamp=True, lengths=(7, 3))
    inputs = case.inputs()
    before = {name: tensor.detach().clone() for name, tensor in inputs.items()}
    outputs = PF.plastic_rnn_sequence(**inputs, **case.options(), backend="cpu")
    versions = [tensor._version for tensor in inputs.values()]
    case.loss(outputs).backward()
    assert versions == [tensor._version for tensor in inputs.values()]
    assert_same_bits({name: tensor.detach() for name, tensor in inputs.items()}, before)
