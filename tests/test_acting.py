"""Acting step by step and training on the recorded sequence are the same computation."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    BACKENDS,
    KINDS,
    VARIANTS,
    Case,
    assert_close,
    each_variant,
    needs_native,
    ruled,
    run,
    uninitialised_memory_is_nan,
)  # fmt: skip
from tolerances import FP64, FP64_ROUNDING
from torch import Tensor
from torch.autograd import forward_ad

import plastikern.functional as PF


def run_by_steps(case: Case, backend: str) -> dict[str, Tensor]:
    inputs = case.inputs()
    return case.results(case.by_steps(inputs, backend), inputs)


def check_one_step(case: Case) -> None:
    with uninitialised_memory_is_nan():
        found = run_by_steps(case, "cpu")
        assert_close(found, run_by_steps(case, "reference"), FP64)
        assert_close(found, run(case, "cpu"), FP64_ROUNDING)


@needs_native
@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize(
    "batch, neurons, nonlinearity",
    [(0, 3, "tanh"), (1, 1, "relu"), (3, 33, "sigmoid"), (1, 130, "identity")],
)
@pytest.mark.parametrize("upstream", [("hidden", "trace"), ("hidden",), ("trace",)])
def test_a_step_equals_a_sequence_of_one_step_and_the_reference(
    rule: str,
    constraint: str,
    batch: int,
    neurons: int,
    nonlinearity: str,
    upstream: tuple[str, ...],
) -> None:
    pairs = (("connection", "layer"), ("layer", "connection"), ("neuron", "neuron"))
    for number, (alpha, eta) in enumerate(pairs):
        case = Case(
            1, batch, neurons, ruled(rule, constraint, alpha=alpha, eta=eta), nonlinearity, eta=0.3
        )
        check_one_step(replace(case, with_clamp=number % 2 == 0, upstream=upstream))


@needs_native
@each_variant
@pytest.mark.parametrize("batch, neurons", [(0, 3), (1, 1), (3, 33), (1, 130)])
def test_a_step_of_every_network_equals_a_sequence_of_one_step_and_the_reference(
    case: Case, batch: int, neurons: int
) -> None:
    case = replace(case, steps=1, batch=batch, neurons=neurons, lengths=None)
    for upstream in (None, *((name,) for name in case.state)):
        check_one_step(replace(case, upstream=upstream))


def by_chunks(
    case: Case, inputs: dict[str, Tensor], bounds: tuple[int, ...], backend: str
) -> dict[str, Tensor]:
    """The whole sequence as a call for each chunk of steps, each handing its state to the next."""
    clamp, state = case.options().get("clamp"), {name: inputs[name] for name in case.state}
    chunks = []
    for start, end in itertools.pairwise(bounds):
        steps: dict[str, Tensor] = {
            key: inputs[key][start:end] for key in ("input", "drive") if key in inputs
        }
        changes = {} if clamp is None else {"clamp": clamp[start:end]}
        state = case.sequence({**inputs, **state, **steps}, backend, **changes)
        chunks.append(state.pop("output"))
    return {"output": torch.cat(chunks), **state}


MANY = {
    f"{rule}-{constraint}": Case(plasticity=ruled(rule, constraint, alpha="neuron"))
    for rule, constraint in KINDS
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [*MANY.values(), *VARIANTS.values()], ids=[*MANY, *VARIANTS])
@pytest.mark.parametrize("by_steps", [True, False])
def test_many_calls_that_hand_on_the_state_equal_one_call(
    backend: str, case: Case, by_steps: bool
) -> None:
    case = replace(case, steps=11, neurons=9, lengths=None, with_clamp=case.network == "rnn")
    inputs = case.inputs()
    if by_steps:
        outputs = case.by_steps(inputs, backend)
    else:
        outputs = by_chunks(case, inputs, (0, 4, 4, 5, 11), backend)
    assert_close(case.results(outputs, inputs), run(case, backend), FP64_ROUNDING)


def fed_back(case: Case, width: int, noise: Tensor, output: Tensor) -> Tensor:
    """What an agent observes next: something new, and which of its neurons was the most active."""
    return noise + F.one_hot(output.argmax(-1), max(width, case.neurons))[:, :width]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@each_variant
def test_a_recorded_rollout_is_trained_by_one_call(
    backend: str, mode: Callable[[], AbstractContextManager[None]], case: Case
) -> None:
    case = replace(case, lengths=None, with_clamp=False, upstream=("output",), steps=9)
    leaves = case.inputs()
    given = "input" if case.network == "linear" else "drive"
    received, width = leaves.pop(given), 6
    # The part of the network before the plastic connection, trained with it.
    leaves["encoder"] = (case.random("encoder", received.shape[-1], width) * 0.5).requires_grad_()
    noise = case.random("noise", case.steps, case.batch, width)

    def inputs(observations: Tensor, steps: slice = slice(None)) -> dict[str, Tensor]:
        tensors = {name: tensor for name, tensor in leaves.items() if name != "encoder"}
        if "drive" in tensors:
            tensors["drive"] = tensors["drive"][steps]
        return {**tensors, given: observations[steps] @ leaves["encoder"].mT}

    def acting() -> tuple[Tensor, dict[str, Tensor]]:
        """Observations on the way, and what came of them."""
        observed, outputs = [noise[0]], []
        state = {name: leaves[name] for name in case.state}
        for t in range(case.steps):
            # Every step is encoded and computed by itself, as in an environment.
            state = case.step(inputs(torch.stack(observed), slice(t, t + 1)), 0, state, backend)
            outputs.append(state.pop("output"))
            if t + 1 < case.steps:
                observed.append(fed_back(case, width, noise[t + 1], outputs[t]))
        return torch.stack(observed), {"output": torch.stack(outputs), **state}

    with mode():
        observed, acted = acting()
    assert not any(tensor.requires_grad for tensor in (observed, *acted.values()))
    recorded = observed.clone()
    trained = case.sequence(inputs(recorded), backend)
    assert_close(
        {name: output.detach() for name, output in trained.items()}, dict(acted), FP64_ROUNDING
    )
    again, stepped = acting()
    assert torch.equal(again, recorded)
    assert_close(case.results(trained, leaves), case.results(stepped, leaves), FP64_ROUNDING)


WRONG = {
    "drive": lambda tensor: tensor.long(),
    "hidden": lambda tensor: tensor[:, 1:],
    "cell": lambda tensor: tensor.float(),
    "trace": lambda tensor: tensor[1:],
    "eligibility": lambda tensor: tensor.to("meta"),
    "weight": lambda tensor: tensor[:-1],
    "alpha": lambda tensor: tensor.expand(2, *tensor.shape),
    "eta": lambda tensor: 0.1,
    "eligibility_eta": lambda tensor: None,
    "input": lambda tensor: tensor[:, :0],
}


@pytest.mark.parametrize("backend", BACKENDS)
@each_variant
def test_a_bad_argument_is_explained_while_acting_as_while_training(
    case: Case, backend: str
) -> None:
    case = replace(case, steps=1, lengths=None, batch_first=False)
    inputs = case.inputs()
    state = {name: inputs[name] for name in case.state}
    for name, spoil in WRONG.items():
        if name not in inputs:
            continue
        spoilt = inputs[name][0] if name in ("drive", "input") else inputs[name]
        wrong = spoil(spoilt.detach())
        given = {**inputs, name: wrong.unsqueeze(0) if name in ("drive", "input") else wrong}
        wrong_state = {**state, **({name: wrong} if name in state else {})}
        messages = []
        for recording in (torch.enable_grad, torch.no_grad):
            with recording(), pytest.raises((TypeError, ValueError)) as caught:
                case.step(given, 0, wrong_state, backend)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "granularity, shape", [("connection", (1, 4)), ("connection", (1, 1)), ("neuron", (1,))]
)
def test_a_coefficient_is_not_stretched_while_acting(
    backend: str, granularity: str, shape: tuple[int, ...]
) -> None:
    plasticity = ruled(
        "hebb",
        "decay",
        alpha="neuron" if granularity == "neuron" else "connection",
        eta="connection",
    )
    inputs = Case(1, 2, 4, plasticity).inputs()
    name = "alpha" if granularity == "neuron" else "eta"
    with torch.no_grad(), pytest.raises(ValueError, match=f"{name} must have shape"):
        given = {
            **inputs,
            "drive": inputs["drive"][0],
            name: torch.ones(shape, dtype=torch.float64),
        }
        PF.plastic_rnn_step(**given, plasticity=plasticity, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_network_without_neurons_is_refused_while_acting(backend: str) -> None:
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape)

    rate = torch.tensor(0.1)
    with torch.no_grad():
        with pytest.raises(ValueError, match="at least one neuron"):
            PF.plastic_rnn_step(
                zeros(2, 0), None, None, zeros(0, 0), zeros(0, 0), rate, backend=backend
            )
        with pytest.raises(ValueError, match="at least one neuron"):
            PF.plastic_lstm_step(
                zeros(2, 0), None, None, None, zeros(0, 0), zeros(0, 0), rate, backend=backend
            )
        with pytest.raises(ValueError, match="at least one neuron"):
            PF.plastic_linear_step(
                zeros(2, 3), None, zeros(0, 3), zeros(0, 3), rate, backend=backend
            )


@needs_native
def test_forward_mode_derivatives_are_refused_also_without_recording() -> None:
    inputs = Case(1, 2, 4).inputs()
    with forward_ad.dual_level(), torch.no_grad():
        drive = forward_ad.make_dual(
            inputs["drive"][0].detach(), torch.ones(2, 4, dtype=torch.float64)
        )
        with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
            PF.plastic_rnn_step(**{**inputs, "drive": drive}, backend="cpu")
