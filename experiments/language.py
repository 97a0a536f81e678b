"""Language models of the Penn Treebank: LSTMs whose candidate is plastic (second paper, section 4.3)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from experiments.common import corpus, parallel
from experiments.common.config import Config, Presets, require
from experiments.common.experiment import Experiment
from experiments.common.language_model import Dropout, LanguageModel, State, draw_awd, draw_uniform
from experiments.common.published import PERPLEXITY, Level
from plastikern import Plasticity, RulePlasticity

MODULATION = {"lstm": None, "plastic": "none", "simple": "simple", "retroactive": "retroactive"}
"""The cells, and how their plasticity is modulated."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(Config):
    """Settings. An episode is an epoch: the states go through the whole text and start at zero in the next one.

    Args:
        net: the cell, ``lstm``, ``plastic``, ``simple`` or ``retroactive``.
        batch: columns that the training text is cut into, read side by side.
        learning_rate: of SGD, for the gradient of ``loss_steps``.
        learning_rate_factor, full_rate_epochs: the rate is multiplied by the factor in every epoch after the first so
            many.
        l2: weight decay of all parameters.
        bptt: words of a column in one update.
        vary_bptt: with probability 0.05 ``bptt`` is half as long; the length is drawn around it, with standard
            deviation 5, from 5 to ``bptt`` + 10; the learning rate goes with it.
        sum_steps: whether the loss that is differentiated is the sum over the steps (of means over the columns), in
            place of the mean.
        average_from: epochs of SGD before the weights of all further updates are averaged; 0 never averages.
        embedding, hidden, layers: sizes.
        tied: whether embedding and output layer share their weights; the last layer then has ``embedding`` neurons.
        weight_scale: weights start from U(-scale, scale); 0: as in AWD-LSTM.
        alpha, eta, eta_init, clip, modulator_input, fan_out: of the plasticity (:class:`plastikern.Plasticity`).
        fan_out_bias: whether the fan-out has a trained offset.
        divide_alpha_gradient: whether the gradient of alpha is divided by ``hidden`` before it is clipped.
        drop_words, drop_input, drop_hidden, drop_output: dropout.
        activation, temporal: weights of the regularisation of the last layer's activities and of their changes.
        evaluation_batch, test_batch: columns of the validation and of the test text.
        vocabulary: words that the text must have.
        train_words: length of the beginning of the training text that is used; 0 is all.
    """

    net: str = "lstm"
    episodes: int = 13
    batch: int = 20
    learning_rate: float = 1.0
    learning_rate_factor: float = 0.4
    clip_gradient: float = 5.0
    log_every: int = 100
    window: int = 500
    checkpoint_every: int = 500
    full_rate_epochs: int = 6
    l2: float = 1e-4
    bptt: int = 20
    vary_bptt: bool = False
    sum_steps: bool = True
    average_from: int = 0
    embedding: int = 200
    hidden: int = 200
    layers: int = 2
    tied: bool = False
    weight_scale: float = 0.1
    alpha: str = "connection"
    eta: str = "connection"
    eta_init: float = 0.01
    clip: float = 1.0
    modulator_input: str = "previous_hidden"
    fan_out: str = "connection"
    fan_out_bias: bool = False
    divide_alpha_gradient: bool = False
    drop_words: float = 0.0
    drop_input: float = 0.0
    drop_hidden: float = 0.0
    drop_output: float = 0.0
    activation: float = 0.0
    temporal: float = 0.0
    evaluation_batch: int = 20
    test_batch: int = 1
    vocabulary: int = 10_000
    train_words: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_of("net", MODULATION)
        for name in ("bptt", "embedding", "hidden", "layers", "evaluation_batch", "test_batch"):
            self.require_at_least(name, 1)
        for name in (
            "full_rate_epochs", "l2", "average_from", "weight_scale", "activation", "temporal", "train_words"
        ):  # fmt: skip
            self.require_at_least(name, 0)
        require(self.burn_in == 0, f"burn_in must be 0 in language; got {self.burn_in}")
        for name, value in self.dropout._asdict().items():
            require(0 <= value < 1, f"drop_{name} must be at least 0 and less than 1; got {value}")
        if MODULATION[self.net] is not None:
            try:
                self.plasticity()
            except ValueError as error:
                require(False, str(error))

    @property
    def dropout(self) -> Dropout:
        return Dropout(self.drop_words, self.drop_input, self.drop_hidden, self.drop_output)

    @property
    def sizes(self) -> list[int]:
        """Neurons of each layer."""
        return [self.hidden] * (self.layers - 1) + [self.embedding if self.tied else self.hidden]

    def plasticity(self) -> Plasticity | RulePlasticity | None:
        """The rule of the layers; None for plain LSTMs."""
        modulation = MODULATION[self.net]
        if modulation is None or self.own_rule is not None:
            return self.own_rule
        modulated = modulation != "none"
        return Plasticity(
            rule=self.rule, constraint="clip", clip=self.clip, alpha=self.alpha, eta_init=self.eta_init,
            modulation=modulation,
            # The rate of eligibility traces is one number, so that retroactive networks are as large as simple ones.
            eta="layer" if modulated else self.eta,
            modulator_input=self.modulator_input if modulated else "hidden",
            fan_out=self.fan_out if modulated else "none",
        )  # fmt: skip


