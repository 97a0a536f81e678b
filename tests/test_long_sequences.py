"""Gradients keep their precision over any number of steps, where traces are run backwards, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import assert_close, needs_native, threads
from tolerances import fp32
from torch import Tensor

import plastikern.functional as PF
from plastikern import Plasticity, PlasticRNN

pytestmark = needs_native


def gradients(
    dtype: torch.dtype,
    tensors: dict[str, Tensor],
    upstream: Tensor,
    checkpoint_every: int | None,
    **options: Any,
) -> dict[str, Tensor]:
    given = {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}
    with threads(1):
        output = PF.plastic_rnn_sequence(
            **{"hidden": None, "trace": None, **given},
            backend="cpu",
            checkpoint_every=checkpoint_every,
            **options,
        )[0]
        found = torch.autograd.grad((output * upstream.to(dtype)).sum(), [*given.values()])
    return dict(zip(given, found, strict=True))


def drawn(seed: int, steps: int, batch: int, neurons: int) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drive = torch.randn(steps, batch, neurons, generator=generator)
    weight, alpha = torch.randn(2, neurons, neurons, generator=generator)
    upstream = torch.randn(steps, batch, neurons, generator=generator)
    return {"drive": drive, "weight": weight / (2 * neurons**0.5), "alpha": alpha / 20}, upstream


@pytest.mark.parametrize("seed", [0, 2, 3])
@pytest.mark.parametrize(
    "steps, eta", [(20_000, 0.01), (20_000, 0.001), (4_000, 0.01), (1_000, 0.003)]
)
def test_the_gradient_of_a_rate_is_within_the_tolerance_at_any_length(
    steps: int, eta: float, seed: int
) -> None:
    """Activities that hardly change are the worst case: a trace is then rounded in the same direction at every step."""
    tensors, upstream = drawn(seed, steps, 2, 20)
    tensors |= {"drive": 0.1 * tensors["drive"] + 0.2, "eta": torch.tensor(eta)}
    expected = gradients(torch.float64, tensors, upstream + 0.3, 100)
    assert_close(gradients(torch.float32, tensors, upstream + 0.3, None), expected, fp32(steps, 20))


def test_sums_over_very_many_steps_do_not_drift() -> None:
    """What a step gives to a rate, or to an alpha per neuron, is mostly taken off again by others."""
    steps, neurons = 20_000, 6
    options: dict[str, Any] = {"plasticity": Plasticity(alpha="neuron", eta="neuron")}
    for seed in range(3):
        tensors, upstream = drawn(seed, steps, 1, neurons)
        tensors |= {"alpha": torch.full((neurons,), 0.05), "eta": torch.full((neurons,), 0.1)}
        expected = gradients(torch.float64, tensors, upstream, 300, **options)
        found = gradients(torch.float32, tensors, upstream, 300, **options)
        for name in ("alpha", "eta"):
            assert_close(
                {name: found[name]}, {name: expected[name]}, 10 * torch.finfo(torch.float32).eps
            )


@pytest.mark.parametrize(
    "plasticity",
    [
        Plasticity(constraint="clip_on_read", clip=1e-6),
        Plasticity(constraint="clip_on_read"),
        Plasticity(),
        Plasticity(constraint="none"),
        Plasticity(constraint="clip", clip=1e6),
    ],
    ids=lambda plasticity: f"{plasticity.constraint}-{plasticity.clip}",
)
def test_first_activities_beyond_the_range_of_the_others_do_not_spoil_what_runs_backwards(
    plasticity: Plasticity,
) -> None:
    """Traces of 1e5 cannot be run back to traces of 1e-6."""
    for seed in range(6):
        tensors, upstream = drawn(seed, 50, 1, 20)
        first, trace = torch.zeros(1, 20), 1e-6 * drawn(seed, 20, 1, 20)[1].view(1, 20, 20)
        first[0, 0] = 1e6
        tensors |= {
            "alpha": 2 * tensors["alpha"],
            "eta": torch.tensor(1.0),
            "hidden": first,
            "trace": trace,
        }
        computed_again = gradients(torch.float32, tensors, upstream, 8, plasticity=plasticity)
        found = gradients(torch.float32, tensors, upstream, None, plasticity=plasticity)
        assert_close(found, computed_again, fp32(50, 20))


def test_a_rollout_from_such_activities_is_no_worse() -> None:
    torch.manual_seed(0)
    network = PlasticRNN(
        4,
        20,
        plasticity=Plasticity(constraint="clip_on_read", clip=1e-6, eta_init=1, alpha_init=0.1),
    )
    inputs, first = torch.randn(50, 1, 4), torch.zeros(1, 1, 20)
    first[..., 0] = 1e6
    trace = (1e-6 * torch.randn(1, 1, 20, 20)).requires_grad_()
    rollout = network.rollout(50, 1, (first, trace))
    for row in inputs:
        rollout.step(row)
    found = torch.autograd.grad(rollout.finish()[0].sum(), trace)[0]
    network.checkpoint_every = 8
    expected = torch.autograd.grad(network(inputs, (first, trace))[0].sum(), trace)[0]
    assert_close({"trace": found}, {"trace": expected}, fp32(50, 20))
