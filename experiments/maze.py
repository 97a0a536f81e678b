"""A maze with a hidden reward: find it, and return to it from wherever one is taken (both papers)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from experiments.common import drawing, published
from experiments.common.agents import Agent, State
from experiments.common.config import Presets, require
from experiments.common.experiment import stream
from experiments.common.reinforcement import AgentConfig, ReinforcementLearning, nets
from experiments.common.worlds import World, act

DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Up, down, left, right: what the actions add to row and column."""
OUTCOMES = 4
"""Nothing, reward found, bumped into a wall, both."""
FEEDBACKS = (1 + len(DIRECTIONS)) * OUTCOMES
"""Previous action, none among them, and its outcome."""
VIEW = 9


@dataclass(frozen=True, kw_only=True)
class MazeConfig(AgentConfig):
    """Settings of the task; those of agents are in :class:`~experiments.common.reinforcement.AgentConfig`.

    Args:
        size: squares a side, without the border; odd.
        reward, wall_penalty: for the hidden square, and (subtracted) for a step into a wall.
        goal_at_start: whether the reward may be where the agent starts, in the centre.
        teleport_onto_goal: whether the agent, once it has found the reward, may be taken to that very square.
        see_time: the time as input: ``none``, ``raw`` (the step's number) or ``share`` (of the episode).
        see_action, first_action: whether the previous action is an input, and whether one, up, precedes the first.
        see_bias: an input that is always 1.
        unused: inputs that are always 0.
    """

    net: str = "simple"
    episodes: int = 3_000_000
    adam_epsilon: float = 1e-4
    burn_in: int = 101
    size: int = 9
    reward: float = 10.0
    wall_penalty: float = 0.0
    goal_at_start: bool = False
    teleport_onto_goal: bool = False
    see_time: str = "none"
    see_action: bool = True
    first_action: bool = False
    see_bias: bool = False
    unused: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.size >= 3 and self.size % 2 == 1,
            f"size must be odd and at least 3; got {self.size}",
        )
        self.require_one_of("see_time", ("none", "raw", "share"))
        self.require_at_least("unused", 0)


PAPER_1 = MazeConfig(
    episodes=1_000_000, batch=1, steps=250, wall_penalty=0.1, goal_at_start=True, teleport_onto_goal=True,
    see_action=False, rule="oja", constraint="none", value_weight=0.03, concentration=0.1, burn_in=0, log_every=50,
    window=500, checkpoint_every=5_000,
)  # fmt: skip
CODE_1 = replace(PAPER_1, hidden=200, see_time="raw", see_bias=True, unused=5)
PAPER_2 = MazeConfig(clip_gradient=7.0, goal_at_start=True, teleport_onto_goal=True)
CODE_2 = MazeConfig(
    episodes=6_000_060, size=11, clip_gradient=4.0, see_time="share", first_action=True, see_bias=True, unused=1
)  # fmt: skip
DEMO = replace(CODE_2, episodes=30_000_000, size=9, clip=2.0, fan_out="neuron", scale=0.001)


def _of_paper_1(config: MazeConfig) -> dict[str, MazeConfig]:
    return nets(config, plastic={}, homogeneous={}, rnn={})


def _of_paper_2(config: MazeConfig, plastic: int = 100, rnn: int = 100) -> dict[str, MazeConfig]:
    return nets(config, simple={}, retroactive={}, plastic={"hidden": plastic}, rnn={"hidden": rnn})


class Tables(NamedTuple):
    """A maze as tables over its K = S * FEEDBACKS codes: the square, times FEEDBACKS, plus what happened on the way.

    Attributes:
        squares: row and column of each free square (S, 2), with the border at 0.
        start: number of the centre's square.
        table, value: what is seen (K, F) and the reward (K,).
        arrival, feedback: (K,), at the square's first code plus twice the action (plus 1 or not): the first code of the
            square where the action leads, and what to add to it for the action and a wall.
    """

    squares: Tensor
    start: int
    table: Tensor
    value: Tensor
    arrival: Tensor
    feedback: Tensor

    def to(self, device: torch.device) -> Tables:
        """The same on a device."""
        squares, start, *others = self
        return Tables(squares.to(device), start, *(table.to(device) for table in others))


