"""Ways to write the expensive parts of a plastic step: the read (w + alpha H) x, and the change H + column x row.

Which is the fastest depends on sizes, machine and compiler, so that a rival is offered several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Formulation(NamedTuple):
    """One way to write a step.

    Attributes:
        read: drive + (w + alpha H) x (B, O), from weight and alpha (O, I), trace (B, O, I), x (B, I) and drive (B, O).
        apply: H x (B, O), from a trace (B, O, I) and x (B, I).
        add: base + column x row (B, O, I), from base (B, O, I), column (B, O) and row (B, I).
        clamp: as :func:`torch.clamp`, of what ``add`` returns.
    """

    read: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    apply: Callable[[Tensor, Tensor], Tensor]
    add: Callable[[Tensor, Tensor, Tensor], Tensor]
    clamp: Callable[[Tensor, float, float], Tensor] = torch.clamp


Formulations = Mapping[str, Formulation]


def _read_by_bmm(
    weight: Tensor, alpha: Tensor, trace: Tensor, pre: Tensor, drive: Tensor
) -> Tensor:
    effective = torch.addcmul(weight, alpha, trace)
    return torch.baddbmm(drive.unsqueeze(2), effective, pre.unsqueeze(2)).squeeze(2)


def _read_linear(
    weight: Tensor, alpha: Tensor, trace: Tensor, pre: Tensor, drive: Tensor
) -> Tensor:
    # The weight is read once for the whole batch.
    return F.linear(pre, weight) + _apply_by_bmm(alpha * trace, pre) + drive


def _read_pointwise(
    weight: Tensor, alpha: Tensor, trace: Tensor, pre: Tensor, drive: Tensor
) -> Tensor:
    # Without a matrix product a compiler can fuse the read with what surrounds it.
    return drive + _apply_pointwise(weight + alpha * trace, pre)


def _apply_by_bmm(trace: Tensor, pre: Tensor) -> Tensor:
    return torch.bmm(trace, pre.unsqueeze(2)).squeeze(2)


def _apply_pointwise(trace: Tensor, pre: Tensor) -> Tensor:
    return (trace * pre.unsqueeze(1)).sum(2)


def _adding(outer: Callable[[Any, Any, Any], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """From base (B, O, I), column (B, O, 1) and row (B, 1, I) to base, column (B, O) and row (B, I)."""

    def add(base: Tensor, column: Tensor, row: Tensor) -> Tensor:
        return outer(base, column.unsqueeze(2), row.unsqueeze(1))

    return add


ADDCMUL = Formulation(_read_by_bmm, _apply_by_bmm, _adding(torch.addcmul))
BADDBMM = Formulation(_read_by_bmm, _apply_by_bmm, _adding(torch.baddbmm))
LINEAR = Formulation(_read_linear, _apply_by_bmm, _adding(torch.baddbmm))
POINTWISE = Formulation(
    _read_pointwise, _apply_pointwise, _adding(lambda base, column, row: base + column * row)
)
# For inference: the trace that a step is given becomes the next one.
LINEAR_IN_PLACE = LINEAR._replace(add=_adding(torch.Tensor.baddbmm_), clamp=torch.clamp_)
POINTWISE_IN_PLACE = POINTWISE._replace(add=_adding(torch.Tensor.addcmul_), clamp=torch.clamp_)
