"""Shapes of what the operators return: for ``torch.compile``, and to allocate it.

The signatures are those of csrc/registration.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..plasticity import CONSTRAINTS, POSTS, RULES

Maybe = Tensor | None


class Sizes(NamedTuple):
    """Of one call: steps T, batch B, post-synaptic neurons O and pre-synaptic ones I."""

    batch_first: bool
    steps: int
    batch: int
    posts: int
    pres: int

    def over_time(self, size: int) -> tuple[int, int, int]:
        """Shape of a tensor with ``size`` values for every step of every element."""
        return (
            (self.batch, self.steps, size) if self.batch_first else (self.steps, self.batch, size)
        )

    @property
    def traces(self) -> tuple[int, int, int]:
        """Shape of the traces."""
        return self.batch, self.posts, self.pres


def sizes_of(activities: Tensor, parts: int, features: Maybe, batch_first: bool) -> Sizes:
    """Of a call with these outputs, or with a drive of ``parts`` values per neuron, of a step or a sequence."""
    posts = activities.shape[-1] // parts
    pres = posts if features is None else features.shape[-1]
    if activities.dim() == 2:
        return Sizes(False, 1, activities.shape[0], posts, pres)
    time, batch = (1, 0) if batch_first else (0, 1)
    return Sizes(batch_first, activities.shape[time], activities.shape[batch], posts, pres)


def history_size(codes: list[int], posts: int) -> int:
    """Values per step that an LSTM keeps: its gates, its cell and, where that is the post, its recurrent sum."""
    return (6 if codes[4] == POSTS.index("recurrent") else 5) * posts


def padded(tensor: Tensor, columns: int) -> int:
    """Length of the rows of the native library's checkpoints, which start on cache lines."""
    line = 64 // tensor.element_size()
    return (columns + line - 1) // line * line


def step(
    drive: Tensor, features: Maybe, hidden: Maybe, cell: Maybe, trace: Maybe, eligibility: Maybe, weight: Tensor,
    alpha: Tensor, rate: Maybe, rate_scale: Maybe, eligibility_rate: Maybe, modulator_weight: Maybe,
    modulator_bias: Maybe, modulated: Maybe, clamp: Maybe, codes: list[int], clip: float, keep: bool,
) -> tuple[Tensor, Maybe, Tensor, Maybe, Maybe, Maybe]:  # fmt: skip
    """Results of ``step``."""
    lstm, retroactive = codes[0] == 1, codes[5] == 1
    size = sizes_of(drive, 4 if lstm else 1, features, False)
    empty = alpha.new_empty
    return (
        empty(size.batch, size.posts),
        empty(size.batch, size.posts) if lstm else None,
        empty(size.traces),
        empty(size.traces) if retroactive else None,
        empty(size.over_time(history_size(codes, size.posts))) if lstm and keep else None,
        empty(size.over_time(1)) if modulator_weight is not None and keep else None,
    )


def sequence(
    drive: Tensor, features: Maybe, hidden: Maybe, cell: Maybe, trace: Maybe, eligibility: Maybe, weight: Tensor,
    alpha: Tensor, rate: Maybe, rate_scale: Maybe, eligibility_rate: Maybe, modulator_weight: Maybe,
    modulator_bias: Maybe, modulated: Maybe, clamp: Maybe, lengths: Maybe, codes: list[int], clip: float,
    batch_first: bool, checkpoint_every: int, reversible: bool, native: bool = True,
) -> tuple[Tensor, Maybe, Maybe, Tensor, Maybe, Maybe, Maybe, Maybe, Maybe]:  # fmt: skip
    """Results of ``sequence``.

    Checkpoints are (C, B, kinds, O, I) with padded rows for the ``native`` library, else (C, kinds, B, O, I).
    """
    lstm, linear, retroactive = codes[0] == 1, codes[0] == 2, codes[5] == 1
    size, keep = sizes_of(drive, 4 if lstm else 1, features, batch_first), checkpoint_every > 0
    empty = alpha.new_empty
    count = (size.steps - 1) // checkpoint_every if keep and size.steps else 0
    segments = (size.steps + checkpoint_every - 1) // checkpoint_every if keep else 0
    clips = (codes[1], codes[2]) == (RULES.index("hebb"), CONSTRAINTS.index("clip"))
    if native:
        checkpoints = (count, size.batch, 1 + retroactive, size.posts, padded(alpha, size.pres))
    else:
        checkpoints = (count, 1 + retroactive, *size.traces)
    return (
        empty(size.over_time(size.posts)),
        None if linear else empty(size.batch, size.posts),
        empty(size.batch, size.posts) if lstm else None,
        empty(size.traces),
        empty(size.traces) if retroactive else None,
        empty(size.over_time(history_size(codes, size.posts))) if lstm and keep else None,
        empty(size.over_time(1)) if modulator_weight is not None and keep else None,
        empty(checkpoints) if keep else None,
        empty((segments, size.batch, size.posts), dtype=torch.bool)
        if reversible and keep and clips
        else None,
    )


