"""Shapes of what the operators return, from the tables of :mod:`plastikern.program`: for ``torch.compile``, and to
allocate it. The signatures are those of csrc/registration.cpp."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..program import (
    KEPT,
    OPERANDS,
    UPSTREAM,
    Named,
    Operand,
    Sizes,
    by_name,
    gradients_of,
    read,
    require,
    results_of,
    sizes_of,
)

Tensors = Sequence[Tensor]


def _made(
    table: Iterable[Operand], sizes: Sizes, named: Named, native: bool = True
) -> list[Tensor]:
    """New tensors of a table.

    Checkpoints are (C, B, kinds, O, I) with padded rows for the ``native`` library, else (C, kinds, B, O, I).
    """
    like, found = named["alpha"], []
    for operand in table:
        letters = operand.shape
        if letters == "CBKOR" and not native:
            letters = "CKBOI"
        shape = named[operand.name].shape if letters == "P" else sizes.shape(letters)
        dtype = torch.bool if operand.value == "flag" else like.dtype
        found.append(like.new_empty(shape, dtype=dtype))
    return found


def step(tensors: Tensors, names: str, program: str, clip: float, keep: bool) -> list[Tensor]:
    """Results of ``step``."""
    facts, named = read(program), by_name(tensors, names, OPERANDS)
    return _made(results_of(facts, True, keep), sizes_of(facts.words, named), named)


def sequence(
    tensors: Tensors, names: str, program: str, clip: float, batch_first: bool, checkpoint_every: int,
    reversible: bool, native: bool = True,
) -> list[Tensor]:  # fmt: skip
    """Results of ``sequence``."""
    facts, named = read(program), by_name(tensors, names, OPERANDS)
    sizes = sizes_of(facts.words, named, batch_first, checkpoint_every)
    results = results_of(facts, False, checkpoint_every > 0, reversible)
    return _made(results, sizes, named, native)


def sequence_backward(
    tensors: Tensors, names: str, program: str, clip: float, batch_first: bool, checkpoint_every: int, wanted: str
) -> list[Tensor]:  # fmt: skip
    """Results of ``sequence_backward``."""
    facts, named = read(program), by_name(tensors, names, OPERANDS, KEPT, UPSTREAM)
    sizes = sizes_of(facts.words, named, batch_first, checkpoint_every)
    return _made(gradients_of(facts, "clamp" in named, wanted), sizes, named)


def empty(like: Tensor, size: list[int]) -> Tensor:
    """Result of ``empty``: a new tensor, whose memory the library keeps for the next one of its size."""
    return like.new_empty(size)


def advance(*arguments: object) -> None:
    """``advance`` writes into its arguments."""


def _on_one_device(name: str, fake: Callable[..., object]) -> Callable[..., object]:
    """The fake, which refuses tensors of several devices as the operators do; lengths may be on the CPU."""

    def checked(*arguments: Any) -> object:
        lists = [argument for argument in arguments if isinstance(argument, (list, tuple))]
        tensors = [tensor for tensors in lists for tensor in tensors if isinstance(tensor, Tensor)]
        devices = {str(tensor.device) for tensor in tensors if tensor.dtype != torch.int64}
        lengths = {str(tensor.device) for tensor in tensors if tensor.dtype == torch.int64}
        require(
            len(devices) <= 1 and lengths <= {"cpu", *devices},
            f"{name}: tensors must be on one device; got {', '.join(sorted(devices | lengths))}",
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
