"""Natural images: fill in the erased half of a picture seen earlier in the episode (paper section 4.3)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from experiments.common import pictures, published
from experiments.common.config import Config, Presets, require
from experiments.common.experiment import Experiment, stream
from experiments.common.networks import plastic_rnn
from experiments.common.plots import picture_panel
from experiments.common.presentation import Presentation

SIDE = 32
PIXELS = SIDE * SIDE
PANEL_EPISODES = 5
ALPHA = {"independent": "connection", "yoked": "layer", "nonplastic": "zero"}


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(Config):
    """Settings of the task and of the network.

    Args:
        net: ``independent`` (a plasticity coefficient per connection), ``yoked`` (one for all) or ``nonplastic``.
        pictures: pictures of an episode, drawn with replacement.
        cycles, show_steps, gap_steps, test_steps: the schedule.
        grey: ``signed`` (sum of the channels, less its mean, over its largest magnitude) or ``unit`` (mean of the
            channels, from 0 to 1).
        cifar10_test: held-out pictures of CIFAR-10: ``batch5`` (the last fifth of the training set) or ``official``.
        held_out: share of held-out pictures in a folder that has no ``train`` and ``test``.
    """

    own_rule_net: ClassVar[str] = "independent"
    net: str = "independent"
    episodes: int = 40_000
    learning_rate: float = 1e-4
    log_every: int = 50
    window: int = 250
    checkpoint_every: int = 250
    evaluate_every: int = 500
    pictures: int = 3
    cycles: int = 3
    show_steps: int = 20
    gap_steps: int = 3
    test_steps: int = 3
    grey: str = "unit"
    cifar10_test: str = "official"
    held_out: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {
            "net": tuple(ALPHA),
            "grey": ("signed", "unit"),
            "cifar10_test": ("batch5", "official"),
        }
        for name, allowed in choices.items():
            self.require_one_of(name, allowed)
        for name, least in (
            ("pictures", 1),
            ("cycles", 1),
            ("show_steps", 1),
            ("gap_steps", 0),
            ("test_steps", 1),
        ):
            self.require_at_least(name, least)
        require(0 < self.held_out < 1, f"held_out must lie between 0 and 1; got {self.held_out}")


def _nets(config: ImagesConfig) -> dict[str, ImagesConfig]:
    return {net: replace(config, net=net) for net in ALPHA}


PAPER = ImagesConfig()
CODE = ImagesConfig(episodes=100_000, gap_steps=2, grey="signed", cifar10_test="batch5")


class Episode(NamedTuple):
    drive: Tensor
    clamp: Tensor | None
    target: Tensor
    shown: Tensor
    cue: Tensor


class Images(Experiment[ImagesConfig]):
    """Loss: squared error summed over the pixels at the last step, the shown half included."""

    name = "images"
    metrics = ("loss",)
    presets: ClassVar[Presets[ImagesConfig]] = {
        "quick": _nets(replace(CODE, episodes=4_000)),
        "paper": _nets(PAPER),
        "code": _nets(CODE),
    }

    def __init__(
        self,
        config: ImagesConfig,
        device: torch.device,
        backend: str | None = None,
        data: Path | None = None,
    ):
        super().__init__(config, device, backend, data)
        found = pictures.load(data, SIDE, config.held_out)
        train, test = found.train, found.test
        if found.source == pictures.CIFAR10 and config.cifar10_test == "batch5":
            train, test = train[: len(train) * 4 // 5], train[len(train) * 4 // 5 :]
        self.train, self.test = greyscale(train, config.grey), greyscale(test, config.grey)
        self.source = found.source
        self.presentation = Presentation(
            frames=config.pictures, size=PIXELS, neurons=PIXELS + 1, cycles=config.cycles, show=config.show_steps,
            gap=config.gap_steps, test=config.test_steps, strength=1.0, clamped=True, bias_neuron=True, device=device,
        )  # fmt: skip

    def build(self, backend: str | None) -> nn.Module:
        config = self.config
        return plastic_rnn(config, PIXELS + 1, ALPHA[config.net], backend, self.device)

    def episode(self, generator: torch.Generator, held_out: bool) -> Episode:
        source = self.test if held_out else self.train
        shown = source[torch.randint(len(source), (self.config.pictures,), generator=generator)]
        target = shown[int(torch.randint(len(shown), (), generator=generator))]
        cue = target.clone()
        cue.view(2, -1)[int(torch.randint(2, (), generator=generator))] = 0
        return Episode(
            *self.presentation.fill(shown, cue, generator), target.to(self.device), shown, cue
        )

    def loss(self, model: nn.Module, episode: Episode) -> dict[str, Tensor]:
        return {"loss": (self._completed(model, episode) - episode.target).square().sum()}

    def _completed(self, model: nn.Module, episode: Episode) -> Tensor:
        output: Tensor = model(episode.drive, clamp=episode.clamp)[0]
        return output[-1, 0, :PIXELS]

    def describe_data(self) -> str:
        fingerprint = zlib.crc32(self.test.numpy().data, zlib.crc32(self.train.numpy().data))
        return f"{self.source}: {len(self.train)} training and {len(self.test)} held-out pictures, {fingerprint:08x}"

    def published(self) -> Sequence[published.Curve]:
        return tuple(published.IMAGES.values())

    @torch.no_grad()
    def figures(self, model: nn.Module, folder: Path) -> list[Path]:
        """Held-out pictures as shown, as the degraded cue, and as the network completes them."""
        generator = stream(0, "panel")
        rows = []
        for _ in range(PANEL_EPISODES):
            episode = self.episode(generator, held_out=True)
            completed = self._completed(model, episode).cpu()
            rows.append(
                [
                    picture.view(SIDE, SIDE).numpy()
                    for picture in (*episode.shown, episode.cue, completed)
                ]
            )
        titles = [f"shown {i + 1}" for i in range(self.config.pictures)] + [
            "degraded",
            "reconstructed",
        ]
        low = -1.0 if self.config.grey == "signed" else 0.0
        caption = f"held-out pictures of {self.source}, network {self.config.net}"
        return [picture_panel(folder / "reconstructions.png", rows, titles, low, 1.0, caption)]


def greyscale(colour: Tensor, scale: str) -> Tensor:
    """uint8 (count, side, side, 3) to float (count, side * side); ``signed`` makes a uniform picture all zeros."""
    total = colour.sum(-1, dtype=torch.float32).flatten(1)
    if scale == "unit":
        return total / (3 * 255)
    centred = total - total.mean(1, keepdim=True)
    return centred / centred.abs().amax(1, keepdim=True).clamp_min(1)


EXPERIMENT = Images
