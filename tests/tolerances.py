"""How far a fused result may lie from the reference: the one place for tolerances, and where they come from.

An error is the largest difference over max(1, largest reference value) of a tensor.
"""

from __future__ import annotations

import math

import torch

FP64 = 1e-10
"""Fused double precision against the reference in double precision, outputs and gradients: the promise of the project.

Rounding gives about T * N * 2e-16 (7e-13 at T = 40, N = 80); running the rule ``decay`` backwards magnifies that by at
most 10.
"""

FP64_ROUNDING = 1e-12
"""The same arithmetic in another order (one call or many, another library's matrix product) over at most 30 steps."""


def fp32(steps: int, neurons: int, network: str = "rnn", modulated: bool = False) -> float:
    """Fused single precision against the reference in double precision, for networks that do not amplify.

    The partial sums of N products are at most about 1, each rounded by eps / 2 with independent signs: a recurrent sum
    is wrong by sqrt(N) / 2 eps. The activation, the trace and its reading add about 4 eps. While the recurrent matrix
    has a norm of about 1, errors of different steps add and do not multiply, again with independent signs: sqrt(T)
    times that. The backward pass reads histories that are wrong by as much, and adds as much of its own: twice. The
    last 2 is safety for the largest of many tensor elements, and for the trace that is run backwards.

    A step of an LSTM makes four such sums, one of a GRU three, a modulator one more, with independent signs: sqrt(sums)
    times that. And what is wrong in the modulator is wrong with one sign in the changes of all connections, so that it
    does not average out in the sums over them that read the traces and that come back to the modulator: twice more.
    """
    eps = torch.finfo(torch.float32).eps
    sums = {"lstm": 4, "gru": 3}.get(network, 1) + modulated
    return (
        (2 if modulated else 1)
        * 2
        * 2
        * math.sqrt(steps * sums)
        * (math.sqrt(neurons) / 2 + 4)
        * eps
    )
