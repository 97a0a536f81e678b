"""Runs a user's rule on Triton kernels, a launch for each unit."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..ops.fused import first_order
from ..reference import ACTIVATIONS
from ..rules.adjoint import level
from ..rules.calls import CELL, CLAMP, GATES, Call, Fused, Spec
from ..rules.compiling import kept
from ..rules.firing import Fired, fired, gated
from ..rules.tiles import module, parameters
from ..rules.units import READ, SEEN
from .launch import MAX_WARPS, block, launch_as

TILE_BYTES = 8 << 10
"""Of the states of one kind that a program takes at once, where a row is no longer."""
BYTES_PER_THREAD = 32
"""Of these: a thread of the ten published rules' backward pass has several states and their gradients, and spills
twice as many (docs/kernels.md)."""


@cache
def loaded(text: str) -> ModuleType:
    """The module of a text: Triton reads its kernels from a file."""
    name = f"plastikern_rule_{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    path = kept(f"{name}.py", text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


class Run(Call):
    """One call, as :class:`plastikern.rules.running.Run`."""

    def __init__(self, spec: Spec, drive: Tensor, pre: Tensor, given: Mapping[str, Tensor]) -> None:
        super().__init__(spec, drive, pre, dict(given))
        self.program = spec.program
        self.steps, self.batch, self.posts, self.pres = self.sizes
        self.count = {
            "pre_count": drive.new_full((1,), self.pres), "post_count": drive.new_full((1,), self.posts)
        }  # fmt: skip

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
                found |= self.left[t].seen
            posts = {**self.rule.states, **self.rule.signals, "y": "post", "z": "post"}
            found |= {
                f"{name}_as_pre": found[name]
                for name, kind in posts.items()
                if kind == "post" and name in found
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
        return self.pre if t == 0 else self.left[t - 1].output

    def cell_before(self, t: int) -> Tensor | None:
        """An LSTM's cell before step t."""
        if not self.spec.carries:
            return None
        return self.given[CELL] if t == 0 else self.left[t - 1].cell

    def fire(self, t: int, drive: Tensor, total: Tensor, x: Tensor, cell: Tensor | None) -> Fired:
        """The neurons at step t, from the plastic sums."""
        if self.spec.gated:
            gates, before = x @ self.given[GATES].mT, x if cell is None else cell
            return gated(self.spec.kind, drive, total, gates, before, self.spec.post)
        clamp = None if self.clamp is None else self.clamp[t]
        return fired(drive, total, ACTIVATIONS[self.spec.activity], clamp)

    def fire_adjoint(self, t: int, upstream: Fired) -> dict[str, Tensor]:
        """Gradients of ``drive``, ``total``, ``x`` and ``cell`` from those of what step t has left."""
        given = {"drive": self.drive[t], "total": self.totals[t], "x": self.pre_of(t)}
        if (cell := self.cell_before(t)) is not None:
            given["cell"] = cell
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
        with torch.enable_grad():
            left = self.fire(t, leaves["drive"], leaves["total"], leaves["x"], leaves.get("cell"))
        pairs = [(v, g) for v, g in zip(left, upstream, strict=True) if v is not None]
        values, grads = zip(*pairs, strict=True)
        found = torch.autograd.grad(values, [*leaves.values()], grads, allow_unused=True)
        return {name: grad for name, grad in zip(leaves, found, strict=True) if grad is not None}

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
        arguments = tuple(values[name].contiguous() for name in parameters(printed))
        size, columns = self.drive.element_size(), block(self.pres)
        rows = max(1, min(TILE_BYTES // size // columns, block(self.posts)))
        warps = max(1, min(MAX_WARPS, rows * columns * size // BYTES_PER_THREAD // 32))
        constants = {
            "POSTS": self.posts, "PRES": self.pres, "ROWS": rows, "COLUMNS": columns,
            "TYPE": tl.float32 if self.drive.dtype == torch.float32 else tl.float64,
        }  # fmt: skip
        kernel = getattr(loaded(module(self.program)), f"{way}_{variant}")
        launch_as(kernel, (self.batch,), arguments, constants, warps)
        return {name: values[name] for name in outputs}

    def changed(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The states after a change."""
        return {name: found[f"next_{name}"] for name in self.rule.states}

    def forward(self, keep: bool) -> list[Tensor]:
        """Activities (T, B, O), and what is last; ``keep``: what a backward pass needs, too."""
        self.left: list[Fired] = []
        self.totals: list[Tensor] = []
        state = {name: self.given[name] for name in self.rule.states}
        self.kept = {0: state}
        self.vectors = [state]
        for k in range(self.units):
            variant = self.unit(k)
            found = self.launch("forward", variant, self.taken(k, variant, state))
            if variant != "read":
                state = self.changed(found)
                self.vectors.append(
                    {n: v for n, v in state.items() if self.rule.states[n] != "synapse"}
                )
                changes = len(self.vectors) - 1
                if keep and changes % self.every == 0:
                    self.kept[changes] = state
            if k < self.steps:
                self.totals.append(found["sum"])
                self.left.append(
                    self.fire(k, self.drive[k], found["sum"], self.pre_of(k), self.cell_before(k))
                )
        output = torch.stack([each.output for each in self.left])
        cell = self.left[-1].cell
        cells = [] if cell is None else [cell]
        return [output, *cells, *(state[name] for name in self.rule.states)]

    def backward(self, upstream: Tensor, last: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients by name, as :meth:`plastikern.rules.running.Run.backward` gives them."""
        zeros = torch.zeros_like
        grads: dict[str, Tensor] = {name: zeros(tensor) for name, tensor in self.given.items()}
        grads |= {":drive": zeros(self.drive), ":pre": zeros(self.pre)}
        of_state = {name: last[name].clone() for name in self.rule.states}
        # Of what each step has left; the rule's y of its own, beside the activity.
        of_left = [
            Fired(
                grad.clone(), zeros(grad), zeros(grad), zeros(grad) if self.spec.carries else None
            )
            for grad in upstream
        ]
        cell = last["cell"].clone() if self.spec.carries else None
        of_total = zeros(upstream)
        matrices: dict[str, Tensor] = {}
        segment: dict[int, dict[str, Tensor]] = {}

        def to_pre(t: int, grad: Tensor) -> None:
            if not self.spec.recurrent:
                grads[":pre"][t] += grad
            elif t == 0:
                grads[":pre"] += grad
            else:
                of_left[t - 1].output.add_(grad)

        for k in range(self.units - 1, -1, -1):
            variant, t = self.unit(k), k if self.rule.read_after else k - 1
            number = k if self.rule.read_after else max(k - 1, 0)
            if number not in segment:
                segment = self.segment(number)
            values = self.taken(k, variant, segment[number] | self.vectors[number])
            if variant != "read":
                values |= {SEEN + name: segment[number + 1][name] for name in self.program.seen}
            values |= {f"grad_{name}": grad for name, grad in of_state.items()}
            if k < self.steps:
                before = self.fire_adjoint(k, of_left[k]._replace(cell=cell))
                cell = before.get("cell")
                grads[":drive"][k], of_total[k] = before["drive"], before["total"]
                values["grad_sum"] = of_total[k]
                if "x" in before:
                    to_pre(k, before["x"])
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
                elif plain in of_left[at].seen:
                    of_left[at].seen[plain].add_(grad)
                elif plain in self.rule.signals:
                    grads[plain][at] += grad.view_as(grads[plain][at])
                elif plain in self.rule.states and whole != plain:
                    of_state[plain] = of_state[plain] + grad
                elif plain not in self.rule.states and name not in matrices:
                    grads[plain] += grad.sum(0).view_as(grads[plain])
        for name, total in matrices.items():
            grads[name.removeprefix("grad_of_")] = total.sum(0)
        pre = self.pre
        if self.spec.recurrent:
            pre = torch.stack([self.pre, *(each.output for each in self.left[:-1])])
        if self.program.multiplies:
            grads["w"] = self.product_gradient(of_total, pre)
        if self.spec.gated:
            grads[GATES] = self.gates_gradient(grads[":drive"], pre)
        if cell is not None:
            grads[CELL] = cell
        return grads | of_state

    def segment(self, last: int) -> dict[int, dict[str, Tensor]]:
        """The states from the checkpoint before, computed again."""
        start = last // self.every * self.every
        found = {start: self.kept[start]}
        for number in range(start, last + bool(self.program.seen)):
            k = number if self.rule.read_after else number + 1
            values = self.taken(k, "change", found[number] | self.vectors[number])
            found[number + 1] = self.changed(self.launch("forward", "change", values))
        return found


class PlasticRule(Fused):
    """As :class:`plastikern.rules.running.PlasticRule`."""

    @staticmethod
    def forward(
        ctx: Any, spec: Spec, drive: Tensor, pre: Tensor, *given: Tensor
    ) -> tuple[Tensor, ...]:
        """Of drive (T, B, O); pre (T, B, I), on a recurrent connection the first activities (B, O)."""
        ctx.run = Run(spec, drive, pre, dict(zip(spec.names, given, strict=True)))
        return tuple(ctx.run.forward(True))

    @staticmethod
    def alone(spec: Spec, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Keeps nothing."""
        drive, pre, *given = (tensor.detach() for tensor in tensors)
        run = Run(spec, drive, pre, dict(zip(spec.names, given, strict=True)))
        return tuple(run.forward(False))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """Gradients of everything that went in."""
        run: Run = ctx.run
        last = dict(zip(run.spec.last_names, upstream[1:], strict=True))
        with torch.no_grad():
            grads = run.backward(upstream[0], last)
        if run.spec.clamps:
            del grads[CLAMP]
        found = [grads.get(name) for name in (":drive", ":pre", *run.spec.names)]
        return None, *first_order(found, [run.drive, run.pre, *run.given.values(), *upstream])
