"""What an experiment must say about itself; ``common.training`` does the rest."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor, nn

from experiments.common import own_rules, parallel
from experiments.common.config import ConfigT, Presets, require
from experiments.common.published import Curve, Level


def stream_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose of a run: initialisation, episodes and evaluation never share random numbers."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:8], "little") >> 1


def stream(seed: int, purpose: str) -> torch.Generator:
    """A generator on the CPU, seeded by :func:`stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, purpose))


class Experiment(ABC, Generic[ConfigT]):
    """One experiment with its settings, its data and its device; a model is built for each seed.

    Subclasses set ``name``, ``presets`` and ``metrics`` (the names that :meth:`loss` reports, ``"loss"`` among them),
    and write :meth:`build`, :meth:`episode` and :meth:`loss`; the other methods have defaults. Those that set
    ``batched`` have ``config.batch`` episodes in one update and give this process its share of them.

    Args:
        config: the settings.
        device: where the model and its episodes live.
        backend: of plastikern's modules; None lets plastikern choose.
        data: the ``--data`` folder or file, for experiments that read one.
    """

    name: ClassVar[str]
    presets: ClassVar[Presets[Any]]
    metrics: ClassVar[tuple[str, ...]] = ("loss", "error")
    batched: ClassVar[bool] = False

    def __init__(
        self,
        config: ConfigT,
        device: torch.device,
        backend: str | None = None,
        data: Path | None = None,
    ):
        require(
            self.batched or config.batch == 1, f"batch must be 1 in {self.name}; got {config.batch}"
        )
        parallel.share(config.batch)
        self.config = config
        self.device = device
        self.backend = backend
        self.data = data
        self.gradient: Tensor | None = None

    def prepare(self, seed: int) -> None:
        """Called before the run of a seed, where the task itself depends on it."""

    @abstractmethod
    def build(self, backend: str | None) -> nn.Module:
        """A freshly initialised model, from the global random numbers (seeded by the caller)."""

    @abstractmethod
    def episode(self, generator: torch.Generator, held_out: bool) -> Any:
        """The data of one update, valid until the next call; ``held_out`` asks for data that training never sees."""

    @abstractmethod
    def loss(self, model: nn.Module, episode: Any) -> dict[str, Tensor]:
        """Scalars under the names of ``metrics``; ``"loss"`` is differentiated."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam in its fused form, which on a CPU takes an eighth of the time of the plain one."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.Adam(
            trained, lr=self.config.learning_rate, eps=self.config.adam_epsilon, fused=True
        )

    def learning_rate(self, episode: float) -> float:
        """The rate after so many episodes."""
        config = self.config
        drops = (
            int(episode) // config.learning_rate_episodes if config.learning_rate_episodes else 0
        )
        return config.learning_rate * config.learning_rate_factor**drops

    def update(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, episode: Any
    ) -> dict[str, Tensor]:
        """One training step: forward, backward and optimiser."""
        optimizer.zero_grad(set_to_none=True)
        values = self.loss(model, episode)
        torch.autograd.backward(values["loss"])
        parallel.average_gradients(model)
        if self.config.clip_gradient:
            self.gradient = nn.utils.clip_grad_norm_(model.parameters(), self.config.clip_gradient)
        optimizer.step()
        return values

    def done(self, updates: int) -> float:
        """Episodes after so many updates; a fraction where an episode takes many."""
        return updates * self.config.batch

    def due(self, updates: int) -> bool:
        """Whether the model is evaluated after so many updates."""
        return bool(self.config.evaluate_every) and updates % self.config.evaluate_every == 0

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Means of the metrics over held-out episodes, which are the same for every seed and at every call."""
        generator = stream(0, "evaluation")
        rows = []
        training = model.training
        model.eval()
        for _ in range(-(-self.config.evaluation_episodes // self.config.batch)):
            values = self.loss(model, self.episode(generator, held_out=True))
            rows.append(torch.stack([values[name] for name in self.metrics]))
        model.train(training)
        means = parallel.average(torch.stack(rows).double().mean(0)).tolist()
        return {f"test_{name}": mean for name, mean in zip(self.metrics, means, strict=True)}

    def final_metrics(self, model: nn.Module) -> dict[str, float]:
        """The held-out metrics of a trained model."""
        return self.evaluate(model)

    def carried(self) -> dict[str, Any]:
        """What goes on from update to update besides model and optimiser, for a checkpoint.

        All processes call it, so that it may collect what they have shared out; the result is that of a single one.
        """
        return {}

    def carry(self, model: nn.Module, carried: dict[str, Any]) -> None:
        """Go on from what :meth:`carried` gave; empty where a checkpoint has none."""

    def observe(self, model: nn.Module) -> dict[str, float]:
        """Numbers of the model that go into each line of the metrics: the mean of every trained plasticity rate, of a
        rule of one's own that of every trained coefficient but ``alpha``, as ``rule_NAME``, and the norm that the last
        gradient had before it was clipped, where it is."""
        if self.config.own_rule is not None:
            trained = own_rules.coefficients(model)
            seen = {f"rule_{name}": float(v.detach().mean()) for name, v in trained.items()}
        else:
            etas = {
                name: value
                for name, value in model.named_parameters()
                if name.split(".")[-1].startswith("eta")
            }
            seen = {
                "eta" if len(etas) == 1 else name: float(value.detach().mean())
                for name, value in etas.items()
            }
        if self.gradient is not None and self.gradient.isfinite():
            seen["gradient"] = float(self.gradient)
        return seen

    def speed(self, seconds: float) -> str:
        """What is done in a second where an episode takes so many."""
        return f"{1 / seconds:.4g} episodes/s, {1 / (seconds * self.config.batch):.4g} updates/s"

    def describe_data(self) -> str:
        """Which data this is, so that a run is never resumed on others."""
        return "generated"

    def published(self) -> Sequence[Curve | Level]:
        """Published numbers to draw beside the measured ones."""
        return ()

    def figures(self, model: nn.Module, folder: Path) -> list[Path]:
        """Draw figures of a trained model into ``folder``; their paths."""
        return []
