"""A plastic policy balances a pole whose velocities it does not see, trained by PPO on environments that start anew by
themselves.

An episode ends at any step of any of the environments, so that most sequences hold the end of one episode and the
beginning of the next: ``reset`` says where one begins. ``python examples/cartpole.py`` trains three seeds, each for
half a minute; needs ``pip install gymnasium``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical

from plastikern import Plasticity, PlasticRNN

WORLDS, STEPS, NEURONS = 16, 128, 32
EPOCHS, PARTS, CLIP, DISCOUNT, DECAY, RATE = 4, 4, 0.2, 0.99, 0.95, 3e-3
RULE = Plasticity(constraint="clip", alpha_init=0.1, eta_init=0.1)
Observation = NDArray[numpy.float32]


class Positions(gymnasium.ObservationWrapper[Observation, Any, Any]):
    """CartPole without its velocities: where the cart is and how far the pole leans, each about within -1 to 1."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-2, 2, (2,), numpy.float32)

    def observation(self, observation: Any) -> Observation:
        """Two of the four numbers."""
        return observation[[0, 2]] / numpy.array([2.4, 0.21], numpy.float32)


def make() -> gymnasium.Env[Any, Any]:
    """One environment."""
    return Positions(gymnasium.make("CartPole-v1"))


class Agent(nn.Module):
    """A plastic network with a policy and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = PlasticRNN(2, NEURONS, plasticity=RULE)
        self.policy, self.value = nn.Linear(NEURONS, 2), nn.Linear(NEURONS, 1)

    def forward(self, seen: Tensor, state: Any, begins: Tensor) -> tuple[Categorical, Tensor, Any]:
        """Policy and values of all steps (T, B, features), and the last state; ``begins`` (T, B)."""
        hidden, state = self.rnn(seen, state, reset=begins)
        return Categorical(logits=self.policy(hidden)), self.value(hidden).squeeze(-1), state


class Steps(NamedTuple):
    """What was seen and done, each (T, B), but for observations (T, B, 2).

    Attributes:
        begins: the observation is the first of an episode.
        over: the observation is the last of an episode; its action is not taken.
    """

    seen: Tensor
    begins: Tensor
    over: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    reward: Tensor
    terminated: Tensor


class Worlds:
    """Environments that go on from one rollout to the next."""

    def __init__(self, count: int, seed: int) -> None:
        self.worlds = gymnasium.vector.SyncVectorEnv([make] * count)
        self.seen, _ = self.worlds.reset(seed=seed)
        self.state: Any = None
        self.begins, self.over = torch.ones(count, dtype=torch.bool), torch.zeros(count).bool()
        self.running, self.returns = torch.zeros(count), list[float]()

    @torch.no_grad()
    def act(self, agent: Agent, steps: int, greedy: bool = False) -> tuple[Steps, Tensor]:
        """So many steps, and the value of what is seen after them (B,)."""
        recorded = []
        for _ in range(steps):
            seen, begins, over = torch.from_numpy(self.seen), self.begins, self.over
            policy, value, self.state = agent(seen[None], self.state, begins[None])
            action = policy.probs.argmax(-1) if greedy else policy.sample()
            self.seen, reward, terminated, truncated, _ = self.worlds.step(action[0].numpy())
            earned = torch.from_numpy(reward).float()
            # The step after an episode's last one is that to the next first observation.
            self.begins, self.over = over, torch.from_numpy(terminated | truncated)
            log_prob, ended = policy.log_prob(action)[0], torch.from_numpy(terminated)
            recorded.append((seen, begins, over, action[0], log_prob, value[0], earned, ended))
            self.running += earned
            self.returns += self.running[self.over].tolist()
            self.running[self.over] = 0
        _, value, _ = agent(torch.from_numpy(self.seen)[None], self.state, self.begins[None])
        return Steps(*map(torch.stack, zip(*recorded, strict=True))), value[0]


def advantages(steps: Steps, after: Tensor) -> Tensor:
    """By generalised advantage estimation (T, B)."""
    following = torch.cat([steps.value[1:], after[None]])
    # So scaled, values are about 1.
    errors = (1 - DISCOUNT) * steps.reward + DISCOUNT * following * ~steps.terminated - steps.value
    gain, found = torch.zeros_like(after), []
    for error, over in zip(errors.flip(0), steps.over.flip(0), strict=True):
        # What follows an episode's last observation belongs to the next one.
        gain = torch.where(over, 0, error + DISCOUNT * DECAY * gain)
        found.append(gain)
    return torch.stack(found[::-1])


def loss(agent: Agent, steps: Steps, state: Any, gain: Tensor) -> Tensor:
    """PPO over whole sequences, from the state before them."""
    policy, value, _ = agent(steps.seen, state, steps.begins)
    ratio = (policy.log_prob(steps.action) - steps.log_prob).exp()
    scaled = (gain - gain.mean()) / (gain.std() + 1e-8)
    improved = torch.minimum(ratio * scaled, ratio.clamp(1 - CLIP, 1 + CLIP) * scaled)
    missed = (gain + steps.value - value).square()
    each = 0.5 * missed - improved - 0.01 * policy.entropy()
    return each[~steps.over].mean()


def train(seed: int, updates: int) -> tuple[Agent, list[float]]:
    """An agent, and the mean return of the episodes that ended at each update."""
    torch.manual_seed(seed)
    agent, worlds, reached = Agent(), Worlds(WORLDS, seed), list[float]()
    optimiser = torch.optim.Adam(agent.parameters(), lr=RATE)
    for update in range(updates):
        optimiser.param_groups[0]["lr"] = RATE * (1 - update / updates)
        state = worlds.state
        if state is None:
            state = agent.rnn(torch.zeros(0, WORLDS, 2))[1].detach()
        steps, after = worlds.act(agent, STEPS)
        gain = advantages(steps, after)
        for _ in range(EPOCHS):
            for part in torch.randperm(WORLDS).chunk(PARTS):
                optimiser.zero_grad()
                of_part = Steps(*(each[:, part] for each in steps))
                loss(agent, of_part, state.select(part), gain[:, part]).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimiser.step()
        ended, worlds.returns = worlds.returns, []
        reached.append(sum(ended) / len(ended) if ended else reached[-1])
    return agent, reached


def mean_return(agent: Agent, seed: int = 1000, count: int = 20) -> float:
    """Of the first episode of each of ``count`` environments, with the likeliest action at every step."""
    steps, _ = Worlds(count, seed).act(agent, 501, greedy=True)
    ended = steps.over.int().cumsum(0) > 0
    return float(steps.reward[~ended].sum() / count)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Trains agents; of each its mean return before and after, and the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    found = []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        before, start = mean_return(Agent()), time.perf_counter()
        agent, reached = train(seed, options.updates)
        seconds = time.perf_counter() - start
        run = {
            "before": before,
            "training": reached[-1],
            "after": mean_return(agent),
            "seconds": seconds,
        }
        found.append(run)
        print(
            f"seed {seed}: mean return {before:.0f} before, {run['after']:.0f} after {seconds:.0f} s"
        )
    return found


if __name__ == "__main__":
    main()
