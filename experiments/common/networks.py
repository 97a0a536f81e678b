"""The papers' networks of the presentation tasks. Each maps a drive (T, 1, N) and a clamp to activities (T, 1, N)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiments.common.config import Config
from plastikern import Plasticity, PlasticRNN

WEIGHT_STD = 0.01
"""Standard deviation of the initial weights and plasticity coefficients; initial value of a yoked coefficient."""

RELAY_CANDIDATE = 10.0
RELAY_GATE = 10.0
RELAY_FORGET = -1000.0


def plastic_rnn(
    config: Config, neurons: int, alpha: str, backend: str | None, device: torch.device
) -> PlasticRNN:
    """A plastic network of the paper: traces that decay, by Oja's rule by themselves, a learned rate, drive straight
    into the neurons. A rule of one's own brings all of its initial values, but for the weights.

    Args:
        config: its ``rule``.
        neurons: of the network, the bias neuron included.
        alpha: ``"connection"``, ``"layer"``, or ``"zero"`` for a network that has the traces but cannot use them.
        backend: of plastikern; None lets it choose.
        device: of the parameters.
    """
    plastic, own = alpha != "zero", config.own_rule
    rule = own or Plasticity(
        rule=config.rule, constraint="none" if config.rule == "oja" else "decay", learn_eta=plastic,
        alpha="connection" if alpha == "connection" else "layer",
    )  # fmt: skip
    model = PlasticRNN(None, neurons, bias=False, plasticity=rule, backend=backend, device=device)
    if model.weight_hh_l0 is not None:
        nn.init.normal_(model.get_parameter("weight_hh_l0"), std=WEIGHT_STD)
    if own is not None:
        return model
    coefficients = model.get_parameter("alpha_l0")
    if alpha == "connection":
        nn.init.normal_(coefficients, std=WEIGHT_STD)
    else:
        nn.init.constant_(coefficients, WEIGHT_STD if plastic else 0.0)
    coefficients.requires_grad_(plastic)
    return model


class PlainRNN(nn.Module):
    """A recurrent tanh network without plasticity and without traces, driven and clamped as the plastic one."""

    def __init__(self, neurons: int, device: torch.device):
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(neurons, neurons, device=device).normal_(std=WEIGHT_STD)
        )

    def forward(self, drive: Tensor, *, clamp: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden, transposed = torch.zeros_like(drive[0]), self.weight.t()
        outputs = []
        # Steps are taken apart at once: the gradients of single ones would each be as large as the whole drive.
        for t, given in enumerate(drive.unbind()):
            active = torch.tanh(torch.addmm(given, hidden, transposed))
            hidden = active if clamp is None else torch.where(clamp[t], given, active)
            outputs.append(hidden)
        return torch.stack(outputs), hidden


class RelayLSTM(nn.Module):
    """An LSTM whose first cells are its outputs and, as the authors found necessary, relay their own input.

    With ``relay`` the parameters of the first ``visible`` cells are forced before every pass: of the inputs, the
    candidate sees only the cell's own, strongly; input and output gate are open; the forget gate is closed, so that a
    visible cell has no memory of its own. The hidden-to-hidden biases of the whole layer are zero. All else is trained.
    """

    def __init__(self, visible: int, hidden: int, relay: bool, device: torch.device):
        super().__init__()
        self.visible, self.relay = visible, relay
        self.lstm = nn.LSTM(visible, hidden, device=device)

    @torch.no_grad()
    def force_relay(self) -> None:
        """Write the forced values into the parameters."""
        hidden, cells = self.lstm.hidden_size, slice(0, self.visible)
        weight = self.lstm.get_parameter("weight_ih_l0").view(4, hidden, self.visible)
        bias = self.lstm.get_parameter("bias_ih_l0").view(4, hidden)
        input_gate, forget_gate, candidate, output_gate = range(4)
        weight[candidate, cells].zero_().fill_diagonal_(RELAY_CANDIDATE)
        bias[candidate, cells] = 0
        bias[input_gate, cells] = RELAY_GATE
        bias[output_gate, cells] = RELAY_GATE
        bias[forget_gate, cells] = RELAY_FORGET
        self.lstm.get_parameter("bias_hh_l0").zero_()

    def forward(self, drive: Tensor, *, clamp: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if clamp is not None:
            raise ValueError("RelayLSTM: an LSTM is driven, not clamped")
        if self.relay:
            self.force_relay()
        output, (hidden, _) = self.lstm(drive)
        return output, hidden[0]
