"""The table of docs/pytorch.md: what its rows promise, and other tests do not hold, of every network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import close
from torch import Tensor, distributed, multiprocessing, nn
from torch.func import functional_call, vmap
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, prune

from plastikern import (
    Coefficient,
    PlasticGRU,
    PlasticGRUCell,
    Plasticity,
    PlasticLinear,
    PlasticLinearCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
    Readout,
    rule,
)

SEQUENCES, CELLS = (
    (PlasticRNN, PlasticLSTM, PlasticGRU, PlasticLinear),
    (PlasticRNNCell, PlasticLSTMCell, PlasticGRUCell, PlasticLinearCell),
)
RULE = Plasticity(constraint="clip", modulation="retroactive", fan_out="neuron", alpha_init=0.3)


@rule(H="synapse", E="synapse", signals={"m": "post"})
def own_rule(H: Any, E: Any, x: Any, y: Any, m: Any, eta: Any) -> Any:
    return torch.tanh(H + m * E), (1 - eta) * E + eta * y * x


OWN = own_rule.use(readouts={"m": Readout()}, alpha=Coefficient("connection", std=0.3))


@pytest.fixture(autouse=True, params=["the library's rule", "a rule of one's own"])
def each_rule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every promise is kept under both."""
    if request.param == "a rule of one's own":
        monkeypatch.setitem(globals(), "RULE", OWN)


each_network = pytest.mark.parametrize("kind", [*SEQUENCES, *CELLS])


def made(kind: Any, plasticity: Any = None) -> Any:
    torch.manual_seed(0)
    return kind(3, 4, plasticity=plasticity or RULE, dtype=torch.float64)


def input_of(kind: Any, batch: int = 4) -> Tensor:
    return torch.randn(*((batch, 3) if kind in CELLS else (5, batch, 3)), dtype=torch.float64)


def flat(result: Any) -> list[Tensor]:
    return [
        x
        for part in result
        for x in ((part,) if isinstance(part, Tensor) else part or ())
        if x is not None
    ]


@each_network
def test_parameters_computed_by_parametrizations_and_pruning_are_computed_with(kind: Any) -> None:
    module, plain, input = made(kind), made(kind), input_of(kind)
    for name in dict(plain.named_parameters()):
        if name.startswith("weight"):
            parametrizations.weight_norm(module, name)
        elif name.startswith("alpha"):
            prune.random_unstructured(module, name, 0.5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    found = flat(module(input))
    given = {name: getattr(module, name).detach() for name in dict(plain.named_parameters())}
    close(found, flat(functional_call(plain, given, (input,))))
    found[0].square().sum().backward()
    learnt = {
        name: parameter.grad
        for name, parameter in module.named_parameters()
        if "alpha" in name or "." in name
    }
    assert len(learnt) >= 3 and all(grad is not None for grad in learnt.values())


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_runs_under_vmap(kind: Any) -> None:
    module, inputs = made(kind), torch.stack([input_of(kind) for _ in range(3)])
    for found, *expected in zip(
        flat(vmap(module)(inputs)), *(flat(module(input)) for input in inputs), strict=True
    ):  # fmt: skip
        close(found, torch.stack(expected))


class Agent(nn.Module):
    """An agent's episode is one call, as DistributedDataParallel wants it."""

    def __init__(self, plasticity: Any) -> None:
        super().__init__()
        self.network = made(PlasticRNN, plasticity)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Any]:
        rollout = self.network.rollout(len(inputs), inputs.shape[1])
        for row in inputs:
            rollout.step(row)
        return rollout.finish(inputs)


def networks(plasticity: Any) -> list[tuple[nn.Module, Tensor]]:
    torch.manual_seed(1)
    return [
        *((made(kind, plasticity), input_of(kind)) for kind in (*SEQUENCES, *CELLS)),
        (Agent(plasticity), input_of(PlasticRNN)),
    ]


def learnt(module: nn.Module, input: Tensor) -> list[Tensor]:
    """Gradients of a mean over elements, which is the last dimension but one of an input."""
    results = flat(module(input))
    output, trace = results[0], results[-2]
    (output.square().sum() + trace.square().sum()).div(input.shape[-2]).backward()
    return [parameter.grad for parameter in module.parameters()]


def work(rank: int, folder: str, plasticity: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    found = []
    for module, input in networks(plasticity):
        mine = input[..., 2 * rank : 2 * rank + 2, :]
        found.append(learnt(DistributedDataParallel(module, find_unused_parameters=True), mine))
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(
    not distributed.is_available() or not distributed.is_gloo_available(),
    reason="torch has no gloo",
)
def test_two_processes_of_distributed_data_parallel_learn_as_one(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path), RULE), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for place, (module, input) in enumerate(networks(RULE)):
        expected = learnt(module, input)
        for rank in range(2):
            close(found[rank][place], expected)
