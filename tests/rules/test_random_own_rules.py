"""Rules drawn at random, whole: compiled for the CPU they are their functions, with every gradient."""

from __future__ import annotations

import inspect
import random
import shutil
from typing import Any

import pytest
import torch

from plastikern import rule, rule_sequence
from plastikern.rules.checking import Case, _drawn, _error, _results
from plastikern.rules.decorator import Rule
from plastikern.rules.symbols import leaf, walk

from .random_rules import random_rule

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
GRANULARITY = {
    "layer": "layer",
    "neuron": "post",
    "input": "pre",
    "connection": "connection",
    "bound": "layer",
}
"""Of a coefficient of each kind; a bound is a number like any other."""


def own_rule(seed: int) -> tuple[Rule, dict[str, str]]:
    """A rule, and the granularities of its coefficients. Some vectors are signals, some are states."""
    drawn, draw = random_rule(seed), random.Random(seed)
    kinds = {n: "layer" if kind == "bound" else kind for n, kind in drawn.kinds.items()}
    after = drawn.function({name: leaf(name, kind) for name, kind in kinds.items()})
    used = {str(s.payload) for s in walk(after.values()) if s.operation == "leaf"} | {"x", "y"}
    given = {n: k for n, k in kinds.items() if n in used and n not in (*drawn.states, "x", "y")}
    use = {n: GRANULARITY[k] for n, k in given.items() if k in GRANULARITY}
    vectors = {
        n: k for n, k in given.items() if k in ("pre", "post", "element") and draw.random() < 0.5
    }
    signals = {
        n: k for n, k in given.items() if n not in use and n not in vectors and k != "synapse"
    }
    states = dict.fromkeys(drawn.states, "synapse") | vectors
    states |= {n: "synapse" for n, k in given.items() if k == "synapse"}
    names = [*states, *signals, *use, "x", "y"]

    def function(**known: Any) -> Any:
        made = drawn.function({name: known.get(name, known["x"]) for name in kinds})
        more = {"pre": known["x"], "post": known["y"], "element": 0.25, "synapse": known["x"]}
        changed = [made[n] if n in made else 0.5 * known[n] + more[k] for n, k in states.items()]
        return changed[0] if len(changed) == 1 else tuple(changed)

    kind = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    function.__signature__ = signature  # type: ignore[attr-defined]
    declare = rule(signals=signals, read=lambda H0, w, x: (w + H0) * x, **states)
    return declare(function), {**use, "w": "connection"}


FEW, MANY = (3,), (*range(3), *range(4, 60))


@pytest.mark.parametrize("seed", [*FEW, *(pytest.param(s, marks=pytest.mark.slow) for s in MANY)])
def test_random_rules_are_their_functions_with_every_gradient(seed: int) -> None:
    own, use = own_rule(seed)
    for sizes, recurrent in (((4, 2, 5, 9), False), ((3, 2, 17, 17), True)):
        case = Case(sizes, recurrent, use, torch.float64)
        given = _drawn(own, case, {}, seed)
        right = _results(own, case, given, "tanh", "reference", seed)
        found = _results(own, case, given, "tanh", "cpu", seed)
        assert all(value.isfinite().all() for value in right.values())
        for what, value in found.items():
            assert _error(value, right[what]) < 1e-9, f"{case}: {what}"


def test_the_random_rules_have_states_of_every_kind_signals_and_granularities() -> None:
    found = [own_rule(seed) for seed in (*FEW, *MANY)]
    assert {k for own, _ in found for k in own.states.values()} == {
        "synapse",
        "pre",
        "post",
        "element",
    }
    assert {k for own, _ in found for k in own.signals.values()} == {"pre", "post", "element"}
    assert {k for _, use in found for k in use.values()} == {"layer", "pre", "post", "connection"}


@pytest.mark.parametrize("seed", FEW)
def test_gradients_of_random_rules_are_differences_of_their_values(seed: int) -> None:
    own, use = own_rule(seed)
    given = _drawn(own, Case((3, 2, 2, 3), False, use, torch.float64), {}, seed)
    names, tensors = [*given], [tensor.requires_grad_() for tensor in given.values()]

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        known = dict(zip(names, values, strict=True))
        groups = ({n: known[n] for n in of} for of in (own.states, use, own.signals))
        output, last = rule_sequence(
            own, known["drive"], known["x"], *groups, granularities=use, backend="cpu"
        )
        return output, *last.values()

    assert torch.autograd.gradcheck(run, tensors)
