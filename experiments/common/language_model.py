"""Language models of plain or plastic LSTM layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiments.common import parallel
from experiments.common.softmax import SoftmaxLayer
from plastikern import Plasticity, PlasticLSTM, RulePlasticity

State = tuple[Tensor, ...]
"""Of a layer: hidden, cell and, of a plastic one, traces; each (1, B, ...)."""
CANDIDATE = 2
"""Place of the candidate among an LSTM's gates."""


class Dropout(NamedTuple):
    """Probabilities of dropping: whole words, and units of the layers' inputs for a whole segment."""

    words: float = 0.0
    input: float = 0.0
    hidden: float = 0.0
    output: float = 0.0


NO_DROPOUT = Dropout()


class Activities(NamedTuple):
    """What a segment of T steps gives.

    Attributes:
        raw, dropped: of the last layer (T, B, N), before and after the dropout of the output.
        states: of the layers after the segment, without history.
    """

    raw: Tensor
    dropped: Tensor
    states: list[State]


class LanguageModel(nn.Module):
    """Embedding, LSTM layers, output layer.

    Args:
        vocabulary: V.
        embedding: size of a word's vector.
        hidden: neurons of each layer.
        tied: whether the output layer has the weights of the embedding; the last layer is then of its size.
        plasticity: the rule of all layers; None makes them ``torch.nn.LSTM``.
        fan_out_bias: whether a fan-out of the modulator has a trained offset; otherwise it is zero.
        dropout: while training.
        backend: of plastikern; None lets it choose. With ``reference`` the loss too is in plain PyTorch.
    """

    def __init__(
        self,
        vocabulary: int,
        embedding: int,
        hidden: Sequence[int],
        *,
        tied: bool,
        plasticity: Plasticity | RulePlasticity | None,
        fan_out_bias: bool = True,
        dropout: Dropout = NO_DROPOUT,
        backend: str | None = None,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.dropout, self.plain = dropout, backend == "reference"
        self.embedding = nn.Embedding(vocabulary, embedding, device=device)
        sizes = [embedding, *hidden]
        self.layers = nn.ModuleList(
            nn.LSTM(before, after, device=device)
            if plasticity is None
            else plastic_layer(before, after, plasticity, fan_out_bias, backend, device)
            for before, after in zip(sizes, hidden, strict=False)
        )
        self.output = SoftmaxLayer(hidden[-1], vocabulary, device)
        if tied:
            self.output.weight = self.embedding.weight

    def forward(self, words: Tensor, states: Sequence[State] | None = None) -> Activities:
        """
        Args:
            words: (T, B).
            states: of the layers before the segment; None is zero.
        """
        drop = self.dropout if self.training else NO_DROPOUT
        vectors = self.embedding.weight
        if drop.words:
            vectors = vectors * _mask((len(vectors), 1), drop.words, vectors)
        activity, after = locked(nn.functional.embedding(words, vectors), drop.input), []
        raw = activity
        for number, layer in enumerate(self.layers):
            raw, state = layer(activity, None if states is None else states[number])
            after.append(tuple(tensor.detach() for tensor in state if tensor is not None))
            activity = locked(raw, drop.output if number == len(self.layers) - 1 else drop.hidden)
        return Activities(raw, activity, after)

    def loss(self, found: Activities, following: Tensor) -> Tensor:
        """Cross-entropy of the words that follow, (T, B): the mean, in nats."""
        hidden, target = found.dropped.flatten(0, 1), following.flatten()
        if self.plain:
            return nn.functional.cross_entropy(self.output(hidden), target)
        return self.output.loss(hidden, target)


def plastic_layer(
    size: int,
    hidden: int,
    plasticity: Plasticity | RulePlasticity,
    fan_out_bias: bool,
    backend: str | None,
    device: torch.device | None,
) -> PlasticLSTM:
    """A plastic layer whose candidate has one bias: its recurrent connection is plastic, and has none."""
    layer = PlasticLSTM(size, hidden, plasticity=plasticity, backend=backend, device=device)
    nn.utils.parametrize.register_parametrization(layer, "bias_hh_l0", _GatesOnly())
    if isinstance(plasticity, RulePlasticity):
        return layer
    if plasticity.fan_out != "none" and not fan_out_bias:
        nn.init.zeros_(layer.get_parameter("fan_out_bias_l0")).requires_grad_(False)
    return layer


class _GatesOnly(nn.Module):
    """Biases of three gates (3 N,) as those of an LSTM (4 N,), whose candidate has zero."""

    def forward(self, bias: Tensor) -> Tensor:
        before, after = bias.tensor_split([CANDIDATE * len(bias) // 3])
        return torch.cat([before, torch.zeros_like(after), after])

    def right_inverse(self, bias: Tensor) -> Tensor:
        gates = bias.unflatten(0, (4, -1))
        return torch.cat([gates[:CANDIDATE], gates[CANDIDATE + 1 :]]).flatten()


def locked(input: Tensor, probability: float) -> Tensor:
    """Dropout (T, B, N) of the same units at all steps.

    All processes draw the masks of the whole batch and each takes its columns.
    """
    if not probability:
        return input
    batch = input.shape[1]
    mask = _mask((1, batch * parallel.size(), input.shape[2]), probability, input)
    return input * mask[:, parallel.share(mask.shape[1])]


def _mask(shape: tuple[int, ...], probability: float, like: Tensor) -> Tensor:
    """Zeros at random, elsewhere what makes up for them."""
    return like.new_empty(shape).bernoulli_(1 - probability).div_(1 - probability)


@torch.no_grad()
def draw_uniform(model: LanguageModel, scale: float) -> None:
    """All trained parameters from U(-scale, scale), as Zaremba et al. 2014, but for the plasticity rates and for what
    a rule of one's own brings."""
    brought = {id(parameter) for layer in model.layers for parameter in _of_own_rule(layer)}
    for name, parameter in model.named_parameters():
        rate = name.split(".")[-1].startswith(("eta", "eligibility_eta"))
        if parameter.requires_grad and not rate and id(parameter) not in brought:
            nn.init.uniform_(parameter, -scale, scale)


def _of_own_rule(layer: nn.Module) -> list[Tensor]:
    """What belongs to a rule of one's own, and has the initial values that its use says."""
    rule = layer.plasticity if isinstance(layer, PlasticLSTM) else None
    if not isinstance(rule, RulePlasticity):
        return []
    return [getattr(layer, f"{name}_l0") for name in rule.parameters]


@torch.no_grad()
def draw_awd(model: LanguageModel) -> None:
    """As the authors' fork of AWD-LSTM: linear layers as ``torch.nn.Linear``, a small plastic connection."""
    nn.init.uniform_(model.embedding.weight, -0.1, 0.1)
    nn.init.zeros_(model.output.bias)
    for layer in model.layers:
        bound = 1 / math.sqrt(layer.get_parameter("weight_ih_l0").shape[1])
        for name in ("weight_ih_l0", "bias_ih_l0"):
            nn.init.uniform_(layer.get_parameter(name), -bound, bound)
        if isinstance(layer, PlasticLSTM):
            candidate = layer.get_parameter("weight_hh_l0").unflatten(0, (4, -1))[CANDIDATE]
            nn.init.uniform_(candidate, -0.01, 0.01)
            if isinstance(layer.plasticity, Plasticity):
                nn.init.uniform_(layer.get_parameter("alpha_l0"), 0, 1e-4)
