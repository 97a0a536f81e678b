"""A plastic policy for ``RecurrentPPO`` of Stable-Baselines3-contrib, which knows states (h, c) only."""

from __future__ import annotations

from typing import Any

import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from torch import Tensor, nn

from plastikern import PlasticRNN

MEMORIES = 2  # while learning those of actor and critic, and of as many who predict


class _Replayed(nn.Module):
    """What RecurrentPPO takes for an LSTM. Its h says which steps of which memory are the episode so far."""

    num_layers, hidden_size = 1, 4  # of h: number of the memory, environment, first step, next step

    def __init__(self, network: nn.Module, features: int) -> None:
        super().__init__()
        self.network, self.input_size = network, features


class PlasticPolicy(RecurrentActorCriticPolicy):
    """Actor and critic with plastic networks, whose traces nobody stores: every call replays from the episode's start.

    Args:
        network: ``PlasticRNN``, ``PlasticLSTM``, or what is called as they are.
        network_kwargs: its arguments besides sizes, such as ``{"plasticity": Plasticity(...)}``.
        history: steps of an environment that are remembered, at least those of a rollout (``n_steps``) and of the
            longest episode together. What lies further back is left out of the replay.
        args, kwargs: those of RecurrentActorCriticPolicy. ``lstm_hidden_size`` and ``n_lstm_layers`` are the network's.

    Raises:
        ValueError: a features extractor that has parameters, since what it once made of an observation is replayed; a
            rollout that is longer than ``history``; a state of a memory that has been given up.
    """

    def __init__(
        self, *args: Any, network: Any = PlasticRNN, network_kwargs: Any = None, history: int = 4096, **kwargs: Any
    ) -> None:  # fmt: skip
        super().__init__(*args, **kwargs)
        if [*self.features_extractor.parameters()]:
            raise ValueError(
                "PlasticPolicy: put the parameters of the features extractor into network"
            )
        self.history, self.made, self.predicting = history, 0, False
        self.memories: list[dict[int, tuple[Tensor, int]]] = [{}, {}]  # of learning, of predictions
        for name, lstm in (("lstm_actor", self.lstm_actor), ("lstm_critic", self.lstm_critic)):
            if lstm is not None:
                sizes = lstm.input_size, lstm.hidden_size, lstm.num_layers
                made = network(*sizes, batch_first=True, **(network_kwargs or {}))
                setattr(self, name, _Replayed(made, lstm.input_size))
        self.lstm_hidden_state_shape = (1, 1, _Replayed.hidden_size)
        made = self.optimizer_class(self.parameters(), **self.optimizer_kwargs)
        made.param_groups[0]["lr"] = self.optimizer.param_groups[0]["lr"]
        self.optimizer: Any = made

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As of RecurrentActorCriticPolicy, beside a rollout that goes on afterwards."""
        self.predicting = True
        try:
            return super().predict(*args, **kwargs)
        finally:
            self.predicting = False

    def _process_sequence(
        self, features: Tensor, lstm_states: Any, episode_starts: Tensor, lstm: Any
    ) -> Any:
        """Activities (n * T, N) of n sequences of T steps, and the states behind them."""
        number, world, first, now = lstm_states[0][0].long().unbind(1)
        features = features.reshape(len(now), -1, lstm.input_size)
        steps = torch.arange(features.shape[1], device=now.device)
        begins = episode_starts.reshape(len(now), -1)[:, 0] > 0
        first = torch.where(begins, now, first)
        acting = len(steps) == 1 and not torch.is_grad_enabled()
        which, memories = int(number.max()), self.memories[self.predicting]
        if acting and (which == 0 or (which not in memories and bool(begins.all()))):
            self.made += 1
            number, world = torch.full_like(now, self.made), torch.arange(len(now)).to(now)
            seen, end = features.new_zeros(self.history, *features[:, 0].shape), int(now.max())
        elif which in memories or which == 0:
            seen, end = memories.get(which, (features.new_zeros(1, 1, lstm.input_size), 0))
        else:
            raise ValueError(f"PlasticPolicy: state {which} is given up; begin without one")
        if acting:
            seen[now % len(seen), world] = features[:, 0]
            end = max(end, int(now.max()) + 1)
            memories[int(number.max())] = seen, end
            for oldest in [*memories][:-MEMORIES]:
                del memories[oldest]
        if (least := end - int(now.min())) > len(seen):
            raise ValueError(f"PlasticPolicy: history must be {least} or more; got {self.history}")
        first = first.clamp(min=end - len(seen))
        places = ((now - first).unsqueeze(1) + steps).unsqueeze(2)
        rows = first.unsqueeze(1) + torch.arange(int(places.max()) + 1, device=now.device)
        replay = seen[rows % len(seen), world.unsqueeze(1)]
        replay = replay.scatter(1, places.expand_as(features), features)
        output, _ = lstm.network(replay, lengths=now - first + len(steps))
        output = output.gather(1, places.expand(-1, -1, output.shape[2]))
        state = torch.stack([number, world, first, now + len(steps)], 1).float().unsqueeze(0)
        return output.flatten(0, 1), (state, torch.zeros_like(state))
