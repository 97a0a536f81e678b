"""Omniglot: name a handwritten character after one look at each of some others (first paper, section 4.4)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from experiments.common import characters, parallel, published
from experiments.common.config import Config, Presets, require
from experiments.common.experiment import Experiment
from plastikern import Plasticity, PlasticLinear

SIDE = 31
LAYERS = 4
"""Convolutions of stride 2, which take 31 pixels to 15, 7, 3 and 1."""
ROTATIONS = 4
LABEL_STRENGTH = 1000.0
ALPHA = {"free": "connection", "yoked": "layer", "nonplastic": "zero"}


@dataclass(frozen=True, kw_only=True)
class OmniglotConfig(Config):
    """Settings of the task and of the network.

    Args:
        net: ``free`` (a plasticity coefficient per connection), ``yoked`` (one for all) or ``nonplastic``.
        ways, shots: classes of an episode, labelled drawings of each.
        features: channels of the convolutions.
        ink: value of ink, ``one`` on paper 0 or ``dark``: 0 on paper 1.
        test_classes: characters held out.
        split: ``fixed``: the same classes are held out whatever the seed. ``leaky``, as in the authors' scripts: each
            seed trains on its own choice, and is tested on what seed 0 holds out.
        same_drawing: whether the drawing asked for may be one of those shown.
        alpha_scale: coefficients start from U(0, ``alpha_scale``), or a yoked one at ``alpha_scale``.
        eta_init: initial plasticity rate.
        weight_scale: standard deviation of the initial weights of the plastic layer.
    """

    own_rule_net: ClassVar[str] = "free"
    net: str = "free"
    rule: str = "oja"
    episodes: int = 1_500_000
    batch: int = 32
    learning_rate: float = 6e-4
    learning_rate_factor: float = 0.7
    learning_rate_episodes: int = 250_000
    log_every: int = 50
    window: int = 500
    checkpoint_every: int = 500
    evaluate_every: int = 1_000
    evaluation_episodes: int = 960
    ways: int = 5
    shots: int = 1
    features: int = 64
    ink: str = "one"
    test_classes: int = 100
    split: str = "fixed"
    same_drawing: bool = False
    alpha_scale: float = 1.0
    eta_init: float = 0.3
    weight_scale: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (
            ("net", tuple(ALPHA)),
            ("ink", ("one", "dark")),
            ("split", ("fixed", "leaky")),
        ):
            self.require_one_of(name, allowed)
        for name, least in (
            ("ways", 2),
            ("shots", 1),
            ("features", 1),
            ("alpha_scale", 0),
            ("weight_scale", 0),
        ):
            self.require_at_least(name, least)
        require(
            self.shots < characters.DRAWINGS,
            f"shots must be less than {characters.DRAWINGS}; got {self.shots}",
        )
        require(self.test_classes >= self.ways, f"test_classes must be at least ways, {self.ways}")


def _nets(config: OmniglotConfig, *names: str) -> dict[str, OmniglotConfig]:
    return {name: replace(config, net=name) for name in names}


OURS = OmniglotConfig()
PAPER = OmniglotConfig(
    episodes=1_000_000, learning_rate=3e-4, learning_rate_factor=1.0, learning_rate_episodes=0, batch=1, ink="dark",
    alpha_scale=0.01, eta_init=0.01, log_every=500, window=5_000, checkpoint_every=10_000, evaluate_every=50_000,
    evaluation_episodes=1_000,
)  # fmt: skip
CODE = replace(
    PAPER, episodes=5_000_000, learning_rate=3e-5, learning_rate_factor=0.666, learning_rate_episodes=1_000_000,
    split="leaky", same_drawing=True,
)  # fmt: skip


class Reader(nn.Module):
    """Convolutions and a plastic layer on top, which learns the names of an episode's classes while it sees them."""

    def __init__(self, config: OmniglotConfig, backend: str | None, device: torch.device):
        super().__init__()
        self.ways = config.ways
        channels = [1, *[config.features] * LAYERS]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, device=device), nn.Tanh()]
        # With the channels last a training step takes a third of the time on a CPU.
        self.features = nn.Sequential(*layers)
        for parameter in self.features.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        alpha = ALPHA[config.net]
        plastic = alpha != "zero"
        rule = config.own_rule or Plasticity(
            rule=config.rule, constraint="none", alpha="connection" if alpha == "connection" else "layer",
            eta_init=config.eta_init, learn_eta=plastic,
        )  # fmt: skip
        self.head = PlasticLinear(
            config.features, config.ways, plasticity=rule, backend=backend, device=device
        )
        if self.head.weight is not None:
            nn.init.normal_(self.head.weight, std=config.weight_scale)
        if config.own_rule is not None:
            return
        coefficients = self.head.get_parameter("alpha")
        if alpha == "connection":
            nn.init.uniform_(coefficients, 0, config.alpha_scale)
        else:
            nn.init.constant_(coefficients, config.alpha_scale if plastic else 0.0)
        coefficients.requires_grad_(plastic)

    def forward(self, pictures: Tensor, labels: Tensor) -> Tensor:
        """Probabilities (B, ways) of the last picture's class.

        Args:
            pictures: (T, B, 31, 31), the last one without a label.
            labels: (T - 1, B).
        """
        steps, batch = pictures.shape[:2]
        features = self.features(pictures.flatten(0, 1).unsqueeze(1)).view(steps, batch, -1)
        drive = features.new_zeros(steps, batch, self.ways)
        drive[:-1].scatter_(-1, labels.unsqueeze(-1), LABEL_STRENGTH)
        output: Tensor = self.head(features, drive=drive)[0]
        return output[-1]


