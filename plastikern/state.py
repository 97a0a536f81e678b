"""States that plastic networks carry through an episode."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class RNNState(NamedTuple):
    """State of a plastic recurrent network; every tensor is differentiable, going in and coming out.

    Attributes:
        hidden: activities (B, N); with a leading ``num_layers`` in :class:`~plastikern.PlasticRNN`.
        trace: Hebbian traces (B, N, N), ``trace[b, post, pre]``; with a leading ``num_layers`` likewise.
    """

    hidden: Tensor
    trace: Tensor

    def detach(self) -> RNNState:
        """The same state without its history, for truncated back-propagation through time."""
        return RNNState(*(tensor.detach() for tensor in self))