def sequence_backward(
    grad_output: Maybe, grad_hidden: Maybe, grad_cell: Maybe, grad_trace: Maybe, grad_eligibility: Maybe,
    output: Tensor, history: Maybe, modulators: Maybe, checkpoints: Maybe, lost: Maybe, trace_out: Maybe,
    eligibility_out: Maybe, features: Maybe, hidden: Maybe, cell: Maybe, trace: Maybe, eligibility: Maybe,
    weight: Tensor, alpha: Tensor, rate: Maybe, rate_scale: Maybe, eligibility_rate: Maybe, modulator_weight: Maybe,
    modulator_bias: Maybe, modulated: Maybe, clamp: Maybe, lengths: Maybe, codes: list[int], clip: float,
    batch_first: bool, checkpoint_every: int, reversible: bool, needs: int,
) -> tuple[Tensor, Maybe, Maybe, Maybe, Maybe, Maybe, Maybe, Maybe, Maybe, Maybe, Maybe, Maybe]:  # fmt: skip
    """Results of ``sequence_backward``."""
    lstm, linear, retroactive = codes[0] == 1, codes[0] == 2, codes[5] == 1
    size, empty = sizes_of(output, 1, features, batch_first), output.new_empty

    def like(position: int, tensor: Maybe) -> Maybe:
        return (
            None if tensor is None or not needs >> position & 1 else tensor.new_empty(tensor.shape)
        )

    # Positions of the operands, as in plastikern/ops/fused.py.
    recurrent_post = lstm and codes[4] == POSTS.index("recurrent")
    return (
        empty(size.over_time(size.posts * (4 if lstm else 1))),
        empty(size.over_time(size.posts)) if clamp is not None or recurrent_post else None,
        empty(size.over_time(size.pres)) if linear and needs >> 1 & 1 else None,
        None if linear else empty(size.batch, size.posts),
        empty(size.batch, size.posts) if lstm else None,
        empty(size.traces) if needs >> 4 & 1 else None,
        empty(size.traces) if retroactive and needs >> 5 & 1 else None,
        like(7, alpha),
        like(8, rate),
        like(9, rate_scale),
        like(10, eligibility_rate),
        empty(size.over_time(1)[:2]) if modulator_weight is not None else None,
    )


def empty(like: Tensor, size: list[int]) -> Tensor:
    """Result of ``empty``: a new tensor, whose memory the library keeps for the next one of its size."""
    return like.new_empty(size)


def advance(*arguments: object) -> None:
    """``advance`` writes into its arguments."""


def _on_one_device(name: str, fake: Callable[..., object]) -> Callable[..., object]:
    """The fake, which refuses tensors of several devices as the operators do; lengths may be on the CPU."""

    def checked(*arguments: object) -> object:
        tensors = [tensor for tensor in arguments if isinstance(tensor, Tensor)]
        devices = {str(tensor.device) for tensor in tensors if tensor.dtype != torch.int64}
        lengths = {str(tensor.device) for tensor in tensors if tensor.dtype == torch.int64}
        if len(devices) > 1 or not lengths <= {"cpu", *devices}:
            raise RuntimeError(
                f"{name}: tensors must be on one device; got {', '.join(sorted(devices | lengths))}"
            )
        return fake(*arguments)

    return checked


def register(
    namespace: str, library: torch.library.Library | None = None, native: bool = True
) -> None:
    """Tell torch the shapes of an operator's results, for the operators of a namespace."""
    fakes: dict[str, Callable[..., object]] = {
        "step": step,
        "sequence": partial(sequence, native=native),
        "sequence_backward": sequence_backward,
    }
    if native:
        fakes.update(empty=empty, advance=advance)
    for name, fake in fakes.items():
        torch.library.register_fake(f"{namespace}::{name}", _on_one_device(name, fake), lib=library)