def walls(size: int) -> Tensor:
    """The maze as bool (size + 2, size + 2), True for a wall: the border, and every other square both ways."""
    grid = torch.ones(size + 2, size + 2, dtype=torch.bool)
    grid[1:-1, 1:-1] = False
    grid[2:-1:2, 2:-1:2] = True
    grid[(size + 1) // 2, (size + 1) // 2] = False
    return grid


def tables(config: MazeConfig) -> Tables:
    """The tables of a maze."""
    grid, centre = walls(config.size), (config.size + 1) // 2
    squares = (~grid).nonzero()
    numbers = {(row, column): index for index, (row, column) in enumerate(squares.tolist())}
    count, features = len(squares), VIEW + 1 + len(DIRECTIONS)
    table = torch.zeros(count, 1 + len(DIRECTIONS), OUTCOMES, features)
    value = torch.tensor(
        [0, config.reward, -config.wall_penalty, config.reward - config.wall_penalty]
    )
    arrival, feedback = torch.zeros(2, count, FEEDBACKS, dtype=torch.long)
    for (row, column), index in numbers.items():
        table[index, ..., :VIEW] = (
            grid[row - 1 : row + 2, column - 1 : column + 2].flatten().float()
        )
        for action, (down, right) in enumerate(DIRECTIONS):
            reached = numbers.get((row + down, column + right), index)
            either = slice(2 * action, 2 * action + 2)
            arrival[index, either] = reached * FEEDBACKS
            feedback[index, either] = (action + 1) * OUTCOMES + 2 * (reached == index)
    table[..., VIEW] = value
    if config.see_action:
        table[:, 1:, :, VIEW + 1 :] = torch.eye(len(DIRECTIONS)).unsqueeze(1)
    constant = (config.see_time != "none") + config.see_bias + config.unused
    seen = table if config.see_action else table[..., : VIEW + 1]
    seen = torch.cat([seen, seen.new_zeros(*seen.shape[:-1], constant)], -1)
    rewards = value.repeat(count * (1 + len(DIRECTIONS)))
    return Tables(
        squares,
        numbers[centre, centre],
        seen.flatten(0, 2),
        rewards,
        arrival.flatten(),
        feedback.flatten(),
    )


class MazeWorld(World):
    """Agents in a maze, each with its own hidden reward.

    Args:
        maze: its tables.
        shown: (T, 1, F).
        goals: squares (B,) of the reward.
        teleports: squares (T, B) where an agent is taken that finds the reward at that step.
        first_codes: (B,).
    """

    def __init__(
        self, maze: Tables, shown: Tensor, goals: Tensor, teleports: Tensor, first_codes: Tensor
    ):
        super().__init__(shown, maze.table, maze.value, first_codes)
        self.arrival, self.feedback = maze.arrival, maze.feedback
        self.goals, self.teleports = goals, teleports

    def moves(self) -> Callable[[int, Tensor, Tensor], object]:
        """A move is six tensor operations, on squares counted in codes, plus 1 where the reward has been found."""
        goals, teleports = self.goals * FEEDBACKS, (self.teleports * FEEDBACKS + 1).unbind()
        here = self.squares(self.codes[0]) * FEEDBACKS

        def move(t: int, action: Tensor, code: Tensor) -> None:
            nonlocal here
            choice = torch.add(here, action, alpha=2)
            reached = self.arrival.index_select(0, choice)
            here = torch.where(reached == goals, teleports[t], reached)
            torch.add(self.feedback.index_select(0, choice), here, out=code)

        return move

    @staticmethod
    def squares(codes: Tensor) -> Tensor:
        """Numbers of the squares where agents are who see these codes."""
        return codes // FEEDBACKS


class Maze(ReinforcementLearning[MazeConfig]):
    """Reward: sum over an episode."""

    name = "maze"
    actions = len(DIRECTIONS)
    presets: ClassVar[Presets[MazeConfig]] = {
        "quick": _of_paper_2(replace(DEMO, episodes=150_000)),
        "paper1": _of_paper_1(PAPER_1),
        "code1": _of_paper_1(CODE_1),
        "paper2": _of_paper_2(PAPER_2),
        "code2": _of_paper_2(CODE_2, plastic=101, rnn=139),
        "demo": _of_paper_2(DEMO),
    }

    def __init__(
        self,
        config: MazeConfig,
        device: torch.device,
        backend: str | None = None,
        data: Path | None = None,
    ):
        require(data is None, "--data: the maze is generated, there is nothing to read")
        super().__init__(config, device, backend, data)
        self.maze = tables(config).to(device)
        self.inputs = self.maze.table.shape[-1]
        self.shown = torch.zeros(config.steps, 1, self.inputs)
        if config.see_time != "none":
            time = torch.arange(config.steps) / (config.steps if config.see_time == "share" else 1)
            self.shown[:, 0, -1] = time
        if config.see_bias:
            self.shown[..., -1 - (config.see_time != "none")] = 1
        self.shown = self.shown.to(device)

    def world(self, generator: torch.Generator, batch: int, share: slice) -> MazeWorld:
        config, count, start = self.config, len(self.maze.squares), self.maze.start
        goals = _others(
            count, None if config.goal_at_start else torch.tensor(start), (batch,), generator
        )
        taken_from = None if config.teleport_onto_goal else goals
        teleports = _others(count, taken_from, (config.steps, batch), generator)
        first = torch.full((batch,), start * FEEDBACKS + (OUTCOMES if config.first_action else 0))
        mine = (tensor[..., share].to(self.device) for tensor in (goals, teleports, first))
        return MazeWorld(self.maze, self.shown, *mine)

    def published(self) -> Sequence[published.Curve | published.Level]:
        config = self.config
        if config.rule == "oja" and config.size == 9 and config.steps == 250:
            return (*published.MAZE_1.values(), *published.MAZE_1_LEVELS)
        return published.MAZE_2_LEVELS.get(config.size, ()) if config.steps == 200 else ()

    def figures(self, model: nn.Module, folder: Path) -> list[Path]:
        """One episode as a film: the agent in the maze, its trace norm and its modulator."""
        assert isinstance(model, Agent)
        episode = self.episodes(stream(0, "film"), 1, slice(0, 1))
        assert isinstance(episode.world, MazeWorld)
        curves: dict[str, list[float]] = {}

        def watch(state: State) -> None:
            for name, value in drawing.signals(model, state).items():
                curves.setdefault(name, []).append(float(value[0]))

        trajectory = act(model, *episode, watch)
        squares = self.maze.squares.cpu()
        path = squares[episode.world.squares(episode.world.codes[:-1, 0]).cpu()].tolist()
        goal = squares[episode.world.goals[0].cpu()].tolist()
        rewards = trajectory.rewards[:, 0].tolist()
        caption = f"network {self.config.net}, reward of the episode {sum(rewards):.4g}"
        grid: Any = walls(self.config.size).numpy()
        return [
            drawing.maze_film(folder / "episode.gif", grid, goal, path, rewards, curves, caption)
        ]


def _others(
    count: int, excluded: Tensor | None, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Numbers below ``count``, uniformly drawn, but not ``excluded`` (which broadcasts)."""
    if excluded is None:
        return torch.randint(count, shape, generator=generator)
    drawn = torch.randint(count - 1, shape, generator=generator)
    return drawn + (drawn >= excluded)


EXPERIMENT = Maze
