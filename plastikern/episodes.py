"""Episodes that begin inside a sequence.

Elements of a batch do not know of each other, so that an element of several episodes is several elements with lengths:
a backend without resets of its own is given every episode as an element, the longest first, and what comes out is put
back into the places of the steps. The reference has the definition, a choice of the state before the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import library
from .checks import check_dense, has_values, lengths_on


def checked_reset(owner: str, reset: Any, shape: tuple[int, ...]) -> Tensor:
    """Where episodes begin, on the CPU: a mask on a GPU is waited for.

    Raises:
        TypeError, ValueError: it is no mask of that shape, or has no values.
    """
    try:
        found = torch.as_tensor(reset)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{owner}: reset must be a bool tensor; got {reset!r}") from error
    check_dense(owner, "reset", found)
    if found.is_meta:
        raise ValueError(f"{owner}: reset must hold values; got a tensor on the device meta")
    if found.dtype != torch.bool:
        raise TypeError(f"{owner}: reset must be a bool tensor; got {found.dtype}")
    if found.shape != shape:
        raise ValueError(f"{owner}: reset must have shape {shape}; got {tuple(found.shape)}")
    return found.detach().to("cpu", copy=True)  # the backward pass needs it as it is now


def resets_of(
    owner: str, reset: Any, lengths: Tensor | None, like: Tensor, batch_first: bool, batched: bool = True
) -> Resets:  # fmt: skip
    """What is said of the episodes of a call.

    Args:
        reset: bool (T, B), or (B, T) with ``batch_first``, or (T,) where the call has no batch.
        lengths: as :func:`plastikern.checks.checked_lengths` returns them.
        like: (T, B, ...) or (B, T, ...), on the device of the call.

    Raises:
        TypeError, ValueError: as in :func:`checked_reset`.
    """
    if not batched:
        begins = checked_reset(owner, reset, (like.shape[int(batch_first)],)).unsqueeze(1)
    else:
        begins = checked_reset(owner, reset, tuple(like.shape[:2]))
        begins = begins.mT if batch_first else begins
    return Resets(begins, lengths, like.device)


class Wave(NamedTuple):
    """Episodes of about one length, which run side by side: numbers ``first`` to ``first + size``.

    Attributes:
        steps: of the longest.
        lengths: of each, on the CPU; None: all are equal.
        ends: which of them are the last of an element.
    """

    first: int
    size: int
    steps: int
    lengths: Tensor | None
    ends: Tensor

    @property
    def end(self) -> int:
        """The number of the first episode after them."""
        return self.first + self.size

    @property
    def shape(self) -> tuple[int, int]:
        """Steps and episodes."""
        return self.steps, self.size


class Segments(NamedTuple):
    """Episodes as elements of batches of their own, the longest first.

    Attributes:
        waves: the batches, one behind the other. Between episodes of one length nothing is padded.
        there: of every step of every wave (R,) its place among all steps; steps beyond an episode's end are its last
            one.
        back: of every step (T B,) its place among those of the waves.
        ended: bool (T B,), steps beyond an element's end; None: there are none.
        shape: (T, B) or (B, T), in the layout of the call.
        firsts: of each element (B,) its first episode.
        lasts: of each element (B,) its place among the last episodes of all waves.
        rounds: where a reset gives states of its own, the episodes but the first ones, and their elements, which are
            different ones in each round.
    """

    waves: list[Wave]
    there: Tensor
    back: Tensor
    ended: Tensor | None
    shape: tuple[int, int]
    firsts: Tensor
    lasts: Tensor
    rounds: list[tuple[Tensor, Tensor]]

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """What is given at every step, in the layout of the call, for the episodes of every wave: (L, S, ...)."""
        rows: Tensor = _Moved.apply(tensor.flatten(0, 1), self.there, None, self.back, self.ended)
        if len(self.waves) == 1:
            return [rows.unflatten(0, self.waves[0].shape)]
        parts = rows.split([math.prod(wave.shape) for wave in self.waves])
        return [x.unflatten(0, wave.shape) for x, wave in zip(parts, self.waves, strict=True)]

    def scattered(self, tensors: Sequence[Tensor]) -> Tensor:
        """What comes out at every step of every wave (L, S, ...), in the layout of the call; 0 beyond the ends."""
        parts = [tensor.flatten(0, 1) for tensor in tensors]
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        found: Tensor = _Moved.apply(rows, self.back, self.ended, self.there, None)
        return found.unflatten(0, self.shape)

    def of_waves(self, tensor: Tensor | None) -> Sequence[Any]:
        """States (S, ...) of all episodes, by waves."""
        if tensor is None or len(self.waves) == 1:
            return [tensor] * len(self.waves)
        return tensor.split([wave.size for wave in self.waves])

    def starting(self, first: Tensor | None, fresh: Tensor | None) -> Tensor | None:
        """States (S, ...) in which episodes begin: those of elements (B, ...) and what a reset gives; None is zero."""
        if first is None and fresh is None:
            return None
        found: Tensor = _Starting.apply(first, fresh, self.waves[-1].end, self.firsts, self.rounds)
        return found

    def last(self, tensors: Sequence[Tensor]) -> Tensor:
        """Of states after the episodes of every wave (S, ...), those after every element (B, ...)."""
        ends = [_Last.apply(x, wave.ends) for x, wave in zip(tensors, self.waves, strict=True)]
        if len(ends) == 1:  # which are those of the elements, in their order
            return ends[0]
        return torch.cat(ends).index_select(0, self.lasts)


def _selected(tensor: Tensor, places: Tensor) -> Tensor:
    """Rows of a tensor. Where the library keeps memory for large ones, fresh pages do not cost more than the copy."""
    plain = torch.compiler.is_compiling() or tensor.device.type != "cpu" or library.MISSING
    if plain:
        return tensor.index_select(0, places)
    shape = [len(places), *tensor.shape[1:]]
    room: Tensor = torch.ops.plastikern.empty.default(tensor, shape)
    return torch.index_select(tensor, 0, places, out=room)


class _Moved(torch.autograd.Function):
    """Rows in other places. Gradients come back by the same way: nothing is added up.

    Of what is beyond an end nobody reads the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, tensor: Tensor, places: Tensor, nothing: Tensor | None, *back: Any
    ) -> Tensor:
        # No transform comes here, which would need a forward pass without ctx: those run on the reference.
        ctx.to = places, nothing, *back
        found = _selected(tensor, places)
        if nothing is not None:
            found.masked_fill_(nothing.view(-1, *(1,) * (found.dim() - 1)), 0)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _Moved.apply(grad, *ctx.to[2:], *ctx.to[:2]), *(None,) * 4


