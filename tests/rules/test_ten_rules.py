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
from torch import Tensor, log

from plastikern.rules import sequences
from plastikern.rules.decorator import Rule, rule
from plastikern.rules.operations import over_post, over_pre
from plastikern.rules.programs import Program
from plastikern.rules.running import PlasticRule, Spec
from plastikern.rules.sequences import rule_sequence

from .ten import ACTIVITIES, GRANULARITIES, RULES

HERE = Path(__file__).parents[1]
GOLDEN = dict(np.load(HERE / "data" / "rules.npz"))
EMULATOR = str(HERE / "cuda_emulator")
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
    spec = replace(spec, target=EMULATOR)
    output, *rest = PlasticRule.apply(spec, given["drive"], given["pre"], *parameters.values())
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


def outcome(own: Rule, given: dict[str, Any], backend: str) -> list[Tensor]:
    """Activities, last states and gradients of a random sum of these, on ``"emulated"`` or ``"interpreted"`` kernels or
    a backend."""
    parameters = {**given["state"], **given["signals"], **given["parameters"]}
    leaves = [given["drive"], given["pre"], *parameters.values()]
    if backend == "emulated":
        uses = sequences._checked(
            own, given["drive"], given["pre"], given["state"], given["parameters"], given["signals"],
            given["granularities"], given["drive"].shape[-1],
        )  # fmt: skip
        recurrent = given["pre"].dim() == 2
        spec = Spec(Program(own, uses), tuple(parameters), given["activity"], recurrent, EMULATOR)
        results = [*PlasticRule.apply(spec, *leaves)][: 1 + len(own.states)]
    else:
        named = "triton" if backend == "interpreted" else backend
        output, last = rule_sequence(own, **given, backend=named)
        results = [output, *last.values()]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
    loss: Any = sum((r * w).sum() for r, w in zip(results, weights, strict=True))
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    grads = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
    return [*results, *grads]


@rule(H="synapse", p="pre", q="post")
def of_padding(
    H: Any, p: Any, q: Any, x: Any, y: Any, eta: Any, w: Any, alpha: Any
) -> tuple[Any, Any, Any]:
    """What is no number where memory is padded by zeros, and constants that sums must not count there."""
    row = over_pre(1 / alpha + log(p) * w + 0.5)
    column = over_post(log(q) / alpha + 0.25)
    change = x * y / alpha + log(w) + 0.01 * row + 0.01 * column
    return 0.9 * H + 0.1 * eta * change, 0.5 * p + 0.2, 0.5 * q + 0.1 + 0.1 * y * y


def drawn_for_padding(sizes: tuple[int, int, int, int]) -> dict[str, Any]:
    """Arguments as :func:`drawn` makes them; logarithms are of what is positive."""
    steps, batch, posts, pres = sizes
    generator = torch.Generator().manual_seed(sum(sizes))

    def leaf(*shape: int, low: float = -0.5, high: float = 0.5) -> Tensor:
        tensor = torch.empty(shape, dtype=torch.float64).uniform_(low, high, generator=generator)
        return tensor.requires_grad_()

    positive = {"low": 0.3, "high": 0.6}
    return {
        "drive": leaf(steps, batch, posts), "pre": leaf(steps, batch, pres),
        "state": {
            "H": leaf(batch, posts, pres), "p": leaf(batch, pres, **positive), "q": leaf(batch, posts, **positive)
        },
        "signals": {},
        "parameters": {
            "eta": leaf(posts, pres), "w": leaf(posts, pres, **positive), "alpha": leaf(posts, pres, **positive)
        },
        "granularities": {}, "activity": "tanh",
    }  # fmt: skip


INTERPRETED = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="run by test_interpreted.py"
)
NEEDED = {"cpu": [COMPILER], "emulated": [COMPILER], "interpreted": [INTERPRETED]}
"""By backend, what a test of it needs."""


def each_rule(*quick: str) -> Any:
    """Rules on all backends; all but some on the CPU are slow."""
    return pytest.mark.parametrize(("tag", "backend"), [
        pytest.param(tag, backend, marks=[*marks, *([] if backend == "cpu" and tag in quick else [pytest.mark.slow])])
        for tag in RULES for backend, marks in NEEDED.items()
    ])  # fmt: skip


def equal(own: Rule, given: dict[str, Any], backend: str) -> None:
    right, found = (outcome(own, given, each) for each in ("reference", backend))
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sizes", [(1, 1, 5, 5), (2, 1, 33, 51), (7, 3, 20, 33), (12, 2, 51, 8)])
@each_rule("A5", "A9", "A10")
def test_rules_equal_the_reference_at_any_size(
    tag: str, backend: str, sizes: tuple[int, int, int, int]
) -> None:
    equal(RULES[tag], drawn(tag, sizes), backend)


@pytest.mark.parametrize("sizes", [(3, 2, 5, 33), (2, 1, 33, 51), (4, 3, 51, 5)])
@pytest.mark.parametrize(
    "backend", [pytest.param(backend, marks=marks) for backend, marks in NEEDED.items()]
)
def test_padding_reaches_no_sum_whatever_a_rule_makes_of_it(
    backend: str, sizes: tuple[int, int, int, int]
) -> None:
    equal(of_padding, drawn_for_padding(sizes), backend)


@each_rule("A9")
def test_two_runs_give_the_same_bits(tag: str, backend: str) -> None:
    found = [outcome(RULES[tag], drawn(tag, (7, 5, 33, 51)), backend) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))
