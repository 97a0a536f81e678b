"""What the neurons of a layer make of their sums at a step, run by torch: the definition that kernels are held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .cells import lstm

HIDDEN = "_hidden"
"""The name of the activities after the step, which read-outs take: an LSTM's rule sees as y what its ``post`` says."""


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


def gated(drive: Tensor, total: Tensor, gates: Tensor, cell: Tensor, post: str) -> Fired:
    """Neurons of an LSTM, whose candidate's sum is plastic.

    Args:
        drive: (B, 4 N), of the sums in the order i, f, g, o.
        total: (B, N), the plastic sum.
        gates: (B, 3 N), the recurrent sums of i, f and o.
        cell: (B, N), before the step.
        post: ``"candidate"``, ``"recurrent"`` (``total``), ``"cell"`` or ``"hidden"``: what the rule sees as ``y``.
    """
    to_input, to_forget, to_candidate, to_output = drive.chunk(4, -1)
    from_input, from_forget, from_output = gates.chunk(3, -1)
    z = to_candidate + total
    neuron = lstm(to_input + from_input, to_forget + from_forget, z, to_output + from_output, cell)
    y = total if post == "recurrent" else neuron[post]
    return Fired(neuron["hidden"], y, z, neuron["cell"])
