"""The output layer of a language model together with its loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 512
"""Words whose scores exist at once: 20 MB of them for a vocabulary of 10,000."""


class SoftmaxLayer(nn.Linear):
    """A linear layer (R, N) to (R, V) whose output is only wanted for its cross-entropy.

    :meth:`loss` gives the numbers of ``cross_entropy(self(hidden), target)``, to rounding, and differs in memory: the
    gradients are computed beside the loss, in the place of the scores, and that place is used again by the next call.
    Fresh memory for scores, probabilities and their gradients costs more time than what is computed there.
    """

    def __init__(self, features: int, vocabulary: int, device: torch.device | None = None):
        super().__init__(features, vocabulary, device=device)
        self._scores = self.weight.new_empty(0)

    def loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """The mean cross-entropy (), differentiable once.

        Args:
            hidden: (R, N).
            target: int64 (R,), from 0 to V - 1.
        """
        size = (min(len(hidden), ROWS), self.out_features)
        if (
            self._scores.shape != size
            or self._scores.dtype != hidden.dtype
            or self._scores.device != hidden.device
        ):
            self._scores = hidden.new_empty(size)
        found: Tensor = _CrossEntropy.apply(hidden, self.weight, self.bias, target, self._scores)
        return found


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, scores: Tensor
    ) -> Tensor:
        rows, wanted = len(hidden), any(ctx.needs_input_grad)
        gradients = (
            [torch.empty_like(hidden), torch.empty_like(weight), torch.zeros_like(bias)]
            if wanted
            else []
        )
        loss = hidden.new_zeros(())
        for first in range(0, rows, ROWS):
            some, right = hidden[first : first + ROWS], target[first : first + ROWS].unsqueeze(1)
            here = torch.addmm(bias, some, weight.t(), out=scores[: len(some)])
            best, score = here.amax(1, keepdim=True), here.gather(1, right)
            torch.softmax(here, 1, out=here)
            # The probability of the best word is 1 over the sum of exp(score - best). That of the right one may be 0.
            loss += (best - score - here.amax(1, keepdim=True).log()).sum()
            if wanted:
                # The derivative by the scores is the probabilities, less 1 for the right word.
                here.scatter_add_(1, right, here.new_full(right.shape, -1.0))
                torch.mm(here, weight, out=gradients[0][first : first + ROWS])
                gradients[1].addmm_(here.t(), some, beta=0 if first == 0 else 1)
                gradients[2] += here.sum(0)
        ctx.save_for_backward(*gradients)
        ctx.rows = rows
        return loss / rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradient / ctx.rows
        return (*(each.mul_(scale) for each in ctx.saved_tensors), None, None)
