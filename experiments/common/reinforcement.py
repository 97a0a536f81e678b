"""What the experiments with acting agents share: their settings, their networks, acting and learning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from experiments.common import parallel
from experiments.common.a2c import BASELINES, a2c_loss
from experiments.common.agents import Agent
from experiments.common.config import Config, require
from experiments.common.experiment import Experiment
from experiments.common.worlds import World, act, gumbel
from plastikern import Plasticity, RulePlasticity

MODULATION = {
    "rnn": None,
    "plastic": "none",
    "homogeneous": "none",
    "simple": "simple",
    "retroactive": "retroactive",
}
"""The networks, and how their plasticity is modulated; ``homogeneous`` has one plasticity coefficient for all."""


@dataclass(frozen=True, kw_only=True)
class AgentConfig(Config):
    """Settings of agents and of how they learn.

    Args:
        net: ``rnn`` (no plasticity), ``plastic`` (not modulated), ``homogeneous`` (likewise, one plasticity coefficient
            for all connections), ``simple`` or ``retroactive`` (neuromodulated).
        steps: of an episode.
        hidden: recurrent neurons.
        constraint, clip, fan_out: of the plasticity, as ``rule`` (:class:`plastikern.Plasticity`); ``fan_out`` is for
            modulated networks.
        eta_init: initial plasticity rate, and rate of the eligibility traces.
        scale: largest initial recurrent weight and plasticity coefficient.
        discount, value_weight, concentration, baseline: of the loss (:func:`experiments.common.a2c.a2c_loss`).
    """

    net: str = "plastic"
    batch: int = 30
    learning_rate: float = 1e-4
    log_every: int = 10
    window: int = 250
    checkpoint_every: int = 500
    evaluation_episodes: int = 300
    steps: int = 200
    hidden: int = 100
    constraint: str = "clip"
    clip: float = 1.0
    fan_out: str = "none"
    eta_init: float = 0.01
    scale: float = 0.01
    discount: float = 0.9
    value_weight: float = 0.1
    concentration: float = 0.03
    baseline: str = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_of("net", MODULATION)
        self.require_one_of("baseline", BASELINES)
        for name, least in (
            ("steps", 1),
            ("hidden", 1),
            ("scale", 0),
            ("value_weight", 0),
            ("discount", 0),
        ):
            self.require_at_least(name, least)
        if MODULATION[self.net] is not None:
            try:
                self.plasticity()
            except ValueError as error:
                require(False, str(error))

    def plasticity(self) -> Plasticity | RulePlasticity | None:
        """The rule of the network; None for one without plasticity."""
        modulation = MODULATION[self.net]
        if modulation is None or self.own_rule is not None:
            return self.own_rule
        return Plasticity(
            rule=self.rule, constraint=self.constraint, clip=self.clip, eta_init=self.eta_init, modulation=modulation,
            alpha="layer" if self.net == "homogeneous" else "connection",
            fan_out="none" if modulation == "none" else self.fan_out,
        )  # fmt: skip


AgentConfigT = TypeVar("AgentConfigT", bound=AgentConfig)


def nets(config: AgentConfigT, **changes: Mapping[str, Any]) -> dict[str, AgentConfigT]:
    """Settings of the named networks, in their order, each with its own changes."""
    return {net: replace(config, net=net, **different) for net, different in changes.items()}


class Episodes(NamedTuple):
    world: World
    noise: Tensor


class ReinforcementLearning(Experiment[AgentConfigT]):
    """Reward: sum over the steps of an episode. Acting is part of :meth:`loss`: the agent acts on its present weights.

    Subclasses set ``actions`` and ``inputs``, the sizes, and write :meth:`world`.
    """

    metrics = ("loss", "reward")
    batched = True
    actions: ClassVar[int]
    inputs: int

    @abstractmethod
    def world(self, generator: torch.Generator, batch: int, share: slice) -> World:
        """New episodes: randomness for ``batch`` is drawn, the world has those of ``share``."""

    def plasticity(self) -> Plasticity | RulePlasticity | None:
        """The rule of the network; None for one without plasticity."""
        return self.config.plasticity()

    def build(self, backend: str | None) -> Agent:
        config = self.config
        return Agent(
            self.inputs,
            config.hidden,
            self.actions,
            self.plasticity(),
            config.scale,
            backend,
            self.device,
        )

    def episode(self, generator: torch.Generator, held_out: bool) -> Episodes:
        """Every episode is a new one, so that a held-out one is one like any other."""
        return self.episodes(generator, self.config.batch, parallel.share(self.config.batch))

    def episodes(self, generator: torch.Generator, batch: int, share: slice) -> Episodes:
        """The episodes of ``share`` of a batch."""
        world = self.world(generator, batch, share)
        noise = gumbel((self.config.steps, batch, self.actions), generator)[:, share]
        return Episodes(world, noise.to(self.device))

    def loss(self, model: nn.Module, episode: Episodes) -> dict[str, Tensor]:
        assert isinstance(model, Agent)
        config, trajectory = self.config, act(model, *episode)
        require(
            config.baseline == "own" or parallel.size() == 1,
            "baseline=first is for a single process",
        )
        scores, values = model(trajectory.inputs, trajectory.steps)
        loss = a2c_loss(
            scores, values, trajectory.actions, trajectory.rewards, discount=config.discount,
            value_weight=config.value_weight, concentration=config.concentration, baseline=config.baseline,
        )  # fmt: skip
        return {"loss": loss, "reward": trajectory.rewards.sum(0).mean()}
