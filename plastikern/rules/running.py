"""Runs a user's rule on the CPU: binds tensors to the slots of its compiled schedules."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import library
from .adjoint import LEVELS, level
from .compiling import compiled
from .programs import Printed, Program
from .units import READ

ACTIVITIES = ("tanh", "relu", "sigmoid", "identity")
"""In the order of csrc/neuron.h."""
SCALARS = {torch.float32: "float", torch.float64: "double"}
WARPS = 8
"""Of a block, as in csrc/cuda/rule.cuh."""
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
            "steps", "batch", "posts", "pres", "stride", "every", "read_after", "activity", "states", "totals")),
        ("forward", _Binding * 3), ("again", _Binding), ("backward", _Binding * 3),
        *((name, ctypes.c_void_p) for name in (
            "drive", "sum", "z", "y", "first", "state", "checkpoint", "grad_y", "grad_z", "grad_drive", "totals_of",
            "work")),
        *((name, ctypes.c_int64) for name in ("width", "slots", "sums", "workers")),
    ]  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """What is compiled and run.

    Attributes:
        names: of the tensors that :class:`Sequence` takes after drive and pre, in their order: states, then what else
            the program is given.
        recurrent: whether the activities before a step are its pre.
    """

    program: Program
    names: tuple[str, ...]
    activity: str
    recurrent: bool
    target: str = "cpu"


def source(
    role: str, base: Tensor | None = None, step: int = 0, batch: int = 0, offset: int = 0
) -> _Source:
    """Where a slot lies."""
    return _Source(ROLES.index(role), 0 if base is None else base.data_ptr(), step, batch, offset)


def over_time(tensor: Tensor, offset: int) -> _Source:
    """Of step k + offset, in (T, B, ...)."""
    return source("memory", tensor, tensor.stride(0), tensor.stride(1), offset)


@dataclass
class Run:
    """One call: tensors by name, and what the passes share."""

    spec: Spec
    drive: Tensor
    pre: Tensor
    given: Mapping[str, Tensor]
    kept: dict[str, Tensor] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)
    lines: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def sizes(self) -> tuple[int, int, int, int]:
        """T, B, O, I."""
        steps, batch, posts = self.drive.shape
        return steps, batch, posts, self.pre.shape[-1]

    @property
    def rule(self) -> Any:
        """The rule."""
        return self.spec.program.rule

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
    def kept_names(self) -> list[str]:
        """What a forward pass keeps for the backward pass, beside the last states."""
        states = [
            f"{n}:checkpoints" if kind == "synapse" else n for n, kind in self.rule.states.items()
        ]
        return ["activities", "z", "pre_count", "post_count", *states]

    def job(self) -> _Job:
        """What both passes are told."""
        steps, batch, posts, pres = self.sizes
        job = _Job(
            steps=steps, batch=batch, posts=posts, pres=pres, stride=self.stride,
            every=math.isqrt(max(steps - 1, 0)) + 1,
            read_after=int(self.rule.read_after),
            activity=ACTIVITIES.index(self.spec.activity), states=len(self.matrices),
        )  # fmt: skip
        program = self.spec.program
        schedules = [*program.forward.values(), *program.backward.values()]
        job.width = self._whole_lines(max(posts, pres))
        job.slots = max(sum(map(len, each.slots.values())) for each in schedules)
        job.workers = min(torch.get_num_threads(), batch)
        if self.spec.target != "cpu":
            job.workers, job.sums = batch, WARPS * max(each.sums for each in schedules)
        job.drive = self.drive.data_ptr()
        job.first = self._pointers([self.given[name] for name in self.matrices])
        return job

    def _new(self, *shape: int) -> Tensor:
        """Of memory that the native library keeps for the next call, where there is one."""
        if library.MISSING is None and self.drive.is_cpu:
            found: Tensor = getattr(torch.ops, library.operators()).empty(self.drive, shape)
            return found
        return self.drive.new_empty(shape)

    def _launch(self, job: _Job, name: str) -> None:
        """Runs a pass in room of its own."""
        matrix = job.posts * job.stride
        size = (job.slots + job.sums) * job.width + (job.every + 1) * job.states * matrix
        work = self._new(job.workers, size)
        job.work = work.data_ptr()
        compiled_rule = self._library()
        assert compiled_rule.plastikern_job_bytes() == ctypes.sizeof(_Job)
        failed = getattr(compiled_rule, f"plastikern_{name}")(ctypes.byref(job))
        if failed:
            raise RuntimeError(f"{self.rule.name}: the launch failed with error {failed}")

    def _pointers(self, tensors: list[Tensor]) -> int:
        array = (ctypes.c_void_p * (len(tensors) + 1))(
            *(tensor.data_ptr() for tensor in tensors), None
        )
        self.held.append(array)
        return ctypes.addressof(array)

    def bind(self, printed: Printed, place: Any, additions: list[_Addition]) -> _Binding:
        """The slots of a schedule, by ``place(name, level)``."""
        found = _Binding()
        for number, of in enumerate(LEVELS):
            names = printed.slots[of]
            array = (_Source * (len(names) + 1))(*(place(name, of) for name in names))
            self.held.append(array)
            found.counts[number], found.sources[number] = len(names), ctypes.addressof(array)
        added = (_Addition * (len(additions) + 1))(*additions)
        self.held.append(added)
        found.additions, found.added = len(additions), ctypes.addressof(added)
        return found

    def taken(self, name: str, variant: str) -> _Source | None:
        """Where what a unit is given lies, but for states of synapses; None: it is none of that."""
        step = 0 if name.endswith(READ) or self.rule.read_after else -1
        plain = name.removesuffix(READ).removesuffix("_as_pre")
        if plain == "x":
            return over_time(self.kept["activities"] if self.spec.recurrent else self.pre, step)
        if plain in ("y", "z"):
            return over_time(
                self.kept["activities"][self.spec.recurrent :] if plain == "y" else self.kept["z"],
                step,
            )
        if plain in self.rule.signals:
            return over_time(self.given[plain], step)
        if plain in self.rule.states and self.rule.states[plain] != "synapse":
            return over_time(self.kept[plain], 0 if variant == "read" else step)
        if plain in self.spec.program.kinds:
            return None if plain in self.rule.states else source("memory", self._in_lines(plain))
        if plain in ("pre_count", "post_count"):
            return source("memory", self.kept[plain])
        return None

    def forward(self, keep: bool) -> None:
        """The forward pass; ``kept`` has what it leaves."""
        steps, batch, posts, pres = self.sizes
        new = self._new
        kept = self.kept
        kept["activities"] = new(steps + self.spec.recurrent, batch, posts)
        if self.spec.recurrent:
            kept["activities"][0] = self.pre
        kept["z"], kept["sum"] = new(steps, batch, posts), new(batch, posts)
        kept["pre_count"], kept["post_count"] = (new(1).fill_(size) for size in (pres, posts))
        job = self.job()
        for name, kind in self.rule.states.items():
            if kind == "synapse":
                kept[name] = new(batch, posts, self.stride)
                if keep:
                    kept[f"{name}:checkpoints"] = new(
                        max(steps - 1, 0) // job.every, batch, posts, self.stride
                    )
            else:
                kept[name] = new(steps + 1, *self.given[name].shape)
                kept[name][0] = self.given[name]
        job.every = job.every if keep else 0
        job.sum, job.z = kept["sum"].data_ptr(), kept["z"].data_ptr()
        job.y = kept["activities"][self.spec.recurrent :].data_ptr()
        job.state = self._pointers([kept[name] for name in self.matrices])
        job.checkpoint = self._pointers(
            [kept[f"{name}:checkpoints"] for name in self.matrices] if keep else []
        )
        for number, (variant, printed) in enumerate(self.spec.program.forward.items()):
            job.forward[number] = self.bind(
                printed, lambda name, of, v=variant: self._forward_slot(name, v), []
            )
        self._launch(job, "forward")

    def _forward_slot(self, name: str, variant: str) -> _Source:
        posts = self.sizes[2]
        state = name.removeprefix("next_")
        if name == "sum":
            return source("memory", self.kept["sum"], 0, posts)
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

    def backward(self, upstream: Tensor, last: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients by name, of ``drive``, ``pre`` and everything given, from those of the activities (T, B, O) and of
        the last states."""
        steps, batch, posts, _ = self.sizes
        rule, program = self.rule, self.spec.program
        zeros = self.drive.new_zeros
        grads: dict[str, Tensor] = {
            "activities": zeros(steps + self.spec.recurrent, batch, posts), "z": zeros(steps, batch, posts),
            "drive": zeros(steps, batch, posts),
        }  # fmt: skip
        grads["activities"][self.spec.recurrent :] = upstream
        if not self.spec.recurrent:
            grads["pre"] = torch.zeros_like(self.pre)
        for name in rule.signals:
            grads[name] = torch.zeros_like(self.given[name])
        units = steps if rule.read_after else steps + 1
        for name, kind in rule.states.items():
            if kind == "synapse":
                grads[name] = torch.nn.functional.pad(
                    last[name], (0, self.stride - self.sizes[3])
                ).contiguous()
            else:
                grads[name] = zeros(2, *last[name].shape)
                grads[name][units & 1] = last[name]
        job = self.job()
        job.totals = self.coefficients[""]
        totals = zeros(job.workers, job.totals)
        job.totals_of = totals.data_ptr()
        job.z, job.y = (
            self.kept["z"].data_ptr(),
            self.kept["activities"][self.spec.recurrent :].data_ptr(),
        )
        job.grad_y = grads["activities"][self.spec.recurrent :].data_ptr()
        job.grad_z, job.grad_drive = grads["z"].data_ptr(), grads["drive"].data_ptr()
        job.checkpoint = self._pointers(
            [self.kept[f"{name}:checkpoints"] for name in self.matrices]
        )
        job.again = self.bind(
            program.forward["change"], lambda name, of: self._again_slot(name), []
        )
        for number, (variant, printed) in enumerate(program.backward.items()):
            job.backward[number] = self.bind(
                printed, lambda name, of, v=variant: self._backward_slot(name, of, v, grads),
                self._additions(printed, grads),
            )  # fmt: skip
        self._launch(job, "backward")
        totals = totals.sum(0, dtype=torch.float64)
        if self.spec.recurrent:
            grads["pre"] = grads["activities"][0]
        for name, kind in rule.states.items():
            grads[name] = grads[name][..., : self.sizes[3]] if kind == "synapse" else grads[name][0]
        for name, at in self.coefficients.items():
            if name == "w" and program.multiplies:
                pre = self.kept["activities"][:steps] if self.spec.recurrent else self.pre
                grads["w"] = grads["drive"].flatten(0, 1).mT @ pre.flatten(0, 1)
            elif name:
                lines, like = self._in_lines(name), self.given[name]
                total = totals[at : at + lines.numel()].view(lines.shape)
                total = total[:, : self.sizes[3]] if lines.dim() == 2 else total
                grads[name] = total.to(like.dtype).view(like.shape)
        return grads

    def _backward_slot(self, name: str, of: str, variant: str, grads: dict[str, Tensor]) -> _Source:
        posts = self.sizes[2]
        outgoing, state = (
            name.startswith("grad_of_"),
            name.removeprefix("grad_of_").removeprefix("grad_"),
        )
        if name in self.matrices:
            return source("segment", None, 0, self.matrices.index(name))
        if name == "grad_sum":
            return over_time(grads["drive"], 0)
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
                to = over_time(grads["activities"] if self.spec.recurrent else grads["pre"], step)
            elif plain == "y":
                to = over_time(grads["activities"][self.spec.recurrent :], step)
            elif plain == "z" or plain in self.rule.signals:
                to = over_time(grads[plain], step)
            elif whole in self.rule.states:
                continue
            elif plain in self.rule.states:  # in its other role
                to = source(
                    "parity", grads[plain], grads[plain].stride(0), grads[plain].stride(1), 0
                )
            elif of != "synapse" and plain in self.coefficients:
                to = source("total", None, 0, self.coefficients[plain])
            else:
                continue
            count = {"element": 1, "column": self.sizes[3], "row": self.sizes[2]}[of]
            slot = printed.slots[of].index(name)
            found.append(_Addition(LEVELS.index(of), slot, to, count))
        return found

    def _library(self) -> ctypes.CDLL:
        return compiled(self.spec.program.text, SCALARS[self.drive.dtype], self.spec.target)


