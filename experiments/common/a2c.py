"""Advantage actor-critic on whole recorded episodes."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

BASELINES = ("own", "first")


def a2c_loss(
    scores: Tensor,
    values: Tensor,
    actions: Tensor,
    rewards: Tensor,
    *,
    discount: float,
    value_weight: float,
    concentration: float,
    baseline: str = "own",
) -> Tensor:
    r"""Loss of a batch of recorded episodes: mean over episodes and steps of

    :math:`-\log p_{a_t} (R_t - V_t) + c_V (R_t - V_t)^2 + c \sum_a p_a^2`, with the discounted return :math:`R_t` up to
    the end of the episode, and no gradient through the :math:`V_t` of the first term.

    Args:
        scores: (T, B, A), whose softmax is the policy :math:`p`.
        values: :math:`V` (T, B).
        actions, rewards: (T, B); a reward belongs to the action of its step.
        discount: of the return, per step.
        value_weight: :math:`c_V`.
        concentration: :math:`c`, the weight of the penalty on certain actions that the papers use for entropy.
        baseline: ``"own"``: each episode's own values. ``"first"``: those of the first episode stand for all, as in the
            released code of the second paper.

    Source: Differentiable plasticity, section 4.5; Backpropamine, section 4.1, and the code of both.
    """
    if baseline not in BASELINES:
        raise ValueError(
            f"a2c_loss: baseline must be one of {', '.join(BASELINES)}; got {baseline!r}"
        )
    returns = discounted_returns(rewards, discount)
    logarithms = scores.log_softmax(-1)
    advantages = returns - (values[:, :1] if baseline == "first" else values)
    taken = logarithms.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    policy = -(taken * advantages.detach()).mean()
    penalty = logarithms.exp().square().sum(-1).mean()
    return policy + value_weight * advantages.square().mean() + concentration * penalty


def discounted_returns(rewards: Tensor, discount: float) -> Tensor:
    """Sums (T, B) of the rewards (T, B) from each step on, each step further counting ``discount`` times less."""
    return _discounts(rewards.shape[0], discount).to(rewards) @ rewards


@lru_cache(maxsize=8)
def _discounts(steps: int, discount: float) -> Tensor:
    """(T, T): how much of the reward of step s counts in the return of step t."""
    ahead = torch.arange(steps) - torch.arange(steps).unsqueeze(1)
    return torch.where(ahead >= 0, torch.tensor(discount) ** ahead.clamp_min(0), 0.0)
