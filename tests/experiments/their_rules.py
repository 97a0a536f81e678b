"""Rules as a user of the experiments writes them."""

from __future__ import annotations

from typing import Any

import torch

from plastikern import Coefficient, Readout, rule

Value = Any


@rule(H="synapse")
def fading(H: Value, x: Value, y: Value, rate: Value) -> Value:
    """Reads weights and alpha times traces, as the papers' networks do."""
    return (1 - rate) * H + rate * x * y


@rule(H="synapse")
def oja(H: Value, x: Value, y: Value, rate: Value) -> Value:
    """As the library's, unbounded."""
    return H + rate * y * (x - y * H)


@rule(H="synapse")
def clipped(H: Value, x: Value, y: Value, rate: Value) -> Value:
    """Hebb's rule within bounds."""
    return torch.clamp(H + rate * x * y, -1, 1)


@rule(H="synapse", theta="post", signals={"m": "element"}, read=lambda H, x: H * x)
def sliding(H: Value, theta: Value, x: Value, y: Value, m: Value, tau: Value) -> Value:
    """Has neither weights nor alpha, a state of each neuron, and a signal."""
    return 0.9 * H + 0.1 * m * x * (y - theta), theta + tau * (y * y - theta)


modulated = sliding.use(tau=Coefficient("post", init=0.25), readouts={"m": Readout()})


@rule(H="synapse", count="element")
def unfit(H: Value, count: Value, x: Value, y: Value) -> Value:
    """A state of a name that states of networks have no room for."""
    return H + 0.1 * x * y, count + 1


number = 3
