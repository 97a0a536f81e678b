"""Binary pattern memorisation: complete a half-erased pattern seen earlier in the episode (paper sections 4.1, 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from experiments.common import published
from experiments.common.config import Config, Presets, require
from experiments.common.experiment import Experiment
from experiments.common.networks import PlainRNN, RelayLSTM, plastic_rnn
from experiments.common.presentation import Presentation

NETS = ("plastic", "rnn", "lstm")


@dataclass(frozen=True, kw_only=True)
class PatternsConfig(Config):
    """Settings of the task and of the network.

    Args:
        net: ``plastic``, ``rnn`` (no plasticity) or ``lstm``.
        bits, patterns: elements of a pattern, patterns of an episode.
        balanced: patterns with exactly half of their bits +1, instead of fair coins.
        cycles, show_steps, gap_steps, test_steps: the schedule.
        clamped: a neuron with input takes its value; else the input is added to the recurrent sum.
        strength: factor of the input.
        hidden: further neurons that no bit drives and that are not read.
        bias_neuron: one more neuron with a constant input.
        zero_alpha_diagonal: start without plasticity of self-connections (they are free to learn it).
        relay_cells: the LSTM's visible cells are forced to relay their input.
    """

    net: str = "plastic"
    episodes: int = 2_000
    learning_rate: float = 1e-3
    bits: int = 1_000
    patterns: int = 5
    balanced: bool = False
    cycles: int = 3
    show_steps: int = 10
    gap_steps: int = 3
    test_steps: int = 10
    clamped: bool = True
    strength: float = 1.0
    hidden: int = 0
    bias_neuron: bool = True
    zero_alpha_diagonal: bool = False
    relay_cells: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_of("net", NETS)
        for name, least in (("bits", 2), ("patterns", 1), ("cycles", 1), ("show_steps", 1), ("gap_steps", 0),
                            ("test_steps", 1), ("hidden", 0)):  # fmt: skip
            self.require_at_least(name, least)
        if self.net == "lstm":
            require(
                not self.clamped,
                "clamped must be false with net=lstm: its inputs pass through gates",
            )
            require(
                not self.bias_neuron, "bias_neuron must be false with net=lstm: an LSTM has biases"
            )

    @property
    def neurons(self) -> int:
        return self.bits + self.hidden + self.bias_neuron


PAPER = PatternsConfig()
CODE = PatternsConfig(
    learning_rate=3e-4, balanced=True, cycles=2, show_steps=6, gap_steps=4, test_steps=6, clamped=False, strength=20.0,
    zero_alpha_diagonal=True,
)  # fmt: skip


def _bits50(base: PatternsConfig, rnn_bias: bool, lstm_hidden: int) -> dict[str, PatternsConfig]:
    """The comparison of three networks on 50 bits, in the manner of ``base``."""
    plastic = replace(
        base, episodes=1_000_000, bits=50, patterns=2, cycles=1, show_steps=3, gap_steps=1, test_steps=3,
        log_every=100, window=100, checkpoint_every=5_000, evaluation_episodes=1_000,
    )  # fmt: skip
    return {
        "plastic": plastic,
        "rnn": replace(plastic, net="rnn", hidden=2_000, bias_neuron=rnn_bias, learning_rate=3e-5),
        "lstm": replace(
            plastic,
            net="lstm",
            hidden=lstm_hidden,
            bias_neuron=False,
            clamped=False,
            strength=100.0,
            learning_rate=3e-5,
        ),
    }


class Episode(NamedTuple):
    drive: Tensor
    clamp: Tensor | None
    target: Tensor


class Patterns(Experiment[PatternsConfig]):
    """Loss: squared error summed over the bits at the last step. Error: share of all bits with the wrong sign."""

    name = "patterns"
    presets: ClassVar[Presets[PatternsConfig]] = {
        "quick": {"plastic": replace(PAPER, episodes=200)},
        "paper": {"plastic": PAPER},
        "code": {"plastic": CODE},
        "bits50-paper": _bits50(PAPER, rnn_bias=False, lstm_hidden=2_000),
        "bits50-code": _bits50(CODE, rnn_bias=True, lstm_hidden=1_950),
    }

    def __init__(
        self,
        config: PatternsConfig,
        device: torch.device,
        backend: str | None = None,
        data: Path | None = None,
    ):
        require(data is None, "--data: the patterns are generated, there is nothing to read")
        super().__init__(config, device, backend, data)
        self.presentation = Presentation(
            frames=config.patterns, size=config.bits, neurons=config.bits if config.net == "lstm" else config.neurons,
            cycles=config.cycles, show=config.show_steps, gap=config.gap_steps, test=config.test_steps,
            strength=config.strength, clamped=config.clamped, bias_neuron=config.bias_neuron, device=device,
        )  # fmt: skip
        self._half = torch.ones(config.bits)
        self._half[: config.bits // 2] = -1

    def build(self, backend: str | None) -> nn.Module:
        config = self.config
        if config.net == "lstm":
            return RelayLSTM(config.bits, config.neurons, config.relay_cells, self.device)
        if config.net == "rnn":
            return PlainRNN(config.neurons, self.device)
        model = plastic_rnn(config, config.neurons, "connection", backend, self.device)
        # A rule of one's own may have no coefficients of single connections, or none at all.
        coefficients = getattr(model, "alpha_l0", None)
        if config.zero_alpha_diagonal and coefficients is not None and coefficients.dim() == 2:
            with torch.no_grad():
                coefficients.fill_diagonal_(0)
        return model

    def episode(self, generator: torch.Generator, held_out: bool) -> Episode:
        """Every episode has new patterns, so that a held-out one is one like any other."""
        bits, count = self.config.bits, self.config.patterns
        if self.config.balanced:
            patterns = torch.stack(
                [self._half[torch.randperm(bits, generator=generator)] for _ in range(count)]
            )
        else:
            patterns = torch.randint(2, (count, bits), generator=generator).mul_(2).sub_(1).float()
        target = patterns[int(torch.randint(count, (), generator=generator))]
        cue = target.clone()
        cue[torch.randperm(bits, generator=generator)[: bits // 2]] = 0
        return Episode(*self.presentation.fill(patterns, cue, generator), target.to(self.device))

    def loss(self, model: nn.Module, episode: Episode) -> dict[str, Tensor]:
        output = model(episode.drive, clamp=episode.clamp)[0][-1, 0, : self.config.bits]
        with torch.no_grad():
            error = (output * episode.target <= 0).float().mean()
        return {"loss": (output - episode.target).square().sum(), "error": error}

    def published(self) -> Sequence[published.Curve]:
        if self.config.bits == 50:
            return tuple(published.PATTERNS_50.values())
        if self.config.bits == 1_000 and self.config.net == "plastic":
            return (published.PATTERNS_1000, published.PATTERNS_1000_ERROR)
        return ()


EXPERIMENT = Patterns
