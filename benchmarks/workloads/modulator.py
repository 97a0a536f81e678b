"""The neuromodulator of the modulated workloads: M = tanh(v s + b), and its fan-out f M + g per neuron."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from plastikern import Modulator

from .base import Normal, Parameters


def modulator_parameters(normal: Normal, neurons: int, *, fan_out: bool) -> Parameters:
    """Parameters with which M covers most of its range, at rates that let few traces of a workload meet their bound.

    The derivative jumps there: where rounding decides on which side of it a trace is, gradients in fp32 and in fp64 are
    both right, and differ by more than the tolerance.
    """
    parameters = {
        "modulator_weight": normal(neurons) / math.sqrt(neurons),
        "modulator_bias": torch.tensor(0.1),
    }
    if fan_out:
        parameters |= {
            "fan_out_weight": 0.1 * normal(neurons),
            "fan_out_bias": 0.02 * normal(neurons),
        }
    return parameters


def library_modulator(parameters: Parameters) -> Modulator:
    """The same parameters as the library takes them."""
    return Modulator(
        parameters["modulator_weight"],
        parameters["modulator_bias"],
        parameters.get("fan_out_weight"),
        parameters.get("fan_out_bias"),
    )


def signal(parameters: Parameters, source: Tensor) -> Tensor:
    """M (B,) from (B, N)."""
    return torch.tanh(
        torch.addmv(parameters["modulator_bias"], source, parameters["modulator_weight"])
    )


def rates(parameters: Parameters, source: Tensor) -> Tensor:
    """f M + g (B, N) from (B, N)."""
    modulation = signal(parameters, source).unsqueeze(1)
    return torch.addcmul(parameters["fan_out_bias"], modulation, parameters["fan_out_weight"])


def jax_signal(jnp: ModuleType, parameters: Any, source: Any) -> Any:
    """As :func:`signal`."""
    return jnp.tanh(source @ parameters["modulator_weight"] + parameters["modulator_bias"])


def jax_rates(jnp: ModuleType, parameters: Any, source: Any) -> Any:
    """As :func:`rates`."""
    modulation = jax_signal(jnp, parameters, source)[:, None]
    return parameters["fan_out_weight"] * modulation + parameters["fan_out_bias"]
