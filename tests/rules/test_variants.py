"""A rule is compiled for what its function says now, whatever it takes its numbers from."""

from __future__ import annotations

import math
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from plastikern import Readout, rule
from plastikern.rules import adjoint, variants
from plastikern.rules.programs import Program
from plastikern.rules.variants import program_of

from .test_ten_rules import RULES, of_use

V = Any
USE = {"w": "connection", "alpha": "connection"}
CONFIG = types.ModuleType("config")
CONFIG.RATE = 1.0  # type: ignore[attr-defined]
CONFIG.INNER = types.ModuleType("inner")  # type: ignore[attr-defined]
CONFIG.INNER.RATE = 1.0  # type: ignore[attr-defined]
sys.modules["config_of_rules"] = CONFIG
RATE = 1.0
RATES = {"eta": [1.0]}
SIMPLE = types.SimpleNamespace(rate=1.0)


def inner(x: V) -> V:
    return RATE * x


def helper(x: V) -> V:
    return inner(x)


def of_module(x: V, rate: str = "") -> V:
    return CONFIG.RATE * x


@rule(H="synapse")
def of_a_global(H: V, x: V, y: V) -> V:
    return H + RATE * x * y


@rule(H="synapse")
def of_a_helper(H: V, x: V, y: V) -> V:
    return H + helper(x) * y


@rule(H="synapse")
def of_a_helpers_module(H: V, x: V, y: V) -> V:
    return H + CONFIG.INNER.RATE * of_module(x) * y


@rule(H="synapse")
def of_a_function_inside(H: V, x: V, y: V) -> V:
    return H + sum(rate * RATE * x for rate in (0.5, 0.5)) * y


@rule(H="synapse")
def of_a_container(H: V, x: V, y: V) -> V:
    return H + RATES["eta"][0] * x * y


@rule(H="synapse")
def of_an_object(H: V, x: V, y: V) -> V:
    return H + SIMPLE.rate * x * y


@rule(H="synapse")
def of_an_import(H: V, x: V, y: V) -> V:
    from config_of_rules import RATE as rate

    return H + rate * x * y


@rule(H="synapse")
def of_its_name(H: V, x: V, y: V) -> V:
    return H + globals()["RATE"] * x * y


@rule(H="synapse", read=lambda H, x: RATE * H * x)
def of_its_read(H: V, x: V, y: V) -> V:
    return H + x * y


@rule(H="synapse")
def of_another_rule(H: V, x: V, y: V) -> V:
    return of_a_helper(H, x=x, y=y)


@rule(H="synapse", signals={"m": "element"})
def modulated(H: V, x: V, y: V, m: V) -> V:
    return H + RATE * m * x * y


READ_OUT = {**USE, "m_weight": "post", "m_bias": "layer"}


def _global(value: float) -> None:
    globals()["RATE"] = value


def _container(value: float) -> None:
    RATES["eta"][0] = value


@pytest.mark.parametrize(
    ("own", "change"),
    [
        (of_a_global, _global),
        (of_a_helper, _global),
        (of_a_helpers_module, lambda value: setattr(CONFIG, "RATE", value)),
        (of_a_helpers_module, lambda value: setattr(CONFIG.INNER, "RATE", value)),
        (of_a_function_inside, _global),
        (of_a_container, _container),
        (of_an_object, lambda value: setattr(SIMPLE, "rate", value)),
        (of_an_import, lambda value: setattr(CONFIG, "RATE", value)),
        (of_its_name, _global),
        (of_its_read, _global),
        (of_another_rule, _global),
        (of_a_helper.with_lengths, _global),
        (modulated.use(readouts={"m": Readout()}).inner, _global),
    ],
)
def test_a_number_outside_that_changes_gives_another_program_wherever_it_is(
    own: Any, change: Callable[[float], None]
) -> None:
    use = READ_OUT if "m_weight" in own.coefficients else USE
    first = program_of(own, use)
    assert program_of(own, use) is first
    change(0.7)
    try:
        second = program_of(own, use)
        assert second is not first and second.text == Program(own, use).text
        assert "0.7" in second.text and "0.7" not in first.text
        assert program_of(own, use) is second
    finally:
        change(1.0)
    assert program_of(own, use) is first


def test_zero_and_minus_zero_are_two_programs() -> None:
    zero = 0.0

    @rule(H="synapse")
    def maximal(H: V, x: V, y: V) -> V:
        return torch.maximum(H, zero * x) + x * y

    first = program_of(maximal, USE)
    zero = -0.0
    assert program_of(maximal, USE) is not first


def test_code_that_is_replaced_in_place_gives_another_program() -> None:
    def slow(x: V) -> V:
        return 0.1 * x

    def fast(x: V) -> V:
        return 0.9 * x

    @rule(H="synapse")
    def hebb(H: V, x: V, y: V) -> V:
        return H + slow(x) * y

    first = program_of(hebb, USE)
    slow.__code__ = fast.__code__
    assert "0.9" in program_of(hebb, USE).text and "0.1" in first.text


def test_what_libraries_have_is_not_looked_into() -> None:
    @rule(H="synapse")
    def hebb(H: V, x: V, y: V) -> V:
        return H + math.pi * torch.tanh(functional.softplus(x)) * abs(y) * float(len("ab"))

    assert len(repr(variants.outside(hebb.function))) < 1500


def _made(eta: float) -> Any:
    @rule(H="synapse")
    def hebb(H: V, x: V, y: V, tau: V) -> V:
        return H + eta * tau * x * y

    return hebb


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "_variants", {})


@pytest.mark.parametrize("factory", [True, False])
@pytest.mark.usefixtures("few")
def test_the_eighth_variant_proposes_a_coefficient(
    factory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(k: int) -> None:
        monkeypatch.setitem(globals(), "RATE", 1.0 + k)
        program_of(
            _made(k / 10) if factory else of_a_global, USE | ({"tau": "layer"} if factory else {})
        )

    of_a_global.__dict__.pop("_programs", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in range(7):
            use(k)
        use(3)
    with pytest.warns(UserWarning, match=r"hebb|of_a_global") as caught:
        use(7)
    assert "made with 8 sets of constants" in str(caught[0].message)
    assert "take what changes as a coefficient" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in range(12):
            use(k)


@pytest.mark.usefixtures("few")
def test_granularities_are_no_constants() -> None:
    own = _made(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for w in ("layer", "pre", "post", "connection"):
            for tau in ("layer", "pre", "post", "connection"):
                program_of(own, {"w": w, "alpha": "connection", "tau": tau})


@pytest.mark.parametrize("tag", ["A5", "A9"])
def test_every_process_prints_the_same_text(tag: str) -> None:
    found, held = set(), []
    for _ in range(8):
        adjoint._regrouped_in_passes.cache_clear()
        held.append(
            [object() for _ in range(37)]
        )  # Symbols lie elsewhere, and sets of them are in another order.
        found.add(Program(RULES[tag], of_use(tag)).text)
    assert len(found) == 1
