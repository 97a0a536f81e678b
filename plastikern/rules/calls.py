"""A call of a user's rule: what is run, and what its backends share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..program import spacing
from .cells import CELLS, POSTS, carries, drives, history_of
from .decorator import Rule
from .programs import Program

KINDS = ("rnn", "linear", *CELLS)
ACTIVITIES = ("tanh", "relu", "sigmoid", "identity", "softmax")
"""In the order of csrc/generated/program.h."""
CLAMP, GATES, CELL = "_clamp", "_gates", "_cell"
"""Names of what neurons are given besides the rule, which has no such names."""


@dataclass(frozen=True)
class Spec:
    """What is compiled and run.

    Attributes:
        names: of the tensors that ``Sequence`` takes after drive and pre, in their order: states, what else the rule is
            given, and what the neurons are: :data:`CLAMP` (T, B, O), bool, where the activity is the drive; of a
            network with gates :data:`GATES` (3 N, N), of a GRU (2 N, N), the recurrent weights that are not plastic,
            and of an LSTM :data:`CELL` (B, N), the first one.
        activity: of neurons without gates; a softmax is of all O neurons of an element.
        recurrent: whether the activities before a step are its pre.
        kind: ``"rnn"``, ``"linear"``, ``"lstm"`` or ``"gru"``. The drive of the latter two is (T, B, 4 N) in the order
            of their cells' sums, and their candidate is plastic.
        target: ``"cpu"``, ``"cuda"``, or the folder of an emulator of CUDA.
        post: of a network with gates, what the rule sees as ``y``.
        every: steps from one checkpoint to the next; None: as :func:`spacing` says.

    Raises:
        ValueError: a name stands twice, or the options do not go together.
    """

    program: Program
    names: tuple[str, ...]
    activity: str
    recurrent: bool
    target: str = "cpu"
    kind: str = "rnn"
    post: str = "candidate"
    every: int | None = None

    def __post_init__(self) -> None:
        """Checks that the options go together."""
        for what, value, known in (
            ("kind", self.kind, KINDS),
            ("post", self.post, CELLS[self.kind].posts if self.gated else POSTS),
            ("activity", self.activity, ACTIVITIES),
        ):  # fmt: skip
            if value not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}; got {value!r}")
        # Here, and of this program: kernels would read beyond the activities.
        if self.program.other_role and not self.recurrent:
            raise self.program.rule.error("as_pre is for recurrent layers")
        if self.every is not None and self.every < 1:
            raise ValueError(f"every must be at least one step; got {self.every}")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"names must differ from each other; {', '.join(twice)} stands twice")
        needed = {GATES, *([CELL] if self.carries else [])}
        if self.gated and not (self.recurrent and needed <= {*self.names}):
            raise ValueError(
                f"a network of kind {self.kind!r} is recurrent, and is given gates{' and cell' * self.carries}"
            )
        if self.clamps and (self.gated or self.activity == "softmax"):
            raise ValueError("clamp is for neurons that have an activity each by itself")

    @property
    def gated(self) -> bool:
        """Whether the neurons have gates."""
        return self.kind in CELLS

    @property
    def carries(self) -> bool:
        """Whether a cell goes on from step to step beside the activities."""
        return carries(self.kind)

    @property
    def history(self) -> tuple[str, ...]:
        """What is kept of each step of neurons with gates."""
        return history_of(self.kind, self.post)

    @property
    def clamps(self) -> bool:
        """Whether the tensors hold a mask of clamped neurons."""
        return CLAMP in self.names

    @cached_property
    def rows_apart(self) -> bool:
        """Whether no row needs another one, at any step: a few of them then go through many steps at a time."""
        return self.target == "cpu" and rows_apart(self.program, self.recurrent, self.activity)

    @cached_property
    def text(self) -> str:
        """What is compiled."""
        return self.program.text_apart if self.rows_apart else self.program.text

    @property
    def last_names(self) -> list[str]:
        """What comes out after the activities, by name: an LSTM's cell, and the states."""
        return [*(["cell"] if self.carries else []), *self.program.rule.states]


def rows_apart(program: Program, recurrent: bool, activity: str) -> bool:
    """Whether no row of a layer needs another one, at any step."""
    return not recurrent and activity != "softmax" and program.rows_apart


def target_of(backend: str) -> str:
    """What :class:`Spec` compiles for on a backend."""
    return "cuda" if backend == "cuda" else "cpu"


@dataclass
class Call:
    """Tensors by name, and what follows from them on every backend."""

    spec: Spec
    drive: Tensor
    pre: Tensor
    given: Mapping[str, Tensor]

    @cached_property
    def sizes(self) -> tuple[int, int, int, int]:
        """T, B, O, I."""
        steps, batch, width = self.drive.shape
        return steps, batch, width // drives(self.spec.kind), self.pre.shape[-1]

    @property
    def rule(self) -> Rule:
        """The rule."""
        return self.spec.program.rule

    @property
    def every(self) -> int:
        """Steps from one checkpoint to the next."""
        return self.spec.every or spacing(self.sizes[0])

    @property
    def units(self) -> int:
        """How many units there are: one that only reads is the first of a rule that is read before its change."""
        return self.sizes[0] + (not self.rule.read_after)

    @property
    def clamp(self) -> Tensor | None:
        """Where activities are the drive, (T, B, O)."""
        return self.given[CLAMP] if self.spec.clamps else None

    def product_gradient(self, grad: Tensor, before: Tensor) -> Tensor:
        """Of a matrix that multiplies ``before`` (T, B, I) at every step, from that of its sums (T, B, O)."""
        return grad.flatten(0, 1).mT @ before.flatten(0, 1)

    def gates_gradient(self, grad_drive: Tensor, before: Tensor) -> Tensor:
        """Of the recurrent weights that are not plastic, from that of the drive (T, B, 4 N)."""
        blocks = grad_drive.split(self.sizes[2], -1)
        of_gates = torch.cat([blocks[number] for number in CELLS[self.spec.kind].others], -1)
        return self.product_gradient(of_gates, before)


class Fused(torch.autograd.Function):
    """A sequence on kernels: without gradients nothing is kept for them."""

    @classmethod
    def apply(cls, spec: Spec, *tensors: Tensor) -> Any:
        """Of drive, pre and what ``spec`` names: activities (T, B, O), an LSTM's last cell, the last states in the
        order of the rule, and what is kept."""
        if needs_gradients(tensors):
            return super().apply(spec, *tensors)
        return cls.alone(spec, *tensors)

    @staticmethod
    def alone(spec: Spec, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The forward pass where nothing needs a gradient."""
        raise NotImplementedError


def needs_gradients(tensors: tuple[Tensor, ...]) -> bool:
    """Whether somebody may ask for them; transforms of torch.func and forward mode are told by the autograd function
    what it cannot do."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
