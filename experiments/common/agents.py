"""Networks that act: a recurrent network with a policy and a value, stepped while acting, run as a whole to learn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.common.networks import PlainRNN
from plastikern import Plasticity, PlasticRNN
from plastikern.functional import plastic_rnn_step

State = tuple[Tensor, ...]
"""Activities and, in plastic networks, traces; before the first step nothing."""


class Agent(nn.Module):
    """A recurrent network whose activities give action scores, linearly, and the value of the situation.

    Only the recurrent connections are plastic; all other layers are as ``torch.nn.Linear`` makes them. Recurrent
    weights and plasticity coefficients start from U(0, ``scale``), a single coefficient for all at ``scale``.

    Args:
        inputs, hidden, actions: sizes.
        plasticity: the rule; None for a network without plasticity.
        scale: of the initial recurrent weights.
        backend: of plastikern; None lets it choose.
        device: of the parameters.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        actions: int,
        plasticity: Plasticity | None,
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
            self.core = PlasticRNN(None, hidden, bias=False, plasticity=plasticity, backend=backend, device=device)
            nn.init.uniform_(self.core.get_parameter("weight_hh_l0"), 0, scale)
            alpha = self.core.get_parameter("alpha_l0")
            if alpha.dim():
                nn.init.uniform_(alpha, 0, scale)
            else:
                nn.init.constant_(alpha, scale)
        self.policy = nn.Linear(hidden, actions, device=device)
        self.value = nn.Linear(hidden, 1, device=device)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (T, B, actions) and values (T, B) of a whole recorded episode's inputs (T, B, F)."""
        activities = self.core(self.input(inputs))[0]
        return self.policy(activities), self.value(activities).squeeze(-1)

    def stepper(self) -> Callable[..., State]:
        """``step(drive, *state)``: the next state, activities first, from the drive (B, N) of the neurons.

        The parameters are looked up once, for an agent takes a step in little more time than that.
        """
        core = self.core
        if isinstance(core, PlainRNN):
            transposed = core.weight.t()

            def plain(drive: Tensor, hidden: Tensor | None = None) -> State:
                return (torch.tanh(drive if hidden is None else torch.addmm(drive, hidden, transposed)),)

            return plain
        names = ("weight_hh_l0", "alpha_l0", "eta_l0", "eligibility_eta_l0")
        weight, alpha, eta, fading = (getattr(core, name) for name in names)
        modulator, plasticity, backend = core.modulator(), core.plasticity, core.backend

        def plastic(
            drive: Tensor, hidden: Tensor | None = None, trace: Tensor | None = None, eligibility: Tensor | None = None
        ) -> State:
            return plastic_rnn_step(
                drive, hidden, trace, weight, alpha, eta, eligibility=eligibility, eligibility_eta=fading,
                modulator=modulator, plasticity=plasticity, backend=backend,
            )  # fmt: skip

        return plastic

    def modulator_signal(self, hidden: Tensor) -> Tensor | None:
        """The neuromodulator (...,) at activities (..., N); None in networks without one."""
        if isinstance(self.core, PlainRNN) or self.core.plasticity.modulation == "none":
            return None
        return self.core.modulator_signal(hidden)
