"""The actor-critic loss, by hand."""

import math

import pytest
import torch

from experiments.common.a2c import a2c_loss, discounted_returns

SCORES = [[[0.5, -1.0, 0.0], [2.0, 0.0, 1.0]], [[0.0, 0.3, -0.2], [-1.0, 1.0, 0.5]]]
VALUES = [[0.4, -0.6], [1.5, 0.2]]
ACTIONS = [[0, 2], [1, 1]]
REWARDS = [[1.0, 0.0], [-2.0, 3.0]]
DISCOUNT, VALUE_WEIGHT, CONCENTRATION = 0.9, 0.3, 0.05


def by_hand(baseline):
    """Loss and gradients of two episodes of two steps, from the formulas."""
    steps, batch = 2, 2
    returns = [[REWARDS[0][b] + DISCOUNT * REWARDS[1][b], REWARDS[1][b]] for b in range(batch)]
    loss, of_scores, of_values = 0.0, torch.zeros(2, 2, 3), torch.zeros(2, 2)
    for t in range(steps):
        for b in range(batch):
            weights = [math.exp(score) for score in SCORES[t][b]]
            p = [weight / sum(weights) for weight in weights]
            squares = sum(value * value for value in p)
            critic = 0 if baseline == "first" else b
            advantage = returns[b][t] - VALUES[t][critic]
            loss += (
                -math.log(p[ACTIONS[t][b]]) * advantage
                + VALUE_WEIGHT * advantage**2
                + CONCENTRATION * squares
            )
            of_values[t, critic] -= 2 * VALUE_WEIGHT * advantage / 4
            for a in range(3):
                policy = advantage * (p[a] - (a == ACTIONS[t][b]))
                of_scores[t, b, a] = (policy + CONCENTRATION * 2 * p[a] * (p[a] - squares)) / 4
    return loss / 4, of_scores, of_values


@pytest.mark.parametrize("baseline", ["own", "first"])
def test_loss_and_gradients_are_those_of_the_formulas(baseline):
    scores, values = (
        torch.tensor(SCORES, requires_grad=True),
        torch.tensor(VALUES, requires_grad=True),
    )
    loss = a2c_loss(
        scores, values, torch.tensor(ACTIONS), torch.tensor(REWARDS), discount=DISCOUNT, value_weight=VALUE_WEIGHT,
        concentration=CONCENTRATION, baseline=baseline,
    )  # fmt: skip
    loss.backward()
    expected, of_scores, of_values = by_hand(baseline)
    assert float(loss.detach()) == pytest.approx(expected)
    torch.testing.assert_close(scores.grad, of_scores)
    torch.testing.assert_close(values.grad, of_values)
    assert bool(of_values[:, 1].any()) == (baseline == "own")


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_returns_are_discounted_sums_up_to_the_end(discount):
    rewards = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    expected, following = torch.zeros(7, 3), torch.zeros(3)
    for t in reversed(range(7)):
        following = rewards[t] + discount * following
        expected[t] = following
    torch.testing.assert_close(discounted_returns(rewards, discount), expected)


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="baseline must be one of own, first; got 'mean'"):
        a2c_loss(
            torch.zeros(1, 1, 2), torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1),
            discount=0.9, value_weight=0.1, concentration=0.1, baseline="mean",
        )  # fmt: skip