class Episode(NamedTuple):
    pictures: Tensor
    labels: Tensor
    target: Tensor


class Omniglot(Experiment[OmniglotConfig]):
    """Loss: binary cross-entropy of the class probabilities, mean over the classes. Chance is 1 / ways."""

    name = "omniglot"
    metrics = ("loss", "accuracy")
    batched = True
    presets: ClassVar[Presets[OmniglotConfig]] = {
        "quick": _nets(
            replace(OURS, episodes=50_000, learning_rate=1e-3), "free", "yoked", "nonplastic"
        ),
        "ours": _nets(OURS, "free", "yoked", "nonplastic"),
        "paper": _nets(PAPER, "yoked", "free", "nonplastic"),
        "code": _nets(CODE, "free", "yoked", "nonplastic"),
    }

    def __init__(
        self,
        config: OmniglotConfig,
        device: torch.device,
        backend: str | None = None,
        data: Path | None = None,
    ):
        super().__init__(config, device, backend, data)
        names, drawings = characters.load(data, SIDE)
        training = len(names) - config.test_classes
        require(
            training >= config.ways,
            f"test_classes leaves {training} of {len(names)} characters to train on",
        )
        self.fingerprint = zlib.crc32(drawings.numpy().data, zlib.crc32("\n".join(names).encode()))
        if config.ink == "dark":
            drawings = 255 - drawings
        # Every drawing in every rotation: an episode only picks.
        turned = torch.stack(
            [torch.rot90(drawings, turns, (-2, -1)) for turns in range(ROTATIONS)], 1
        )
        self.drawings = turned.contiguous().to(device)
        self.prepare(0)

    def prepare(self, seed: int) -> None:
        """The split into ``train`` and ``test``: numbers of characters."""
        count = self.config.test_classes
        self.test = _shuffled(len(self.drawings), 0)[-count:]
        self.train = _shuffled(len(self.drawings), seed if self.config.split == "leaky" else 0)[
            :-count
        ]

    def build(self, backend: str | None) -> Reader:
        return Reader(self.config, backend, self.device)

    def episode(self, generator: torch.Generator, held_out: bool) -> Episode:
        config, share = self.config, parallel.share(self.config.batch)
        batch, ways, shots = config.batch, config.ways, config.shots
        source = self.test if held_out else self.train
        classes = source[torch.rand(batch, len(source), generator=generator).topk(ways).indices]
        turns = torch.randint(ROTATIONS, (batch, ways), generator=generator)
        # One drawing more of each class than is shown: of the class that is asked for, that one is.
        drawings = (
            torch.rand(batch, ways, characters.DRAWINGS, generator=generator)
            .topk(shots + 1)
            .indices
        )
        if config.same_drawing:
            drawings[..., -1] = torch.randint(
                characters.DRAWINGS, (batch, ways), generator=generator
            )
        # Labels are positions among the classes, which are in random order; the order of showing is another one.
        order = torch.rand(batch, ways * shots, generator=generator).argsort(1)
        labels = order % ways
        target = torch.randint(ways, (batch, 1), generator=generator)
        asked = torch.cat([labels, target], 1)
        rows = torch.arange(batch).unsqueeze(1)
        which = torch.cat([order // ways, torch.full((batch, 1), shots)], 1)
        picks = (classes[rows, asked], turns[rows, asked], drawings[rows, asked, which])
        pictures = self.drawings[tuple(pick[share].t().to(self.device) for pick in picks)]
        mine = (tensor[share].t().to(self.device) for tensor in (labels, target))
        labels, target = mine
        return Episode(pictures.float().div_(255), labels, target[0])

    def loss(self, model: nn.Module, episode: Episode) -> dict[str, Tensor]:
        output = model(episode.pictures, episode.labels)
        wanted = nn.functional.one_hot(episode.target, self.config.ways).to(output.dtype)
        with torch.no_grad():
            accuracy = (output.argmax(-1) == episode.target).float().mean()
        return {"loss": nn.functional.binary_cross_entropy(output, wanted), "accuracy": accuracy}

    def describe_data(self) -> str:
        counts = f"{len(self.train)} training and {len(self.test)} held-out characters"
        leaked = len(set(self.train.tolist()) & set(self.test.tolist()))
        trained_on = f", {leaked} of them trained on" if leaked else ""
        return f"Omniglot: {counts}{trained_on}, {self.fingerprint:08x}"

    def published(self) -> Sequence[published.Curve | published.Level]:
        config = self.config
        chance = published.Level("chance", "accuracy", 1 / config.ways)
        reached = (
            published.OMNIGLOT.get(config.net) if (config.ways, config.shots) == (5, 1) else None
        )
        return (chance,) if reached is None else (reached, chance)


def _shuffled(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


EXPERIMENT = Omniglot
