"""One call of an operator: its arguments checked, and put as kernels take them."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..checks import HALF, lengths_on
from ..network import KINDS, State
from ..ops.fakes import Sizes, sizes_of
from ..plasticity import (
    CONSTRAINTS,
    LINEAR_NONLINEARITIES,
    MODULATOR_INPUTS,
    MODULATOR_NONLINEARITIES,
    POSTS,
    RULES,
)
from ..rules import papers
from .vocabulary import ABSENT, Activities, Inputs, Options, Parameters, Sequence, dims, sequence_of

CODES = (
    KINDS, RULES, CONSTRAINTS, LINEAR_NONLINEARITIES, POSTS, ("simple", "retroactive"), MODULATOR_INPUTS,
    MODULATOR_NONLINEARITIES,
)  # fmt: skip
"""What the numbers of an operator's ``codes`` stand for, in their order."""
MAX_NEURONS = tl.TRITON_MAX_TENSOR_NUMEL
"""What a program of Triton can hold at once."""
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def compact(tensor: Tensor | None) -> Tensor | None:
    """The same values, neurons side by side."""
    return None if tensor is None else tensor.contiguous()


def require(condition: bool, message: str) -> None:
    """Or refuse the call."""
    if not condition:
        raise RuntimeError(message)


def check(
    name: str, tensor: Tensor | None, *shapes: tuple[int, ...], like: Tensor, dtypes: Any = None
) -> None:
    """A tensor, if there is one, must have one of these shapes, the dtype and the device of ``like``; or ``dtypes``."""
    if tensor is None:
        return
    wanted = " or ".join(str(shape) for shape in shapes)
    require(
        tuple(tensor.shape) in shapes, f"{name} must have shape {wanted}; got {tuple(tensor.shape)}"
    )
    allowed = (like.dtype,) if dtypes is None else dtypes
    names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
    require(
        tensor.dtype in allowed,
        f"{name} must have dtype {names}; got {str(tensor.dtype).removeprefix('torch.')}",
    )
    require(tensor.device == like.device, f"{name} must be on {like.device}; got {tensor.device}")


