"""One call of an operator: its arguments checked, and put as kernels take them."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..checks import HALF, lengths_on
from ..network import State
from ..program import FACTS, OPERANDS, PLACE, Facts, Named, Operand, require, sizes_of
from .vocabulary import ABSENT, Activities, Inputs, Options, Parameters, Sequence, dims, sequence_of

MAX_NEURONS = tl.TRITON_MAX_TENSOR_NUMEL
"""What a program of Triton can hold at once."""
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


LOW = ("drive", "features", "output", "weight")
"""What may be in half precision, for kernels that are called by themselves."""


def compact(tensor: Tensor | None) -> Tensor | None:
    """The same values, neurons side by side."""
    return None if tensor is None else tensor.contiguous()


class Call:
    """What both passes take: tensors by name, of a backward pass with the output.

    ``true``: the facts of :data:`~plastikern.program.FACTS`, by which the tables say what there is.
    """

    def __init__(
        self, facts: Facts, true: frozenset[str], tensors: Named, clip: float,
        batch_first: bool = False, every: int = 0,
    ) -> None:  # fmt: skip
        words, named = facts.words, {name: tensors.get(name) for name in PLACE}
        self.true, self.sizes = true, sizes_of(words, tensors, batch_first, every)
        alpha = tensors["alpha"]
        posts, pres = self.sizes.O, self.sizes.I
        require(posts > 0 and pres > 0, "drive must have at least one neuron")
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
        self.like = alpha
        lengths = named["lengths"] = self.checked(named["lengths"])
        for operand in OPERANDS:
            self.check(operand, named[operand.name])
        self.options = Options(
            kind=words["kind"],
            rule=words["rule"],
            constraint=words["constraint"],
            nonlinearity=words["nonlinearity"],
            post=words["post"],
            retroactive="retroactive" in true,
            half_eligible=named["modulated"] is not None,
            modulated="modulated" in true,
            modulator_input=words["modulator_input"],
            modulator_nonlinearity=words["modulator_nonlinearity"],
            clip=float(clip),
            posts=posts,
            pres=pres,
            alpha=dims(alpha),
            rate=dims(named["rate"]),
            rate_scale=dims(named["rate_scale"]),
            fading=dims(named["eligibility_rate"]),
            dtype=TYPES[alpha.dtype],
        )
        self.inputs = Inputs(
            self.layout(named["drive"]), self.layout(named["features"]), self.layout(named["clamp"]),
            compact(lengths),
        )  # fmt: skip
        self.first = State(*(compact(named[name]) for name in State._fields))
        self.parameters = Parameters(*(compact(named[name]) for name in Parameters._fields))

    def check(self, operand: Operand, tensor: Tensor | None) -> None:
        """A tensor is there where its table says so, and of the shape, dtype and device that it says."""
        name, lacking = operand.name, [x for x in operand.when.split() if x not in self.true]
        if tensor is None:
            needed = not lacking and self.true.issuperset(operand.needed.split())
            return require(not needed, f"{name} is missing")
        require(not lacking, f"{name} is for {FACTS[lacking[0]] if lacking else ''}")
        posts, pres = self.sizes.O, self.sizes.I
        shapes: Any = {"P": ((), (1,), (posts,), (posts, pres)), "1": ((), (1,))}.get(operand.shape)
        if shapes is None:
            letters = operand.shape.replace("CBKOR", "CKBOI")
            shapes = (self.sizes.shape(letters),)
        wanted = " or ".join(map(str, shapes))
        require(
            tuple(tensor.shape) in shapes,
            f"{name} must have shape {wanted}; got {tuple(tensor.shape)}",
        )
        allowed: Any = {"flag": (torch.bool,), "integer": (torch.int64,)}.get(operand.value)
        if allowed is None:
            allowed = (self.like.dtype, *(HALF if name in LOW else ()))
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        require(
            tensor.dtype in allowed,
            f"{name} must have dtype {names}; got {str(tensor.dtype).removeprefix('torch.')}",
        )
        device = self.like.device
        require(tensor.device == device, f"{name} must be on {device}; got {tensor.device}")

    def checked(self, lengths: Tensor | None) -> Tensor | None:
        """On the device. Those that come from the CPU are checked; :mod:`plastikern.functional` checked the others."""
        if lengths is None:
            return None
        if lengths.is_cpu and not lengths.is_floating_point():
            steps = self.sizes.T
            low, high = (int(bound) for bound in lengths.aminmax()) if lengths.numel() else (0, 0)
            require(
                0 <= low <= high <= steps,
                f"lengths must lie from 0 to {steps}; got {low} to {high}",
            )
        if lengths.device != self.like.device:
            lengths = lengths_on(lengths, self.like.device)
        return lengths

    def layout(self, tensor: Tensor | None) -> Sequence:
        """A tensor with values for every step of every element: (B, size) of a step, (T, B, size) or (B, T, size)."""
        if tensor is None:
            return ABSENT
        tensor = tensor.contiguous()
        if self.sizes.step:
            return sequence_of(tensor, 0, tensor.stride(0))
        time, element = tensor.stride()[:2][:: -1 if self.sizes.batch_first else 1]
        return sequence_of(tensor, time, element)

    def activities(
        self, output: Tensor | None, history: Tensor | None, modulators: Tensor | None
    ) -> Activities:
        """What a forward pass leaves, as kernels take it."""
        return Activities(self.layout(output), self.layout(history), self.layout(modulators))

    def new(self, *shape: int) -> Tensor:
        """Scratch."""
        return self.like.new_empty(shape)

    def traces(self, *before: int) -> Tensor:
        """Room for traces (..., kinds, B, O, I)."""
        return self.new(*before, *self.sizes.shape("KBOI"))
