"""Networks that act: a recurrent network with a policy and a value, stepped while acting, run as a whole to learn."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from experiments.common.networks import PlainRNN
from plastikern import Plasticity, PlasticRNN, RulePlasticity

State = tuple[Tensor, ...]
"""Activities and, in plastic networks, traces, each with B in front."""


class Steps(Protocol):
    """Steps of a network without gradients, from which it can learn later: :class:`plastikern.Rollout`."""

    def step(self, input: Tensor) -> Tensor: ...
    def state(self) -> State: ...
    def finish(self, inputs: Tensor) -> tuple[Tensor, Any]: ...


class PlainSteps:
    """The same of a network without plasticity."""

    def __init__(self, core: PlainRNN):
        self.core, self.transposed = core, core.weight.t()
        self.hidden: Tensor | None = None

    def step(self, input: Tensor) -> Tensor:
        """Activities (B, N)."""
        summed = input if self.hidden is None else torch.addmm(input, self.hidden, self.transposed)
        self.hidden = torch.tanh(summed)
        return self.hidden

    def state(self) -> State:
        """The activities (1, B, N)."""
        return () if self.hidden is None else (self.hidden.unsqueeze(0),)

    def finish(self, inputs: Tensor) -> tuple[Tensor, Any]:
        """Activities (T, B, N) with gradients."""
        return self.core(inputs)


class Agent(nn.Module):
    """A recurrent network whose activities give action scores, linearly, and the value of the situation.

    Only the recurrent connections are plastic; all other layers are as ``torch.nn.Linear`` makes them. Recurrent
    weights and plasticity coefficients start from U(0, ``scale``), a single coefficient for all at ``scale``.

    Args:
        inputs, hidden, actions: sizes.
        plasticity: the rule; None for a network without plasticity. One of one's own brings the initial values of its
            coefficients.
        scale: of the initial recurrent weights.
        backend: of plastikern; None lets it choose.
        device: of the parameters.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        actions: int,
        plasticity: Plasticity | RulePlasticity | None,
        scale: float,
        backend: str | None,
        device: torch.device,
    ):
        super().__init__()
        self.input = nn.Linear(inputs, hidden, device=device)
        self.core: PlainRNN | PlasticRNN
        if plasticity is None:
            self.core = PlainRNN(hidden, device)
            nn.init.uniform_(self.core.weight, 0, scale)
        else:
            self.core = PlasticRNN(
                None, hidden, bias=False, plasticity=plasticity, backend=backend, device=device
            )
            if self.core.weight_hh_l0 is not None:
                nn.init.uniform_(self.core.get_parameter("weight_hh_l0"), 0, scale)
            if isinstance(plasticity, Plasticity):
                alpha = self.core.get_parameter("alpha_l0")
                if plasticity.alpha == "layer":
                    nn.init.constant_(alpha, scale)
                else:
                    nn.init.uniform_(alpha, 0, scale)
        self.policy = nn.Linear(hidden, actions, device=device)
        self.value = nn.Linear(hidden, 1, device=device)

    def forward(self, inputs: Tensor, steps: Steps | None = None) -> tuple[Tensor, Tensor]:
        """Scores (T, B, actions) and values (T, B) of a whole recorded episode's inputs (T, B, F).

        Args:
            steps: those taken on these inputs, whose activities are then not computed again.
        """
        drive = self.input(inputs)
        activities = (self.core(drive) if steps is None else steps.finish(drive))[0]
        return self.policy(activities), self.value(activities).squeeze(-1)

    def begin(self, steps: int, batch: int) -> Steps:
        """Get ready to act in an episode; a step is given the drive (B, N) of the neurons."""
        if isinstance(self.core, PlasticRNN):
            return self.core.rollout(steps, batch)
        return PlainSteps(self.core)

    def modulator_signal(self, hidden: Tensor) -> Tensor | None:
        """The neuromodulator (...,) at activities (..., N); None in networks without one."""
        if not isinstance(self.core, PlasticRNN):
            return None
        rule = self.core.plasticity
        if not isinstance(rule, Plasticity) or rule.modulation == "none":
            return None
        return self.core.modulator_signal(hidden)

    def rule_states(self, state: State) -> dict[str, Tensor] | None:
        """States of a rule of one's own by name, each (B, ...); None in networks without such a rule."""
        rule = self.core.plasticity if isinstance(self.core, PlasticRNN) else None
        if not isinstance(rule, RulePlasticity):
            return None
        return dict(zip(rule.rule.states, state[1:], strict=True))

    def readouts(self, hidden: Tensor) -> dict[str, Tensor]:
        """Signals that the network reads out for a rule of one's own by name, each (...,) at activities (..., N),
        before any fan-out."""
        core = self.core
        if not isinstance(core, PlasticRNN) or not isinstance(core.plasticity, RulePlasticity):
            return {}
        readouts = core.plasticity.readouts
        return {name: core.modulator_signal(hidden, name=name) for name in readouts}
