"""One call of a plastic network: what kind it is, its parameters, its inputs and its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Modulator(NamedTuple):
    r"""Parameters of a neuromodulator :math:`M = \psi(v \cdot s + b)` of N neurons, and of its way to the connections.

    The rate in force is :math:`M`; with a fan-out it is :math:`f M + g`. Where ``modulated`` says False it is the
    connection's own ``eta``, and there is no eligibility trace: with retroactive modulation, too, the neuron's traces
    take the present increment, and its eligibility stays as it was given. Source: Backpropamine (ICLR 2019), section
    3.2; fan-out and half-modulated networks as in the authors' code.

    Attributes:
        weight: :math:`v` (N,). bias: :math:`b` () or (1,).
        fan_out_weight, fan_out_bias: :math:`f` and :math:`g`, (O,) or (O, I) as ``plasticity.fan_out`` says, else None.
        modulated: bool (O,), which post-synaptic neurons the modulator governs; None is all.
    """

    weight: Tensor
    bias: Tensor
    fan_out_weight: Tensor | None = None
    fan_out_bias: Tensor | None = None
    modulated: Tensor | None = None


class Connection(NamedTuple):
    """Parameters of a plastic connection (O, I), as the functions of :mod:`plastikern.functional` take them."""

    weight: Tensor
    alpha: Tensor
    eta: Tensor | None
    eligibility_eta: Tensor | None
    modulator: Modulator | None


class Inputs(NamedTuple):
    """What a step (B, ...) or a sequence (T, B, ...) is given; ``features`` only where ``kind`` is ``"linear"``."""

    drive: Tensor
    features: Tensor | None = None
    clamp: Tensor | None = None


class State(NamedTuple):
    """What one step hands to the next; None: the network has none, or, going in, zero."""

    hidden: Tensor | None
    cell: Tensor | None
    trace: Tensor | None
    eligibility: Tensor | None


def by_name(tensors: Sequence[Tensor | None]) -> State:
    """The state of a recurrent layer from its tensors; three of them are without cells."""
    return State(tensors[0], None, *tensors[1:]) if len(tensors) == 3 else State(*tensors)


def per_connection(coefficient: Tensor) -> Tensor:
    """View of a coefficient (), (O,) or (O, I) that broadcasts against (B, O, I): a neuron's value covers its row."""
    return coefficient.unsqueeze(-1) if coefficient.dim() == 1 else coefficient


def rate_terms(connection: Connection) -> tuple[Tensor | None, Tensor | None]:
    """The rate in force as ``offset + scale * M``: both of one shape, (), (O,) or (O, I).

    None stands for an offset of 0; and for a scale of 1, or of 0 where there is no modulator. What differs between
    fan-outs and half-modulated networks ends here, so that no kernel needs to know it.
    """
    eta, modulator = connection.eta, connection.modulator
    if modulator is None:
        return eta, None
    scale, offset, mask = modulator.fan_out_weight, modulator.fan_out_bias, modulator.modulated
    if mask is None:
        return offset, scale
    assert eta is not None
    scale = eta.new_ones(()) if scale is None else scale
    offset = eta.new_zeros(()) if offset is None else offset
    if scale.dim() == 2 or eta.dim() == 2:
        mask, scale, offset, eta = (per_connection(x) for x in (mask, scale, offset, eta))
    scale, offset = torch.broadcast_tensors(
        torch.where(mask, scale, 0), torch.where(mask, offset, eta)
    )
    return offset, scale