SMALL = LanguageConfig()
LARGE = LanguageConfig(
    episodes=500, batch=7, learning_rate=30.0, learning_rate_factor=1.0, clip_gradient=0.25, l2=1.2e-6, bptt=70,
    vary_bptt=True, sum_steps=False, average_from=45, embedding=400, hidden=1149, layers=3, tied=True, weight_scale=0.0,
    alpha="neuron", eta="layer", modulator_input="hidden", fan_out="neuron", fan_out_bias=True,
    divide_alpha_gradient=True, drop_words=0.1, drop_input=0.4, drop_hidden=0.25, drop_output=0.4, activation=2.0,
    temporal=1.0, evaluation_batch=10, checkpoint_every=100, log_every=10, window=100,
)  # fmt: skip


def _nets(config: LanguageConfig, lstm: dict[str, Any]) -> dict[str, LanguageConfig]:
    """Settings of all cells; those of the plain one are of its own size."""
    return {net: replace(config, net=net, **(lstm if net == "lstm" else {})) for net in MODULATION}


class Segment(NamedTuple):
    """Words (T, B) and the words that follow them."""

    words: Tensor
    following: Tensor


class Language(Experiment[LanguageConfig]):
    """Loss: cross-entropy of the next word, in nats, mean over words; perplexity is its exponential."""

    name = "language"
    metrics = ("loss",)
    batched = True
    presets: ClassVar[Presets[LanguageConfig]] = {
        "small": _nets(SMALL, {"embedding": 206, "hidden": 206}),
        "large": _nets(LARGE, {"hidden": 1150}),
        "quick": _nets(
            replace(SMALL, episodes=1, train_words=100_000), {"embedding": 206, "hidden": 206}
        ),
    }

    def __init__(
        self,
        config: LanguageConfig,
        device: torch.device,
        backend: str | None = None,
        data: Path | None = None,
    ):
        super().__init__(config, device, backend, data)
        self.corpus = corpus.load(data, config.vocabulary)
        words = self.corpus.train[: config.train_words or None]
        self.columns = _columns("training", words, config.batch)[
            :, parallel.share(config.batch)
        ].to(device)
        self.words = words.numel()
        self.prepare(0)

    def prepare(self, seed: int) -> None:
        """At the beginning of the text."""
        self.epoch, self.step = 0, 0
        self.states: list[State] | None = None
        self.average: AveragedModel | None = None
        self.best_loss = math.inf
        self.best: dict[str, Tensor] = {}

    def build(self, backend: str | None) -> LanguageModel:
        config = self.config
        model = LanguageModel(
            config.vocabulary, config.embedding, config.sizes, tied=config.tied, plasticity=config.plasticity(),
            fan_out_bias=config.fan_out_bias, dropout=config.dropout, backend=backend, device=self.device,
        )  # fmt: skip
        if config.weight_scale:
            draw_uniform(model, config.weight_scale)
        else:
            draw_awd(model)
        return model

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            model.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.l2,
            fused=True,
        )

    def done(self, updates: int) -> float:
        return self.epoch + self.step / (len(self.columns) - 1)

    def due(self, updates: int) -> bool:
        return self.step == 0

    def learning_rate(self, episode: float) -> float:
        config = self.config
        lower = max(int(episode) + 1 - config.full_rate_epochs, 0)
        return config.learning_rate * config.learning_rate_factor**lower

    def episode(self, generator: torch.Generator, held_out: bool) -> Segment:
        """The next segment of the training text; it is the next one until an update has learned from it."""
        end = min(self.step + self._length(generator), len(self.columns) - 1)
        return Segment(self.columns[self.step : end], self.columns[self.step + 1 : end + 1])

    def _length(self, generator: torch.Generator) -> int:
        bptt = self.config.bptt
        if not self.config.vary_bptt:
            return bptt
        half = torch.rand((), generator=generator) < 0.05
        length = torch.randn((), generator=generator) * 5 + (bptt / 2 if half else bptt)
        return min(max(int(length), 5), bptt + 10)

    def loss(self, model: nn.Module, episode: Segment) -> dict[str, Tensor]:
        assert isinstance(model, LanguageModel)
        return {"loss": model.loss(model(episode.words, self.states), episode.following)}

    def update(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, episode: Segment
    ) -> dict[str, Tensor]:
        assert isinstance(model, LanguageModel)
        config, steps = self.config, len(episode.words)
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate(self.epoch) * (
                steps / config.bptt if config.vary_bptt else 1
            )
        optimizer.zero_grad(set_to_none=True)
        found = model(episode.words, self.states)
        loss = model.loss(found, episode.following)
        objective = loss * steps if config.sum_steps else loss
        if config.activation:
            objective = objective + config.activation * found.dropped.square().mean()
        if config.temporal and steps > 1:
            objective = objective + config.temporal * found.raw.diff(dim=0).square().mean()
        torch.autograd.backward(objective)
        parallel.average_gradients(model)
        if config.divide_alpha_gradient:
            for name, parameter in model.named_parameters():
                if name.split(".")[-1] == "alpha_l0" and parameter.grad is not None:
                    parameter.grad /= config.hidden
        if config.clip_gradient:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_gradient)
        optimizer.step()
        if config.own_rule is None:
            _bound_eligibility_rates(model)
        if config.average_from and self.epoch >= config.average_from:
            self.average = self.average or AveragedModel(model)
            self.average.update_parameters(model)
        self._advance(steps, found.states)
        return {"loss": loss}

    def _advance(self, steps: int, states: list[State]) -> None:
        self.step, self.states = self.step + steps, states
        if self.step == len(self.columns) - 1:
            self.epoch, self.step, self.states = self.epoch + 1, 0, None

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """On the validation text; the best weights so far are kept."""
        model = model if self.average is None else self.average.module
        assert isinstance(model, LanguageModel)
        loss = self._mean_loss(model, self.corpus.valid, self.config.evaluation_batch)
        if loss < self.best_loss:
            self.best_loss = loss
            self.best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return _with_perplexity("validation", loss)

    def final_metrics(self, model: nn.Module) -> dict[str, float]:
        """On the test text, with the weights that were best on the validation text."""
        assert isinstance(model, LanguageModel)
        best = copy.deepcopy(model)
        best.load_state_dict(self.best)
        loss = self._mean_loss(best, self.corpus.test, self.config.test_batch)
        return {**_with_perplexity("validation", self.best_loss), **_with_perplexity("test", loss)}

    @torch.no_grad()
    def _mean_loss(self, model: LanguageModel, text: Tensor, batch: int) -> float:
        """Cross-entropy of all words of a text but the first of each column; states go on from segment to segment."""
        columns = _columns("held-out", text, batch).to(self.device)
        steps = max(self.config.batch * self.config.bptt // batch, 1)
        training, total, states = model.training, 0.0, None
        model.eval()
        for first in range(0, len(columns) - 1, steps):
            following = columns[first + 1 : first + 1 + steps]
            found = model(columns[first : first + len(following)], states)
            states = found.states
            total += float(model.loss(found, following)) * len(following)
        model.train(training)
        return total / (len(columns) - 1)

    def carried(self) -> dict[str, Any]:
        states = self.states and [
            tuple(parallel.gather(tensor, 1) for tensor in state) for state in self.states
        ]
        average = self.average and self.average.state_dict()
        return {
            "epoch": self.epoch, "step": self.step, "states": states, "average": average, "best": self.best,
            "best_loss": self.best_loss,
        }  # fmt: skip

    def carry(self, model: nn.Module, carried: dict[str, Any]) -> None:
        self.epoch, self.step, self.best_loss = (
            carried["epoch"],
            carried["step"],
            carried["best_loss"],
        )
        share, states = parallel.share(self.config.batch), carried["states"]
        self.states = states and [
            tuple(tensor[:, share].to(self.device) for tensor in state) for state in states
        ]
        self.best = {name: tensor.to(self.device) for name, tensor in carried["best"].items()}
        if carried["average"] is not None:
            self.average = AveragedModel(model)
            self.average.load_state_dict(carried["average"])

    def speed(self, seconds: float) -> str:
        return f"{self.words / seconds:.0f} words/s in training"

    def describe_data(self) -> str:
        held_out = (
            f"{self.corpus.valid.numel():,} validation and {self.corpus.test.numel():,} test words"
        )
        return f"{self.corpus.source}: {self.words:,} training, {held_out}, {self.corpus.fingerprint:08x}"

    def published(self) -> Sequence[Level]:
        config = self.config
        whole = self.corpus.source == corpus.PENN_TREEBANK and not config.train_words
        level = PERPLEXITY.get(("large" if config.tied else "small", config.net)) if whole else None
        return (
            ()
            if level is None
            else (level, replace(level, metric="loss", value=math.log(level.value)))
        )


def _columns(label: str, text: Tensor, batch: int) -> Tensor:
    """A text (words,) in columns read side by side (words / batch, batch); a rest is left out."""
    rows = text.numel() // batch
    require(rows >= 2, f"the {label} text has {text.numel()} words, too few for {batch} columns")
    return text[: rows * batch].view(batch, rows).t().contiguous()


@torch.no_grad()
def _bound_eligibility_rates(model: nn.Module) -> None:
    """Put learned rates of eligibility traces back into [0, 1]: outside 0 to 2 a trace grows exponentially, and SGD at
    these learning rates gets there."""
    for name, parameter in model.named_parameters():
        if "eligibility_eta" in name:
            parameter.clamp_(0, 1)


def _with_perplexity(part: str, loss: float) -> dict[str, float]:
    return {f"{part}_loss": loss, f"{part}_perplexity": math.exp(loss)}


EXPERIMENT = Language
