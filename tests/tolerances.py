"""How far a fused result may lie from the reference: the one place for tolerances, and where they come from.

An error is the largest difference over max(1, largest reference value) of a tensor.
"""

from __future__ import annotations

import math

import torch

FP64 = 1e-10
"""Fused double precision against the reference in double precision, outputs and gradients: the promise of the project. Rounding
gives about T * N * 2e-16 (7e-13 at T = 40, N = 80); running the rule ``decay`` backwards magnifies that by at most 10."""

FP64_ROUNDING = 1e-12
"""The same arithmetic in another order (one call or many, another library's matrix product) over at most 30 steps."""


def fp32(steps: int, neurons: int) -> float:
    """Fused single precision against the reference in double precision, for networks that do not amplify.

    A recurrent sum of N products of size 1/sqrt(N) has a rounding error of about eps * sqrt(N) at worst alignment (N terms, each
    eps/sqrt(N)), the activation and the trace add about 4 eps. While the recurrent matrix has norm 1 or less, errors of different
    steps add and do not multiply: T (sqrt(N) + 4) eps. The backward pass reads histories that are wrong by as much and adds as
    much again, which makes 2; gradients of parameters are sums over steps of such products, relative to a sum of the same length.
    The trace run backwards is wrong by up to 10 roundings of its own, T * 10 eps.
    """
    eps = torch.finfo(torch.float32).eps
    return steps * (2 * (math.sqrt(neurons) + 4) + 10) * eps
