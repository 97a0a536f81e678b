"""Ten published rules, written as their authors' equations are, have the golden values on every backend."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from plastikern.rules import sequences
from plastikern.rules.programs import Program
from plastikern.rules.running import Sequence, Spec
from plastikern.rules.sequences import rule_sequence

from .ten import ACTIVITIES, GRANULARITIES, RULES

HERE = Path(__file__).parents[1]
GOLDEN = dict(np.load(HERE / "data" / "rules.npz"))
COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")


def part(tag: str, kind: str) -> dict[str, Tensor]:
    """What the file has of a rule."""
    start = f"{tag}/{kind}/"
    return {k[len(start) :]: torch.from_numpy(v) for k, v in GOLDEN.items() if k.startswith(start)}


def arguments(tag: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Leaves by their names in the file, and how ``rule_sequence`` takes them."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in part(tag, "in").items()}
    groups: dict[str, dict[str, Tensor]] = {"state": {}, "signal": {}, "coef": {}}
    for name, tensor in leaves.items():
        if "/" in name:
            kind, own = name.split("/")
            groups[kind][own] = tensor
    recurrent = "x" not in leaves
    pre = groups["state"].pop("y") if recurrent else leaves["x"]
    parameters = groups["coef"] | {name: leaves[name] for name in ("w", "alpha") if name in leaves}
    return leaves, {
        "drive": leaves["drive"], "pre": pre, "state": groups["state"], "parameters": parameters,
        "signals": groups["signal"], "granularities": GRANULARITIES.get(tag),
        "activity": ACTIVITIES.get(tag, "tanh"),
    }  # fmt: skip


def check(tag: str, leaves: dict[str, Tensor], output: Tensor, last: dict[str, Tensor]) -> None:
    """Activities, last states and every gradient against the golden values."""
    upstream, expected = part(tag, "upstream"), part(tag, "out")
    torch.testing.assert_close(output, expected["y"], rtol=1e-10, atol=1e-10)
    loss = (output * upstream["y"]).sum()
    for name, tensor in last.items():
        torch.testing.assert_close(tensor, expected[f"last/{name}"], rtol=1e-10, atol=1e-10)
        loss = loss + (tensor * upstream[f"last/{name}"]).sum()
    golden = part(tag, "grad")
    grads = torch.autograd.grad(loss, [*leaves.values()])
    for name, grad in zip(leaves, grads, strict=True):
        right = golden[name] if name in golden else golden[name.split("/")[-1]]
        torch.testing.assert_close(
            grad, right, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("tag", RULES)
def test_the_reference_has_the_golden_values(tag: str) -> None:
    leaves, given = arguments(tag)
    check(tag, leaves, *rule_sequence(RULES[tag], **given, backend="reference"))


def some(*quick: str) -> list[Any]:
    """The rules; all but some are slow."""
    return [tag if tag in quick else pytest.param(tag, marks=pytest.mark.slow) for tag in RULES]


@COMPILER
@pytest.mark.parametrize("tag", some("A5", "A9", "A10"))
def test_compiled_rules_have_the_golden_values(tag: str) -> None:
    leaves, given = arguments(tag)
    check(tag, leaves, *rule_sequence(RULES[tag], **given, backend="cpu"))


@COMPILER
@pytest.mark.parametrize("tag", some("A4"))
def test_rules_on_emulated_cuda_have_the_golden_values(tag: str) -> None:
    leaves, given = arguments(tag)
    parameters = {**given["state"], **given["signals"], **given["parameters"]}
    spec = Spec(
        Program(RULES[tag], of_use(tag)), tuple(parameters), given["activity"], "x" not in leaves
    )
    spec = replace(spec, target=str(HERE / "cuda_emulator"))
    output, *rest = Sequence.apply(spec, given["drive"], given["pre"], *parameters.values())
    check(tag, leaves, output, dict(zip(RULES[tag].states, rest, strict=False)))


def of_use(tag: str) -> dict[str, str]:
    """Granularities, as ``rule_sequence`` finds them."""
    _, given = arguments(tag)
    options = given["signals"], given["granularities"] or {}
    return sequences._checked(
        RULES[tag], given["drive"], given["pre"], given["state"], given["parameters"], *options,
        given["drive"].shape[-1],
    )  # fmt: skip


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="run by test_interpreted.py")
@pytest.mark.parametrize("tag", some("A10"))
def test_interpreted_rules_have_the_golden_values(tag: str) -> None:
    leaves, given = arguments(tag)
    check(tag, leaves, *rule_sequence(RULES[tag], **given, backend="triton"))


def drawn(tag: str, sizes: tuple[int, int, int, int]) -> dict[str, Any]:
    """Random arguments of ``rule_sequence``; sizes T, B, O, I."""
    steps, batch, posts, pres = sizes
    own, generator = RULES[tag], torch.Generator().manual_seed(sum(sizes))
    of_use = GRANULARITIES.get(tag, {})
    pres = posts if tag == "A5" else pres

    def leaf(*shape: int, low: float = -0.5, high: float = 0.5) -> Tensor:
        tensor = torch.empty(shape, dtype=torch.float64).uniform_(low, high, generator=generator)
        return tensor.requires_grad_()

    shapes: dict[str, tuple[int, ...]] = {
        "synapse": (batch, posts, pres), "pre": (batch, pres), "post": (batch, posts), "element": (batch,),
    }  # fmt: skip
    parameters: dict[str, tuple[int, ...]] = {
        "layer": (),
        "pre": (pres,),
        "post": (posts,),
        "connection": (posts, pres),
    }
    taken = {"w", "alpha"} & {*own.taken}
    return {
        "drive": leaf(steps, batch, posts), "pre": leaf(batch, posts) if tag == "A5" else leaf(steps, batch, pres),
        "state": {name: leaf(*shapes[kind]) for name, kind in own.states.items()},
        "signals": {name: leaf(steps, *shapes[kind]) for name, kind in own.signals.items()},
        "parameters": {
            name: leaf(*parameters[of_use.get(name, "layer")], low=low, high=high)
            for name, low, high in ((n, 2.0, 2.1) if n == "n" else (n, 0.1, 0.5) for n in own.coefficients)
        } | {name: leaf(posts, pres, low=0.2, high=0.6) for name in taken},
        "granularities": of_use, "activity": ACTIVITIES.get(tag, "tanh"),
    }  # fmt: skip


@COMPILER
@pytest.mark.parametrize("sizes", [(1, 1, 5, 5), (2, 1, 33, 51), (7, 3, 20, 33), (12, 2, 51, 8)])
@pytest.mark.parametrize("tag", some("A5", "A9", "A10"))
def test_compiled_rules_equal_the_reference_at_any_size(
    tag: str, sizes: tuple[int, int, int, int]
) -> None:
    given = drawn(tag, sizes)
    leaves = [
        given["drive"],
        given["pre"],
        *given["state"].values(),
        *given["signals"].values(),
        *given["parameters"].values(),
    ]
    found = []
    for backend in ("reference", "cpu"):
        output, last = rule_sequence(RULES[tag], **given, backend=backend)
        results = [output, *last.values()]
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
        loss = sum((r * w).sum() for r, w in zip(results, weights, strict=True))
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        found.append(
            results
            + [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
        )
    for right, left in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


@COMPILER
def test_two_runs_give_the_same_bits() -> None:
    found = []
    for _ in range(2):
        leaves, given = arguments("A9")
        output, last = rule_sequence(RULES["A9"], **given, backend="cpu")
        loss = output.sum() + last["H"].sum()
        found.append([output, *torch.autograd.grad(loss, [*leaves.values()])])
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)
