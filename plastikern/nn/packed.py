"""Sequences that ``torch.nn.utils.rnn`` has packed, on their way in and out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..checks import described


def unpacked(owner: str, packed: PackedSequence, batch_first: bool) -> tuple[Tensor, Tensor]:
    """The sequences (T, B, features), or (B, T, features), in the caller's order, and their lengths (B,) on the CPU.

    Raises:
        TypeError, ValueError: a packed sequence that is put together by hand from parts that do not fit.
    """
    data = packed.data
    if not isinstance(data, Tensor) or data.dim() != 2:
        got = tuple(data.shape) if isinstance(data, Tensor) else described(data)
        raise ValueError(
            f"{owner}: input.data must have 2 dimensions, steps of all elements and features; got {got}"
        )
    # Compiled code cannot look at them; what is packed by torch fits.
    if not torch.compiler.is_compiling():
        _check_parts(owner, packed)
    return pad_packed_sequence(packed, batch_first)


def _check_parts(owner: str, packed: PackedSequence) -> None:
    """That torch, which trusts the numbers, reads no memory beyond the tensors."""
    data, sizes, *orders = packed
    fits = sizes.dim() == 1 and sizes.dtype == torch.int64 and not sizes.is_cuda and len(sizes) > 0
    fits = fits and int(sizes[-1]) > 0 and int(sizes.sum()) == len(data)
    if not fits or bool((sizes[1:] > sizes[:-1]).any()):
        raise ValueError(
            f"{owner}: input.batch_sizes must be positive, none larger than the one before, and add up to the "
            f"{len(data)} rows of input.data; got {sizes}"
        )
    for name, order in zip(("sorted_indices", "unsorted_indices"), orders, strict=True):
        if order is not None and order.shape != (int(sizes[0]),):
            raise ValueError(
                f"{owner}: input.{name} must have shape ({int(sizes[0])},); got {tuple(order.shape)}"
            )


def packed_as(output: Tensor, lengths: Tensor, like: PackedSequence, batch_first: bool) -> PackedSequence:  # fmt: skip
    """Outputs of :func:`unpacked` sequences, packed as those were: sequences of one length stay in their order."""
    order = like.sorted_indices
    if order is not None:
        output = output.index_select(0 if batch_first else 1, order)
        lengths = lengths[order.to(lengths.device)]
    data = pack_padded_sequence(output, lengths, batch_first).data
    return PackedSequence(data, like.batch_sizes, order, like.unsorted_indices)
