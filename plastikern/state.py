"""States that plastic networks carry through an episode."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree


class RNNState(NamedTuple):
    """State of a plastic recurrent network; every tensor is differentiable, going in and coming out.

    Attributes:
        hidden: activities (B, N); with a leading ``num_layers`` in :class:`~plastikern.PlasticRNN`.
        trace: Hebbian traces (B, N, N), ``trace[b, post, pre]``; with a leading ``num_layers`` likewise.
        eligibility: eligibility traces in the shape of ``trace``; None without retroactive modulation.
    """

    hidden: Tensor
    trace: Tensor
    eligibility: Tensor | None = None

    def detach(self) -> RNNState:
        """The same state without its history, for truncated back-propagation through time."""
        return RNNState(*(None if tensor is None else tensor.detach() for tensor in self))  # type: ignore[arg-type]


class LSTMState(NamedTuple):
    """State of a plastic LSTM; every tensor is differentiable, going in and coming out.

    Attributes:
        hidden, cell: (B, N); with a leading ``num_layers`` in :class:`~plastikern.PlasticLSTM`.
        trace: Hebbian traces of the candidate's recurrent connection (B, N, N), ``trace[b, post, pre]``; likewise.
        eligibility: eligibility traces in the shape of ``trace``; None without retroactive modulation.
    """

    hidden: Tensor
    cell: Tensor
    trace: Tensor
    eligibility: Tensor | None = None

    def detach(self) -> LSTMState:
        """The same state without its history, for truncated back-propagation through time."""
        return LSTMState(*(None if tensor is None else tensor.detach() for tensor in self))  # type: ignore[arg-type]


class LinearState(NamedTuple):
    """State of a plastic linear layer; every tensor is differentiable, going in and coming out.

    Attributes:
        trace: Hebbian traces (B, O, I), ``trace[b, post, pre]``.
        eligibility: eligibility traces in the shape of ``trace``; None without retroactive modulation.
    """

    trace: Tensor
    eligibility: Tensor | None = None

    def detach(self) -> LinearState:
        """The same state without its history, for truncated back-propagation through time."""
        return LinearState(*(None if tensor is None else tensor.detach() for tensor in self))  # type: ignore[arg-type]


# Tuples of tensors run no code: torch.load(..., weights_only=True) may make them.
torch.serialization.add_safe_globals([RNNState, LSTMState, LinearState])
# Without a name for files, torch.export.save takes no program with such a state; torch has no public way to give one.
if hasattr(_pytree, "_register_namedtuple"):
    for _state in (RNNState, LSTMState, LinearState):
        _pytree._register_namedtuple(_state, serialized_type_name=f"plastikern.{_state.__name__}")
