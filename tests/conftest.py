"""What the core tests share: random cases of the plastic recurrent network, and how results are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor

import plastikern.functional as PF
from plastikern import Plasticity, library
from plastikern.plasticity import CONSTRAINTS, RULES, granular_shape

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")

needs_native = pytest.mark.skipif(library.MISSING is not None, reason=f"native library {library.MISSING}")
BACKENDS = ["reference", pytest.param("cpu", marks=needs_native)]
KINDS = [(rule, constraint) for rule in RULES for constraint in CONSTRAINTS if (rule, constraint) != ("oja", "decay")]
INPUTS = ("drive", "hidden", "trace", "weight", "alpha", "eta")


@dataclass(frozen=True)
class Case:
    """One call of ``plastic_rnn_sequence`` with random tensors, and the gradients that come back to it."""

    steps: int = 7
    batch: int = 2
    neurons: int = 5
    plasticity: Plasticity = Plasticity(clip=0.6)
    nonlinearity: str = "tanh"
    eta: float = 0.05
    with_clamp: bool = False
    lengths: tuple[int, ...] | None = None
    batch_first: bool = False
    checkpoint_every: int | None = None
    upstream: tuple[bool, bool, bool] = (True, True, True)
    seed: int = 0

    def random(self, offset: int, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.seed + offset)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    @property
    def drive_shape(self) -> tuple[int, int, int]:
        if self.batch_first:
            return self.batch, self.steps, self.neurons
        return self.steps, self.batch, self.neurons

    def inputs(self, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
        """Leaves that ask for a gradient; the recurrent matrix has a norm of about 1."""
        size, scale = self.neurons, 0.5 / self.neurons**0.5
        spread = 0.0 if self.plasticity.eta == "layer" else 0.01
        tensors = {
            "drive": self.random(0, *self.drive_shape),
            "hidden": self.random(1, self.batch, size).tanh(),
            "trace": self.random(2, self.batch, size, size) * 0.5,
            "weight": self.random(3, size, size) * scale,
            "alpha": self.random(4, *granular_shape(self.plasticity.alpha, size, size)) * scale,
            "eta": self.eta + spread * self.random(5, *granular_shape(self.plasticity.eta, size, size)),
        }
        if self.with_clamp and self.nonlinearity in ("tanh", "sigmoid"):
            tensors["drive"] = tensors["drive"].clamp(-1, 1)
        # Rounded to single precision, so that a call in either precision is given the same numbers.
        return {name: tensor.float().to(dtype).requires_grad_() for name, tensor in tensors.items()}

    def options(self) -> dict[str, Any]:
        return {
            "plasticity": self.plasticity,
            "nonlinearity": self.nonlinearity,
            "clamp": self.random(6, *self.drive_shape) > 0.5 if self.with_clamp else None,
            "lengths": None if self.lengths is None else torch.tensor(self.lengths, dtype=torch.int64),
            "batch_first": self.batch_first,
            "checkpoint_every": self.checkpoint_every,
        }

    def loss(self, outputs: Sequence[Tensor]) -> Tensor:
        """A random linear function of the results that are given an upstream gradient."""
        terms = [
            (result * self.random(7 + i, *result.shape).to(result.dtype)).sum()
            for i, (result, wanted) in enumerate(zip(outputs, self.upstream, strict=True))
            if wanted
        ]
        return torch.stack(terms).sum()


def gradients(loss: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of every input, zero where the loss does not depend on it."""
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return {
        f"grad_{name}": torch.zeros_like(tensor) if grad is None else grad
        for (name, tensor), grad in zip(inputs.items(), found, strict=True)
    }


def run(case: Case, backend: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Outputs and all gradients of a case, by name."""
    inputs = case.inputs(dtype)
    # The small steps of the reference are not worth a second thread.
    with threads(1 if backend == "reference" else torch.get_num_threads()):
        outputs = PF.plastic_rnn_sequence(**inputs, **case.options(), backend=backend)
        results = dict(zip(("output", "hidden", "trace"), (result.detach() for result in outputs), strict=True))
        return {**results, **gradients(case.loss(outputs), inputs)}


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Every tensor within ``tolerance`` times max(1, its largest expected value)."""
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        assert found[name].shape == right.shape, name
        if right.numel() == 0:
            continue
        error = (found[name].double() - right.double()).abs().max() / right.double().abs().max().clamp(min=1)
        assert error <= tolerance, f"{name}: error {error:.3g}, tolerance {tolerance:.3g}"


def assert_same_bits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        assert torch.equal(found[name], right), f"{name}: differs by {(found[name] - right).abs().max():.3g}"


@contextmanager
def uninitialised_memory_is_nan() -> Iterator[None]:
    """Tensors from ``torch.empty`` start as NaN, so that a value that is never written is seen."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
