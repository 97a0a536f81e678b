"""Runs a user's rule on the CPU or on a CUDA device: binds tensors to the slots of its compiled schedules."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from .. import library
from ..ops.fused import first_order
from ..program import KINDS, spacing
from . import cuda, layout
from .adjoint import LEVELS, level
from .calls import ACTIVITIES, CELL, GATES, Call, Fused, Spec
from .cells import POSTS
from .compiling import compiled
from .firing import HIDDEN
from .programs import Printed, Program
from .units import READ, SEEN

__all__ = ["ACTIVITIES", "SCALARS", "PlasticRule", "Run", "Spec"]
SCALARS = {torch.float32: "float", torch.float64: "double"}
WARPS = 8
"""Of a block, as in csrc/cuda/rule.cuh."""
MAX_GROUP = 16
"""Elements that a worker takes through the steps of neurons with gates together, at most, as in csrc/cpu/rule.h."""
SIDE_BY_SIDE = 6 << 20
"""Bytes that their segments take at most, where there is more than one: what stays in the caches."""
SEGMENT = 32
"""Steps of a segment where a few rows go through all of it at a time."""
ROLES = ("memory", "parity", "scratch", "segment", "total")
"""In the order of csrc/cpu/rule.h, as all structures here."""


class _Source(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("role", "base", "step", "batch", "offset")]


class _Addition(ctypes.Structure):
    _fields_ = [
        ("level", ctypes.c_int64),
        ("slot", ctypes.c_int64),
        ("to", _Source),
        ("count", ctypes.c_int64),
    ]


class _Binding(ctypes.Structure):
    _fields_ = [
        ("counts", ctypes.c_int64 * 4), ("sources", ctypes.c_void_p * 4), ("additions", ctypes.c_int64),
        ("added", ctypes.c_void_p),
    ]  # fmt: skip


class _Job(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in (
            "steps", "batch", "posts", "pres", "stride", "every", "read_after", "activity", "states", "totals",
            "kind", "post", "history_step", "history_rows", "group")),
        ("forward", _Binding * 3), ("again", _Binding), ("backward", _Binding * 3),
        *((name, ctypes.c_void_p) for name in (
            "drive", "clamp", "gates", "cell", "sum", "z", "y", "history", "first", "state", "checkpoint", "grad_y",
            "grad_z", "grad_drive", "grad_sum", "grad_post", "grad_cell", "totals_of", "work")),
        *((name, ctypes.c_int64) for name in ("width", "slots", "sums", "workers", "ahead", "home", "shared")),
    ]  # fmt: skip


class _Packed:
    """A job, and behind it in one piece of memory the arrays that it points into."""

    def __init__(self, words: int, **known: int) -> None:
        self.bytes = (ctypes.c_int64 * (ctypes.sizeof(_Job) // 8 + words))()
        self.job = _Job.from_buffer(self.bytes)
        for name, value in known.items():
            setattr(self.job, name, value)
        self.job.home = ctypes.addressof(self.bytes)
        self.end = ctypes.sizeof(_Job)

    def put(self, array: ctypes.Array[Any]) -> int:
        """Its address there."""
        at, self.end = self.job.home + self.end, self.end + ctypes.sizeof(array)
        assert self.end <= ctypes.sizeof(self.bytes), "more words than the program says"
        ctypes.memmove(at, array, ctypes.sizeof(array))
        return at

    def pointers(self, tensors: list[Tensor]) -> int:
        """Where their addresses are."""
        return self.put((ctypes.c_void_p * len(tensors))(*(each.data_ptr() for each in tensors)))


def checkpoint_spacing(steps: int, apart: bool) -> int:
    """Steps from one checkpoint to the next, where nobody says.

    Args:
        apart: as :attr:`Spec.rows_apart`. The segments of a few rows are all that is there at a time then, and long
            ones cost the least.
    """
    return min(max(steps, 1), SEGMENT) if apart else spacing(steps)


def source(
    role: str, base: Tensor | None = None, step: int = 0, batch: int = 0, offset: int = 0
) -> _Source:
    """Where a slot lies."""
    return _Source(ROLES.index(role), 0 if base is None else base.data_ptr(), step, batch, offset)


def over_time(tensor: Tensor, offset: int) -> _Source:
    """Of step k + offset, in (T, B, ...)."""
    return source("memory", tensor, tensor.stride(0), tensor.stride(1), offset)


@cache
def _most(program: Program) -> tuple[int, int]:
    """Slots of a schedule and sums of one sweep, at most."""
    schedules = [*program.forward.values(), *program.backward.values()]
    slots = max(sum(map(len, each.slots.values())) for each in schedules)
    return slots, max(each.sums for each in schedules)


@cache
def _plain(name: str) -> tuple[str, bool]:
    """What a slot is called after, and whether it is of the step that reads."""
    return name.removesuffix(READ).removesuffix("_as_pre"), name.endswith(READ)


@dataclass
class Run(Call):
    """One call on the CPU or a CUDA device: what the passes share.

    Attributes:
        kept: by name, states and what else a pass leaves; names that are no state's begin with a colon.
    """

    kept: dict[str, Tensor] = field(default_factory=dict)
    held: list[Tensor] = field(default_factory=list)
    lines: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def matrices(self) -> list[str]:
        """States of synapses."""
        return [name for name, kind in self.rule.states.items() if kind == "synapse"]

    @cached_property
    def coefficients(self) -> dict[str, int]:
        """Where the gradient of each parameter lies among the totals; under "" their number."""
        found, at = {}, 0
        for name in (*self.rule.coefficients, "w", "alpha"):
            if name in self.given:
                found[name] = at
                at += self._whole_lines(self._in_lines(name).numel())
        return {**found, "": at}

    @cached_property
    def numbers(self) -> list[str]:
        """Parameters of one number."""
        return [name for name in self.coefficients if name and self.given[name].numel() == 1]

    def _whole_lines(self, count: int) -> int:
        """At least so many values, a whole number of cache lines."""
        line = 64 // self.drive.element_size()
        return (count + line - 1) // line * line

    @property
    def stride(self) -> int:
        """From one row of synapses to the next."""
        return self._whole_lines(self.sizes[3])

    def _in_lines(self, name: str) -> Tensor:
        """A parameter; one of each connection in rows that start on cache lines."""
        if self.spec.program.kinds[name] != "connection":
            return self.given[name]
        if name not in self.lines:
            missing = self.stride - self.sizes[3]
            self.lines[name] = torch.nn.functional.pad(self.given[name], (0, missing)).contiguous()
        return self.lines[name]

    @property
    def every(self) -> int:
        """See base."""
        return self.spec.every or checkpoint_spacing(self.sizes[0], self.spec.rows_apart)

    @property
    def kept_names(self) -> list[str]:
        """What a forward pass keeps for the backward pass, beside the last states."""
        states = [
            f"{n}:checkpoints" if kind == "synapse" else n for n, kind in self.rule.states.items()
        ]
        history = [":history"] if self.spec.gated else []
        return [":activities", ":z", ":pre_count", ":post_count", *history, *states]

    @property
    def outputs(self) -> Tensor:
        """The activities (T, B, O) after each step."""
        return self.kept[":activities"][self.spec.recurrent :]

    @property
    def seen(self) -> Tensor:
        """What the rule sees as y, (T, B, O)."""
        return self.outputs if self.own_post is None else self.kept[":history"][:, :, self.own_post]

    @property
    def own_post(self) -> int | None:
        """The row of the history that the rule sees as y; None: the rule sees the activities."""
        history, post = self.spec.history, self.spec.post
        return history.index(post) if post in history else None

    @property
    def before(self) -> Tensor:
        """The pre-synaptic activities (T, B, I) of each step."""
        return self.kept[":activities"][: self.sizes[0]] if self.spec.recurrent else self.pre

    def packed(self) -> _Packed:
        """A job with what both passes are told."""
        steps, batch, posts, pres = self.sizes
        program = self.spec.program
        slots, sums = _most(program)
        packed = _Packed(
            program.words, steps=steps, batch=batch, posts=posts, pres=pres, stride=self.stride,
            every=self.every, read_after=int(self.rule.read_after),
            activity=ACTIVITIES.index(self.spec.activity), states=len(self.matrices),
            width=self._whole_lines(max(posts, pres)),
            slots=slots, workers=min(torch.get_num_threads(), batch), ahead=int(bool(program.seen)),
        )  # fmt: skip
        job = packed.job
        job.group = self._group(job)
        if self.spec.target != "cpu":
            job.workers, job.sums = batch, WARPS * sums
            # The job itself, and for each slot of a unit a pointer on every level: csrc/cuda/rule.cuh.
            job.shared = ctypes.sizeof(packed.bytes) + 4 * 8 * job.slots
        job.drive = self.drive.data_ptr()
        if self.clamp is not None:
            job.clamp = self._memory(self.clamp.to(self.drive.dtype))
        job.kind, job.post = KINDS.index(self.spec.kind), POSTS.index(self.spec.post)
        if self.spec.gated:
            job.gates = self._memory(self.given[GATES])
        if self.spec.carries:
            job.cell = self._memory(self.given[CELL])
        job.first = packed.pointers([self.given[name] for name in self.matrices])
        return packed

    def _group(self, job: _Job) -> int:
        """Elements that a worker takes through the steps together: they share every reading of the gates, and
        their segments lie side by side."""
        if not self.spec.gated or self.spec.target != "cpu":
            return 1
        segment = (job.every + 1) * job.states * job.posts * job.stride
        most = min(MAX_GROUP, SIDE_BY_SIDE // (max(segment, 1) * self.drive.element_size()))
        each = -(-job.batch // max(job.workers, 1))
        groups = -(-each // max(most, 1))
        return max(-(-each // max(groups, 1)), 1)

    def _memory(self, tensor: Tensor) -> int:
        """The address of its values, in their order, until the call is over."""
        self.held.append(tensor.contiguous())
        return self.held[-1].data_ptr()

    def _bind_history(self, job: _Job) -> None:
        """Of neurons with gates, what is kept of their steps."""
        if self.spec.gated:
            history = self.kept[":history"]
            job.history, job.history_step = history.data_ptr(), history.stride(0)
            job.history_rows = history.shape[2]

    def _new(self, *shape: int) -> Tensor:
        """Of memory that the native library keeps for the next call, where there is one."""
        if library.MISSING is None and self.drive.is_cpu:
            found: Tensor = getattr(torch.ops, library.operators()).empty(self.drive, shape)
            return found
        return self.drive.new_empty(shape)

    def _launch(self, packed: _Packed, name: str) -> None:
        """Runs a pass in room of its own."""
        job = packed.job
        matrix = job.posts * job.stride
        size = (job.slots + job.sums) * job.width
        size += job.group * (job.every + 1) * job.states * matrix
        work = self._new(job.workers, size)
        job.work = work.data_ptr()
        text, scalar = self.spec.text, SCALARS[self.drive.dtype]
        if self.spec.target == "cuda":
            cuda.launch(text, scalar, name, self.drive.device, packed.bytes, job.batch, job.shared)
            return
        compiled_rule = compiled(text, scalar, self.spec.target)
        layout.check(compiled_rule, self.rule.name)
        failed = getattr(compiled_rule, f"plastikern_{name}")(packed.bytes)
        if failed:
            raise RuntimeError(f"{self.rule.name}: the launch failed with error {failed}")

    def bind(
        self, packed: _Packed, printed: Printed, place: Any, additions: list[_Addition]
    ) -> _Binding:
        """The slots of a schedule, by ``place(name, level)``."""
        found = _Binding()
        for number, of in enumerate(LEVELS):
            names = printed.slots[of]
            array = (_Source * len(names))(*(place(name, of) for name in names))
            found.counts[number], found.sources[number] = len(names), packed.put(array)
        found.additions = len(additions)
        found.added = packed.put((_Addition * len(additions))(*additions))
        return found

    @cached_property
    def of_steps(self) -> dict[str, Tensor]:
        """What a rule is given anew at every step, (T, B, ...), but for its states."""
        return {
            **{name: self.given[name] for name in self.rule.signals},
            "x": self.before, "y": self.seen, "z": self.kept[":z"], HIDDEN: self.outputs,
        }  # fmt: skip

    def taken(self, name: str, variant: str) -> _Source | None:
        """Where what a unit is given lies, but for states of synapses; None: it is none of that."""
        plain, of_read = _plain(name)
        step = 0 if of_read or self.rule.read_after else -1
        if plain in self.of_steps:
            return over_time(self.of_steps[plain], step)
        if plain in self.rule.states:
            if self.rule.states[plain] == "synapse":
                return None
            return over_time(self.kept[plain], 0 if variant == "read" else step)
        if plain in self.spec.program.kinds:
            return source("memory", self._in_lines(plain))
        if plain in ("pre_count", "post_count"):
            return source("memory", self.kept[f":{plain}"])
        return None

    def allocate(self, keep: bool) -> None:
        """Makes room for what a forward pass leaves, with what comes in where it goes on."""
        steps, batch, posts, pres = self.sizes
        new = self._new
        kept = self.kept
        kept[":activities"] = new(steps + self.spec.recurrent, batch, posts)
        if self.spec.recurrent:
            kept[":activities"][0] = self.pre
        kept[":z"], kept[":sum"] = new(steps, batch, posts), new(batch, posts)
        kept[":pre_count"], kept[":post_count"] = (new(1).fill_(size) for size in (pres, posts))
        if self.spec.gated:
            rows = len(self.spec.history)
            # What nobody asks for again is written over by the next step.
            of_steps = new(steps if keep else min(steps, 1), batch, rows, posts)
            kept[":history"] = of_steps if keep else of_steps.expand(steps, -1, -1, -1)
        for name, kind in self.rule.states.items():
            if kind == "synapse":
                kept[name] = new(batch, posts, self.stride)
                if keep:
                    kept[f"{name}:checkpoints"] = new(
                        max(steps - 1, 0) // self.every, batch, posts, self.stride
                    )
            else:
                kept[name] = new(steps + 1, *self.given[name].shape)
                kept[name][0] = self.given[name]

    def forward(self, keep: bool) -> None:
        """The forward pass; ``kept`` has what it leaves."""
        self.allocate(keep)
        kept = self.kept
        packed = self.packed()
        job = packed.job
        job.every = job.every if keep else 0
        job.sum, job.z = kept[":sum"].data_ptr(), kept[":z"].data_ptr()
        job.y = self.outputs.data_ptr()
        self._bind_history(job)
        job.state = packed.pointers([kept[name] for name in self.matrices])
        job.checkpoint = packed.pointers(
            [kept[f"{name}:checkpoints"] for name in self.matrices] if keep else []
        )
        for number, (variant, printed) in enumerate(self.spec.program.forward.items()):
            if self._has(variant):
                job.forward[number] = self.bind(
                    packed, printed, lambda name, of, v=variant: self._forward_slot(name, v), []
                )
        self._launch(packed, "forward")

    def _has(self, variant: str) -> bool:
        """Whether a unit of the call is of a variant. A rule that is read before its change has, of a step alone, one
        unit that reads and one that changes: none does both."""
        if variant == "both":
            return self.rule.read_after or self.sizes[0] > 1
        return not self.rule.read_after

    def left(self) -> list[Tensor]:
        """After a forward pass, what comes out of it: the activities and what is last, as views."""
        steps, _, _, pres = self.sizes
        cell = (
            [self.kept[":history"][steps - 1, :, self.spec.history.index("cell")]]
            if self.spec.carries
            else []
        )
        states = [
            self.kept[name][..., :pres] if kind == "synapse" else self.kept[name][-1]
            for name, kind in self.rule.states.items()
        ]
        return [self.outputs, *cell, *states]

    def copies(self) -> list[Tensor]:
        """What comes out, in memory of its own."""
        return [tensor.clone(memory_format=torch.contiguous_format) for tensor in self.left()]

    def _forward_slot(self, name: str, variant: str) -> _Source:
        posts = self.sizes[2]
        state = name.removeprefix("next_")
        if name == "sum":
            return source("memory", self.kept[":sum"], 0, posts)
        if state in self.matrices:
            return source("memory", self.kept[state], 0, posts * self.stride)
        if name.startswith("next_") and state in self.rule.states:
            return over_time(self.kept[state], 1 if self.rule.read_after else 0)
        return self.taken(name, variant) or source("scratch")

    def _again_slot(self, name: str) -> _Source:
        state = name.removeprefix("next_")
        if state in self.matrices:
            return source(
                "segment", None, 0, self.matrices.index(state), int(name.startswith("next_"))
            )
        return self.taken(name, "change") or source("scratch")

    def backward(
        self, upstream: Tensor | None, last: Mapping[str, Tensor | None]
    ) -> dict[str, Tensor]:
        """Gradients by name, of everything given, of ``:drive`` and ``:pre``, from those of the activities (T, B, O)
        and by name of what is last; None is zero."""
        rule, program = self.rule, self.spec.program
        grads = self._first_gradients(upstream, last)
        packed = self.packed()
        job = packed.job
        job.totals = self.coefficients[""]
        totals = self._new(job.workers, job.totals).zero_()
        job.totals_of = totals.data_ptr()
        # One number of a layer gathers its steps element by element: a sum over all of them would round much more.
        each = self._new(self.sizes[1], self._whole_lines(len(self.numbers))).zero_()
        grads[":each"] = each
        job.z, job.y = self.kept[":z"].data_ptr(), self.outputs.data_ptr()
        self._bind_history(job)
        job.grad_y = grads[":outputs"].data_ptr()
        job.grad_z, job.grad_drive = grads[":z"].data_ptr(), grads[":drive"].data_ptr()
        job.grad_sum = grads[":sum"].data_ptr()
        if self.own_post is not None:
            job.grad_post = grads[":seen"].data_ptr()
        if self.spec.carries:
            job.grad_cell = grads[":cell"].data_ptr()
        job.checkpoint = packed.pointers(
            [self.kept[f"{name}:checkpoints"] for name in self.matrices]
        )
        job.again = self.bind(
            packed, program.forward["change"], lambda name, of: self._again_slot(name), []
        )
        for number, (variant, printed) in enumerate(program.backward.items()):
            if self._has(variant):
                job.backward[number] = self.bind(
                    packed, printed, lambda name, of, v=variant: self._backward_slot(name, of, v, grads),
                    self._additions(printed, grads),
                )  # fmt: skip
        self._launch(packed, "backward")
        if self.spec.recurrent:
            grads[":pre"] = grads[":before"][0]
        for name, kind in rule.states.items():
            grads[name] = grads[name][..., : self.sizes[3]] if kind == "synapse" else grads[name][0]
        whole = totals.sum(0, dtype=torch.float64)
        for name, of_elements in zip(self.numbers, each.sum(0, dtype=torch.float64), strict=False):
            whole[self.coefficients[name]] += of_elements
        self._gather(whole, grads)
        return grads

    def _first_gradients(
        self, upstream: Tensor | None, last: Mapping[str, Tensor | None]
    ) -> dict[str, Tensor]:
        """Where gradients are gathered, as they are before the pass; views of the same memory are one gradient."""
        steps, batch, posts, pres = self.sizes
        recurrent = self.spec.recurrent

        def zeros(*shape: int) -> Tensor:
            return self._new(*shape).zero_()

        activities = self._new(steps + recurrent, batch, posts)
        activities[:recurrent] = 0
        activities[recurrent:] = 0 if upstream is None else upstream
        grads = {
            ":outputs": activities[recurrent:], ":z": zeros(steps, batch, posts),
            ":drive": torch.empty_like(self.drive), ":pre": torch.zeros_like(self.pre),
        }  # fmt: skip
        grads[":before"] = activities[:steps] if recurrent else grads[":pre"]
        grads[":seen"] = grads[":outputs"] if self.own_post is None else zeros(steps, batch, posts)
        # That of the drive is that of the sum, where nothing else reaches the drive.
        apart = self.spec.gated or self.clamp is not None
        grads[":sum"] = zeros(steps, batch, posts) if apart else grads[":drive"]
        if self.spec.carries:
            grads[":cell"] = self.drive.new_zeros(batch, posts)
            if (of_cell := last["cell"]) is not None:
                grads[":cell"].copy_(of_cell)
        for name in self.rule.signals:
            grads[name] = torch.zeros_like(self.given[name])
        for name, kind in self.rule.states.items():
            of_last = last[name]
            if kind == "synapse":
                grads[name] = zeros(batch, posts, self.stride)
                place = grads[name][..., :pres]
            else:
                grads[name] = zeros(2, *self.given[name].shape)
                place = grads[name][self.units & 1]
            if of_last is not None:
                place.copy_(of_last)
        return grads

    def _gather(self, totals: Tensor, grads: dict[str, Tensor]) -> None:
        """Gradients of parameters, from the totals of all threads and by products over all steps."""
        for name, at in self.coefficients.items():
            if name == "w" and self.spec.program.multiplies:
                grads["w"] = self.product_gradient(grads[":sum"], self.before)
            elif name:
                lines, like = self._in_lines(name), self.given[name]
                total = totals[at : at + lines.numel()].view(lines.shape)
                total = total[:, : self.sizes[3]] if lines.dim() == 2 else total
                grads[name] = total.to(like.dtype).view(like.shape)
        if self.spec.gated:
            grads[GATES] = self.gates_gradient(grads[":drive"], self.before)
        if self.spec.carries:
            grads[CELL] = grads[":cell"]

    def _backward_slot(self, name: str, of: str, variant: str, grads: dict[str, Tensor]) -> _Source:
        posts = self.sizes[2]
        outgoing, state = (
            name.startswith("grad_of_"),
            name.removeprefix("grad_of_").removeprefix("grad_"),
        )
        if (matrix := name.removeprefix(SEEN)) in self.matrices:
            return source("segment", None, 0, self.matrices.index(matrix), int(name != matrix))
        if name == "grad_sum":
            return over_time(grads[":sum"], 0)
        if name.startswith("grad_") and state in self.rule.states:
            if state in self.matrices:
                return source("memory", grads[state], 0, posts * self.stride)
            return source(
                "parity",
                grads[state],
                grads[state].stride(0),
                grads[state].stride(1),
                int(not outgoing),
            )
        if outgoing and of == "synapse":
            return source("total", None, 0, self.coefficients[state])
        return self.taken(name, variant) or source("scratch")

    def _additions(self, printed: Printed, grads: dict[str, Tensor]) -> list[_Addition]:
        """What goes from slots of vectors to where gradients are gathered."""
        found = []
        for name in printed.schedule.outputs:
            of = level(printed.schedule.outputs[name])
            whole = name.removeprefix("grad_of_")
            plain = whole.removesuffix(READ).removesuffix("_as_pre")
            step = 0 if whole.endswith(READ) or self.rule.read_after else -1
            if plain == "x":
                to = over_time(grads[":before"], step)
            elif plain in ("y", HIDDEN):
                to = over_time(grads[":seen" if plain == "y" else ":outputs"], step)
            elif plain == "z" or plain in self.rule.signals:
                to = over_time(grads[":z" if plain == "z" else plain], step)
            elif whole in self.rule.states:
                continue
            elif plain in self.rule.states:  # in its other role
                to = source(
                    "parity", grads[plain], grads[plain].stride(0), grads[plain].stride(1), 0
                )
            elif of == "element" and plain in self.coefficients:
                each = grads[":each"]
                to = source("memory", each[:, self.numbers.index(plain)], 0, each.stride(0))
            elif of != "synapse" and plain in self.coefficients:
                to = source("total", None, 0, self.coefficients[plain])
            else:
                continue
            count = {"element": 1, "column": self.sizes[3], "row": self.sizes[2]}[of]
            slot = printed.slots[of].index(name)
            found.append(_Addition(LEVELS.index(of), slot, to, count))
        return found


class PlasticRule(Fused):
    """All steps: the activities (T, B, O), what is last, by ``Spec.last_names``, and what is kept."""

    @staticmethod
    def forward(spec: Spec, drive: Tensor, pre: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """Of drive (T, B, O); pre (T, B, I), on a recurrent connection the first activities (B, O)."""
        run = Run(spec, drive, pre, dict(zip(spec.names, given, strict=True)))
        run.forward(True)
        return *run.copies(), *(run.kept[name] for name in run.kept_names)

    @staticmethod
    def alone(spec: Spec, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Keeps nothing."""
        drive, pre, *given = (tensor.detach() for tensor in tensors)
        run = Run(spec, drive, pre, dict(zip(spec.names, given, strict=True)))
        run.forward(False)
        return tuple(tensor.contiguous() for tensor in run.left())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps what the backward pass needs."""
        kept = output[1 + len(inputs[0].last_names) :]
        ctx.mark_non_differentiable(*kept)
        # Else torch makes zeros as large as the checkpoints.
        ctx.set_materialize_grads(False)
        ctx.spec = inputs[0]
        ctx.save_for_backward(*inputs[1:], *kept)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        """Gradients of everything that went in."""
        spec = ctx.spec
        drive, pre, *rest = ctx.saved_tensors
        given, kept = rest[: len(spec.names)], rest[len(spec.names) :]
        run = Run(spec, drive, pre, dict(zip(spec.names, given, strict=True)))
        run.kept = dict(zip(run.kept_names, kept, strict=True))
        last = upstream[1 : 1 + len(spec.last_names)]
        with torch.no_grad():
            grads = run.backward(upstream[0], dict(zip(spec.last_names, last, strict=True)))
        found = [grads.get(name) for name in (":drive", ":pre", *spec.names)]
        return None, *first_order(found, [*ctx.saved_tensors, *upstream])
