"""What the core tests share: random cases of the plastic networks, and how results are compared."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import settings
from tolerances import FP64_ROUNDING
from torch import Tensor

import plastikern.functional as PF
from plastikern import Plasticity, library
from plastikern.network import Modulator
from plastikern.plasticity import MODULATOR_INPUTS, POSTS, granular_shape
from plastikern.rules import papers

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")

needs_native = pytest.mark.skipif(
    library.MISSING is not None, reason=f"native library {library.MISSING}"
)
BACKENDS = ["reference", pytest.param("cpu", marks=needs_native)]
KINDS = papers.pairs()
NETWORKS = ("rnn", "lstm", "gru", "linear")
DRIVES = {"lstm": 4, "gru": 4}
"""Values of the drive per neuron, where it is not one; and rows of weights."""
WEIGHTS = {"lstm": 4, "gru": 3}
MODULATED_BY = {
    "rnn": MODULATOR_INPUTS[:2],
    "lstm": MODULATOR_INPUTS,
    "gru": MODULATOR_INPUTS[:2],
    "linear": MODULATOR_INPUTS[:1],
}
POSTS_OF = dict.fromkeys(NETWORKS, POSTS) | {"gru": ("candidate", "recurrent", "hidden")}
INPUTS = ("drive", "hidden", "trace", "weight", "alpha", "eta")
"""Tensors of the default case, in the order of the arguments."""


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_test_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rules are compiled once for all tests, and not into the user's own cache."""
    os.environ.setdefault("PLASTIKERN_CACHE", str(tmp_path_factory.getbasetemp() / "compiled"))


