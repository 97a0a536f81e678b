"""The reference backend is the definition: it computes the published equations, with derivatives of any order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    BACKENDS,
    KINDS,
    MODULATED_BY,
    NETWORKS,
    POSTS_OF,
    RETROACTIVE,
    SIMPLE,
    Case,
    each_variant,
    ruled,
    threads,
)
from numpy.typing import NDArray
from tolerances import FP64_ROUNDING
from torch import Tensor

import plastikern.functional as PF
from plastikern import Plasticity
from plastikern.plasticity import (
    FAN_OUTS,
    GRANULARITIES,
    MODULATIONS,
    MODULATOR_NONLINEARITIES,
)

Array = NDArray[np.float64]


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


PHI: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu": lambda z: np.maximum(z, 0),
    "identity": lambda z: z,
    "linear": lambda z: z,
    "softmax": lambda z: np.exp(z) / np.exp(z).sum(),
}


def increment(rule: Plasticity, h: float, x: float, y: float) -> float:
    """What a step with pre x and post y adds to a trace h at rate 1."""
    return x * y if rule.rule == "hebb" else y * (x - y * h)  # paper 2, eq. 2; paper 1, eq. 3


def next_trace(rule: Plasticity, rate: float, h: float, added: float) -> float:
    """One trace after a step, as published."""
    if rule.constraint == "decay":
        return rate * added + (1 - rate) * h  # paper 1, eq. 2
    change = rate * added
    if rule.constraint == "clip":
        return min(max(h + change, -rule.clip), rule.clip)  # paper 2, eq. 2
    if rule.constraint == "soft_clip":
        return min(max(h + max(change, 0) * (1 - h) + min(change, 0) * (1 + h), -1), 1)
    return h + change


class Published:
    """One element of a case, one synapse at a time."""

    def __init__(self, case: Case, element: int) -> None:
        self.case, self.rule, self.element = case, case.plasticity, element
        arguments = case.arguments(case.inputs())
        modulator = arguments.pop("modulator", None)
        given = {**arguments, **({} if modulator is None else modulator._asdict())}
        self.weight = arguments["weight"].detach().numpy()
        if modulator is not None:
            given |= {"weight": None, "modulator": modulator.weight}
        self.given = {
            name: x.detach().numpy().copy() for name, x in given.items() if isinstance(x, Tensor)
        }
        self.state = {name: self.given[name][element] for name in case.state}

    def at(self, name: str, j: int, i: int) -> float:
        """A coefficient of the connection from i to j, whatever its granularity."""
        value = self.given[name]
        return float(value[(j, i)[: value.ndim]])

    def recurrent(self, x: Array) -> Array:
        """Sum (w + alpha H) x of paper 1, eq. 1."""
        found = np.zeros(self.case.neurons)
        first = 2 * self.case.neurons if self.case.network in ("lstm", "gru") else 0
        for j, row in enumerate(self.state["trace"]):
            for i, h in enumerate(row):
                read = (
                    min(max(h, -self.rule.clip), self.rule.clip)
                    if self.rule.constraint == "clip_on_read"
                    else h
                )
                found[j] += (self.weight[first + j, i] + self.at("alpha", j, i) * read) * x[i]
        return found

    def rate(self, modulator: float | None, j: int, i: int) -> float:
        """Paper 2, section 3.2: the modulator takes the place of eta."""
        if modulator is None or ("modulated" in self.given and not self.given["modulated"][j]):
            return self.at("eta", j, i)
        if self.rule.fan_out == "none":
            return modulator
        return self.at("fan_out_weight", j, i) * modulator + self.at("fan_out_bias", j, i)

    def step(self, t: int) -> Array:
        case, rule, state = self.case, self.rule, self.state
        drive = self.given["drive"][t, self.element]
        x = (
            self.given["input"][t, self.element]
            if case.network == "linear"
            else state["hidden"].copy()
        )
        recurrent = self.recurrent(x)
        if case.network == "lstm":
            u, w, size = drive, self.weight, case.neurons
            admit, keep, emit = (sigmoid((u + w @ x)[k * size : (k + 1) * size]) for k in (0, 1, 3))
            candidate = np.tanh(u[2 * size : 3 * size] + recurrent)
            state["cell"] = keep * state["cell"] + admit * candidate
            active = emit * np.tanh(state["cell"])
            post = {
                "candidate": candidate,
                "recurrent": recurrent,
                "cell": state["cell"],
                "hidden": active,
            }[case.post]
        elif case.network == "gru":
            u, w, size = drive, self.weight, case.neurons
            reset, keep = (
                sigmoid((u[: 2 * size] + w[: 2 * size] @ x)[k * size :][:size]) for k in (0, 1)
            )
            inner = u[2 * size : 3 * size] + recurrent
            candidate = np.tanh(u[3 * size :] + reset * inner)
            active = (1 - keep) * candidate + keep * x
            post = {"candidate": candidate, "recurrent": inner, "hidden": active}[case.post]
        else:
            active = PHI[case.nonlinearity](drive + recurrent)
            if "clamp" in self.given:
                active = np.where(self.given["clamp"][t, self.element], drive, active)
            post = active
        modulator = None
        if rule.modulation != "none":
            source = {"hidden": active, "previous_hidden": x, "cell": state.get("cell")}[
                rule.modulator_input
            ]
            signal = (
                sum(v * s for v, s in zip(self.given["modulator"], source, strict=True))
                + self.given["bias"]
            )
            modulator = float(PHI[rule.modulator_nonlinearity](signal))
        for j in range(case.neurons):
            for i in range(len(x)):
                h = state["trace"][j, i]
                added = increment(rule, h, x[i], post[j])
                if (
                    rule.modulation == "retroactive"
                    and self.given.get("modulated", np.ones(case.neurons))[j]
                ):
                    # paper 2, eq. 4 and 5: E is used before it changes
                    e, eta = state["eligibility"][j, i], self.at("eligibility_eta", j, i)
                    state["eligibility"][j, i] = (1 - eta) * e + eta * added
                    added = e
                state["trace"][j, i] = next_trace(rule, self.rate(modulator, j, i), h, added)
        if case.network != "linear":
            state["hidden"] = active
        return active


def check_published(case: Case, backend: str) -> None:
    elements = [Published(case, b) for b in range(case.batch)]
    expected = {
        "output": np.stack(
            [[element.step(t) for t in range(case.steps)] for element in elements], 1
        )
    }
    expected |= {
        name: np.stack([element.state[name] for element in elements]) for name in case.state
    }
    for name, found in case.sequence(case.inputs(), backend).items():
        np.testing.assert_allclose(
            found.detach().numpy(), expected[name], rtol=1e-12, atol=1e-13, err_msg=name
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize(
    "granularity, nonlinearity, with_clamp",
    [
        ("connection", "tanh", True),
        ("neuron", "sigmoid", False),
        ("layer", "relu", True),
        ("layer", "identity", False),
    ],
)
def test_computes_the_published_equations(
    backend: str, rule: str, constraint: str, granularity: str, nonlinearity: str, with_clamp: bool
) -> None:
    # A large eta and a small bound, so that every constraint acts.
    plasticity = Plasticity(
        rule=rule, constraint=constraint, clip=0.4, alpha=granularity, eta=granularity
    )
    check_published(
        Case(5, 2, 3, plasticity, nonlinearity, with_clamp=with_clamp, eta=0.7), backend
    )


def turning(options: tuple[str, ...], number: int) -> str:
    return options[number % len(options)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("modulation", MODULATIONS)
@pytest.mark.parametrize("number", range(len(KINDS)), ids=["-".join(kind) for kind in KINDS])
def test_computes_the_published_equations_of_every_network(
    backend: str, network: str, modulation: str, number: int
) -> None:
    # The other options take turns, each in its own rhythm.
    for turn in range(number, number + 4):
        own: dict[str, Any] = {}
        if modulation != "none":
            own["modulator_input"] = turning(MODULATED_BY[network], turn)
            own["modulator_nonlinearity"] = turning(MODULATOR_NONLINEARITIES, turn // 2)
            own["fan_out"] = turning(FAN_OUTS, turn + turn // 3)
        granularities = {
            "alpha": turning(GRANULARITIES, turn),
            "eta": turning(GRANULARITIES, turn // 3 + 1),
        }
        rule, constraint = KINDS[number]
        case = Case(
            5, 2, 3, replace(ruled(rule, constraint, modulation=modulation, **granularities, **own), clip=0.4),
            turning(("softmax", "tanh", "sigmoid") if network == "linear" else ("tanh", "sigmoid"), turn),
            eta=0.7, network=network, post=turning(POSTS_OF[network], turn), seed=turn, features=4,
            half_modulated=modulation != "none" and turn % 2 == 0,
        )  # fmt: skip
        check_published(case, backend)


def check_derivatives(case: Case, order: int, fast_mode: bool) -> None:
    inputs = case.inputs()

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(case.sequence(dict(zip(inputs, tensors, strict=True)), "reference").values())

    check = torch.autograd.gradcheck if order == 1 else torch.autograd.gradgradcheck
    with threads(1):
        assert check(function, tuple(inputs.values()), fast_mode=fast_mode)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize(
    "granularity, nonlinearity",
    [("connection", "tanh"), ("neuron", "sigmoid"), ("layer", "identity")],
)
def test_derivatives_are_those_of_finite_differences(
    order: int, rule: str, constraint: str, granularity: str, nonlinearity: str
) -> None:
    plasticity = ruled(rule, constraint, alpha=granularity, eta=granularity)
    case = Case(3, 2, 2, plasticity, nonlinearity, eta=0.4, with_clamp=True, lengths=(3, 2))
    check_derivatives(case, order, fast_mode=order == 2)


@pytest.mark.parametrize("order", [1, 2])
@each_variant
def test_derivatives_of_every_network_are_those_of_finite_differences(
    order: int, case: Case
) -> None:
    check_derivatives(
        replace(case, steps=3, neurons=2, features=3, lengths=(3, 2)), order, fast_mode=True
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_state_or_a_drive_that_is_missing_is_zero(backend: str, network: str) -> None:
    case = Case(network=network, plasticity=ruled("hebb", "clip", **RETROACTIVE))
    inputs = case.inputs()
    for name in (*case.state, "drive")[: None if network == "linear" else -1]:
        zeros = {**inputs, name: torch.zeros_like(inputs[name])}
        expected = case.sequence(zeros, backend)
        for key, found in case.sequence({**inputs, name: None}, backend).items():  # type: ignore[dict-item]
            torch.testing.assert_close(found, expected[key], rtol=0, atol=FP64_ROUNDING)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "constraint, bound", [("clip", 0.5), ("soft_clip", 1.0), ("clip_on_read", 0.5)]
)
@pytest.mark.parametrize(
    "options", [{}, SIMPLE, RETROACTIVE], ids=["none", "simple", "retroactive"]
)
def test_a_gradient_passes_a_trace_that_is_exactly_on_its_bound(
    backend: str, constraint: str, bound: float, options: dict[str, Any]
) -> None:
    if options:
        options = {**options, "modulator_nonlinearity": "linear"}
    plasticity = Plasticity(constraint=constraint, clip=0.5, alpha="layer", **options)
    case = Case(1, 1, 12, plasticity, "identity", network="linear", features=1)
    # On the bound: inwards, outwards, no change. Below it: not as far as it, just onto it, beyond it. All are dyadic.
    start = torch.tensor([0, 0, 0, 1, 1, 1], dtype=torch.float64) * -0.125 + bound
    change = torch.tensor([-2, 2, 0, 0.5, 1, 2], dtype=torch.float64) * (
        1 if constraint == "soft_clip" else 0.125
    )
    trace, change = torch.cat([start, -start]), torch.cat([change, -change])
    alpha = 1.0 if constraint == "clip_on_read" else 0.0
    values = {
        "input": 1.0,
        "alpha": alpha,
        "eta": 0.25,
        "modulator_bias": 0.25,
        "eligibility_eta": 0.25,
    }
    inputs = {
        name: torch.full_like(tensor, values.get(name, 0.0))
        for name, tensor in case.inputs().items()
    }
    inputs["trace"] = trace[None, :, None]
    active = 4 * change  # at a rate of 1/4
    inputs["drive"] = (active - alpha * trace.clamp(-bound, bound))[None, None]
    if "eligibility" in inputs:
        inputs["eligibility"] = active[None, :, None]
    inputs = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    found = case.sequence(inputs, backend)

    y = inputs["drive"][0] + alpha * inputs["trace"][..., 0].clamp(-bound, bound)
    h, c = inputs["trace"], 0.25 * inputs.get("eligibility", y.unsqueeze(-1))
    following = {
        "clip": (h + c).clamp(-bound, bound),
        "soft_clip": (h + c - c.abs() * h).clamp(-1, 1),
        "clip_on_read": h + c,
    }[constraint]
    for left, right in ((found["output"][0], y), (found["trace"], following)):
        assert torch.equal(left, right)
        upstream = torch.arange(1.0, 13.0, dtype=torch.float64).view(right.shape)
        leaves = [inputs[name] for name in ("trace", "drive", "eligibility") if name in inputs]
        pairs = zip(
            torch.autograd.grad(
                left, leaves, upstream, retain_graph=True, allow_unused=True, materialize_grads=True
            ),
            torch.autograd.grad(
                right,
                leaves,
                upstream,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            ),
            strict=True,
        )
        for grad, expected in pairs:
            assert torch.equal(grad, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("network", ["rnn", "lstm", "gru"])
def test_without_plasticity_it_is_the_network_of_pytorch(backend: str, network: str) -> None:
    case = Case(6, 3, 5, ruled("hebb", "clip", **SIMPLE), network=network)
    inputs = {**case.inputs(), "alpha": torch.zeros(5, 5, dtype=torch.float64)}
    theirs: Any = getattr(torch.nn, network.upper())(4, 5, dtype=torch.float64)
    input = case.random("features", 6, 3, 4)
    drive = input @ theirs.weight_ih_l0.mT + theirs.bias_ih_l0
    if network == "gru":
        # Between the gates and the candidate lies what its recurrent sum gets.
        gates, candidate = drive.split([10, 5], -1)
        of_gates, of_sum = theirs.bias_hh_l0.split([10, 5])
        drive = torch.cat([gates + of_gates, of_sum.expand_as(candidate), candidate], -1)
    else:
        drive = drive + theirs.bias_hh_l0
    weight = theirs.weight_hh_l0
    found = case.sequence({**inputs, "drive": drive, "weight": weight}, backend)
    state = tuple(inputs[name].unsqueeze(0) for name in case.state if name != "trace")
    output, last = theirs(input, state if network == "lstm" else state[0])
    last = last if network == "lstm" else (last,)
    expected = {
        "output": output,
        **{name: tensor[0] for name, tensor in zip(case.state, last, strict=False)},
    }
    parameters = [*theirs.parameters(), *(inputs[name] for name in expected if name != "output")]
    for name, right in expected.items():
        torch.testing.assert_close(found[name], right, rtol=0, atol=FP64_ROUNDING)
        upstream = case.random(f"grad_{name}", *right.shape)
        pairs = zip(
            torch.autograd.grad(found[name], parameters, upstream, retain_graph=True),
            torch.autograd.grad(right, parameters, upstream, retain_graph=True),
            strict=True,
        )
        for left, other in pairs:
            torch.testing.assert_close(left, other, rtol=0, atol=FP64_ROUNDING)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule, constraint", KINDS)
def test_a_step_reads_products_up_to_the_step_before(
    backend: str, rule: str, constraint: str
) -> None:
    plasticity = Plasticity(rule=rule, constraint=constraint, alpha="layer")
    drive = torch.tensor([[[0.3, -0.5]], [[0.2, 0.4]]], dtype=torch.float64)
    hidden = torch.tensor([[0.6, -0.7]], dtype=torch.float64)
    eta, alpha = torch.tensor(0.1, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    weight = torch.zeros(2, 2, dtype=torch.float64)
    output, _, trace = PF.plastic_rnn_sequence(
        drive,
        hidden,
        None,
        weight,
        alpha,
        eta,
        plasticity=plasticity,
        nonlinearity="identity",
        backend=backend,
    )
    first = drive[0]  # the trace is still empty: the product of this step is not in it
    held = 0.1 * first.T @ hidden
    assert torch.equal(output[0], first)
    torch.testing.assert_close(output[1], drive[1] + first @ held.T, rtol=1e-14, atol=0)
    assert not torch.allclose(trace[0], held)  # the product of the last step is in the last trace


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_clamped_neuron_takes_its_drive_and_still_changes_its_trace(backend: str) -> None:
    case = Case(steps=3, neurons=4, eta=0.2)
    inputs = case.inputs()
    clamp = torch.zeros(case.drive_shape, dtype=torch.bool)
    clamp[:, :, 1] = True
    output, _, trace = PF.plastic_rnn_sequence(
        **inputs, plasticity=case.plasticity, clamp=clamp, backend=backend
    )
    assert torch.equal(output[:, :, 1], inputs["drive"][:, :, 1])
    expected, eta = inputs["trace"][:, 1], inputs["eta"]
    for pre, active in zip(
        torch.cat([inputs["hidden"].unsqueeze(0), output[:-1]]), output, strict=True
    ):
        expected = (1 - eta) * expected + eta * active[:, 1:2] * pre
    torch.testing.assert_close(trace[:, 1], expected)
    grad_drive, grad_weight = torch.autograd.grad(
        output[:, :, 1].sum(), (inputs["drive"], inputs["weight"])
    )
    alone = torch.zeros_like(grad_drive)
    alone[:, :, 1] = 1
    assert torch.equal(grad_drive, alone) and not grad_weight.any()
