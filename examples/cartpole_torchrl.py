"""The pole of ``cartpole.py`` balanced by PPO of TorchRL: a plastic network as one of its modules.

TorchRL's own recurrent modules write their state into the data of every step. Traces are matrices, so that this module
keeps the state of now and that from which the present batch began, and goes through a batch as one sequence.
``python examples/cartpole_torchrl.py`` trains three seeds, each for less than a minute; needs ``pip install torchrl``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from cartpole import NEURONS, RULE, make
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper, InitTracker, RewardSum, SerialEnv, StepCounter, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import ProbabilisticActor, recurrent_mode, set_recurrent_mode
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from plastikern import PlasticRNN

WORLDS, STEPS, EPOCHS, DISCOUNT, RATE = 16, 128, 5, 0.99, 3e-3


class PlasticModule(TensorDictModuleBase):
    """Activities of a plastic network as ``hidden``: of one step, or in recurrent mode of a batch (B, T).

    Attributes:
        now: the state after the last step. before: that before the present batch.
    """

    in_keys, out_keys = ["observation", "is_init"], ["hidden"]

    def __init__(self, network: PlasticRNN) -> None:
        super().__init__()
        self.network, self.now, self.before = network, None, None

    def forward(self, data: TensorDictBase) -> TensorDictBase:
        """Writes ``hidden``."""
        seen, begins = data["observation"], data["is_init"].squeeze(-1)
        if recurrent_mode():
            hidden, _ = self.network(seen, self.before, reset=begins)
        else:
            hidden, self.now = self.network(seen.unsqueeze(1), self.now, reset=begins.unsqueeze(1))
            hidden = hidden.squeeze(1)
        return data.set("hidden", hidden)


def worlds(count: int, seed: int) -> TransformedEnv:
    """Environments that are told where episodes begin, and sum up returns."""
    made = TransformedEnv(
        SerialEnv(count, lambda: GymWrapper(make(), categorical_action_encoding=True))
    )
    for transform in (InitTracker(), StepCounter(), RewardSum()):
        made.append_transform(transform)
    made.set_seed(seed)
    return made


class Agent(nn.Module):
    """A plastic network with a policy and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.plastic = PlasticModule(PlasticRNN(2, NEURONS, batch_first=True, plasticity=RULE))
        policy = TensorDictModule(nn.Linear(NEURONS, 2), ["hidden"], ["logits"])
        self.critic = TensorDictModule(nn.Linear(NEURONS, 1), ["hidden"], ["state_value"])
        self.actor = ProbabilisticActor(
            TensorDictSequential(self.plastic, policy), in_keys=["logits"], distribution_class=Categorical,
            return_log_prob=True, default_interaction_type=ExplorationType.RANDOM,
        )  # fmt: skip
        self.acting = TensorDictSequential(self.actor, self.critic)


def with_next_values(agent: Agent, batch: TensorDictBase) -> TensorDictBase:
    """The batch with the value of what is seen after every step.

    Where time ran out, what was seen last has gone, and the value of the step before stands for it.
    """
    value = batch["state_value"]
    last = batch["next", "observation"][:, -1:]
    begins = torch.zeros(last.shape[:2], dtype=torch.bool)
    hidden, _ = agent.plastic.network(last, agent.plastic.now, reset=begins)
    following = torch.cat([value[:, 1:], agent.critic.module(hidden)], 1)
    return batch.set(
        ("next", "state_value"), torch.where(batch["next", "truncated"], value, following)
    )


def train(seed: int, updates: int) -> tuple[Agent, list[float]]:
    """An agent, and the mean return of the episodes that ended at each update."""
    torch.manual_seed(seed)
    agent, reached = Agent(), list[float]()
    plastic = agent.plastic
    advantage = GAE(gamma=DISCOUNT, lmbda=0.95, value_network=None)
    loss = ClipPPOLoss(
        agent.actor, agent.critic, entropy_coeff=0.01, critic_coeff=0.5, loss_critic_type="l2",
        normalize_advantage=True, functional=False,
    )  # fmt: skip
    optimiser = torch.optim.Adam(agent.parameters(), lr=RATE)
    frames = WORLDS * STEPS
    collector = Collector(
        worlds(WORLDS, seed), agent.acting, frames_per_batch=frames, total_frames=updates * frames
    )
    for update, batch in enumerate(collector):
        with torch.no_grad():
            batch["next", "reward"] *= 1 - DISCOUNT  # so scaled, values are about 1
            advantage(with_next_values(agent, batch))
        optimiser.param_groups[0]["lr"] = RATE * (1 - update / updates)
        for _ in range(EPOCHS):
            with set_recurrent_mode(True):
                found = loss(batch)
            optimiser.zero_grad()
            sum(value for name, value in found.items() if name.startswith("loss_")).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimiser.step()
        plastic.before = plastic.now
        ended = batch["next", "episode_reward"][batch["next", "done"]]
        reached.append(float(ended.mean()) if len(ended) else reached[-1])
    collector.shutdown()
    return agent, reached


@torch.no_grad()
def mean_return(agent: Agent, count: int = 20) -> float:
    """Of one episode in each of ``count`` environments, with the likeliest action at every step."""
    agent.plastic.now = None
    with set_exploration_type(ExplorationType.MODE):
        steps = worlds(count, 1000).rollout(500, agent.acting, break_when_all_done=True)
    done = steps["next", "done"].squeeze(-1)
    ended = done.cumsum(1) - done.int() > 0
    return float(steps["next", "reward"].squeeze(-1)[~ended].sum() / count)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Trains agents; of each its mean return before and after, and the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    found = []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        before, start = mean_return(Agent()), time.perf_counter()
        agent, _ = train(seed, options.updates)
        seconds = time.perf_counter() - start
        run = {"before": before, "after": mean_return(agent), "seconds": seconds}
        found.append(run)
        print(
            f"seed {seed}: mean return {before:.0f} before, {run['after']:.0f} after {seconds:.0f} s"
        )
    return found


if __name__ == "__main__":
    main()