class _Last(torch.autograd.Function):
    """Some states of many; the gradient of the others is zero."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, places: Tensor) -> Tensor:
        ctx.of = places, tensor.shape
        return _selected(tensor, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        places, shape = ctx.of
        return grad.new_zeros(shape).index_copy(0, places, grad), None


class _Starting(torch.autograd.Function):
    """First states of elements, and those of resets, in the places of their episodes; the rest is zero."""

    @staticmethod
    def forward(
        ctx: Any, first: Tensor | None, fresh: Tensor | None, count: int, firsts: Tensor, rounds: Any
    ) -> Tensor:  # fmt: skip
        ctx.firsts, ctx.rounds = firsts, rounds
        like = first if first is not None else fresh
        assert like is not None
        found = like.new_zeros(count, *like.shape[1:])
        if first is not None:
            found.index_copy_(0, firsts, first)
        if fresh is not None:
            for episodes, elements in rounds:
                found.index_copy_(0, episodes, fresh.index_select(0, elements))
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        of_first, of_fresh = ctx.needs_input_grad[:2]
        first = grad.index_select(0, ctx.firsts) if of_first else None
        fresh = None
        if of_fresh:
            fresh = grad.new_zeros(len(ctx.firsts), *grad.shape[1:])
            # The elements of a round differ: the sums are added up in one order, on every device.
            for episodes, elements in ctx.rounds:
                fresh = fresh.index_add(0, elements, grad.index_select(0, episodes))
        return first, fresh, None, None, None


class Resets:
    """Where the episodes of a call begin.

    Args:
        begins: bool (T, B), on the CPU: before these steps the state is reset.
        lengths: steps of each element (B,), on the CPU, or None.
        device: of the tensors of the call.
    """

    def __init__(self, begins: Tensor, lengths: Tensor | None, device: torch.device) -> None:
        if lengths is not None:  # beyond an element's end nothing happens
            steps = torch.arange(len(begins)).unsqueeze(-1)
            begins = begins & (steps < lengths)
        self.begins, self.lengths, self.device = begins, lengths, device
        self._segments: tuple[tuple[bool, ...], Segments | None] | None = None

    def on_device(self) -> Tensor:
        """Where episodes begin, bool (T, B), on the device."""
        return lengths_on(self.begins, self.device)

    def first(self, state: Tensor | None, fresh: Tensor | None) -> Tensor | None:
        """The first state (B, ...), where a reset before the first step gives another one; None is zero."""
        if (state is None and fresh is None) or state is fresh or not len(self.begins):
            return state
        begins = self.begins[0]
        if has_values(begins) and not bool(begins.any()):
            return state
        return chosen(lengths_on(begins, self.device), fresh, state)

    def segments(self, batch_first: bool, skips: bool, fresh: bool) -> Segments | None:
        """The episodes as elements, for tensors in that layout; None where none begins after the first step.

        ``skips``: whether padding costs memory alone. ``fresh``: whether a reset gives states of its own.
        """
        options = batch_first, skips, fresh
        if self._segments is None or self._segments[0] != options:
            worth = 2 * self.begins.numel() if skips else WORTH_A_WAVE
            found = segments_of(self.begins, self.lengths, batch_first, self.device, worth, fresh)
            self._segments = options, found
        return self._segments[1]


def chosen(begins: Tensor, fresh: Tensor | None, state: Tensor | None) -> Tensor | None:
    """States (B, ...): ``fresh`` where episodes begin, else ``state``; None is zero."""
    if fresh is None and state is None:
        return None
    like = state if state is not None else fresh
    assert like is not None
    begins = begins.view(-1, *(1,) * (like.dim() - 1))
    return torch.where(begins, 0 if fresh is None else fresh, 0 if state is None else state)


WORTH_A_WAVE = 256
"""Steps of padding, of a rule that computes them: as long as another call."""


def _parts(lengths: Tensor, worth: int) -> list[Tensor]:
    """Episodes, the longest first, apart where that saves padding of so many steps."""
    count, starts, longest = len(lengths), [0], int(lengths[0])
    if longest * count - int(lengths.sum()) <= worth:
        return [lengths]
    # Where they are less than three quarters of a length, and of that again.
    levels = (lengths.clamp(min=1) / lengths[0].clamp(min=1)).log2().div(math.log2(0.75)).long()
    cuts = (levels.diff().nonzero().squeeze(-1) + 1).tolist()
    for cut, length in zip(cuts, lengths[cuts].tolist(), strict=True):
        if (longest - length) * (count - cut) > worth:
            starts.append(cut)
            longest = length
    return list(lengths.split([b - a for a, b in pairwise([*starts, count])]))


# How many episodes there are, and how long the longest is, is known from values only.
@torch.compiler.disable(reason="plastikern: the episodes of a reset are counted outside")  # type: ignore[untyped-decorator]
def segments_of(
    begins: Tensor,
    lengths: Tensor | None,
    batch_first: bool,
    device: torch.device,
    worth: int,
    fresh: bool = True,
) -> Segments | None:
    """The episodes of a call; None where none begins after the first step.

    Args:
        worth: steps of padding that are worth another wave.
        fresh: whether a reset gives states of its own.

    Raises:
        RuntimeError: the mask has no values, as while torch.export makes a program.
    """
    if not has_values(begins):
        raise RuntimeError(
            "reset must hold values, from which fused backends count episodes: not under torch.export, and no fake "
            "tensor; backend='reference' needs none"
        )
    if not bool(begins[1:].any()):
        return None
    steps, batch = begins.shape
    # One element after the other, so that the steps of an episode follow each other.
    marks = begins.mT.clone(memory_format=torch.contiguous_format)
    marks[:, 0] = True
    counts, marks = marks.sum(1), marks.flatten()
    start = marks.nonzero().squeeze(-1)
    element, begin = start // steps, start % steps
    # Among all steps, the place of an episode's first one, and how far from it the next ones lie.
    origin, stride = (start, 1) if batch_first else (begin * batch + element, batch)
    length = torch.diff(start, append=start.new_tensor([steps * batch]))
    if lengths is not None:
        length = torch.minimum(length, (lengths[element] - begin).clamp(min=0))
    # Threads and blocks take neighbours, which should end together.
    length, order = length.sort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    episode = marks.cumsum(0) - 1
    after, episode = torch.arange(steps * batch) - start[episode], rank[episode]
    by_element = episode.view(batch, steps)
    firsts, lasts = by_element[:, 0], by_element[:, -1]

    def moved(tensor: Tensor) -> Tensor:
        return lengths_on(tensor.contiguous(), device)

    waves, places, ends, back = [], [], [], torch.empty_like(after)
    parts, first, row = _parts(length, worth), 0, 0
    for part in parts:
        count, longest = len(part), int(part[0])
        inside = torch.arange(longest).unsqueeze(-1)
        inside = inside.minimum((part - 1).clamp(min=0)) * stride
        places.append((origin[order[first : first + count]] + inside).flatten())
        if len(parts) == 1:
            end, back = lasts, after * count + episode
        else:
            end = lasts[(lasts >= first) & (lasts < first + count)]
            here = (episode >= first) & (episode < first + count)
            back = torch.where(here, after * count + episode + (row - first), back)
        ends.append(end)
        each = None if int(part[-1]) == longest else part
        waves.append(Wave(first, count, longest, each, moved(end - first)))
        first, row = first + count, row + longest * count
    ended = None
    if lengths is not None:
        ended = after >= length[episode]
        back = back.masked_fill(ended, 0)
    there = places[0] if len(places) == 1 else torch.cat(places)
    if not batch_first:
        back = back.view(batch, steps).mT.flatten()
        ended = None if ended is None else ended.view(batch, steps).mT.flatten()
    among = torch.empty_like(rank)
    among[torch.cat(ends)] = torch.arange(batch)
    rounds = []
    if fresh:
        number = torch.arange(len(start)) - (counts.cumsum(0) - counts)[element]
        rounds = [(rank[number == k], element[number == k]) for k in range(1, int(counts.max()))]
    return Segments(
        waves, moved(there), moved(back), None if ended is None else moved(ended),
        (batch, steps) if batch_first else (steps, batch), moved(firsts), moved(among[lasts]),
        [(moved(episodes), moved(elements)) for episodes, elements in rounds],
    )  # fmt: skip