@dataclass(frozen=True)
class Case:
    """One call of a network's sequence with random tensors, and the gradients that come back to it."""

    steps: int = 7
    batch: int = 2
    neurons: int = 5
    plasticity: Plasticity = Plasticity(clip=0.6)
    nonlinearity: str = "tanh"
    eta: float = 0.05
    with_clamp: bool = False
    lengths: tuple[int, ...] | None = None
    resets: tuple[tuple[int, int], ...] | None = None
    """Steps and elements before which the state is reset; None: the call has no mask."""
    with_reset_state: bool = False
    """Whether a reset gives states of its own, not zero."""
    batch_first: bool = False
    checkpoint_every: int | None = None
    upstream: tuple[str, ...] | None = None
    """Outputs that are given an upstream gradient; None is all."""
    seed: int = 0
    network: str = "rnn"
    post: str = "candidate"
    features: int = 4
    """Width of a layer's input."""
    half_modulated: bool = False
    device: str = "cpu"

    def random(self, name: str, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def over_time(self, width: int) -> tuple[int, int, int]:
        return (
            (self.batch, self.steps, width) if self.batch_first else (self.steps, self.batch, width)
        )

    @property
    def drive_shape(self) -> tuple[int, int, int]:
        return self.over_time(self.neurons * DRIVES.get(self.network, 1))

    @property
    def state(self) -> tuple[str, ...]:
        """Names of what one step hands to the next."""
        names = {
            "rnn": ("hidden", "trace"),
            "lstm": ("hidden", "cell", "trace"),
            "gru": ("hidden", "trace"),
            "linear": ("trace",),
        }[self.network]
        return (*names, "eligibility") if self.plasticity.modulation == "retroactive" else names

    @property
    def outputs(self) -> tuple[str, ...]:
        return "output", *self.state

    def distributions(self) -> dict[str, tuple[tuple[int, ...], float, float]]:
        """Shape, mean and deviation of every tensor; the recurrent matrix has a norm of about 1, |M| is about 0.3."""
        plasticity, posts = self.plasticity, self.neurons
        pres = self.features if self.network == "linear" else posts
        scale, traces = 0.5 / pres**0.5, (self.batch, posts, pres)
        rate, rates = (
            granular_shape(plasticity.eta, posts, pres),
            0.0 if plasticity.eta == "layer" else 0.01,
        )
        fan = granular_shape(
            "layer" if plasticity.fan_out == "none" else plasticity.fan_out, posts, pres
        )
        at_rest = -1.0 if plasticity.modulator_nonlinearity == "sigmoid" else 0.2
        modulated, retroactive = (
            plasticity.modulation != "none",
            plasticity.modulation == "retroactive",
        )
        fans_out = plasticity.fan_out != "none"
        every: dict[str, tuple[bool, tuple[int, ...], float, float]] = {
            "input": (self.network == "linear", self.over_time(pres), 0, 1),
            "drive": (True, self.drive_shape, 0, 1),
            "hidden": (self.network != "linear", (self.batch, posts), 0, 1),
            "cell": (self.network == "lstm", (self.batch, posts), 0, 1),
            "trace": (True, traces, 0, 0.5),
            "eligibility": (retroactive, traces, 0, 0.5),
            "weight": (True, (posts * WEIGHTS.get(self.network, 1), pres), 0, scale),
            "alpha": (True, granular_shape(plasticity.alpha, posts, pres), 0, scale),
            "eta": (not modulated or self.half_modulated, rate, self.eta, rates),
            "eligibility_eta": (retroactive, rate, 0.3, rates),
            "modulator_weight": (modulated, (posts,), 0, 0.5 / posts**0.5),
            "modulator_bias": (modulated, (), at_rest, 0.05),
            "fan_out_weight": (fans_out, fan, 1, 0.2),
            "fan_out_bias": (fans_out, fan, 0, 0.02),
        }
        found: dict[str, Any] = {name: rest for name, (there, *rest) in every.items() if there}
        if self.resets is not None and self.with_reset_state:
            found |= {f"reset_{name}": found[name] for name in self.state}
        return found

    def inputs(self, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
        """Leaves that ask for a gradient."""
        tensors = {
            name: mean + deviation * self.random(name, *shape)
            for name, (shape, mean, deviation) in self.distributions().items()
        }
        for name in ("input", "hidden", "reset_hidden"):
            if name in tensors:
                tensors[name] = tensors[name].tanh()
        if self.with_clamp and self.nonlinearity in ("tanh", "sigmoid"):
            tensors["drive"] = tensors["drive"].clamp(-1, 1)
        # Rounded to single precision, so that a call in either precision is given the same numbers.
        return {
            name: tensor.float().to(self.device, dtype).requires_grad_()
            for name, tensor in tensors.items()
        }

    def options(self) -> dict[str, Any]:
        own: dict[str, Any] = {"nonlinearity": self.nonlinearity}
        if self.network in WEIGHTS:
            own = {"post": self.post}
        elif self.network == "rnn":
            own["clamp"] = None
            if self.with_clamp:
                own["clamp"] = (self.random("clamp", *self.drive_shape) > 0.5).to(self.device)
        return {
            **own,
            "plasticity": self.plasticity,
            "lengths": None
            if self.lengths is None
            else torch.tensor(self.lengths, dtype=torch.int64),
            "reset": self.reset,
            "batch_first": self.batch_first,
            "checkpoint_every": self.checkpoint_every,
        }

    @property
    def reset(self) -> Tensor | None:
        """The mask, in the layout of the call."""
        if self.resets is None:
            return None
        begins = torch.zeros(self.steps, self.batch, dtype=torch.bool)
        for t, b in self.resets:
            if t < self.steps and b < self.batch:
                begins[t, b] = True
        return begins.mT if self.batch_first else begins

    def arguments(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Everything that the function of the whole sequence is given."""
        given: dict[str, Any] = {"eta": None, **inputs}
        modulator = {
            name.removeprefix("modulator_"): given.pop(name)
            for name in inputs
            if is_modulators(name)
        }
        if modulator:
            # Every other neuron, so that both kinds are there.
            every_other = torch.arange(self.neurons, device=self.device) % 2 == self.seed % 2
            modulated = every_other if self.half_modulated else None
            given["modulator"] = Modulator(**modulator, modulated=modulated)
        fresh = {name: given.pop(f"reset_{name}", None) for name in self.state}
        given["reset_state"] = None if set(fresh.values()) == {None} else tuple(fresh.values())
        return {**given, **self.options()}

    def sequence(
        self, inputs: Mapping[str, Tensor], backend: str | None, **changes: Any
    ) -> dict[str, Tensor]:
        """Outputs of the whole sequence, by name."""
        function = getattr(PF, f"plastic_{self.network}_sequence")
        found = function(**{**self.arguments(inputs), **changes}, backend=backend)
        return dict(zip(self.outputs, found, strict=True))

    def step(
        self, inputs: Mapping[str, Tensor], t: int, state: Mapping[str, Tensor], backend: str | None
    ) -> dict[str, Tensor]:
        """Outputs of step ``t`` from that state, by name, in the shapes of a step."""
        given = {**self.arguments(inputs), **state}
        for name in ("input", "drive", "clamp"):
            if given.get(name) is not None:
                given[name] = given[name].select(1 if self.batch_first else 0, t)
        for name in ("lengths", "reset", "reset_state", "batch_first", "checkpoint_every"):
            del given[name]
        found = getattr(PF, f"plastic_{self.network}_step")(**given, backend=backend)
        return dict(
            zip(
                self.outputs, found if self.network == "linear" else (found[0], *found), strict=True
            )
        )

    def by_steps(self, inputs: Mapping[str, Tensor], backend: str | None) -> dict[str, Tensor]:
        """The whole sequence as one call a step, each handing its state to the next."""
        outputs, state = [], {name: inputs[name] for name in self.state}
        for t in range(self.steps):
            state = self.step(inputs, t, state, backend)
            outputs.append(state.pop("output"))
        return {"output": torch.stack(outputs, 1 if self.batch_first else 0), **state}

    def loss(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """A random linear function of the outputs that are given an upstream gradient."""
        wanted = self.outputs if self.upstream is None else self.upstream
        terms = [
            outputs[name] * self.random(f"grad_{name}", *outputs[name].shape).to(outputs[name])
            for name in wanted
        ]
        return torch.stack([term.sum() for term in terms]).sum()

    def results(
        self, outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Outputs and the gradient of every input, by name."""
        found = {name: output.detach() for name, output in outputs.items()}
        return {**found, **gradients(self.loss(outputs), inputs)}


def is_modulators(name: str) -> bool:
    return name.startswith(("modulator_", "fan_out_"))


def ruled(rule: str, constraint: str, **options: Any) -> Plasticity:
    return Plasticity(rule=rule, constraint=constraint, clip=0.6, **options)


SIMPLE: dict[str, Any] = {"modulation": "simple"}
RETROACTIVE: dict[str, Any] = {"modulation": "retroactive"}
VARIANTS = {
    "rnn-simple": Case(plasticity=ruled("hebb", "clip", **SIMPLE), with_clamp=True),
    "rnn-simple-fan-out": Case(
        plasticity=ruled(
            "hebb", "decay", alpha="neuron", fan_out="connection", modulator_input="previous_hidden", **SIMPLE
        ),
    ),
    "rnn-simple-half": Case(
        plasticity=ruled("oja", "none", eta="connection", fan_out="neuron", modulator_nonlinearity="linear", **SIMPLE),
        nonlinearity="sigmoid", half_modulated=True,
    ),
    "rnn-retroactive": Case(plasticity=ruled("hebb", "clip", **RETROACTIVE), lengths=(7, 4)),
    "rnn-retroactive-fan-out": Case(
        plasticity=ruled("oja", "soft_clip", alpha="layer", eta="neuron", fan_out="neuron", **RETROACTIVE),
        with_clamp=True,
    ),
    "rnn-retroactive-half": Case(
        plasticity=ruled(
            "hebb", "decay", eta="connection", modulator_input="previous_hidden", modulator_nonlinearity="sigmoid",
            **RETROACTIVE,
        ),
        half_modulated=True,
    ),
    "lstm": Case(network="lstm", plasticity=ruled("hebb", "decay")),
    "lstm-recurrent": Case(network="lstm", plasticity=ruled("hebb", "clip_on_read", eta="neuron"), post="recurrent"),
    "lstm-simple": Case(
        network="lstm", plasticity=ruled("hebb", "clip", alpha="neuron", fan_out="connection", **SIMPLE), lengths=(7, 4)
    ),
    "lstm-simple-half": Case(
        network="lstm", plasticity=ruled("oja", "clip", eta="neuron", modulator_input="cell", **SIMPLE), post="hidden",
        half_modulated=True,
    ),
    "lstm-retroactive": Case(
        network="lstm", plasticity=ruled("hebb", "clip", modulator_input="previous_hidden", **RETROACTIVE), post="cell"
    ),
    "lstm-retroactive-fan-out": Case(
        network="lstm", post="recurrent",
        plasticity=ruled("hebb", "soft_clip", alpha="layer", eta="connection", fan_out="neuron", **RETROACTIVE),
    ),
    "gru": Case(network="gru", plasticity=ruled("hebb", "decay")),
    "gru-recurrent": Case(
        network="gru", plasticity=ruled("hebb", "clip", alpha="neuron", eta="neuron"), post="recurrent", lengths=(7, 4)
    ),
    "gru-simple-half": Case(
        network="gru", post="hidden", half_modulated=True,
        plasticity=ruled("oja", "clip", modulator_input="previous_hidden", fan_out="connection", **SIMPLE),
    ),
    "gru-retroactive": Case(network="gru", plasticity=ruled("hebb", "soft_clip", fan_out="neuron", **RETROACTIVE)),
    "linear": Case(network="linear", plasticity=ruled("hebb", "decay"), nonlinearity="softmax"),
    "linear-clip": Case(
        network="linear", plasticity=ruled("oja", "clip", alpha="neuron", eta="connection"), features=9
    ),
    "linear-simple": Case(
        network="linear", plasticity=ruled("hebb", "none", fan_out="connection", **SIMPLE), nonlinearity="softmax",
        half_modulated=True,
    ),
    "linear-retroactive": Case(
        network="linear", plasticity=ruled("hebb", "clip", eta="neuron", **RETROACTIVE), features=9, lengths=(7, 4)
    ),
}  # fmt: skip
"""Small cases that between them have every network with every feature."""
RESET: dict[str, Case] = {
    name: replace(
        case,
        resets=((0, 0), (2, 0), (2, 1), (3, 1), (6, 0)),
        with_reset_state=name.count("-") % 2 == 1,
    )
    for name, case in VARIANTS.items()
}
"""The same with episodes that begin inside."""
each_variant = pytest.mark.parametrize("case", VARIANTS.values(), ids=VARIANTS)


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
    with threads(1) if backend == "reference" else nullcontext():
        return case.results(case.sequence(inputs, backend), inputs)


def assert_close(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float
) -> None:
    """Every tensor within ``tolerance`` times max(1, its largest expected value)."""
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        assert found[name].shape == right.shape, name
        if right.numel() == 0:
            continue
        error = (
            found[name].double() - right.double()
        ).abs().max() / right.double().abs().max().clamp(min=1)
        assert error <= tolerance, f"{name}: error {error:.3g}, tolerance {tolerance:.3g}"


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def close(found: Any, expected: Any) -> None:
    """A tensor, or sequences of tensors, of which states may lack some."""
    found, expected = (
        [tensor for tensor in side if tensor is not None]
        if isinstance(side, (tuple, list))
        else side
        for side in (found, expected)
    )
    torch.testing.assert_close(found, expected, rtol=FP64_ROUNDING, atol=FP64_ROUNDING)


def assert_same_bits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        assert torch.equal(found[name], right), (
            f"{name}: differs by {(found[name] - right).abs().max():.3g}"
        )


@contextmanager
def uninitialised_memory_is_nan() -> Iterator[None]:
    """New tensors, torch's and the library's, start as NaN, so that a value that is never written is seen."""
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("PLASTIKERN_NEW_MEMORY", "nan")
            yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def threads(count: int, cores: int | None = None) -> Iterator[None]:
    """So many threads, on a machine with fewer cores, too; or as on one with that many."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("PLASTIKERN_CPU_CORES", str(cores or count))
            yield
    finally:
        torch.set_num_threads(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where the CUDA kernels' tests run them",
    )
