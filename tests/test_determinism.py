"""The same call gives the same bits, whatever ran before it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import (
    KINDS,
    NETWORKS,
    RETROACTIVE,
    SIMPLE,
    VARIANTS,
    Case,
    assert_same_bits,
    each_variant,
    needs_native,
    ruled,
    run,
    threads,
    uninitialised_memory_is_nan,
)  # fmt: skip

from plastikern import Plasticity

pytestmark = needs_native


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("thread_count", [1, 2])
@pytest.mark.parametrize(
    "shape",
    [(5, 1, 133), (5, 3, 133), (24, 5, 41), (3, 2, 7)],
    ids=["rows", "rows-3", "batch", "small"],
)
@pytest.mark.parametrize(
    "alpha, eta", [("connection", "layer"), ("layer", "neuron"), ("connection", "connection")]
)
def test_two_runs_give_the_same_bits(
    dtype: torch.dtype, thread_count: int, shape: tuple[int, int, int], alpha: str, eta: str
) -> None:
    case = Case(*shape, Plasticity(alpha=alpha, eta=eta), with_clamp=True)
    with threads(thread_count):
        first = run(case, "cpu", dtype)
        for _ in range(2):
            assert_same_bits(run(case, "cpu", dtype), first)


MODULATED = {
    "simple": ruled("hebb", "clip", fan_out="connection", **SIMPLE),
    "retroactive": ruled("hebb", "decay", alpha="neuron", eta="neuron", **RETROACTIVE),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("thread_count", [1, 2])
@pytest.mark.parametrize(
    "shape", [(4, 1, 133), (4, 3, 133), (24, 5, 41)], ids=["rows", "rows-3", "batch"]
)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("plasticity", MODULATED.values(), ids=MODULATED)
def test_two_runs_of_a_modulated_network_give_the_same_bits(
    dtype: torch.dtype,
    thread_count: int,
    shape: tuple[int, int, int],
    network: str,
    plasticity: Plasticity,
) -> None:
    case = Case(*shape, plasticity, network=network, features=70)
    with threads(thread_count):
        first = run(case, "cpu", dtype)
        for _ in range(2):
            assert_same_bits(run(case, "cpu", dtype), first)


def poison_workspace(dtype: torch.dtype, case: Case | None = None) -> None:
    """Leave the kernels' own scratch memory full of NaN: by a call that needs more of it, and whose inputs are NaN."""
    case = case or Case(plasticity=Plasticity(constraint="clip"), with_clamp=True)
    case = replace(
        case, steps=12, batch=3, neurons=61, features=61, lengths=None, checkpoint_every=11
    )
    inputs = {
        name: torch.full_like(tensor, torch.nan, requires_grad=True)
        for name, tensor in case.inputs(dtype).items()
    }
    outputs = case.sequence(inputs, "cpu").values()
    assert all(result.isnan().all() for result in outputs)
    torch.autograd.backward([result.sum() for result in outputs])


@pytest.mark.parametrize("thread_count", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule, constraint", KINDS)
def test_what_ran_before_changes_no_bit(
    thread_count: int, dtype: torch.dtype, rule: str, constraint: str
) -> None:
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


@pytest.mark.parametrize("thread_count", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_variant
def test_what_ran_before_changes_no_bit_of_any_network(
    thread_count: int, dtype: torch.dtype, case: Case
) -> None:
    case = replace(case, batch=3, neurons=21, lengths=(7, 0, 4))
    with threads(thread_count):
        expected = run(case, "cpu", dtype)
        poison_workspace(dtype, case)
        with uninitialised_memory_is_nan():
            assert_same_bits(run(case, "cpu", dtype), expected)


@pytest.mark.parametrize(
    "case", [Case(with_clamp=True, lengths=(7, 3)), *VARIANTS.values()], ids=["rnn", *VARIANTS]
)
def test_inputs_are_not_changed(case: Case) -> None:
    inputs = case.inputs()
    before = {name: tensor.detach().clone() for name, tensor in inputs.items()}
    outputs = case.sequence(inputs, "cpu")
    versions = [tensor._version for tensor in inputs.values()]
    case.loss(outputs).backward()
    assert versions == [tensor._version for tensor in inputs.values()]
    assert_same_bits({name: tensor.detach() for name, tensor in inputs.items()}, before)