class Call:
    """What both passes take. ``activities`` is the drive, or, of a backward pass, the output."""

    def __init__(
        self, name: str, activities: Tensor, features: Tensor | None, hidden: Tensor | None, cell: Tensor | None,
        trace: Tensor | None, eligibility: Tensor | None, weight: Tensor, alpha: Tensor, rate: Tensor | None,
        rate_scale: Tensor | None, eligibility_rate: Tensor | None, modulator_weight: Tensor | None,
        modulator_bias: Tensor | None, modulated: Tensor | None, clamp: Tensor | None, lengths: Tensor | None,
        codes: list[int], clip: float, batch_first: bool,
    ) -> None:  # fmt: skip
        require(len(codes) == len(CODES), f"codes must be {len(CODES)} numbers; got {len(codes)}")
        for place, (code, words) in enumerate(zip(codes, CODES, strict=True)):
            require(0 <= code < len(words), f"code {place} is out of range: {code}")
        (
            kind,
            rule,
            constraint,
            nonlinearity,
            post,
            modulation,
            modulator_input,
            modulator_nonlinearity,
        ) = (words[code] for code, words in zip(codes, CODES, strict=True))
        require(
            papers.go_together(rule, constraint),
            f"rule {rule} and constraint {constraint} do not go together",
        )
        require(kind == "linear" or nonlinearity != "softmax", "softmax is for a linear layer")
        require((kind == "linear") == (features is not None), "features are for a linear layer")
        possible = {"hidden": True, "previous_hidden": kind != "linear", "cell": kind == "lstm"}[
            modulator_input
        ]
        require(possible, "the modulator's input does not exist in this network")
        retroactive = modulation == "retroactive"
        gates = 4 if kind == "lstm" else 1
        self.sizes: Sizes = sizes_of(
            activities, gates if name == "drive" else 1, features, batch_first
        )
        _, _, batch, posts, pres = self.sizes
        is_step = activities.dim() == 2
        require(posts > 0 and pres > 0, f"{name} must have at least one neuron")
        # Inside a matrix, kernels count with 32 bits.
        require(
            posts * pres < 1 << 31,
            f"weight must have fewer than 2^31 values per gate; got {posts} x {pres}",
        )
        most = max(posts, pres)
        require(
            most <= MAX_NEURONS,
            f"weight must have at most {MAX_NEURONS} rows per gate and columns; got {most}",
        )
        require(alpha.dtype in TYPES, f"alpha must be float32 or float64; got {alpha.dtype}")

        def over_time(size: int) -> tuple[int, ...]:
            return (batch, size) if is_step else self.sizes.over_time(size)

        self.like = like = alpha
        width, low = posts * gates, (alpha.dtype, *HALF)
        coefficients = ((), (1,), (posts,), (posts, pres))
        check(
            name, activities, over_time(width if name == "drive" else posts), like=like, dtypes=low
        )
        check("features", features, over_time(pres), like=like, dtypes=low)
        check("clamp", clamp, over_time(posts), like=like, dtypes=(torch.bool,))
        check("weight", weight, (width, pres), like=like, dtypes=low)
        for label, tensor in (("hidden", hidden), ("cell", cell)):
            check(label, tensor, (batch, posts), like=like)
        for label, tensor in (("trace", trace), ("eligibility", eligibility)):
            check(label, tensor, self.sizes.traces, like=like)
        for label, tensor in (
            ("alpha", alpha), ("rate", rate), ("rate_scale", rate_scale), ("eligibility_rate", eligibility_rate),
        ):  # fmt: skip
            check(label, tensor, *coefficients, like=like)
        check("modulator_weight", modulator_weight, (posts,), like=like)
        check("modulator_bias", modulator_bias, (), (1,), like=like)
        check("modulated", modulated, (posts,), like=like, dtypes=(torch.bool,))
        lengths = self.checked(lengths)
        require(
            (modulator_weight is None) == (modulator_bias is None),
            "a modulator has weight and bias",
        )
        require(
            rate is not None or modulator_weight is not None,
            "rate must be a tensor without a modulator",
        )
        require(modulator_weight is not None or rate_scale is None, "rate_scale needs a modulator")
        require(
            retroactive == (eligibility_rate is not None),
            "eligibility_rate is for retroactive modulation",
        )
        require(
            retroactive or (eligibility is None and modulated is None),
            "eligibility is for retroactive modulation",
        )
        require(kind == "rnn" or clamp is None, "clamp is for a recurrent network")
        require(kind == "lstm" or cell is None, "cell is for an LSTM")
        require(kind != "linear" or hidden is None, "hidden is for a recurrent network")

        self.options = Options(
            kind, rule, constraint, nonlinearity, post, retroactive, modulated is not None,
            modulator_weight is not None, modulator_input, modulator_nonlinearity, float(clip), posts, pres,
            dims(alpha), dims(rate), dims(rate_scale), dims(eligibility_rate), TYPES[alpha.dtype],
        )  # fmt: skip
        self.inputs = Inputs(
            self.layout(activities if name == "drive" else None), self.layout(features), self.layout(clamp),
            compact(lengths),
        )  # fmt: skip
        self.first = State(*(compact(tensor) for tensor in (hidden, cell, trace, eligibility)))
        self.parameters = Parameters(*(
            compact(tensor)
            for tensor in (
                weight, alpha, rate, rate_scale, eligibility_rate, modulator_weight, modulator_bias, modulated,
            )
        ))  # fmt: skip

    def checked(self, lengths: Tensor | None) -> Tensor | None:
        """On the device. Those that come from the CPU are checked; :mod:`plastikern.functional` checked the others."""
        if lengths is None:
            return None
        if lengths.is_cpu:
            steps = self.sizes.steps
            low, high = (int(bound) for bound in lengths.aminmax()) if lengths.numel() else (0, 0)
            require(
                0 <= low <= high <= steps,
                f"lengths must lie from 0 to {steps}; got {low} to {high}",
            )
        if lengths.device != self.like.device:
            lengths = lengths_on(lengths, self.like.device)
        check("lengths", lengths, (self.sizes.batch,), like=self.like, dtypes=(torch.int64,))
        return lengths

    def layout(self, tensor: Tensor | None) -> Sequence:
        """A tensor with values for every step of every element: (B, size) of a step, (T, B, size) or (B, T, size)."""
        if tensor is None:
            return ABSENT
        tensor = tensor.contiguous()
        if tensor.dim() == 2:
            return sequence_of(tensor, 0, tensor.shape[-1])
        time, element = tensor.stride()[:2][:: -1 if self.sizes.batch_first else 1]
        return sequence_of(tensor, time, element)

    def activities(
        self, output: Tensor, history: Tensor | None, modulators: Tensor | None
    ) -> Activities:
        """What a forward pass leaves, as kernels take it."""
        return Activities(self.layout(output), self.layout(history), self.layout(modulators))

    def new(self, *shape: int) -> Tensor:
        """Scratch."""
        return self.like.new_empty(shape)

    def traces(self, *before: int) -> Tensor:
        """Room for traces (..., kinds, B, O, I)."""
        return self.new(*before, self.options.traces, *self.sizes.traces)
