"""Modules under FSDP2: sharded parameters, and the same training as in one process."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import BACKENDS
from tolerances import FP64_ROUNDING
from torch import Tensor, nn

import plastikern.functional as PF
from plastikern import (
    Modulator,
    Plasticity,
    PlasticLinear,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
    rule,
)

MODULATED = Plasticity(constraint="clip", alpha="layer", modulation="retroactive")


@rule(H="synapse", theta="post")
def bcm(H: Any, theta: Any, x: Any, y: Any, eta: Any, tau: Any) -> Any:
    return H + eta * x * y * (y - theta), theta + tau * (y * y - theta)


MODULES: dict[str, Any] = {
    "own rule": lambda: PlasticRNN(4, 8, plasticity=bcm.use(eta="post"), dtype=torch.float64),
    "rnn": lambda: PlasticRNN(4, 8, dtype=torch.float64),
    "lstm": lambda: PlasticLSTM(4, 8, 2, plasticity=MODULATED, dtype=torch.float64),
    "linear": lambda: PlasticLinear(4, 8, plasticity=MODULATED, dtype=torch.float64),
}


def train(module: nn.Module, shard: slice) -> None:
    """Two steps of training on a part of the batch, whose loss is its share of the mean over all elements."""
    torch.manual_seed(1)
    optimiser = torch.optim.Adam(module.parameters(), 0.01)
    for inputs in torch.randn(2, 5, 4, 4, dtype=torch.float64):
        optimiser.zero_grad()
        module(inputs[:, shard])[0].square().mean().backward()
        optimiser.step()


def one_of_two(rank: int, port: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for name, make in MODULES.items():
        torch.manual_seed(0)
        module: nn.Module = make()
        fully_shard(module)
        train(module, slice(2 * rank, 2 * rank + 2))
        whole = {
            key: value.full_tensor() if isinstance(value, DTensor) else value
            for key, value in module.state_dict().items()
        }
        if rank == 0:
            torch.save(whole, Path(folder, name))
        if name != "linear":
            with pytest.raises(RuntimeError, match="rollout: the parameters are sharded"):
                module.rollout(2, 3)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available() or os.name != "posix", reason="no torch.distributed")
def test_two_sharded_processes_learn_what_one_learns(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, str(tmp_path)), 2)
    for name, make in MODULES.items():
        torch.manual_seed(0)
        module = make()
        train(module, slice(None))
        found = torch.load(tmp_path / name, weights_only=True)
        assert found.keys() == module.state_dict().keys()
        for key, expected in module.state_dict().items():
            torch.testing.assert_close(found[key], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "kind", [PlasticRNN, PlasticLSTM, PlasticRNNCell, PlasticLSTMCell, PlasticLinear]
)
def test_no_parameter_is_without_dimensions(kind: Any) -> None:
    module = kind(4, 8, plasticity=MODULATED)
    assert all(tensor.dim() for tensor in [*module.parameters(), *module.buffers()])


@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM, PlasticLinear])
def test_state_dicts_with_numbers_without_dimensions_are_read(kind: Any) -> None:
    module, other = kind(4, 8, plasticity=MODULATED), kind(4, 8, plasticity=MODULATED)
    old = {
        name: value.reshape(()) if value.shape == (1,) else value
        for name, value in module.state_dict().items()
    }
    assert sum(value.dim() == 0 for value in old.values()) == 3
    outer = nn.ModuleDict({"memory": other})
    outer.load_state_dict({f"memory.{name}": value for name, value in old.items()})
    for name, value in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("neurons", [1, 6])
@pytest.mark.parametrize("half", [False, True])
def test_one_number_is_the_same_in_either_shape(backend: str, neurons: int, half: bool) -> None:
    torch.manual_seed(0)
    drive, weight = (
        torch.randn(5, 2, neurons, dtype=torch.float64),
        torch.randn(neurons, neurons, dtype=torch.float64),
    )
    numbers = torch.tensor([0.5, 0.1, 0.2, 0.3], dtype=torch.float64)
    mask = torch.arange(neurons) % 2 == 0 if half else None

    def results(shape: tuple[int, ...]) -> list[Tensor]:
        alpha, eta, fading, bias = given = [
            number.reshape(shape).requires_grad_() for number in numbers.clone()
        ]
        modulator = Modulator(weight[0], bias, modulated=mask)
        options: dict[str, Any] = {
            "modulator": modulator,
            "eligibility_eta": fading,
            "plasticity": MODULATED,
            "backend": backend,
        }
        rate = eta if half else None
        output, *_ = PF.plastic_rnn_sequence(drive, None, None, weight, alpha, rate, **options)
        stepped = PF.plastic_rnn_step(drive[0], None, None, weight, alpha, rate, **options)[0]
        with torch.no_grad():
            acting = PF.plastic_rnn_step(drive[0], None, None, weight, alpha, rate, **options)[0]
        signal = PF.modulator_signal(output[0, 0], modulator, MODULATED)
        loss = output.sum() + stepped.sum() + signal
        wanted = [tensor for tensor in given if half or tensor is not eta]
        found = torch.autograd.grad(loss, wanted)
        assert all(grad.shape == shape for grad in found)
        return [output, stepped, acting, signal, *(grad.reshape(()) for grad in found)]

    for found, expected in zip(results((1,)), results(()), strict=True):
        torch.testing.assert_close(found, expected, rtol=FP64_ROUNDING, atol=FP64_ROUNDING)
