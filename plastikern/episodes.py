"""Episodes that begin inside a sequence.

Elements of a batch do not know of each other, so that an element of several episodes is several elements with lengths:
a backend without resets of its own is given every episode as an element, the longest first, and what comes out is put
back into the places of the steps. The reference has the definition, a choice of the state before the step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

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


class Segments(NamedTuple):
    """Episodes as elements of a batch of their own, the longest first.

    Attributes:
        lengths: steps of each episode (S,), on the CPU.
        there: of every step of every episode (L S,) its place among all steps; steps beyond an episode's end are its
            last one.
        back: of every step (T B,) its place among those of the episodes.
        ended: bool (T B,), steps beyond an element's end; None: there are none.
        shape: (T, B) or (B, T), in the layout of the call.
        firsts, lasts: of each element (B,) its first and its last episode.
        rounds: the episodes but the first ones, and their elements, which are different ones in each round.
    """

    lengths: Tensor
    there: Tensor
    back: Tensor
    ended: Tensor | None
    shape: tuple[int, int]
    firsts: Tensor
    lasts: Tensor
    rounds: list[tuple[Tensor, Tensor]]

    def _of_episodes(self) -> tuple[Tensor, None, tuple[int, int]]:
        count = len(self.lengths)
        return self.there, None, (len(self.there) // count, count)

    def _of_steps(self) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        return self.back, self.ended, self.shape

    def gathered(self, tensor: Tensor) -> Tensor:
        """What is given at every step, in the layout of the call, for every episode: (L, S, ...)."""
        found: Tensor = _Moved.apply(tensor, *self._of_episodes(), *self._of_steps())
        return found

    def scattered(self, tensor: Tensor) -> Tensor:
        """What comes out at every step of every episode (L, S, ...), in the layout of the call; 0 beyond the ends."""
        found: Tensor = _Moved.apply(tensor, *self._of_steps(), *self._of_episodes())
        return found

    def starting(self, first: Tensor | None, fresh: Tensor | None) -> Tensor | None:
        """States (S, ...) in which episodes begin: those of elements (B, ...) and what a reset gives; None is zero."""
        if first is None and fresh is None:
            return None
        found: Tensor = _Starting.apply(first, fresh, len(self.lengths), self.firsts, self.rounds)
        return found

    def last(self, tensor: Tensor) -> Tensor:
        """Of states after every episode (S, ...), those after every element (B, ...)."""
        return tensor.index_select(0, self.lasts)


class _Moved(torch.autograd.Function):
    """Rows of two leading dimensions in other places. Gradients come back by the same way: nothing is added up.

    Of what is beyond an end nobody reads the gradient.
    """

    @staticmethod
    def forward(
        tensor: Tensor, places: Tensor, nothing: Tensor | None, shape: tuple[int, int], *back: Any
    ) -> Tensor:
        found = tensor.flatten(0, 1).index_select(0, places)
        if nothing is not None:
            found.masked_fill_(nothing.view(-1, *(1,) * (found.dim() - 1)), 0)
        return found.unflatten(0, shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, *ctx.to = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _Moved.apply(grad, *ctx.to[3:], *ctx.to[:3]), *(None,) * 6


class _Starting(torch.autograd.Function):
    """First states of elements, and those of resets, in the places of their episodes; the rest is zero."""

    @staticmethod
    def forward(
        first: Tensor | None, fresh: Tensor | None, count: int, firsts: Tensor, rounds: Any
    ) -> Tensor:
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
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        *_, ctx.firsts, ctx.rounds = inputs

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
        self._segments: tuple[bool, Segments | None] | None = None

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

    def segments(self, batch_first: bool) -> Segments | None:
        """The episodes as elements, for tensors in that layout; None where none begins after the first step."""
        if self._segments is None or self._segments[0] != batch_first:
            found = segments_of(self.begins, self.lengths, batch_first, self.device)
            self._segments = batch_first, found
        return self._segments[1]


def chosen(begins: Tensor, fresh: Tensor | None, state: Tensor | None) -> Tensor | None:
    """States (B, ...): ``fresh`` where episodes begin, else ``state``; None is zero."""
    if fresh is None and state is None:
        return None
    like = state if state is not None else fresh
    assert like is not None
    begins = begins.view(-1, *(1,) * (like.dim() - 1))
    return torch.where(begins, 0 if fresh is None else fresh, 0 if state is None else state)


# How many episodes there are, and how long the longest is, is known from values only.
@torch.compiler.disable(reason="plastikern: the episodes of a reset are counted outside")  # type: ignore[untyped-decorator]
def segments_of(
    begins: Tensor, lengths: Tensor | None, batch_first: bool, device: torch.device
) -> Segments | None:
    """The episodes of a call; None where none begins after the first step.

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
    starts = begins.mT.clone(memory_format=torch.contiguous_format)
    starts[:, 0] = True
    counts = starts.sum(1)
    starts = starts.flatten()
    first = starts.nonzero().squeeze(-1)
    count, element = len(first), first // steps
    span = torch.diff(first, append=first.new_tensor([steps * batch]))
    if lengths is not None:
        span = torch.minimum(span, (lengths[element] - first % steps).clamp(min=0))
    # Threads and blocks take neighbours, which should end together.
    span, order = span.sort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(count)
    inside = torch.arange(int(span[0])).unsqueeze(-1)
    there = first[order] + torch.minimum(inside, (span - 1).clamp(min=0))
    episode = starts.cumsum(0) - 1
    after, episode = torch.arange(steps * batch) - first[episode], rank[episode]
    ended = after >= span[episode]
    back = torch.where(ended, 0, after * count + episode)
    if not batch_first:
        there = there % steps * batch + there // steps
        back, ended = (x.view(batch, steps).mT.flatten() for x in (back, ended))
    number = torch.arange(count) - (counts.cumsum(0) - counts)[element]
    rounds = [(rank[number == k], element[number == k]) for k in range(1, int(counts.max()))]
    episode = episode.view(batch, steps)

    def moved(tensor: Tensor) -> Tensor:
        return lengths_on(tensor.contiguous(), device)

    return Segments(
        span, moved(there.flatten()), moved(back), moved(ended) if bool(ended.any()) else None,
        (batch, steps) if batch_first else (steps, batch), moved(episode[:, 0]), moved(episode[:, -1]),
        [(moved(episodes), moved(elements)) for episodes, elements in rounds],
    )  # fmt: skip
