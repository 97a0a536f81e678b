"""The fused kernels give what the reference gives: outputs, and the gradient of every tensor."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import (
    INPUTS,
    KINDS,
    Case,
    assert_close,
    assert_same_bits,
    gradients,
    needs_native,
    run,
    threads,
    uninitialised_memory_is_nan,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FP64, FP64_ROUNDING, fp32
from torch import Tensor

import plastikern.functional as PF
from plastikern import Plasticity
from plastikern.plasticity import GRANULARITIES, NONLINEARITIES

pytestmark = needs_native


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rule, constraint = draw(st.sampled_from(KINDS))
    alpha, eta = draw(st.sampled_from(GRANULARITIES)), draw(st.sampled_from(GRANULARITIES))
    nonlinearity = draw(st.sampled_from(NONLINEARITIES))
    # Unbounded activities, and rules without a bound, grow like a power tower: only short sequences stay finite.
    grows = nonlinearity in ("relu", "identity") or (rule == "oja" and constraint in ("none", "clip_on_read"))
    rates = (0.01, 0.05, 0.3) if grows else (0.01, 0.05, 0.3, 0.499, 0.5, 1.0, 1.7, 2.0, -0.05, -0.5)
    steps = draw(st.sampled_from((0, 1, 2, 3, 4) if grows else (0, 1, 2, 3, 4, 5, 9, 17, 40)))
    batch = draw(st.sampled_from((0, 1, 3)))
    lengths = st.tuples(*[st.integers(0, steps)] * batch)
    upstream = draw(st.sampled_from([wanted for wanted in itertools.product((True, False), repeat=3) if any(wanted)]))
    return Case(
        steps, batch, draw(st.sampled_from((1, 5, 33, 51))),
        Plasticity(rule=rule, constraint=constraint, clip=0.6, alpha=alpha, eta=eta), nonlinearity,
        eta=draw(st.sampled_from(rates)), with_clamp=draw(st.booleans()), lengths=draw(st.none() | lengths),
        batch_first=draw(st.booleans()), checkpoint_every=draw(st.sampled_from((None, None, 1, 2, 3, 7, 100))),
        upstream=upstream, seed=draw(st.integers(0, 99)),
    )  # fmt: skip


@settings(max_examples=300)
@given(case=cases(), thread_count=st.sampled_from((1, 2)))
def test_double_precision_equals_the_reference(case: Case, thread_count: int) -> None:
    with threads(thread_count), uninitialised_memory_is_nan():
        assert_close(run(case, "cpu"), run(case, "reference"), FP64)


@pytest.mark.parametrize("thread_count", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("rule, constraint, granularity", [("hebb", "decay", "connection"), ("oja", "clip", "layer")])
def test_threads_that_share_the_rows_of_an_element_equal_the_reference(
    thread_count: int, batch: int, rule: str, constraint: str, granularity: str
) -> None:
    plasticity = Plasticity(rule=rule, constraint=constraint, alpha=granularity, eta=granularity)
    case = Case(6, batch, 131, plasticity, with_clamp=True, lengths=(6, 4, 0)[:batch], checkpoint_every=2)
    with threads(thread_count), uninitialised_memory_is_nan():
        for every in (2, None):
            assert_close(run(replace(case, checkpoint_every=every), "cpu"), run(case, "reference"), FP64)


@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("steps, neurons", [(5, 33), (30, 51)])
def test_single_precision_is_as_near_to_double_as_rounding_allows(
    rule: str, constraint: str, granularity: str, steps: int, neurons: int
) -> None:
    plasticity = Plasticity(rule=rule, constraint=constraint, alpha=granularity, eta=granularity)
    case = Case(steps, 2, neurons, plasticity, with_clamp=True, lengths=(steps, steps - 3), eta=0.03)
    assert_close(run(case, "cpu", torch.float32), run(case, "reference"), fp32(steps, neurons))


@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize("alpha, eta", [("connection", "layer"), ("neuron", "connection"), ("layer", "neuron")])
@pytest.mark.parametrize("checkpoint_every", [None, 2])
def test_fused_gradients_are_those_of_finite_differences(
    rule: str, constraint: str, alpha: str, eta: str, checkpoint_every: int | None
) -> None:
    plasticity = Plasticity(rule=rule, constraint=constraint, clip=0.6, alpha=alpha, eta=eta)
    case = Case(5, 2, 3, plasticity, eta=0.1, with_clamp=True, lengths=(5, 3), checkpoint_every=checkpoint_every)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return PF.plastic_rnn_sequence(**dict(zip(INPUTS, tensors, strict=True)), **case.options(), backend="cpu")

    assert torch.autograd.gradcheck(function, tuple(case.inputs().values()), fast_mode=True)


def step(case: Case, backend: str, upstream: tuple[bool, bool]) -> dict[str, Tensor]:
    """One step of a case of one step, in the shapes of a sequence of one step."""
    inputs = case.inputs()
    clamp = case.options()["clamp"]
    hidden, trace = PF.plastic_rnn_step(
        inputs["drive"][0], *list(inputs.values())[1:], plasticity=case.plasticity, nonlinearity=case.nonlinearity,
        clamp=None if clamp is None else clamp[0], backend=backend,
    )  # fmt: skip
    loss = replace(case, upstream=(False, *upstream)).loss((hidden, hidden, trace))
    return {"hidden": hidden.detach(), "trace": trace.detach(), **gradients(loss, inputs)}


@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize(
    "batch, neurons, nonlinearity", [(0, 3, "tanh"), (1, 1, "relu"), (3, 33, "sigmoid"), (1, 130, "identity")]
)
@pytest.mark.parametrize("upstream", [(True, True), (True, False), (False, True)])
def test_a_step_equals_a_sequence_of_one_step_and_the_reference(
    rule: str, constraint: str, batch: int, neurons: int, nonlinearity: str, upstream: tuple[bool, bool]
) -> None:
    pairs = (("connection", "layer"), ("layer", "connection"), ("neuron", "neuron"))
    for number, (alpha, eta) in enumerate(pairs):
        plasticity = Plasticity(rule=rule, constraint=constraint, clip=0.6, alpha=alpha, eta=eta)
        case = Case(
            1,
            batch,
            neurons,
            plasticity,
            nonlinearity,
            eta=0.3,
            with_clamp=number % 2 == 0,
            upstream=(False, *upstream),
        )
        with uninitialised_memory_is_nan():
            found = step(case, "cpu", upstream)
            assert_close(found, step(case, "reference", upstream), FP64)
            sequence = run(case, "cpu")
        del sequence["output"]
        assert_close(found, sequence, FP64_ROUNDING)


@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize("by_steps", [True, False])
def test_many_calls_that_hand_on_the_state_equal_one_call(rule: str, constraint: str, by_steps: bool) -> None:
    plasticity = Plasticity(rule=rule, constraint=constraint, clip=0.6, alpha="neuron")
    case = Case(11, 2, 9, plasticity, with_clamp=True)
    inputs, options = case.inputs(), case.options()
    clamp = options.pop("clamp")
    parameters = [inputs[name] for name in ("weight", "alpha", "eta")]
    hidden, trace = inputs["hidden"], inputs["trace"]
    outputs = []
    for start, end in itertools.pairwise(range(12) if by_steps else (0, 4, 4, 5, 11)):
        if by_steps:
            hidden, trace = PF.plastic_rnn_step(
                inputs["drive"][start],
                hidden,
                trace,
                *parameters,
                plasticity=plasticity,
                clamp=clamp[start],
                backend="cpu",
            )
            outputs.append(hidden.unsqueeze(0))
        else:
            output, hidden, trace = PF.plastic_rnn_sequence(
                inputs["drive"][start:end], hidden, trace, *parameters, **options, clamp=clamp[start:end], backend="cpu"
            )
            outputs.append(output)
    results = {"output": torch.cat(outputs), "hidden": hidden, "trace": trace}
    found = {
        **{name: result.detach() for name, result in results.items()},
        **gradients(case.loss(list(results.values())), inputs),
    }
    assert_close(found, run(case, "cpu"), FP64_ROUNDING)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("constraint", ["decay", "clip"])
def test_each_tensor_alone_gets_the_gradient_that_it_gets_among_all(name: str, constraint: str) -> None:
    for alpha, eta in (("connection", "layer"), ("layer", "connection"), ("neuron", "neuron")):
        case = Case(plasticity=Plasticity(constraint=constraint, alpha=alpha, eta=eta), with_clamp=True)
        inputs = {key: tensor.detach() for key, tensor in case.inputs().items()}
        inputs[name].requires_grad_()
        outputs = PF.plastic_rnn_sequence(**inputs, **case.options(), backend="cpu")
        assert all(result.requires_grad for result in outputs)
        (grad,) = torch.autograd.grad(case.loss(outputs), inputs[name])
        torch.testing.assert_close(grad, run(case, "cpu")[f"grad_{name}"], rtol=FP64_ROUNDING, atol=FP64_ROUNDING)


def transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2) if tensor.dim() > 1 else tensor


def sliced(tensor: Tensor) -> Tensor:
    beside = torch.ones_like(tensor) if tensor.dtype == torch.bool else torch.full_like(tensor, torch.nan)
    return torch.stack([tensor, beside], -1)[..., 0]


def offset(tensor: Tensor) -> Tensor:
    return torch.cat([tensor.new_ones(1), tensor.flatten()])[1:].view(tensor.shape)


@pytest.mark.parametrize("layout", [transposed, sliced, offset])
@pytest.mark.parametrize("batch_first", [False, True])
def test_any_memory_layout_gives_the_same_bits(layout: Callable[[Tensor], Tensor], batch_first: bool) -> None:
    case = Case(steps=6, batch=3, neurons=5, with_clamp=True, batch_first=batch_first)
    leaves = case.inputs()
    inputs = {name: layout(tensor) for name, tensor in leaves.items()}
    options = case.options()
    options["clamp"] = layout(options["clamp"])
    outputs = PF.plastic_rnn_sequence(**inputs, **options, backend="cpu")
    upstreams = [layout(case.random(7 + i, *result.shape)) for i, result in enumerate(outputs)]
    torch.autograd.backward(outputs, upstreams)
    found = dict(zip(("output", "hidden", "trace"), (result.detach() for result in outputs), strict=True))
    found |= {f"grad_{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    assert_same_bits(found, run(case, "cpu"))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_expanded_upstream_gradient_equals_one_that_is_written_out(index: int) -> None:
    inputs = Case().inputs()
    outputs = PF.plastic_rnn_sequence(**inputs, plasticity=Case.plasticity, backend="cpu")
    found = torch.autograd.grad(outputs[index].sum(), list(inputs.values()), retain_graph=True, allow_unused=True)
    expected = torch.autograd.grad(
        outputs[index], list(inputs.values()), torch.ones_like(outputs[index]), allow_unused=True
    )
    for left, right in zip(found, expected, strict=True):
        assert (left is None and right is None) or (left is not None and torch.equal(left, right))
