"""The reference backend is the definition: it computes the published equations, with derivatives of any order."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import BACKENDS, INPUTS, KINDS, Case
from numpy.typing import NDArray
from torch import Tensor

import plastikern.functional as PF
from plastikern import Plasticity

PHI: dict[str, Callable[[float], float]] = {
    "tanh": math.tanh,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "relu": lambda z: max(z, 0.0),
    "identity": lambda z: z,
}
Array = NDArray[np.float64]


def next_trace(rule: Plasticity, eta: float, h: float, x: float, y: float) -> float:
    """One trace after a step with pre x and post y, as published."""
    if (rule.rule, rule.constraint) == ("hebb", "decay"):
        return eta * x * y + (1 - eta) * h  # paper 1, eq. 2
    change = eta * x * y if rule.rule == "hebb" else eta * y * (x - y * h)  # paper 2, eq. 2; paper 1, eq. 3
    if rule.constraint == "clip":
        return min(max(h + change, -rule.clip), rule.clip)  # paper 2, eq. 2
    if rule.constraint == "soft_clip":
        return min(max(h + max(change, 0) * (1 - h) + min(change, 0) * (1 + h), -1), 1)
    return h + change


def published(case: Case) -> tuple[Array, Array, Array]:
    """Paper 1, eq. 1, one synapse at a time."""
    drive, hidden, trace, weight, alpha, eta = (x.detach().numpy().copy() for x in case.inputs().values())
    rule, size = case.plasticity, case.neurons
    alpha = np.broadcast_to(alpha[:, None] if alpha.ndim == 1 else alpha, (size, size))
    eta = np.broadcast_to(eta[:, None] if eta.ndim == 1 else eta, (size, size))
    clamp = case.options()["clamp"]
    output = np.zeros_like(drive)
    for b in range(case.batch):
        for t in range(case.steps):
            before = hidden[b].copy()
            for j in range(size):
                z = drive[t, b, j]
                for i in range(size):
                    h = trace[b, j, i]
                    if rule.constraint == "clip_on_read":
                        h = min(max(h, -rule.clip), rule.clip)
                    z += (weight[j, i] + alpha[j, i] * h) * before[i]
                clamped = clamp is not None and clamp[t, b, j]
                hidden[b, j] = output[t, b, j] = drive[t, b, j] if clamped else PHI[case.nonlinearity](z)
            for j in range(size):
                for i in range(size):
                    trace[b, j, i] = next_trace(rule, eta[j, i], trace[b, j, i], before[i], hidden[b, j])
    return output, hidden, trace


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize(
    "granularity, nonlinearity, with_clamp",
    [("connection", "tanh", True), ("neuron", "sigmoid", False), ("layer", "relu", True), ("layer", "identity", False)],
)
def test_computes_the_published_equations(
    backend: str, rule: str, constraint: str, granularity: str, nonlinearity: str, with_clamp: bool
) -> None:
    # A large eta and a small bound, so that every constraint acts.
    plasticity = Plasticity(rule=rule, constraint=constraint, clip=0.4, alpha=granularity, eta=granularity)
    case = Case(5, 2, 3, plasticity, nonlinearity, with_clamp=with_clamp, eta=0.7)
    found = PF.plastic_rnn_sequence(**case.inputs(), **case.options(), backend=backend)
    for result, expected in zip(found, published(case), strict=True):
        np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize(
    "granularity, nonlinearity", [("connection", "tanh"), ("neuron", "sigmoid"), ("layer", "identity")]
)
def test_derivatives_are_those_of_finite_differences(
    order: int, rule: str, constraint: str, granularity: str, nonlinearity: str
) -> None:
    plasticity = Plasticity(rule=rule, constraint=constraint, clip=0.6, alpha=granularity, eta=granularity)
    case = Case(3, 2, 2, plasticity, nonlinearity, eta=0.4, with_clamp=True, lengths=(3, 2))

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(INPUTS, tensors, strict=True))
        return PF.plastic_rnn_sequence(**given, **case.options(), backend="reference")

    check = torch.autograd.gradcheck if order == 1 else torch.autograd.gradgradcheck
    assert check(function, tuple(case.inputs().values()), fast_mode=order == 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule, constraint", KINDS)
def test_a_step_reads_products_up_to_the_step_before(backend: str, rule: str, constraint: str) -> None:
    plasticity = Plasticity(rule=rule, constraint=constraint, alpha="layer")
    drive = torch.tensor([[[0.3, -0.5]], [[0.2, 0.4]]], dtype=torch.float64)
    hidden = torch.tensor([[0.6, -0.7]], dtype=torch.float64)
    eta, alpha = torch.tensor(0.1, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    weight = torch.zeros(2, 2, dtype=torch.float64)
    output, _, trace = PF.plastic_rnn_sequence(
        drive, hidden, None, weight, alpha, eta, plasticity=plasticity, nonlinearity="identity", backend=backend
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
    output, _, trace = PF.plastic_rnn_sequence(**inputs, plasticity=case.plasticity, clamp=clamp, backend=backend)
    assert torch.equal(output[:, :, 1], inputs["drive"][:, :, 1])
    expected, eta = inputs["trace"][:, 1], inputs["eta"]
    for pre, active in zip(torch.cat([inputs["hidden"].unsqueeze(0), output[:-1]]), output, strict=True):
        expected = (1 - eta) * expected + eta * active[:, 1:2] * pre
    torch.testing.assert_close(trace[:, 1], expected)
    grad_drive, grad_weight = torch.autograd.grad(output[:, :, 1].sum(), (inputs["drive"], inputs["weight"]))
    alone = torch.zeros_like(grad_drive)
    alone[:, :, 1] = 1
    assert torch.equal(grad_drive, alone) and not grad_weight.any()
