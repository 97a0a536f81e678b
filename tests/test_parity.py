"""The fused kernels give what the reference gives: outputs, and the gradient of every tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import (
    KINDS,
    RETROACTIVE,
    SIMPLE,
    VARIANTS,
    Case,
    assert_close,
    assert_same_bits,
    each_variant,
    needs_native,
    ruled,
    run,
    threads,
    uninitialised_memory_is_nan,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases
from tolerances import FP64, FP64_ROUNDING, fp32
from torch import Tensor

from plastikern import Plasticity
from plastikern.plasticity import (
    GRANULARITIES,
    MODULATIONS,
)

pytestmark = needs_native


def check_parity(case: Case, thread_count: int) -> None:
    with threads(thread_count), uninitialised_memory_is_nan():
        assert_close(run(case, "cpu"), run(case, "reference"), FP64)


any_threads = st.sampled_from((1, 2))


@settings(max_examples=300)
@given(case=cases("rnn"), thread_count=any_threads)
def test_a_recurrent_network_in_double_precision_equals_the_reference(
    case: Case, thread_count: int
) -> None:
    check_parity(case, thread_count)


@settings(max_examples=200)
@given(case=cases("lstm"), thread_count=any_threads)
def test_an_lstm_in_double_precision_equals_the_reference(case: Case, thread_count: int) -> None:
    check_parity(case, thread_count)


@settings(max_examples=100)
@given(case=cases("gru"), thread_count=any_threads)
def test_a_gru_in_double_precision_equals_the_reference(case: Case, thread_count: int) -> None:
    check_parity(case, thread_count)


@settings(max_examples=100)
@given(case=cases("linear"), thread_count=any_threads)
def test_a_layer_in_double_precision_equals_the_reference(case: Case, thread_count: int) -> None:
    check_parity(case, thread_count)


SHARED_ROWS = {
    "rnn-decay": Case(plasticity=ruled("hebb", "decay"), with_clamp=True),
    "rnn-oja": Case(plasticity=ruled("oja", "clip", alpha="layer"), with_clamp=True),
    "rnn-simple": Case(plasticity=ruled("hebb", "clip", fan_out="connection", **SIMPLE)),
    "rnn-retroactive": Case(plasticity=ruled("hebb", "decay", fan_out="neuron", **RETROACTIVE), half_modulated=True),
    "lstm": Case(plasticity=ruled("hebb", "decay"), network="lstm", post="cell"),
    "lstm-simple": Case(plasticity=ruled("hebb", "soft_clip", modulator_input="cell", **SIMPLE), network="lstm"),
    "lstm-retroactive": Case(
        plasticity=ruled("oja", "clip", alpha="neuron", fan_out="connection", **RETROACTIVE),
        network="lstm", post="hidden",
    ),
    "gru-simple": Case(plasticity=ruled("hebb", "clip", **SIMPLE), network="gru", post="recurrent"),
    "linear-simple": Case(plasticity=ruled("hebb", "clip", **SIMPLE), network="linear", nonlinearity="softmax"),
}  # fmt: skip


@pytest.mark.parametrize("thread_count", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("case", SHARED_ROWS.values(), ids=SHARED_ROWS)
def test_threads_that_share_the_rows_of_an_element_equal_the_reference(
    thread_count: int, batch: int, case: Case
) -> None:
    case = replace(case, steps=6, batch=batch, neurons=131, features=70, lengths=(6, 4, 0)[:batch])
    expected = run(case, "reference")
    with threads(thread_count), uninitialised_memory_is_nan():
        for every in (2, None):
            assert_close(run(replace(case, checkpoint_every=every), "cpu"), expected, FP64)


@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize("granularity", ["neuron", "connection"])
@pytest.mark.parametrize("modulation", ["none", "simple", "retroactive"])
def test_every_rule_and_constraint_equals_the_reference(
    rule: str, constraint: str, granularity: str, modulation: str
) -> None:
    plasticity = ruled(rule, constraint, alpha=granularity, eta=granularity, modulation=modulation)
    case = Case(6, 2, 19, plasticity, lengths=(6, 4))
    for every in (2, None):
        found = run(replace(case, checkpoint_every=every), "cpu")
        assert_close(found, run(case, "reference"), FP64)


@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("steps, neurons", [(5, 33), (30, 51)])
def test_single_precision_is_as_near_to_double_as_rounding_allows(
    rule: str, constraint: str, granularity: str, steps: int, neurons: int
) -> None:
    plasticity = Plasticity(rule=rule, constraint=constraint, alpha=granularity, eta=granularity)
    case = Case(
        steps, 2, neurons, plasticity, with_clamp=True, lengths=(steps, steps - 3), eta=0.03
    )
    found, expected = run(case, "cpu", torch.float32), run(case, "reference")
    if granularity == "layer":
        # The terms of a sum over all neurons may cancel: its error is measured by their size, not by what is left.
        by_neuron = run(
            replace(case, plasticity=replace(plasticity, alpha="neuron", eta="neuron")), "reference"
        )
        for name in ("grad_alpha", "grad_eta"):
            size = by_neuron[name].norm().clamp(min=1)
            found[name], expected[name] = found[name] / size, expected[name] / size
    assert_close(found, expected, fp32(steps, neurons))


@each_variant
@pytest.mark.parametrize("steps, neurons", [(5, 33), (30, 51)])
def test_single_precision_of_every_network_is_as_near_to_double(
    case: Case, steps: int, neurons: int
) -> None:
    case = replace(
        case, steps=steps, neurons=neurons, features=47, lengths=(steps, steps - 3), eta=0.03
    )
    tolerance = fp32(steps, neurons, case.network, case.plasticity.modulation != "none")
    assert_close(run(case, "cpu", torch.float32), run(case, "reference"), tolerance)


@each_variant
@pytest.mark.parametrize("batch_first, checkpoint_every", [(False, None), (True, 2)])
def test_a_gradient_of_one_output_alone_equals_the_reference(
    case: Case, batch_first: bool, checkpoint_every: int | None
) -> None:
    for name in case.outputs:
        alone = replace(
            case, upstream=(name,), batch_first=batch_first, checkpoint_every=checkpoint_every
        )
        with uninitialised_memory_is_nan():
            assert_close(run(alone, "cpu"), run(alone, "reference"), FP64)


@pytest.mark.parametrize("network", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("constraint", ["clip", "clip_on_read", "none"])
@pytest.mark.parametrize("modulation", MODULATIONS)
@pytest.mark.parametrize("alpha", ["connection", "neuron"])
@pytest.mark.parametrize("half_modulated", [False, True])
def test_traces_run_backwards_where_nothing_was_clipped_and_are_recomputed_elsewhere(
    network: str, constraint: str, modulation: str, alpha: str, half_modulated: bool
) -> None:
    plasticity = Plasticity(constraint=constraint, clip=0.45, alpha=alpha, modulation=modulation)
    case = Case(
        31, 3, 21, plasticity, network=network, half_modulated=half_modulated and modulation != "none",
        lengths=(31, 18, 7), eta=0.05,
    )  # fmt: skip
    if constraint == "clip" and modulation == "none":
        trace = run(case, "reference")["trace"]
        clipped = (trace.abs() == 0.45).any(-1)
        assert clipped.any() and not clipped.all()  # the last traces of some rows, and not of all
    with uninitialised_memory_is_nan():
        assert_close(run(case, "cpu"), run(case, "reference"), FP64)


def eighths(tensor: Tensor) -> Tensor:
    """Multiples of 1/8, whose sums and products of a few steps have no rounding in double precision."""
    return (tensor.detach() * 8).round() / 8


@pytest.mark.parametrize("rule, constraint", [kind for kind in KINDS if "clip" in kind[1]])
@pytest.mark.parametrize("modulation", MODULATIONS)
@pytest.mark.parametrize("network", ["rnn", "linear"])
def test_traces_exactly_on_their_bound_give_the_outputs_and_gradients_of_the_reference(
    rule: str, constraint: str, modulation: str, network: str
) -> None:
    # Every number is dyadic and few are multiplied: the traces' bits must agree, and with them which gradients pass.
    plasticity = Plasticity(rule=rule, constraint=constraint, clip=1.0, modulation=modulation)
    if modulation != "none":
        plasticity = replace(plasticity, modulator_nonlinearity="linear")
    on_read = constraint == "clip_on_read"
    case = Case(1 if on_read else 2, 3, 4, plasticity, "identity", network=network)
    fixed = {
        "weight": 0.0,
        "alpha": 0.125 if on_read else 0.0,
        "eta": 0.25,
        "eligibility_eta": 0.25,
    }
    fixed |= {"modulator_weight": 0.0, "modulator_bias": 0.25}
    inputs = {
        name: torch.full_like(tensor, fixed[name])
        if name in fixed
        else eighths(tensor.clamp(-1, 1))
        for name, tensor in case.inputs().items()
    }
    # On the bound, and so near to it that some changes, multiples of 1/256, land on it.
    grid = torch.tensor([1, 1, -1, -1, 31 / 32, -31 / 32, 30 / 32, -30 / 32], dtype=torch.float64)
    inputs["trace"] = grid[torch.arange(inputs["trace"].numel()) % 8].view(inputs["trace"].shape)
    inputs = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    results = {}
    for backend in ("cpu", "reference"):
        outputs = case.sequence(inputs, backend)
        upstreams = [
            eighths(case.random(f"grad_{name}", *output.shape)) for name, output in outputs.items()
        ]
        grads = torch.autograd.grad(list(outputs.values()), list(inputs.values()), upstreams)
        named = {f"grad_{name}": grad for name, grad in zip(inputs, grads, strict=True)}
        results[backend] = (outputs, named)
    assert_same_bits(results["cpu"][0], results["reference"][0])
    assert_close(results["cpu"][1], results["reference"][1], FP64_ROUNDING)


def transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2) if tensor.dim() > 1 else tensor


def sliced(tensor: Tensor) -> Tensor:
    beside = (
        torch.ones_like(tensor)
        if tensor.dtype == torch.bool
        else torch.full_like(tensor, torch.nan)
    )
    return torch.stack([tensor, beside], -1)[..., 0]


def offset(tensor: Tensor) -> Tensor:
    return torch.cat([tensor.new_ones(1), tensor.flatten()])[1:].view(tensor.shape)


def run_laid_out(case: Case, layout: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """As ``run``, with every tensor and every upstream gradient in that memory layout."""
    leaves = case.inputs()
    given = case.arguments({name: layout(tensor) for name, tensor in leaves.items()})
    if given.get("clamp") is not None:
        given["clamp"] = layout(given["clamp"])
    if case.half_modulated:
        given["modulator"] = given["modulator"]._replace(
            modulated=layout(given["modulator"].modulated)
        )
    outputs = case.sequence({}, "cpu", **given)
    upstreams = [
        layout(case.random(f"grad_{name}", *output.shape)) for name, output in outputs.items()
    ]
    torch.autograd.backward(list(outputs.values()), upstreams)
    found = {name: output.detach() for name, output in outputs.items()}
    return found | {
        f"grad_{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None
    }


@pytest.mark.parametrize("layout", [transposed, sliced, offset])
@pytest.mark.parametrize("batch_first", [False, True])
def test_any_memory_layout_gives_the_same_bits(
    layout: Callable[[Tensor], Tensor], batch_first: bool
) -> None:
    case = Case(steps=6, batch=3, neurons=5, with_clamp=True, batch_first=batch_first)
    assert_same_bits(run_laid_out(case, layout), run(case, "cpu"))


@pytest.mark.parametrize("layout", [transposed, sliced, offset])
@pytest.mark.parametrize("batch_first", [False, True])
@each_variant
def test_every_network_takes_any_memory_layout(
    layout: Callable[[Tensor], Tensor], batch_first: bool, case: Case
) -> None:
    # A matrix product of PyTorch may add in another order where its operands lie otherwise.
    case = replace(case, batch_first=batch_first)
    assert_close(run_laid_out(case, layout), run(case, "cpu"), FP64_ROUNDING)


@pytest.mark.parametrize(
    "name", ["rnn-retroactive", "lstm-retroactive", "linear-retroactive", "rnn-simple"]
)
def test_an_expanded_upstream_gradient_equals_one_that_is_written_out(name: str) -> None:
    case = VARIANTS[name]
    inputs = case.inputs()
    for output in case.sequence(inputs, "cpu").values():
        leaves = list(inputs.values())
        found = torch.autograd.grad(output.sum(), leaves, retain_graph=True, allow_unused=True)
        expected = torch.autograd.grad(
            output, leaves, torch.ones_like(output), retain_graph=True, allow_unused=True
        )
        for left, right in zip(found, expected, strict=True):
            assert (left is None and right is None) or (
                left is not None and torch.equal(left, right)
            )
