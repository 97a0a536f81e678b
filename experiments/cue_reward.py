"""Cue-reward association: find out by trial and error which of some random cues is the rewarded one (second paper)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from experiments.common import drawing, insight, published
from experiments.common.agents import Agent, State
from experiments.common.config import Presets, require
from experiments.common.experiment import stream
from experiments.common.metrics import METRICS, read
from experiments.common.reinforcement import AgentConfig, ReinforcementLearning, nets
from experiments.common.worlds import World, act

RESPONSES = 2
FRAME = 3
"""Steps of a trial that show no cue and are no pause between: a blank one, the signal to answer, the reward."""
OUTCOMES = 3
"""Wrong, nothing at stake, right: rewards -1, 0 and 1."""
FIGURE_EPISODES = 30


@dataclass(frozen=True, kw_only=True)
class CueRewardConfig(AgentConfig):
    """Settings of the task; those of agents are in :class:`~experiments.common.reinforcement.AgentConfig`.

    Args:
        bits, cues: elements (+1 or -1) of a cue, cues of an episode, one of which is the target.
        fixed_cues: the same cues in all episodes: cue i has its bit i at 1 and the others at 0.
        fixed_target: with fixed_cues, cue 0 is the target of all episodes: nothing is to be found out, a check that
            the loop learns.
        pauses: most blank steps of a trial, in random order with its two cues.
        go_input: an input of its own tells when to answer; otherwise all bits of the cue are 1 then.
        see_bias: an input that is always 1.
        unused: inputs that are always 0.
    """

    net: str = "retroactive"
    episodes: int = 6_000_000
    adam_epsilon: float = 1e-6
    hidden: int = 200
    eta_init: float = 0.1
    concentration: float = 0.1
    burn_in: int = 101
    bits: int = 20
    cues: int = 4
    fixed_cues: bool = False
    fixed_target: bool = False
    pauses: int = 3
    go_input: bool = False
    see_bias: bool = False
    unused: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("bits", 1), ("cues", 2), ("pauses", 0), ("unused", 0)):
            self.require_at_least(name, least)
        require(
            not self.fixed_cues or self.bits >= self.cues,
            f"bits must be at least cues, {self.cues}, with fixed_cues; got {self.bits}",
        )
        require(self.fixed_cues or not self.fixed_target, "fixed_target needs fixed_cues")
        require(
            self.fixed_cues or self.cues <= 2**self.bits,
            f"bits must allow for {self.cues} different cues; got {self.bits}",
        )


PAPER = CueRewardConfig(clip_gradient=7.0)
CODE = CueRewardConfig(steps=120, clip_gradient=2.0, go_input=True, see_bias=True, unused=1)
CONTROL = replace(CODE, bits=4, fixed_cues=True)
# Learns in a tenth of the updates. An answer changes nothing but its own reward, and right and wrong ones tell the same
# about the target: without a discounted share of later rewards, a return is that much less noise.
OURS = replace(
    CODE, hidden=64, learning_rate=1e-3, discount=0.0, episodes=1_200_000, evaluate_every=250
)


def _nets(config: CueRewardConfig) -> dict[str, CueRewardConfig]:
    return nets(config, retroactive={}, simple={}, plastic={}, homogeneous={}, rnn={})


class Trials(NamedTuple):
    """What happens in a batch of episodes, whatever the answers.

    Attributes:
        shown: number of the cue that is shown, (T, B); -1 for none.
        answers: the right response at the steps where one is asked for, (T, B); -1 at the others.
    """

    shown: Tensor
    answers: Tensor


def draw_trials(
    steps: int, batch: int, cues: int, pauses: int, generator: torch.Generator
) -> Trials:
    """Trials one after another until the episode ends, be it in the middle of one; cue 0 is the target.

    A trial: a blank step; two different cues and 0 to ``pauses`` blanks in random order; the signal to answer; a blank
    step, in which the reward is seen.
    """
    count = -(-steps // (FRAME + 2))
    slots = 2 + torch.randint(pauses + 1, (batch, count), generator=generator)
    ends = (slots + FRAME).cumsum(1)
    starts = ends - slots - FRAME
    order = torch.rand(batch, count, 2 + pauses, generator=generator)
    order[torch.arange(2 + pauses) >= slots.unsqueeze(-1)] = 2
    pairs = torch.rand(batch, count, cues, generator=generator).argsort(-1)[..., :2]
    # Trials beyond the end are written into a margin that is cut off.
    margin = int(ends.max())
    shown = torch.full((batch, max(margin, steps)), -1)
    answers = shown.clone()
    shown.scatter_(
        1, (starts.unsqueeze(-1) + 1 + order.argsort(-1)[..., :2]).flatten(1), pairs.flatten(1)
    )
    answers.scatter_(1, ends - 2, (pairs == 0).any(-1).long())
    return Trials(shown[:, :steps].t(), answers[:, :steps].t())


class CueRewardWorld(World):
    """Trials whose answers are rewarded; other actions have no consequence, but are seen in the next step.

    A code is the previous action, none among them, and its outcome.
    """

    def __init__(self, shown: Tensor, table: Tensor, value: Tensor, answers: Tensor):
        batch = answers.shape[1]
        super().__init__(
            shown, table, value, torch.ones(batch, dtype=torch.long, device=answers.device)
        )
        self.answers = answers
        actions = torch.arange(RESPONSES, device=answers.device)
        right = 2 * (answers.unsqueeze(-1) == actions)
        outcomes = torch.where(answers.unsqueeze(-1) >= 0, right, 1)
        # The code that follows each action, (T, B, actions).
        self.following = (actions + 1) * OUTCOMES + outcomes

    def moves(self) -> Callable[[int, Tensor, Tensor], object]:
        """A move is two tensor operations."""
        following = self.following.flatten(1).unbind()
        first = torch.arange(0, self.following[0].numel(), RESPONSES, device=self.following.device)

        def move(t: int, action: Tensor, code: Tensor) -> None:
            torch.index_select(following[t], 0, first + action, out=code)

        return move


class CueReward(ReinforcementLearning[CueRewardConfig]):
    """Reward: sum over an episode, 1 for each right and -1 for each wrong answer. Chance is 0."""

    name = "cue_reward"
    actions = RESPONSES
    presets: ClassVar[Presets[CueRewardConfig]] = {
        "quick": _nets(replace(CODE, episodes=60_000)),
        "paper": _nets(PAPER),
        "code": _nets(CODE),
        "control": _nets(CONTROL),
        "ours": _nets(OURS),
        "ours-control": _nets(replace(OURS, bits=4, fixed_cues=True)),
    }

    def __init__(
        self,
        config: CueRewardConfig,
        device: torch.device,
        backend: str | None = None,
        data: Path | None = None,
    ):
        require(data is None, "--data: the cues are generated, there is nothing to read")
        super().__init__(config, device, backend, data)
        # Bits, time, reward, previous response; then what only some presets have.
        bits, go = config.bits, config.bits + 2 + RESPONSES
        self.inputs = go + config.go_input + config.see_bias + config.unused
        outcomes = torch.tensor([-1.0, 0.0, 1.0])
        self.value = outcomes.repeat(1 + RESPONSES).to(device)
        self.table = torch.zeros(1 + RESPONSES, OUTCOMES, self.inputs)
        self.table[..., bits + 1] = outcomes
        self.table[1:, :, bits + 2 : go] = torch.eye(RESPONSES).unsqueeze(1)
        self.table = self.table.flatten(0, 1).to(device)
        # What is shown at a step of each kind: a cue (to be filled in), nothing, the signal to answer.
        self.blank = torch.zeros(config.steps, 1, self.inputs)
        self.blank[:, 0, bits] = torch.arange(config.steps) / config.steps
        if config.see_bias:
            self.blank[..., go + config.go_input] = 1
        self.signal = torch.zeros(self.inputs)
        self.signal[go if config.go_input else slice(bits)] = 1

    def world(self, generator: torch.Generator, batch: int, share: slice) -> CueRewardWorld:
        config = self.config
        cues = self._cues(batch, generator)
        trials = draw_trials(config.steps, batch, config.cues, config.pauses, generator)
        shown, answers = (tensor[:, share] for tensor in trials)
        inputs = self.blank.expand(-1, answers.shape[1], -1).clone()
        # One more row than there are cues is for the steps without one, number -1.
        rows = torch.cat([cues[share], cues.new_zeros(answers.shape[1], 1, config.bits)], 1)
        inputs[..., : config.bits] = rows[torch.arange(answers.shape[1]), shown]
        inputs[answers >= 0] += self.signal
        return CueRewardWorld(
            inputs.to(self.device), self.table, self.value, answers.to(self.device)
        )

    def _cues(self, batch: int, generator: torch.Generator) -> Tensor:
        """Cues (B, cues, bits), the target first; all different within an episode."""
        config = self.config
        if config.fixed_cues:
            # Which of them is the target differs from episode to episode.
            order = torch.rand(batch, config.cues, generator=generator).argsort(1)
            return torch.eye(config.cues, config.bits)[
                order.sort(1).values if config.fixed_target else order
            ]

        def draw(count: int) -> Tensor:
            shape = (count, config.cues, config.bits)
            return torch.randint(2, shape, generator=generator).mul_(2).sub_(1).float()

        cues = draw(batch)
        while (alike := ((cues @ cues.mT).triu(1) == config.bits).flatten(1).any(1)).any():
            cues[alike] = draw(int(alike.sum()))
        return cues

    def published(self) -> Sequence[published.Curve | published.Level]:
        return (
            published.CUE_REWARD_LEVELS
            if self.config.steps == 120 and not self.config.fixed_cues
            else ()
        )

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Besides the metrics, what :func:`experiments.common.insight.measures` tells of the network."""
        assert isinstance(model, Agent)
        return {
            **self.final_metrics(model),
            **insight.measures(model, *self._watched(model)),
        }

    def final_metrics(self, model: nn.Module) -> dict[str, float]:
        return super().evaluate(model)

    @torch.no_grad()
    def _watched(self, model: nn.Module) -> tuple[Tensor, dict[str, Tensor], State]:
        """Rewards and signals (T, B) of some episodes, always the same, and the state at their end."""
        assert isinstance(model, Agent)
        episode = self.episodes(stream(0, "film"), FIGURE_EPISODES, slice(0, FIGURE_EPISODES))
        recorded: dict[str, list[Tensor]] = {}

        def watch(state: State) -> None:
            for name, value in drawing.signals(model, state).items():
                recorded.setdefault(name, []).append(value)

        trajectory = act(model, *episode, watch)
        stacked = {name: torch.stack(values).cpu() for name, values in recorded.items()}
        end = tuple(part.squeeze(0) for part in trajectory.steps.state() if part is not None)
        return trajectory.rewards.cpu(), stacked, end

    def figures(self, model: nn.Module, folder: Path) -> list[Path]:
        """Signals of the network around rewards of some episodes; and how it came to learn, from its metrics."""
        rewards, signals, _ = self._watched(model)
        caption = f"network {self.config.net}, {FIGURE_EPISODES} episodes, mean reward {rewards.sum(0).mean():.4g}"
        curves = {name: values.numpy() for name, values in signals.items()}
        drawn = [drawing.around_rewards(folder / "rewards.png", curves, rewards.numpy(), caption)]
        lines = read(folder / METRICS) if (folder / METRICS).exists() else []
        if any(line["kind"] == "train" for line in lines):
            drawn.append(
                drawing.insight(folder / "insight.png", lines, f"network {self.config.net}")
            )
        return drawn


EXPERIMENT = CueReward