class Sequence(torch.autograd.Function):
    """All steps: the activities (T, B, O), the last states in the order of the rule, and what is kept."""

    @staticmethod
    def forward(spec: Spec, drive: Tensor, pre: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """Of drive (T, B, O); pre (T, B, I), on a recurrent connection the first activities (B, O)."""
        run = Run(spec, drive, pre, dict(zip(spec.names, given, strict=True)))
        run.forward(True)
        kinds = spec.program.rule.states
        last = [
            (run.kept[n][..., : run.sizes[3]] if kind == "synapse" else run.kept[n][-1]).clone(
                memory_format=torch.contiguous_format
            )
            for n, kind in kinds.items()
        ]
        output = run.kept["activities"][spec.recurrent :].clone()
        return output, *last, *(run.kept[name] for name in run.kept_names)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps what the backward pass needs."""
        kept = output[1 + len(inputs[0].program.rule.states) :]
        ctx.mark_non_differentiable(*kept)
        ctx.spec = inputs[0]
        ctx.save_for_backward(*inputs[1:], *kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """Gradients of everything that went in."""
        spec = ctx.spec
        drive, pre, *rest = ctx.saved_tensors
        given, kept = rest[: len(spec.names)], rest[len(spec.names) :]
        run = Run(spec, drive, pre, dict(zip(spec.names, given, strict=True)))
        run.kept = dict(zip(run.kept_names, kept, strict=True))
        states = [*spec.program.rule.states]
        last = dict(zip(states, upstream[1 : 1 + len(states)], strict=True))
        grads = run.backward(upstream[0], last)
        return None, grads["drive"], grads["pre"], *(grads.get(name) for name in spec.names)
