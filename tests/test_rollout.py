"""A rollout's steps and its one backward pass are those of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import emulated
import pytest
import torch
from conftest import (
    BACKENDS,
    assert_close,
    close,
    needs_native,
    threads,
    uninitialised_memory_is_nan,
)
from tolerances import FP64_ROUNDING, fp32
from torch import Tensor, nn

from plastikern import PlasticGRU, Plasticity, PlasticLSTM, PlasticRNN, Rollout
from plastikern.program import RESULTS

RULES = {
    "decay": Plasticity(),
    "oja": Plasticity(rule="oja", constraint="none", alpha="neuron"),
    "simple": Plasticity(constraint="clip", clip=0.3, modulation="simple", fan_out="neuron"),
    "retroactive": Plasticity(constraint="clip", clip=0.2, modulation="retroactive", eta_init=0.3),
    "retroactive-rates": Plasticity(
        constraint="clip", eta="connection", modulation="retroactive", fan_out="connection"
    ),
    "soft-clip": Plasticity(
        constraint="soft_clip", modulation="simple", modulator_input="previous_hidden"
    ),
}
NETWORKS = {"rnn": PlasticRNN, "lstm": PlasticLSTM, "gru": PlasticGRU}
FIRST = {
    "rnn": ("hidden", "trace", "eligibility"),
    "lstm": ("hidden", "cell", "trace", "eligibility"),
    "gru": ("hidden", "trace", "eligibility"),
}


def made(
    kind: str,
    rule: str,
    neurons: int = 9,
    layers: int = 1,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> nn.Module:
    torch.manual_seed(neurons + layers)
    return NETWORKS[kind](
        4, neurons, num_layers=layers, plasticity=RULES[rule], dtype=dtype, **options
    )


def first_state(network: nn.Module, kind: str, batch: int) -> Any:
    """A random state whose tensors want gradients."""
    n, retroactive = network.hidden_size, network.plasticity.modulation == "retroactive"
    tensors = {
        name: 0.5
        * torch.randn(
            network.num_layers, batch, *((n, n) if name in ("trace", "eligibility") else (n,))
        )
        for name in FIRST[kind]
        if name != "eligibility" or retroactive
    }
    dtype = next(network.parameters()).dtype
    return network.State(
        **{name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}
    )


def learnt(
    network: nn.Module, inputs: Tensor, state: Any, run: Callable[[Tensor, Any], Any]
) -> dict[str, Tensor]:
    """Results and gradients of everything."""
    network.zero_grad()
    inputs = inputs.detach().clone().requires_grad_()
    given = [] if state is None else [tensor for tensor in state if tensor is not None]
    for tensor in given:
        tensor.grad = None
    output, last = run(inputs, state)
    results = [output, *(tensor for tensor in last if tensor is not None)]
    sum(
        (tensor.double() * torch.linspace(-1, 1, tensor.numel()).view(tensor.shape)).sum()
        for tensor in results
    ).backward()
    names = [
        *(f"result {i}" for i in range(len(results))),
        "grad inputs",
        *(f"grad state {i}" for i in range(len(given))),
    ]
    found = dict(
        zip(names, [*results, inputs.grad, *(tensor.grad for tensor in given)], strict=True)
    )
    found.update(
        {f"grad {name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    )
    return {name: tensor.detach() for name, tensor in found.items()}


def act(
    network: nn.Module,
    inputs: Tensor,
    state: Any,
    planned: int | None = None,
    mode: Any = torch.inference_mode,
) -> Rollout:
    """Steps on these inputs (T, B, F), each of which may depend on the last one."""
    rollout = network.rollout(len(inputs) if planned is None else planned, inputs.shape[1], state)
    with mode():
        for row in inputs:
            activities = rollout.step(row)
            assert activities.shape == (inputs.shape[1], network.hidden_size)
            assert not activities.requires_grad
    return rollout


def check(network: nn.Module, inputs: Tensor, state: Any, tolerance: float, **options: Any) -> None:
    expected = learnt(network, inputs, state, network)

    def run(given: Tensor, first: Any) -> Any:
        rows = given.detach().transpose(0, 1) if network.batch_first else given.detach()
        return act(network, rows, first, **options).finish(given)

    with uninitialised_memory_is_nan():
        assert_close(learnt(network, inputs, state, run), expected, tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "steps, batch, layers, planned", [(1, 1, 1, 1), (13, 3, 1, 13), (7, 2, 2, 20), (3, 2, 1, 4)]
)
def test_learning_from_a_rollout_is_learning_from_the_sequence(
    backend: str, kind: str, rule: str, steps: int, batch: int, layers: int, planned: int
) -> None:
    network = made(kind, rule, layers=layers, backend=backend)
    inputs = torch.randn(steps, batch, 4, dtype=torch.float64)
    check(network, inputs, first_state(network, kind, batch), FP64_ROUNDING, planned=planned)
    check(network, inputs, None, FP64_ROUNDING, planned=planned, mode=torch.no_grad)


@pytest.mark.parametrize("backend", [*BACKENDS, pytest.param("emulated", marks=needs_native)])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_that_was_made_in_inference_mode_acts(backend: str, kind: str) -> None:
    if backend == "emulated":
        emulated.library()
    with torch.inference_mode():
        network = made(kind, "decay", backend=backend)
        inputs, state = torch.randn(3, 2, 4, dtype=torch.float64), first_state(network, kind, 2)
        rollout = network.rollout(3, 2, state)
        outputs = [rollout.step(row).clone() for row in inputs]
        expected = network(inputs, state)[0]
    close(torch.stack(outputs), expected)


@needs_native
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_rollout_takes_the_layout_of_its_network(kind: str) -> None:
    network = made(kind, "simple", batch_first=True)
    check(network, torch.randn(3, 8, 4, dtype=torch.float64), None, FP64_ROUNDING)


@needs_native
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_share_elements_or_the_neurons_of_one(kind: str, count: int) -> None:
    with threads(count):
        for batch, neurons in ((1, 140), (5, 130), (9, 70)):
            network = made(kind, "retroactive", neurons)
            check(network, torch.randn(11, batch, 4, dtype=torch.float64), None, FP64_ROUNDING)


@needs_native
def test_a_rollout_in_single_precision() -> None:
    network = made("rnn", "retroactive", 33, dtype=torch.float32)
    check(network, torch.randn(20, 4, 4), None, fp32(20, 33, modulated=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_learns_as_the_sequence_does(backend: str) -> None:
    network = made("rnn", "simple", dtype=torch.bfloat16, backend=backend)
    inputs = torch.randn(5, 2, 4).bfloat16()
    state = act(network, inputs, None).finish(inputs)[1]
    assert state.trace.dtype == torch.float32
    check(network, inputs, None, 2**-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_under_autocast_a_rollout_is_the_sequence(backend: str) -> None:
    network, inputs = (
        made("rnn", "simple", dtype=torch.float32, backend=backend),
        torch.randn(5, 2, 4),
    )
    with torch.autocast("cpu", torch.bfloat16):
        check(network, inputs, None, 2**-7)
        assert act(network, inputs, None).finish(inputs)[0].dtype == torch.float32


@needs_native
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("rule", ["decay", "retroactive"])
def test_the_state_can_be_asked_for_at_any_time(kind: str, rule: str) -> None:
    network, inputs = made(kind, rule, layers=2), torch.randn(9, 2, 4, dtype=torch.float64)
    rollout = network.rollout(9, 2)
    for t, row in enumerate(inputs):
        found, expected = rollout.state(), network(inputs[:t])[1]
        for name, a, b in zip(FIRST[kind], found, expected, strict=False):
            assert_close({name: a}, {name: b.detach()}, FP64_ROUNDING)
        assert len(found) == len(expected)
        rollout.step(row)
        assert rollout.taken == t + 1
    assert_close(
        {"output": rollout.finish()[0].detach()},
        {"output": network(inputs)[0].detach()},
        FP64_ROUNDING,
    )


def test_without_inputs_gradients_reach_parameters() -> None:
    network, inputs = made("rnn", "simple"), torch.randn(6, 2, 4, dtype=torch.float64)
    act(network, inputs, None).finish()[0].sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    network.zero_grad()
    network(inputs)[0].sum().backward()
    assert_close(
        found,
        {name: parameter.grad for name, parameter in network.named_parameters()},
        FP64_ROUNDING,
    )


def test_learning_can_be_switched_off() -> None:
    network, inputs = made("rnn", "simple"), torch.randn(6, 2, 4, dtype=torch.float64)
    rollout = act(network, inputs, None)
    with torch.no_grad():
        output, state = rollout.finish(inputs)
        expected = network(inputs)[0]
    assert not output.requires_grad and not state.trace.requires_grad
    assert_close({"output": output}, {"output": expected}, FP64_ROUNDING)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mistakes_are_named(backend: str) -> None:
    network, inputs = (
        made("rnn", "simple", backend=backend),
        torch.randn(2, 3, 4, dtype=torch.float64),
    )
    for arguments, message in (
        ((0, 3), "steps must be a positive"),
        ((2, 0), "batch_size must be a positive"),
    ):
        with pytest.raises(ValueError, match=message):
            network.rollout(*arguments)
    with pytest.raises(ValueError, match=r"state.hidden must have shape"):
        network.rollout(2, 3, (torch.zeros(1, 2, 9), torch.zeros(1, 2, 9, 9)))
    rollout = network.rollout(2, 3)
    for wrong in (inputs[0].float(), inputs[0, :2], inputs[0, :, :3], None):
        with pytest.raises((TypeError, ValueError), match="input must"):
            rollout.step(wrong)
    rollout.step(inputs[0])
    rollout.step(inputs[1])
    with pytest.raises(RuntimeError, match="all 2 steps have been taken"):
        rollout.step(inputs[1])
    with pytest.raises(ValueError, match="inputs must be those of the steps"):
        rollout.finish(inputs + 1)
    with pytest.raises(ValueError, match="inputs must have shape"):
        rollout.finish(inputs[:1])
    with torch.no_grad():
        network.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="a parameter or the first state has been changed"):
        rollout.finish(inputs)
    with pytest.raises(ValueError, match="eval"):
        made("rnn", "simple", layers=2, dropout=0.5, backend=backend).rollout(2, 3)


IN_PLACE: dict[str, Callable[[Tensor], Any]] = {
    "relu": nn.ReLU(inplace=True),
    "dropout": nn.Dropout(inplace=True),
    "part": lambda hidden: hidden[0].zero_(),
    "view": lambda hidden: hidden.view(-1).mul_(2),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE)
def test_what_a_step_returned_is_not_changed_in_place(
    backend: str, kind: str, mode: Any, change: Callable[[Tensor], Any]
) -> None:
    network, inputs = (
        made(kind, "simple", layers=2, backend=backend),
        torch.randn(4, 2, 4, dtype=torch.float64),
    )
    for then in ("step", "state", "finish"):
        rollout = network.rollout(4, 2)
        with mode():
            rollout.step(inputs[0])
            hidden = rollout.step(inputs[1])
            change(hidden)
            change(hidden.clone())  # that is allowed
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            rollout.step(inputs[2]) if then == "step" else getattr(rollout, then)()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_states_that_a_rollout_gave_and_inputs_that_it_took_belong_to_others(
    backend: str, kind: str
) -> None:
    network, inputs = (
        made(kind, "retroactive", backend=backend),
        torch.randn(5, 2, 4, dtype=torch.float64),
    )
    rollout = network.rollout(5, 2)
    before = rollout.state()
    for row in inputs.clone():
        rollout.step(row)
        row.fill_(7)
        for tensor in before:
            tensor.fill_(7)
        before = rollout.state()
    found, expected = rollout.finish(), network(inputs)
    assert_close({"output": found[0].detach()}, {"output": expected[0].detach()}, FP64_ROUNDING)
    assert_close(
        {"trace": found[1].trace.detach()}, {"trace": expected[1].trace.detach()}, FP64_ROUNDING
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["hidden", "trace", "eta_l0"])
def test_the_first_state_and_the_rates_stay_as_they_are(backend: str, name: str) -> None:
    network = PlasticRNN(
        4, 9, plasticity=Plasticity(learn_eta=False), dtype=torch.float64, backend=backend
    )
    inputs, first = (
        torch.randn(3, 2, 4, dtype=torch.float64),
        first_state(network, "rnn", 2).detach(),
    )
    rollout = act(network, inputs, first)
    with torch.no_grad():
        (network.eta_l0 if name == "eta_l0" else getattr(first, name)).mul_(2)
    with pytest.raises(RuntimeError, match="changed in place since the first step"):
        rollout.finish()


@needs_native
def test_activities_changed_in_place_are_noticed() -> None:
    network, inputs = made("rnn", "simple"), torch.randn(4, 2, 4, dtype=torch.float64)
    output = act(network, inputs, None).finish(inputs)[0]
    total = output.sum()
    with torch.no_grad():
        output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@needs_native
def test_the_operator_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = made("rnn", "retroactive"), torch.randn(4, 2, 4, dtype=torch.float64)
    rollout, calls = network.rollout(4, 2), []
    recording = rollout._layers[0]._recording
    advance = recording._advance
    monkeypatch.setattr(
        recording, "_advance",
        lambda given, *more: calls.append((list(given), *more)) or advance(given, *more),
    )  # fmt: skip
    rollout.step(inputs[0])
    rollout.state()
    step, end = calls
    torch.library.opcheck(torch.ops.plastikern.advance.default, step, test_utils="test_schema")
    torch.library.opcheck(
        torch.ops.plastikern.empty.default,
        (inputs, [3, 5]),
        test_utils=("test_schema", "test_faketensor"),
    )
    written = [*(result.name for result in RESULTS), "memory"]
    for name, arguments, value in (
        ("drive", step, torch.zeros(2, 8, dtype=torch.float64)),
        ("written output", step, torch.zeros(4, 2, 9)),
        ("written memory", step, torch.zeros(5, dtype=torch.float64)),
        ("written modulators", step, torch.zeros(0, dtype=torch.float64)),
        ("lengths", end, torch.tensor([1, 2])),
        ("written trace", end, torch.zeros(2, 9, 8, dtype=torch.float64)),
        ("written eligibility", end, torch.zeros(0, dtype=torch.float64)),
        ("clamp", step, torch.zeros(4, 2, 9, dtype=torch.bool)),
    ):
        tensors, names, room, *more = (list(x) if isinstance(x, list) else x for x in arguments)
        if name.startswith("written"):
            room[written.index(name.split()[1])] = value
        elif name in names.split():
            tensors[names.split().index(name)] = value
        else:
            tensors, names = [*tensors, value], f"{names} {name}"
        with pytest.raises(RuntimeError, match="plastikern: "):
            advance(tensors, names, room, *more)
    for more in (("tanh", 1.0, 1, 0), (*step[3:5], -1, 0), (*step[3:6], 4)):
        with pytest.raises(RuntimeError, match="plastikern: "):
            advance(*step[:3], *more)


@needs_native
def test_memory_that_somebody_keeps_is_not_given_to_others() -> None:
    network = PlasticRNN(None, 300, bias=False, plasticity=RULES["decay"])
    inputs = torch.randn(6, 8, 300)
    state = network(inputs)[1]
    kept = state.trace.detach().clone()
    assert state.trace.nbytes > 1 << 20, "large enough to come from the library's own memory"
    addresses = {state.trace.data_ptr()}
    for _ in range(5):
        again = network(torch.randn(6, 8, 300))[1].trace
        assert again.data_ptr() not in {state.trace.data_ptr()}
        addresses.add(again.data_ptr())
    assert torch.equal(state.trace, kept)
    assert len(addresses) <= 4, "memory comes back"
