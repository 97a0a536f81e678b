"""``python -m plastikern selftest``: whether the fused kernels of a device give what the reference gives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from . import backends
from .nn import PlasticGRU, PlasticLinear, PlasticLSTM, PlasticRNN
from .nn.base import PlasticModule
from .plasticity import MODULATIONS, Plasticity
from .rules import papers

TOLERANCE = 2e-4
"""Of single precision against the reference in double precision, relative to the largest value of a tensor: 100 times
the rounding of the sums of these sizes; a wrong kernel is wrong by far more."""


def cases() -> Iterator[tuple[str, PlasticModule, Tensor]]:
    """Every rule, constraint and modulation in every network, in sizes that fill no warp: name, network, input."""
    for rule, constraint in papers.pairs():
        for modulation in MODULATIONS:
            options: dict[str, Any] = {
                "rule": rule,
                "constraint": constraint,
                "modulation": modulation,
            }
            if modulation != "none":
                options["fan_out"] = "neuron"
            plasticity, name = Plasticity(**options), f"{rule} {constraint} {modulation}"
            yield f"rnn {name}", PlasticRNN(7, 37, plasticity=plasticity), torch.randn(9, 3, 7)
            yield (
                f"lstm {name}",
                PlasticLSTM(7, 37, plasticity=plasticity),
                torch.randn(9, 3, 7),
            )
            yield f"gru {name}", PlasticGRU(7, 37, plasticity=plasticity), torch.randn(9, 3, 7)
            yield (
                f"linear {name}",
                PlasticLinear(70, 5, plasticity=plasticity),
                torch.rand(9, 3, 70),
            )


def train(module: PlasticModule, input: Tensor) -> dict[str, Tensor]:
    """Output and last trace, and the gradients of all parameters of a fixed loss."""
    module.zero_grad()
    output, state = module(input)
    weights = torch.linspace(
        -1, 1, output.numel(), device=output.device, dtype=output.dtype
    ).view_as(output)
    ((output * weights).sum() + 0.1 * state.trace.square().sum()).backward()
    gradients = {
        name: value.grad for name, value in module.named_parameters() if value.grad is not None
    }
    return {"output": output.detach(), "trace": state.trace.detach(), **gradients}


def parity(
    device: torch.device, backend: str, networks: int | None = None
) -> Iterator[tuple[str, float]]:
    """For every case, or so many of them, its largest error against the reference."""
    torch.manual_seed(0)
    chosen = list(cases())
    for name, module, input in (
        chosen if networks is None else chosen[:: max(1, len(chosen) // max(1, networks))]
    ):
        module.backend = "reference"
        expected = train(module.double(), input.double())
        module.float().to(device).backend = backend
        errors = []
        for key, found in train(module, input.to(device)).items():
            right = expected[key]
            errors.append(
                float((found.double().cpu() - right).abs().max() / right.abs().max().clamp(min=1))
            )
        yield name, max(errors)


def seconds(module: PlasticModule, input: Tensor, repeats: int) -> float:
    """The fastest of some forward and backward passes."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        train(module, input)
        if input.is_cuda:
            torch.cuda.synchronize(input.device)
        times.append(time.perf_counter() - start)
    return min(times)


def show_times(device: torch.device, backend: str, repeats: int) -> None:
    """Time a network of the size of the experiments on a backend and on the reference."""
    module = PlasticRNN(
        20, 100, plasticity=Plasticity(modulation="simple", constraint="clip", clip=2.0)
    ).to(device)
    input, times = torch.randn(50, 30, 20, device=device), {}
    for name in dict.fromkeys((backend, "reference")):
        module.backend = name
        times[name] = seconds(module, input, repeats)
        print(
            f"{name}: {1e3 * times[name]:.2f} ms forward and backward (30 elements, 50 steps, 100 neurons, modulated)"
        )
    if backend != "reference":
        print(f"{times['reference'] / times[backend]:.1f} times the reference")


def main(
    device_name: str, backend: str | None, repeats: int = 5, networks: int | None = None
) -> int:
    """Print parity and a short timing (none with 0 repeats); the exit status: 0 where all is well.

    With ``networks`` about so many of all are checked, evenly chosen.

    Raises:
        RuntimeError: the device or the backend is not there; the message says why.
    """
    device = torch.device(device_name)
    chosen = backends.select(backend, torch.empty(0, device=device))
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"backend {chosen} on {device} ({card}), torch {torch.__version__}")
    count, worst, failed = 0, 0.0, []
    for name, error in parity(device, chosen, networks):
        count, worst = count + 1, max(worst, error)
        if not error <= TOLERANCE:
            failed.append(name)
            print(f"FAIL {name}: error {error:.2g}, allowed {TOLERANCE:.0e}")
    print(
        f"{'FAIL' if failed else 'pass'}: {count - len(failed)} of {count} networks, largest error {worst:.1e}"
    )
    if repeats > 0:
        show_times(device, chosen, repeats)
    return 1 if failed else 0
