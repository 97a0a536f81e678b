"""Masks of recurrent dropout, of zoneout and of steps at which nothing is learned: drawn, checked, apart by layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import HALF, check_tensor, described, has_values
from ..rules.cells import carries
from ..rules.sequences import NO_MASKS, Masks

Given = tuple[Tensor | None, Tensor | None, Any]
"""What a call is given: ``frozen``, ``recurrent_dropout`` and ``zoneout``."""


def dropout_mask(
    p: float, size: Sequence[int], *, generator: torch.Generator | None = None, device: Any = None,
    dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """A mask for ``recurrent_dropout``: 0 with probability ``p``, else 1 / (1 - p).

    Args:
        p: from 0 to less than 1.
        size: (num_layers, B, N).
        generator: whose seed decides; None: torch's own. It is on ``device``.
        device, dtype: of the mask.

    Raises:
        ValueError: another probability.

    Source: Gal and Ghahramani, NeurIPS 2016.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout_mask: p must be from 0 to less than 1; got {p!r}")
    drawn = torch.rand(*size, generator=generator, device=device)
    return (drawn >= p).to(dtype or torch.get_default_dtype()) / (1 - p)


def zoneout_mask(
    p: float, size: Sequence[int], *, generator: torch.Generator | None = None, device: Any = None
) -> Tensor:
    """A mask for ``zoneout``: True with probability ``p``. In evaluation ``torch.full(size, p)`` takes its place, the
    share of the former state on average.

    Args:
        p: from 0 to 1.
        size: (num_layers, T, B, N), or (num_layers, B, T, N) with ``batch_first``.
        generator: whose seed decides; None: torch's own. It is on ``device``.
        device: of the mask.

    Raises:
        ValueError: another probability.

    Source: Krueger et al., ICLR 2017.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"zoneout_mask: p must be from 0 to 1; got {p!r}")
    return torch.rand(*size, generator=generator, device=device) < p


def by_layer(module: Any, given: Given, input: Tensor, batched: bool) -> list[Masks]:
    """The masks of each layer, with a dimension B.

    Args:
        given: as the call is given them, without B where ``input`` had none.
        input: that of the call, (T, B, features) or (B, T, features).

    Raises:
        TypeError, ValueError: a mask of another type, dtype, shape or device.
    """
    if all(mask is None for mask in given):
        return [NO_MASKS] * module.num_layers
    owner, layers, features = type(module).__name__, module.num_layers, module.hidden_size
    frozen, dropout, zoneout = given
    batch = 0 if module.batch_first else 1
    steps, own = input.shape[1 - batch], (input.shape[batch],) if batched else ()
    in_time = tuple(input.shape[:2]) if batched else (steps,)
    floats = (input.dtype, torch.float32) if input.dtype in HALF else (input.dtype,)
    if frozen is not None:
        check_tensor(owner, "frozen", frozen, in_time, input, torch.bool)
    if dropout is not None:
        check_tensor(owner, "recurrent_dropout", dropout, (layers, *own, features), input, *floats)
    pair = zoneout if carries(module.kind) and zoneout is not None else (zoneout, None)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(
            f"{owner}: zoneout must be masks of activities and cells, (hidden, cell); got {described(zoneout)}"
        )
    for name, mask in zip(("", "[1]"), pair, strict=True):
        if mask is not None:
            shape = (layers, *in_time, features)
            check_tensor(owner, f"zoneout{name}", mask, shape, input, torch.bool, *floats)
            # A mask on a GPU is not waited for.
            if (
                not mask.is_cuda
                and has_values(mask)
                and not bool(((mask >= 0) & (mask <= 1)).all())
            ):
                raise ValueError(f"{owner}: zoneout{name} must be from 0 to 1; got another value")
    if not batched:
        frozen = None if frozen is None else frozen.unsqueeze(batch)
        dropout = None if dropout is None else dropout.unsqueeze(1)
        pair = [None if mask is None else mask.unsqueeze(1 + batch) for mask in pair]
    of_layers = [None if mask is None else mask.unbind() for mask in (dropout, *pair)]
    return [
        Masks(frozen, *(None if masks is None else masks[layer] for masks in of_layers))
        for layer in range(layers)
    ]
