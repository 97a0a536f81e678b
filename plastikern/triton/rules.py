"""Runs a user's rule on Triton kernels, a launch for each unit."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..reference import ACTIVATIONS
from ..rules.adjoint import level
from ..rules.compiling import cache_folder
from ..rules.running import Spec
from ..rules.tiles import module, parameters
from ..rules.units import READ

TILE = 4096
"""Synapses that a program takes at once."""


@cache
def loaded(text: str) -> ModuleType:
    """The module of a text: Triton reads its kernels from a file."""
    name = f"plastikern_rule_{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    path = cache_folder() / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


class Run:
    """One call, as :class:`plastikern.rules.running.Run`."""

    def __init__(self, spec: Spec, drive: Tensor, pre: Tensor, given: Mapping[str, Tensor]) -> None:
        self.spec, self.drive, self.pre, self.given = spec, drive, pre, dict(given)
        self.rule, self.program = spec.program.rule, spec.program
        self.steps, self.batch, self.posts = drive.shape
        self.pres = pre.shape[-1]
        self.every = math.isqrt(max(self.steps - 1, 0)) + 1
        self.count = {
            "pre_count": drive.new_full((1,), self.pres), "post_count": drive.new_full((1,), self.posts)
        }  # fmt: skip
        self.states: dict[str, list[Tensor]] = {}

    def shape(self, symbol: Any) -> tuple[int, ...]:
        """Of one value for each element."""
        sizes = {"post": self.posts, "pre": self.pres}
        return (self.batch, *(sizes[axis] for axis in ("post", "pre") if axis in symbol.axes))

    def unit(self, k: int) -> str:
        """The variant of unit k."""
        if self.rule.read_after or 0 < k < self.steps:
            return "both"
        return "read" if k == 0 else "change"

    def taken(self, k: int, variant: str, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a unit is given, by name."""
        t = k if self.rule.read_after else k - 1
        found: dict[str, Tensor] = {**self.given, **self.count, **before}
        if variant != "read":
            found["x"] = self.pre_of(t)
            found |= {name: self.given[name][t] for name in self.rule.signals}
            if not self.rule.read_after:
                found["y"], found["z"] = self.activities[t], self.sums[t]
                found["y_as_pre"] = found["y"]
                found |= {
                    f"{name}_as_pre": before[name]
                    for name, kind in self.rule.states.items()
                    if kind == "post"
                }
        if variant != "change":
            read = "" if self.rule.read_after else READ
            found[f"x{read}"] = self.pre_of(k)
            found |= {f"{name}{read}": self.given[name][k] for name in self.rule.signals}
        return found

    def pre_of(self, t: int) -> Tensor:
        """Of step t."""
        if not self.spec.recurrent:
            return self.pre[t]
        return self.pre if t == 0 else self.activities[t - 1]

    def launch(self, way: str, variant: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """A unit; what it returns, by name, those of ``values`` in place."""
        printed = getattr(self.program, way)[variant]
        outputs = printed.schedule.outputs
        symbols = {**outputs}
        for name in parameters(printed):
            if name not in values:
                symbol = symbols.get(name)
                shape = (self.batch, self.posts) if symbol is None else self.shape(symbol)
                values[name] = self.drive.new_empty(shape)
        arguments = [values[name].contiguous() for name in parameters(printed)]
        columns = triton.next_power_of_2(self.pres)
        rows = max(1, min(TILE // columns, triton.next_power_of_2(self.posts)))
        kernel = getattr(loaded(module(self.program)), f"{way}_{variant}")
        kind = tl.float32 if self.drive.dtype == torch.float32 else tl.float64
        kernel[(self.batch,)](
            *arguments, POSTS=self.posts, PRES=self.pres, ROWS=rows, COLUMNS=columns, TYPE=kind,
        )  # fmt: skip
        return {name: values[name] for name in outputs}

    def changed(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The states after a change."""
        return {name: found[f"next_{name}"] for name in self.rule.states}

    def forward(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Activities (T, B, O), and the last states."""
        activation = ACTIVATIONS[self.spec.activity]
        self.activities: list[Tensor] = []
        self.sums: list[Tensor] = []
        state = {name: self.given[name] for name in self.rule.states}
        self.kept = {0: state}
        self.vectors = [state]
        units = self.steps if self.rule.read_after else self.steps + 1
        for k in range(units):
            variant = self.unit(k)
            found = self.launch("forward", variant, self.taken(k, variant, state))
            if variant != "read":
                state = self.changed(found)
                self.vectors.append(
                    {n: v for n, v in state.items() if self.rule.states[n] != "synapse"}
                )
                changes = len(self.vectors) - 1
                if changes % self.every == 0:
                    self.kept[changes] = state
            if k < self.steps:
                self.sums.append(self.drive[k] + found["sum"])
                self.activities.append(activation(self.sums[k]))
        return torch.stack(self.activities), state

    def backward(self, upstream: Tensor, last: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients by name, from those of the activities and of the last states."""
        zeros = torch.zeros_like
        grads: dict[str, Tensor] = {name: zeros(tensor) for name, tensor in self.given.items()}
        grads |= {"drive": zeros(self.drive), "pre": zeros(self.pre)}
        of_state = {name: tensor.clone() for name, tensor in last.items()}
        grad_y = [tensor.clone() for tensor in upstream]
        grad_z = [zeros(tensor) for tensor in upstream]
        matrices: dict[str, Tensor] = {}
        segment: dict[int, dict[str, Tensor]] = {}
        units = self.steps if self.rule.read_after else self.steps + 1

        def to_pre(t: int, grad: Tensor) -> None:
            if not self.spec.recurrent:
                grads["pre"][t] += grad
            elif t == 0:
                grads["pre"] += grad
            else:
                grad_y[t - 1] += grad

        for k in range(units - 1, -1, -1):
            variant, t = self.unit(k), k if self.rule.read_after else k - 1
            number = k if self.rule.read_after else max(k - 1, 0)
            if number not in segment:
                segment = self.segment(number)
            values = self.taken(k, variant, segment[number] | self.vectors[number])
            values |= {f"grad_{name}": grad for name, grad in of_state.items()}
            if k < self.steps:
                with torch.enable_grad():
                    z = self.sums[k].detach().requires_grad_()
                    y = ACTIVATIONS[self.spec.activity](z)
                values["grad_sum"] = torch.autograd.grad(y, z, grad_y[k])[0] + grad_z[k]
                grads["drive"][k] = values["grad_sum"]
            for name, symbol in self.program.backward[variant].schedule.outputs.items():
                plain = name.removeprefix("grad_of_")
                if level(symbol) == "synapse" and plain not in self.rule.states:
                    matrices.setdefault(name, self.drive.new_zeros(self.shape(symbol)))
                    values[name] = matrices[name]
            found = self.launch("backward", variant, values)
            of_state = {name: found[f"grad_of_{name}"] for name in self.rule.states}
            for name, grad in found.items():
                whole = name.removeprefix("grad_of_")
                plain = whole.removesuffix(READ).removesuffix("_as_pre")
                at = k if whole.endswith(READ) else t
                if plain == "x":
                    to_pre(at, grad)
                elif plain == "y":
                    grad_y[at] += grad
                elif plain == "z":
                    grad_z[at] += grad
                elif plain in self.rule.signals:
                    grads[plain][at] += grad.view_as(grads[plain][at])
                elif plain in self.rule.states and whole != plain:
                    of_state[plain] = of_state[plain] + grad
                elif plain not in self.rule.states and name not in matrices:
                    grads[plain] += grad.sum(0).view_as(grads[plain])
        for name, total in matrices.items():
            grads[name.removeprefix("grad_of_")] = total.sum(0)
        if self.program.multiplies:
            pre = self.pre
            if self.spec.recurrent:
                pre = torch.stack([self.pre, *self.activities[:-1]])
            grads["w"] = grads["drive"].flatten(0, 1).mT @ pre.flatten(0, 1)
        return grads | of_state

    def segment(self, last: int) -> dict[int, dict[str, Tensor]]:
        """The states from the checkpoint before, computed again."""
        start = last // self.every * self.every
        found = {start: self.kept[start]}
        for number in range(start, last):
            k = number if self.rule.read_after else number + 1
            values = self.taken(k, "change", found[number] | self.vectors[number])
            found[number + 1] = self.changed(self.launch("forward", "change", values))
        return found


class Sequence(torch.autograd.Function):
    """As :class:`plastikern.rules.running.Sequence`."""

    @staticmethod
    def forward(
        ctx: Any, spec: Spec, drive: Tensor, pre: Tensor, *given: Tensor
    ) -> tuple[Tensor, ...]:
        """Of drive (T, B, O); pre (T, B, I), on a recurrent connection the first activities (B, O)."""
        run = Run(spec, drive, pre, dict(zip(spec.names, given, strict=True)))
        output, last = run.forward()
        ctx.run = run
        return output, *(last[name] for name in spec.program.rule.states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """Gradients of everything that went in."""
        run: Run = ctx.run
        last = dict(zip(run.rule.states, upstream[1:], strict=True))
        grads = run.backward(upstream[0], last)
        return None, grads["drive"], grads["pre"], *(grads[name] for name in run.spec.names)
