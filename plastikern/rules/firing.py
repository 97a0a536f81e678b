"""What the neurons of a layer make of their sums at a step, run by torch: the definition that kernels are held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .cells import CELLS, PLASTIC

HIDDEN = "_hidden"
"""The name of the activities after the step, which read-outs take: with gates a rule sees as y what ``post`` says."""


class Fired(NamedTuple):
    """What a step of the neurons leaves, each (B, O).

    Attributes:
        output: the activities.
        y, z: the post-synaptic signal and the sum, drive included, that the rule sees.
        cell: of an LSTM.
    """

    output: Tensor
    y: Tensor
    z: Tensor
    cell: Tensor | None = None

    @property
    def seen(self) -> dict[str, Tensor]:
        """What the rule is given of it, by name."""
        return {"y": self.y, "z": self.z, HIDDEN: self.output}


def fired(
    drive: Tensor, total: Tensor, activity: Callable[[Tensor], Tensor], clamp: Tensor | None = None
) -> Fired:
    """Neurons with an activity of their sum ``drive + total`` (B, O); where ``clamp`` is True, it is the drive."""
    z = drive + total
    y = activity(z)
    if clamp is not None:
        y = torch.where(clamp, drive, y)
    return Fired(y, y, z)


def gated(
    kind: str, drive: Tensor, total: Tensor, gates: Tensor, before: Tensor, post: str
) -> Fired:
    """Neurons with gates.

    Args:
        kind: of network, which names its cell.
        drive: (B, 4 N), in the order of the cell's sums.
        total: (B, N), the plastic sum.
        gates: (B, 3 N), of a GRU (B, 2 N): the other recurrent sums.
        before: (B, N), what the cell was before the step; of a GRU, the activities.
        post: what the rule sees as ``y``, one of the cell's posts. It sees as ``z`` the plastic sum with its drive.
    """
    cell = CELLS[kind]
    sums = [*drive.chunk(len(cell.sums), -1)]
    for number, recurrent in zip(cell.others, gates.chunk(len(cell.others), -1), strict=True):
        sums[number] = sums[number] + recurrent
    sums[PLASTIC] = sums[PLASTIC] + total
    neuron = cell.step(*sums, before)
    y = {"recurrent": total, **neuron}[post]
    return Fired(neuron["hidden"], y, sums[PLASTIC], neuron.get("cell"))
