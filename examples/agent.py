"""A plastic agent in a gymnasium environment: it finds out in every episode anew which arm pays, and stays with it.

It acts step by step, without gradients, and learns (A2C) from the whole episode in one backward pass.
``python examples/agent.py`` trains for some seconds; needs ``pip install gymnasium``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical

from plastikern import Plasticity, PlasticRNN

ARMS, STEPS, DISCOUNT = 4, 12, 0.7
Observation = NDArray[numpy.float32]


class HiddenArm(gymnasium.Env[Observation, int]):
    """One of the arms pays 1, the others nothing; which one is drawn at ``reset``.

    An observation is the last action (one-hot, zeros at first) and the last reward.
    """

    def __init__(self) -> None:
        self.action_space = gymnasium.spaces.Discrete(ARMS)
        self.observation_space = gymnasium.spaces.Box(0, 1, (ARMS + 1,), numpy.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new episode."""
        super().reset(seed=seed)
        self.paying = self.np_random.integers(ARMS)
        return numpy.zeros(ARMS + 1, numpy.float32), {}

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Pull an arm."""
        reward = float(action == self.paying)
        observation = numpy.zeros(ARMS + 1, numpy.float32)
        observation[action], observation[ARMS] = 1, reward
        return observation, reward, False, False, {}


gymnasium.register("plastikern/HiddenArm-v0", HiddenArm, max_episode_steps=STEPS)


class Agent(nn.Module):
    """A modulated plastic network with a policy and a value."""

    def __init__(self, inputs: int, actions: int, neurons: int = 48) -> None:
        super().__init__()
        rule = Plasticity(constraint="clip", alpha_init=0.2, modulation="simple")
        self.rnn = PlasticRNN(inputs, neurons, plasticity=rule)
        self.policy, self.value = nn.Linear(neurons, actions), nn.Linear(neurons, 1)

    def choose(self, hidden: Tensor) -> Categorical:
        """The policy for activities (..., neurons)."""
        return Categorical(logits=self.policy(hidden))


def play(
    agent: Agent, worlds: gymnasium.vector.VectorEnv[Any, Any, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """One episode in every world: activities (T, B, neurons) with gradients, actions and rewards (T, B)."""
    rollout = agent.rnn.rollout(STEPS, worlds.num_envs)
    seen, _ = worlds.reset()
    recorded = []
    with torch.no_grad():
        for _ in range(STEPS):
            actions = agent.choose(rollout.step(torch.from_numpy(seen))).sample()
            seen, rewards, *_ = worlds.step(actions.numpy())
            recorded.append((actions, torch.from_numpy(rewards).float()))
    hidden, _ = rollout.finish()  # all steps at once, to learn from
    taken, earned = (torch.stack(each) for each in zip(*recorded, strict=True))
    return hidden, taken, earned


def loss(agent: Agent, hidden: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    """A2C on whole episodes, with an entropy bonus."""
    ahead = (torch.arange(STEPS) - torch.arange(STEPS).unsqueeze(1)).float()
    returns = torch.where(ahead >= 0, DISCOUNT**ahead, 0) @ rewards
    policy, advantage = agent.choose(hidden), returns - agent.value(hidden).squeeze(-1)
    gain = policy.log_prob(actions) * advantage.detach() + 0.02 * policy.entropy()
    return (0.1 * advantage.square() - gain).mean()


def train(updates: int, batch: int = 32, seed: int = 0) -> tuple[Agent, list[float]]:
    """An agent, and the mean reward of an episode at every update."""
    torch.manual_seed(seed)
    worlds = gymnasium.make_vec(
        "plastikern/HiddenArm-v0", num_envs=batch, vectorization_mode="sync"
    )
    worlds.reset(seed=seed)
    agent, reached = Agent(ARMS + 1, ARMS), []
    optimiser = torch.optim.Adam(agent.parameters(), lr=5e-3)
    for _ in range(updates):
        episode = play(agent, worlds)
        optimiser.zero_grad()
        loss(agent, *episode).backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 1.0)
        optimiser.step()
        reached.append(float(episode[2].sum(0).mean()))
    worlds.close()
    return agent, reached


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Trains an agent; the mean rewards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=250)
    _, reached = train(parser.parse_args(arguments).updates)
    tenth = max(1, len(reached) // 10)
    first, last = (sum(part) / len(part) for part in (reached[:tenth], reached[-tenth:]))
    print(
        f"reward of an episode of {STEPS} steps: {first:.2f} at first, {last:.2f} at last; at random {STEPS / ARMS}"
    )
    return reached


if __name__ == "__main__":
    main()
