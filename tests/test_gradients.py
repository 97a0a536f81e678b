"""Gradients in every way they may come and be asked for: layouts, subsets, second order, hooks, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import (
    BACKENDS,
    RETROACTIVE,
    SIMPLE,
    VARIANTS,
    Case,
    assert_close,
    close,
    each_variant,
    needs_native,
    ruled,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FP64, FP64_ROUNDING
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plastikern import (
    Plasticity,
    PlasticLinear,
    PlasticLinearCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
)
from plastikern.functional import plastic_linear_step

SEQUENCES, CELLS = (
    (PlasticRNN, PlasticLSTM, PlasticLinear),
    (PlasticRNNCell, PlasticLSTMCell, PlasticLinearCell),
)
RULE = ruled("hebb", "clip", alpha_init=0.3, **RETROACTIVE)
each_module = pytest.mark.parametrize("kind", [*SEQUENCES, *CELLS])


def transposed(grad: Tensor) -> Tensor:
    return grad.transpose(0, -1).contiguous().transpose(0, -1)


def sliced(grad: Tensor) -> Tensor:
    return torch.stack([torch.full_like(grad, torch.nan), grad], -1)[..., 1]


def expanded(grad: Tensor) -> Tensor:
    """Stride 0 in every dimension."""
    return grad.flatten()[0].expand_as(grad)


def across_time(grad: Tensor) -> Tensor:
    """Stride 0 in the first dimension."""
    return grad[:1].expand_as(grad) if grad.shape[0] else grad


LAYOUTS = (Tensor.contiguous, transposed, sliced, expanded, across_time)


def outputs_of(
    case: Case, inputs: dict[str, Tensor], backend: str, by_steps: bool
) -> dict[str, Tensor]:
    return case.by_steps(inputs, backend) if by_steps else case.sequence(inputs, backend)


def pulled_back(
    case: Case,
    backend: str,
    wanted: tuple[str, ...],
    upstream: dict[str, Tensor | None],
    by_steps: bool = False,
) -> dict[str, Tensor]:
    """Gradients of the wanted inputs, from these of the outputs."""
    inputs = {
        name: tensor.detach().requires_grad_(name in wanted)
        for name, tensor in case.inputs().items()
    }
    outputs = outputs_of(case, inputs, backend, by_steps)
    pairs = [
        (outputs[name], grad) for name, grad in upstream.items() if outputs[name].requires_grad
    ]
    torch.autograd.backward(*zip(*pairs, strict=True), inputs=[inputs[name] for name in wanted])  # type: ignore[arg-type]
    return {
        f"grad_{name}": torch.zeros_like(inputs[name]) if inputs[name].grad is None else inputs[name].grad
        for name in wanted
    }  # fmt: skip


@needs_native
@settings(max_examples=40)
@given(st.data())
def test_requires_grad_in_any_subset_and_any_upstream_gradients(data: st.DataObject) -> None:
    case = VARIANTS[data.draw(st.sampled_from(sorted(VARIANTS)))]
    case = replace(
        case,
        batch_first=data.draw(st.booleans()),
        checkpoint_every=data.draw(st.sampled_from((None, 2))),
    )
    by_steps = data.draw(st.booleans())
    if by_steps:
        case = replace(case, steps=3, lengths=None)
    names = tuple(sorted(data.draw(st.sets(st.sampled_from(sorted(case.inputs())), min_size=1))))
    arriving = sorted(data.draw(st.sets(st.sampled_from(case.outputs), min_size=1)))
    layouts = [data.draw(st.sampled_from(LAYOUTS)) for _ in arriving]
    shapes = {
        name: output.shape
        for name, output in outputs_of(case, case.inputs(), "reference", by_steps).items()
    }
    upstream = {
        name: layout(case.random(f"grad_{name}", *shapes[name]))
        for name, layout in zip(arriving, layouts, strict=True)
    }
    found = pulled_back(case, "cpu", names, upstream, by_steps)
    assert_close(found, pulled_back(case, "reference", names, upstream, by_steps), FP64)


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("by_steps", [True, False])
@pytest.mark.parametrize("name", ["rnn-retroactive", "lstm-retroactive", "linear-retroactive"])
def test_complaint_6_an_upstream_gradient_of_any_layout(
    name: str, by_steps: bool, layout: Callable[[Tensor], Tensor]
) -> None:
    case = replace(VARIANTS[name], steps=3, lengths=None)
    outputs = outputs_of(case, case.inputs(), "cpu", by_steps)
    upstream = {
        key: layout(case.random(f"grad_{key}", *output.shape)) for key, output in outputs.items()
    }
    assert not all(grad.is_contiguous() for grad in upstream.values())
    written_out = {key: grad.contiguous() for key, grad in upstream.items()}
    names = tuple(case.inputs())
    found = pulled_back(case, "cpu", names, upstream, by_steps)
    assert_close(found, pulled_back(case, "cpu", names, written_out, by_steps), FP64_ROUNDING)
    assert_close(found, pulled_back(case, "reference", names, upstream, by_steps), FP64)


@needs_native
@each_variant
def test_complaint_7_each_state_tensor_alone_in_and_out(case: Case) -> None:
    for by_steps, here in ((True, replace(case, steps=3, lengths=None)), (False, case)):
        shapes = {
            name: output.shape
            for name, output in outputs_of(here, here.inputs(), "cpu", by_steps).items()
        }
        for arriving in here.state:
            upstream = {arriving: here.random(arriving, *shapes[arriving])}
            for wanted in here.state:
                found = pulled_back(here, "cpu", (wanted,), upstream, by_steps)
                assert_close(
                    found, pulled_back(here, "reference", (wanted,), upstream, by_steps), FP64
                )
                assert found[f"grad_{wanted}"].any()


@needs_native
@each_variant
def test_outputs_without_an_upstream_gradient(case: Case) -> None:
    inputs = case.inputs()
    for backend in ("cpu", "reference"):
        # Nothing arrives: torch hands None, or zeros, to the backward pass.
        outputs = case.sequence(inputs, backend)
        outputs["trace"].mul(0).sum().backward()
        assert all(not tensor.grad.any() for tensor in inputs.values() if tensor.grad is not None)
        for tensor in inputs.values():
            tensor.grad = None


SMALL = {
    "rnn": Case(2, 1, 2, ruled("hebb", "decay")),
    "rnn-oja": Case(2, 1, 2, ruled("oja", "none", eta="neuron"), "sigmoid"),
    "rnn-simple": Case(2, 1, 2, ruled("hebb", "soft_clip", fan_out="neuron", **SIMPLE)),
    "lstm-retroactive": Case(2, 1, 2, ruled("hebb", "clip", **RETROACTIVE), network="lstm"),
    "gru-simple": Case(2, 1, 2, ruled("hebb", "clip", **SIMPLE), network="gru", post="recurrent"),
    "linear": Case(2, 1, 2, ruled("hebb", "decay"), "softmax", network="linear", features=2),
}


@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_complaint_10_second_derivatives_of_the_reference_are_those_of_finite_differences(
    case: Case,
) -> None:
    inputs = case.inputs()

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(case.sequence(dict(zip(inputs, tensors, strict=True)), "reference").values())

    assert torch.autograd.gradgradcheck(function, tuple(inputs.values()), fast_mode=True)


def made(kind: Any, backend: str) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    module = kind(3, 4, plasticity=RULE, backend=backend, dtype=torch.float64)
    shape = (5, 2, 3) if kind in SEQUENCES else (2, 3)
    return module, torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def flat(result: Any) -> list[Tensor]:
    return [
        x
        for part in result
        for x in ((part,) if isinstance(part, Tensor) else part or ())
        if x is not None
    ]


def loss_of(result: Any) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in flat(result)]).sum()


def gradients(module: nn.Module, input: Tensor) -> list[Tensor]:
    return [
        tensor.grad.clone() for tensor in (input, *module.parameters()) if tensor.grad is not None
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@each_module
def test_gradients_accumulate_and_a_retained_graph_gives_the_same_again(
    kind: Any, backend: str
) -> None:
    module, input = made(kind, backend)
    loss = loss_of(module(input))
    loss.backward(retain_graph=True)
    once = gradients(module, input)
    assert len(once) == 1 + len(list(module.parameters()))
    loss.backward(retain_graph=True)
    assert all(
        torch.equal(twice, 2 * grad)
        for twice, grad in zip(gradients(module, input), once, strict=True)
    )
    module.zero_grad()
    input.grad = None
    loss.backward()
    assert all(
        torch.equal(again, grad) for again, grad in zip(gradients(module, input), once, strict=True)
    )
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("use_reentrant", [True, False])
@each_module
def test_checkpointing_and_anomaly_mode_change_no_gradient(
    kind: Any, use_reentrant: bool, backend: str
) -> None:
    module, input = made(kind, backend)
    loss_of(module(input)).backward()
    expected = gradients(module, input)
    module.zero_grad()
    input.grad = None

    # Re-entrant checkpoints see only the tensors of a flat tuple.
    with torch.autograd.detect_anomaly(check_nan=True):
        found = checkpoint(lambda x: tuple(flat(module(x))), input, use_reentrant=use_reentrant)
        loss_of(found).backward()
    assert all(
        torch.equal(left, right)
        for left, right in zip(gradients(module, input), expected, strict=True)
    )


@needs_native
@pytest.mark.filterwarnings("ignore:Error detected in")
def test_anomaly_mode_names_the_call_whose_gradient_is_nan() -> None:
    for kind in (PlasticRNN, PlasticRNNCell):
        module, input = made(kind, "cpu")
        with torch.autograd.detect_anomaly():
            first = flat(module(input))[0]
            with pytest.raises(RuntimeError, match="'PlasticNetworkBackward' returned nan values"):
                first.backward(torch.full_like(first, torch.nan))


@pytest.mark.parametrize("backend", BACKENDS)
@each_module
def test_hooks_of_modules_and_tensors_see_and_change_gradients(kind: Any, backend: str) -> None:
    module, input = made(kind, backend)
    loss_of(module(input)).backward()
    expected = gradients(module, input)
    module.zero_grad()
    input.grad = None
    seen: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_: seen.append("before")),
        module.register_forward_hook(lambda *_: seen.append("after")),
        module.register_full_backward_hook(lambda *_: seen.append("backward")),
        input.register_hook(lambda grad: 3 * grad),
        *(parameter.register_hook(lambda grad: 2 * grad) for parameter in module.parameters()),
        *(
            parameter.register_post_accumulate_grad_hook(lambda _: seen.append("accumulated"))
            for parameter in module.parameters()
        ),
    ]
    loss_of(module(input)).backward()
    assert seen[:2] == ["before", "after"] and seen.count("backward") == 1
    assert seen.count("accumulated") == len(list(module.parameters()))
    found = gradients(module, input)
    close(found, [3 * expected[0], *(2 * grad for grad in expected[1:])])
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("backend", BACKENDS)
@each_module
def test_a_hook_on_a_state_sees_its_gradient(kind: Any, backend: str) -> None:
    module, input = made(kind, backend)
    result = module(input)
    state = result if kind in (PlasticRNNCell, PlasticLSTMCell) else result[1]
    seen: list[str] = []
    for name, tensor in state._asdict().items():
        tensor.register_hook(lambda grad, name=name: seen.append(name))
    loss_of(module(input, state)).backward()
    assert sorted(seen) == sorted(state._fields)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trace_on_its_soft_bound_stays_there_exactly_and_lets_its_gradient_pass(
    backend: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    posts, pres, batch = 37, 41, 3
    rate = torch.rand(posts, pres, dtype=dtype)
    post = 2 * torch.rand(batch, posts, dtype=dtype) - 1
    pre = 2 * torch.rand(batch, pres, dtype=dtype) - 1
    change = rate * post[:, :, None] * pre[:, None, :]
    first = torch.sign(change).requires_grad_()
    rule = Plasticity(constraint="soft_clip", eta="connection", alpha="layer")
    _, last = plastic_linear_step(
        pre, first, torch.zeros(posts, pres, dtype=dtype), torch.zeros((), dtype=dtype), rate,
        drive=post, plasticity=rule, nonlinearity="identity", backend=backend,
    )  # fmt: skip
    assert torch.equal(last.detach(), first.detach())
    (grad,) = torch.autograd.grad(last, first, torch.ones_like(last))
    # A few roundings of numbers up to 1.
    torch.testing.assert_close(grad, 1 - change.abs(), rtol=0, atol=8 * torch.finfo(dtype).eps)
