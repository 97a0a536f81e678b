"""The plastic policy for RecurrentPPO of Stable-Baselines3-contrib: what it replays is what it did."""

from __future__ import annotations

import inspect
from typing import Any

import numpy
import pytest
import torch
from conftest import threads
from torch import nn

from plastikern import Plasticity, PlasticLSTM, PlasticRNN

CLIP = {"plasticity": Plasticity(constraint="clip", alpha_init=0.5, eta_init=0.2)}


pytest.importorskip("sb3_contrib")
from sb3_contrib import RecurrentPPO  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor  # noqa: E402

from plastikern.integrations.sb3 import PlasticPolicy  # noqa: E402


def learner(worlds: int = 3, steps: int = 23, batch: int = 17, **options: Any) -> Any:
    """A learner whose episodes end within its rollouts and go on from one to the next."""
    policy = {"lstm_hidden_size": 5, "network_kwargs": CLIP, "history": 600, **options}
    return RecurrentPPO(
        PlasticPolicy, make_vec_env("CartPole-v1", worlds, seed=0), n_steps=steps, batch_size=batch,
        n_epochs=1, policy_kwargs=policy, seed=0, device="cpu",
    )  # fmt: skip


def collect(model: Any, steps: int) -> None:
    """So many steps in all, without learning from them."""
    model.train = lambda: None
    with threads(1):
        model.learn(steps)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"network": PlasticLSTM, "n_lstm_layers": 2},
        {"enable_critic_lstm": False, "shared_lstm": True},
        {"enable_critic_lstm": False},
    ],
    ids=["separate", "lstm", "shared", "plain critic"],
)
def test_every_batch_is_replayed_as_it_was_acted(options: Any) -> None:
    model = learner(**options)
    collect(model, 3 * 23 * 3)
    batches = 0
    for _ in range(2):
        for batch in model.rollout_buffer.get(17):
            value, log_prob, _ = model.policy.evaluate_actions(
                batch.observations, batch.actions.long().flatten(), batch.lstm_states, batch.episode_starts
            )  # fmt: skip
            there = batch.mask > 0
            torch.testing.assert_close(
                log_prob[there], batch.old_log_prob[there], rtol=1e-4, atol=1e-5
            )
            torch.testing.assert_close(
                value.flatten()[there], batch.old_values[there], rtol=1e-4, atol=1e-5
            )
            batches += 1
    assert batches == 2 * 5


def test_gradients_reach_steps_before_the_batch() -> None:
    model = learner(worlds=1, steps=8)
    collect(model, 8)
    network = model.policy.lstm_actor.network
    longest = max(model.rollout_buffer.get(8), key=lambda batch: int(batch.mask.sum()))
    full = model.policy.evaluate_actions(
        longest.observations, longest.actions.long().flatten(), longest.lstm_states, longest.episode_starts
    )[1].sum()  # fmt: skip
    full.backward()
    assert network.alpha_l0.grad.any()


def test_learning_goes_on_after_evaluations() -> None:
    model = learner(batch=23)
    model.learn(3 * 23)
    seen, state = numpy.zeros((2, 4), numpy.float32), None
    for _ in range(5):
        for first in (True, False, False):
            _, state = model.predict(seen, state if not first else None, numpy.array([first] * 2))
    model.learn(3 * 23, reset_num_timesteps=False)
    assert len(model.policy.memories[0]) == len(model.policy.memories[1]) == 2


def test_predictions_are_those_of_the_network_over_the_episode() -> None:
    policy = learner().policy
    observations = torch.randn(6, 2, 4)
    state: Any = (torch.zeros(1, 2, 4),) * 2
    begins = torch.tensor([[1, 1], [0, 0], [0, 1], [0, 0], [0, 0], [0, 0]]).float()
    found = []
    with torch.no_grad():
        for seen, begin in zip(observations, begins, strict=True):
            distribution, state = policy.get_distribution(seen, state, begin)
            found.append(distribution.distribution.logits)
        network = policy.lstm_actor.network
        whole = network(observations.transpose(0, 1))[0][0]
        rest = network(observations[2:, 1:].transpose(0, 1))[0][0]
        for element, output in ((0, whole), (1, rest)):
            latent = policy.mlp_extractor.forward_actor(output)
            expected = policy._get_action_dist_from_latent(latent).distribution.logits
            torch.testing.assert_close(torch.stack(found)[-len(expected) :, element], expected)


def test_a_saved_policy_acts_as_before(tmp_path: Any) -> None:
    model = learner()
    model.save(tmp_path / "model.zip")
    again = RecurrentPPO.load(tmp_path / "model.zip", device="cpu")
    seen = torch.randn(2, 4)
    zeros, begins = (torch.zeros(1, 2, 4),) * 2, torch.ones(2)
    with torch.no_grad():
        logits = [
            each.policy.get_distribution(seen, zeros, begins)[0].distribution.logits
            for each in (model, again)
        ]
    assert torch.equal(*logits) and type(again.policy.lstm_actor.network) is PlasticRNN


def test_what_cannot_be_replayed_is_refused() -> None:
    class Learnt(BaseFeaturesExtractor):  # type: ignore[misc]
        def __init__(self, space: Any) -> None:
            super().__init__(space, 3)
            self.layer = nn.Linear(4, 3)

        def forward(self, seen: torch.Tensor) -> torch.Tensor:
            return self.layer(seen)

    with pytest.raises(
        ValueError, match="put the parameters of the features extractor into network"
    ):
        learner(features_extractor_class=Learnt)
    model = learner(history=10)
    collect(model, 3 * 23)
    with pytest.raises(ValueError, match=r"history must be \d+ or more; got 10"):
        model.train = type(model).train.__get__(model)
        model.train()
    elsewhere = (torch.tensor([[[7.0, 0, 0, 3]]]),) * 2
    with torch.no_grad(), pytest.raises(ValueError, match="state 7 is given up"):
        model.policy.get_distribution(torch.zeros(1, 4), elsewhere, torch.zeros(1))


def test_the_policy_takes_80_lines() -> None:
    assert len(inspect.getsource(PlasticPolicy).splitlines()) <= 80
