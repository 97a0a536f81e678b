"""The plastic networks under autograd: finite differences, gradients of some tensors only, and the less usual uses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import (
    BACKENDS,
    INPUTS,
    KINDS,
    RETROACTIVE,
    SIMPLE,
    VARIANTS,
    Case,
    assert_close,
    each_variant,
    needs_native,
    ruled,
    run,
    threads,
)  # fmt: skip
from tolerances import FP64, FP64_ROUNDING
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from plastikern import PlasticGRU, Plasticity, PlasticLSTM, PlasticRNN, PlasticRNNCell, rule


@rule(H="synapse")
def cubed(H: Tensor, x: Tensor, y: Tensor, eta: Tensor) -> Tensor:
    return H + eta * x * y - 0.1 * H * H * H


def finite_differences_agree(case: Case, by_steps: bool = False) -> bool:
    inputs = case.inputs()

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(inputs, tensors, strict=True))
        return tuple(
            (case.by_steps(given, "cpu") if by_steps else case.sequence(given, "cpu")).values()
        )

    return torch.autograd.gradcheck(function, tuple(inputs.values()), fast_mode=True)


@needs_native
@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize(
    "alpha, eta", [("connection", "layer"), ("neuron", "connection"), ("layer", "neuron")]
)
@pytest.mark.parametrize("checkpoint_every", [None, 2])
def test_fused_gradients_are_those_of_finite_differences(
    rule: str, constraint: str, alpha: str, eta: str, checkpoint_every: int | None
) -> None:
    case = Case(
        5,
        2,
        3,
        ruled(rule, constraint, alpha=alpha, eta=eta),
        eta=0.1,
        with_clamp=True,
        lengths=(5, 3),
    )
    assert finite_differences_agree(replace(case, checkpoint_every=checkpoint_every))


@needs_native
@each_variant
@pytest.mark.parametrize("checkpoint_every", [None, 2])
def test_fused_gradients_of_every_network_are_those_of_finite_differences(
    case: Case, checkpoint_every: int | None
) -> None:
    case = replace(case, steps=5, neurons=3, lengths=None)
    assert finite_differences_agree(
        replace(case, lengths=(5, 3), checkpoint_every=checkpoint_every)
    )
    assert finite_differences_agree(replace(case, steps=2), by_steps=True)


@needs_native
@pytest.mark.parametrize("case", [Case(), *VARIANTS.values()], ids=["rnn", *VARIANTS])
@pytest.mark.parametrize("by_steps", [True, False])
def test_a_second_derivative_of_a_fused_call_is_refused(case: Case, by_steps: bool) -> None:
    case = replace(case, steps=1, lengths=None)
    inputs = case.inputs()
    outputs = case.by_steps(inputs, "cpu") if by_steps else case.sequence(inputs, "cpu")
    # What comes back is a constant for the first loss, and not for the second.
    for loss in (case.loss(outputs), case.loss(outputs).square()):
        (grad,) = torch.autograd.grad(loss, inputs["alpha"], create_graph=True)
        with pytest.raises(RuntimeError, match="first derivatives only"):
            grad.sum().backward(retain_graph=True)


@needs_native
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM, PlasticGRU])
def test_a_second_derivative_by_what_lies_before_a_fused_call_is_refused_too(kind: Any) -> None:
    # Torch runs only what lies on a way to what it differentiates by.
    for plasticity in (Plasticity(constraint="clip"), cubed.use()):
        module = kind(3, 5, plasticity=plasticity, backend="cpu", dtype=torch.float64)
        input = torch.randn(7, 4, 3, dtype=torch.float64, requires_grad=True)
        for loss in (lambda x: x.sum(), lambda x: x.square().sum()):
            (grad,) = torch.autograd.grad(loss(module(input)[0]), input, create_graph=True)
            for name in ("weight_ih_l0", "weight_hh_l0", "alpha_l0"):
                with pytest.raises(RuntimeError, match="first derivatives only"):
                    torch.autograd.grad(
                        grad.square().sum(), module.get_parameter(name), retain_graph=True
                    )


@needs_native
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("constraint", ["decay", "clip"])
def test_each_tensor_alone_gets_the_gradient_that_it_gets_among_all(
    name: str, constraint: str
) -> None:
    for alpha, eta in (("connection", "layer"), ("layer", "connection"), ("neuron", "neuron")):
        case = Case(
            plasticity=Plasticity(constraint=constraint, alpha=alpha, eta=eta), with_clamp=True
        )
        check_alone(case, (name,), run(case, "cpu"))


@needs_native
@each_variant
@pytest.mark.parametrize("by_steps", [True, False])
def test_tensors_get_the_gradient_that_they_get_among_all_in_every_network(
    case: Case, by_steps: bool
) -> None:
    case = replace(case, steps=1, lengths=None) if by_steps else case
    names = list(case.inputs())
    expected = run(case, "cpu")
    for position, name in enumerate(names):
        check_alone(case, (name,), expected, by_steps)
        check_alone(case, (name, names[position - 3]), expected, by_steps)
    parameters = tuple(name for name in names if name not in ("input", "drive", *case.state))
    check_alone(case, parameters, expected, by_steps)


def check_alone(
    case: Case, names: tuple[str, ...], expected: dict[str, Tensor], by_steps: bool = False
) -> None:
    inputs = {key: tensor.detach() for key, tensor in case.inputs().items()}
    wanted = {name: inputs[name].requires_grad_() for name in names}
    outputs = case.by_steps(inputs, "cpu") if by_steps else case.sequence(inputs, "cpu")
    assert all(result.requires_grad for result in outputs.values())
    found = case.results(outputs, wanted)
    assert_close(found, {name: expected[name] for name in found}, FP64_ROUNDING)


def test_autocast_leaves_the_plastic_connection_in_its_own_precision() -> None:
    for bias in (True, False):
        network = PlasticRNN(3, 4, bias=bias)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, state = network(torch.randn(5, 2, 3))
        (output.sum() + state.trace.sum()).backward()
        assert output.dtype == state.trace.dtype == torch.float32
        assert all(
            parameter.grad is not None and parameter.grad.isfinite().all()
            for parameter in network.parameters()
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_of_a_cell_changes_nothing(
    backend: str, use_reentrant: bool
) -> None:
    cell, input = PlasticRNNCell(3, 4, backend=backend), torch.randn(2, 3, requires_grad=True)
    found = []
    for again in (False, True):
        cell.zero_grad()
        hidden, trace, *_ = (
            checkpoint(cell, input, use_reentrant=use_reentrant) if again else cell(input)
        )
        (hidden.sum() + trace.square().sum()).backward()
        found.append([parameter.grad for parameter in cell.parameters()])
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


@needs_native
@pytest.mark.parametrize("name", ["rnn-retroactive", "lstm-simple", "linear-simple"])
def test_forward_mode_derivatives_are_refused_by_the_fused_path_and_given_by_the_reference(
    name: str,
) -> None:
    for case in (Case(), VARIANTS[name]):
        inputs = {name: tensor.detach() for name, tensor in case.inputs().items()}
        with forward_ad.dual_level():
            inputs["drive"] = forward_ad.make_dual(
                inputs["drive"], torch.ones_like(inputs["drive"])
            )
            output = case.sequence(inputs, "reference")["output"]
            assert forward_ad.unpack_dual(output).tangent is not None
            with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
                case.sequence(inputs, "cpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_beyond_the_end_of_an_element_reaches_no_gradient(backend: str) -> None:
    network = PlasticRNN(None, 4, bias=False, backend=backend)
    drive = torch.randn(5, 2, 4)
    drive[3:, 1] = torch.nan
    output, _ = network(drive, lengths=[5, 3])
    output.sum().backward()
    assert output.isfinite().all()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in network.parameters()
    )


@pytest.mark.parametrize("backend", BACKENDS)
@each_variant
def test_nan_beyond_the_end_of_an_element_reaches_no_gradient_of_any_network(
    backend: str, case: Case
) -> None:
    case = replace(case, steps=5, lengths=(5, 3), upstream=None)
    expected, inputs = run(case, backend), case.inputs()
    with torch.no_grad():
        for name in {"input", "drive"} & inputs.keys():
            inputs[name][3:, 1] = torch.nan
    assert_close(case.results(case.sequence(inputs, backend), inputs), expected, FP64_ROUNDING)


SHARED = {
    "rnn": Case(plasticity=Plasticity(constraint="clip")),
    "rnn-connection": Case(plasticity=Plasticity(constraint="clip", eta="connection")),
    "rnn-simple": Case(plasticity=Plasticity(constraint="clip", **SIMPLE)),
    "lstm-retroactive": Case(
        network="lstm", plasticity=Plasticity(constraint="clip", eta="neuron", **RETROACTIVE)
    ),
    "linear-simple": Case(
        network="linear", plasticity=Plasticity(fan_out="neuron", **SIMPLE), nonlinearity="softmax"
    ),
}


@needs_native
@pytest.mark.parametrize("case", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("batch, neurons", [(1, 5), (2, 33), (4, 5), (7, 33), (1, 131), (4, 131)])
def test_any_number_of_threads_shares_any_batch(case: Case, batch: int, neurons: int) -> None:
    case = replace(case, steps=12, batch=batch, neurons=neurons, features=40, seed=3)
    expected = run(case, "reference")
    for count in (1, 2, 3, 5):
        with threads(count):
            assert_close(run(case, "cpu"), expected, FP64)
