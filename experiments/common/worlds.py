"""Worlds that agents act in, as finite tables: a whole batch moves with a few tensor operations a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.common.agents import Agent, State, Steps


class World(ABC):
    """A batch of B episodes of T steps, with all their randomness drawn beforehand.

    What an agent sees at step t is ``shown[t] + table[codes[t]]``: ``shown`` is what does not depend on its actions,
    the code is what does, a row of a table of all that can come of them. The reward of step t is that of the next code.

    Attributes:
        shown: (T, B, F), or (T, 1, F) where it is the same for all episodes.
        table, value: (K, F), (K,).
        codes: (T + 1, B), written step by step; the first row is there at the start, the last is seen by nobody.
    """

    def __init__(self, shown: Tensor, table: Tensor, value: Tensor, first_codes: Tensor):
        self.shown, self.table, self.value = shown, table, value
        self.codes = first_codes.new_empty(shown.shape[0] + 1, *first_codes.shape)
        self.codes[0] = first_codes

    @abstractmethod
    def moves(self) -> Callable[[int, Tensor, Tensor], object]:
        """Begin anew; ``move(t, action, code)`` performs the actions (B,) of step t and writes the codes (B,) of the
        next."""


class Trajectory(NamedTuple):
    """A recorded batch of episodes: inputs (T, B, F), actions (T, B), rewards (T, B), steps of the network."""

    inputs: Tensor
    actions: Tensor
    rewards: Tensor
    steps: Steps


def act(
    agent: Agent, world: World, noise: Tensor, watch: Callable[[State], None] | None = None
) -> Trajectory:
    """Let the agent act, without recording gradients.

    Args:
        noise: Gumbel noise (T, B, actions): the action of the largest score plus noise is a draw from the softmax.
        watch: told of the agent's state after every step.
    """
    # A step is little work, so that every tensor operation counts: what can be done for all steps at once is.
    actions = torch.empty(noise.shape[:2], dtype=torch.long, device=noise.device)
    with torch.inference_mode():
        drives, table = agent.input(world.shown).unbind(), world.table @ agent.input.weight.t()
        tosses, policy = (noise + agent.policy.bias).unbind(), agent.policy.weight
        codes, chosen = world.codes.unbind(), actions.unbind()
        steps, move = agent.begin(*noise.shape[:2]), world.moves()
        for t, action in enumerate(chosen):
            hidden = steps.step(drives[t] + table.index_select(0, codes[t]))
            # A matrix product would wake all threads, which takes longer than the few scores.
            scores = torch.linalg.vecdot(hidden.unsqueeze(1), policy)
            torch.argmax(scores.add_(tosses[t]), 1, out=action)
            move(t, action, codes[t + 1])
            if watch is not None:
                watch(tuple(part.squeeze(0) for part in steps.state() if part is not None))
    return Trajectory(
        world.shown + world.table[world.codes[:-1]], actions, world.value[world.codes[1:]], steps
    )


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise."""
    return torch.empty(shape).exponential_(generator=generator).log_().neg_()
