"""plastikern.check tells an author whether what is compiled is the rule that was written."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from plastikern import as_pre, check, rule
from plastikern.rules import checking, programs
from plastikern.rules.checking import Case, _cases, _drawn

from .ten import ACTIVITIES, RULES

V = Any
COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
LAYER = {"eta": "layer", "w": "connection", "alpha": "connection"}


@rule(H="synapse", q="post")
def right(H: V, q: V, x: V, y: V, eta: V) -> V:
    return H * torch.exp(-eta) + eta * x * y * torch.log(q), q + 0.1 * y * y


@rule(H="synapse", q="post")
def broken(H: V, q: V, x: V, y: V, eta: V) -> V:
    return H + eta * torch.exp(q) * x * y, q


POSITIVE = {"q": (0.5, 1.5)}


@COMPILER
@pytest.mark.slow
def test_a_rule_that_is_compiled_as_it_was_written_passes() -> None:
    report = check(right, ranges=POSITIVE, granularities={"eta": "post"})
    assert report.passed
    whats = {row.what for row in report.rows}
    gradients = {f"gradient of {name}" for name in ("drive", "x", "H", "q", "eta", "w", "alpha")}
    assert whats == {"output", "last H", "last q"} | gradients
    assert {(row.backend, row.dtype) for row in report.rows} == {
        ("cpu", torch.float64), ("cpu", torch.float32),
    }  # fmt: skip
    assert all(0 <= row.error < 1e-5 for row in report.rows)
    assert str(report).splitlines()[1].split("  ")[0] == "backend"


@COMPILER
def test_a_kernel_that_is_not_the_rule_is_named_with_what_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = programs.CPP | {"exp": "exp({0}) * number<V>(1.001)"}
    monkeypatch.setattr(programs, "CPP", wrong)
    with pytest.raises(AssertionError) as caught:
        check(broken, granularities={"eta": "layer"}, seed=3)
    said = str(caught.value)
    assert said.startswith(f"{broken.name} differs from its function (seed 3):")
    rows = [line for line in said.splitlines() if "NO" in line]
    assert any("last H" in line and "cpu" in line and "float64" in line for line in rows)
    assert "last q" not in said and "yes" not in said


def test_a_function_that_is_not_finite_is_told_to_choose_ranges() -> None:
    with pytest.raises(AssertionError, match=r"not finite \(T 7.*: choose ranges"):
        check(right, backends=("reference",))
    assert check(right, ranges=POSITIVE, backends=("reference",)).passed


def test_what_no_number_can_be_drawn_for_is_refused() -> None:
    with pytest.raises(TypeError, match="rule must be declared by @rule; got function"):
        check(right.function)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ranges: p is none of drive, x, w, alpha, H, q, eta"):
        check(right, ranges={"p": (0, 1)})
    for wrong in ((1, 0), (0, float("inf")), (float("nan"), 1), 3, ("a", "b"), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"ranges: q must be \(least, largest\), finite"):
            check(right, ranges={"q": wrong})  # type: ignore[dict-item]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without compiler, device and interpreter."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return monkeypatch


def test_without_a_backend_nothing_is_said_to_pass(bare: pytest.MonkeyPatch) -> None:
    reasons = "cpu: there is no C.. compiler; cuda: there is no CUDA device; triton: "
    with pytest.raises(RuntimeError, match=f"there is no backend to check: {reasons}"):
        check(right, ranges=POSITIVE)
    for backend in ("cpu", "cuda", "triton"):
        with pytest.raises(RuntimeError, match=f"backend '{backend}' cannot be checked: there is"):
            check(right, ranges=POSITIVE, backends=(backend,))


@pytest.mark.parametrize("asked", [(), ("gpu",), ("cpu", "opencl"), "cpu"])
def test_backends_are_named_as_they_are(asked: Any) -> None:
    with pytest.raises(ValueError, match="backends must be some of reference, cpu, cuda, triton"):
        check(right, ranges=POSITIVE, backends=asked)


def test_a_device_is_checked_by_every_backend_that_it_has(bare: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    bare.setattr(torch.cuda, "is_available", lambda: True)
    bare.setattr(torch.version, "hip", None)
    bare.setattr(checking.cuda, "missing", lambda: "")
    assert checking._chosen(None) == ("cuda", "triton")
    bare.setattr(checking.cuda, "missing", lambda: "NVRTC is not to be had")
    assert checking._chosen(None) == ("triton",)
    with pytest.raises(RuntimeError, match="'cuda' cannot be checked: NVRTC is not to be had"):
        checking._chosen(("cuda",))
    bare.setattr(torch.version, "hip", "6.4")
    with pytest.raises(RuntimeError, match="'cuda' cannot be checked: there is no CUDA device"):
        checking._chosen(("cuda",))


def cases(own: Any) -> list[Case]:
    return [*_cases(own, None, checking.random.Random(0))]


def test_the_cases_have_all_sizes_both_kinds_of_layers_and_every_granularity() -> None:
    found = cases(RULES["A1"])
    assert {case.recurrent for case in found} == {True, False}
    assert {case.dtype for case in found} == {torch.float32, torch.float64}
    assert any(case.sizes[2] == 1 for case in found)
    kinds = {kind for case in found for kind in case.granularities.values()}
    assert kinds == {"layer", "pre", "post", "connection"}


def test_a_coefficient_has_no_granularity_that_a_state_cannot_bear() -> None:
    @rule(H="synapse", p="pre")
    def traced(H: V, p: V, x: V, y: V, eta: V, a: V) -> V:
        return H + eta * p * y, a * p + x

    found = {name: {case.granularities[name] for case in cases(traced)} for name in ("eta", "a")}
    assert "connection" in found["eta"] and found["a"] <= {"layer", "pre"}


def test_a_rule_of_the_other_role_is_checked_on_recurrent_layers_only() -> None:
    @rule(H="synapse", q="post")
    def other(H: V, q: V, x: V, y: V) -> V:
        return H + as_pre(q) * y, q + y

    assert all(case.recurrent and case.sizes[2] == case.sizes[3] for case in cases(other))


def test_what_is_drawn_is_in_its_range_and_the_same_for_the_same_seed() -> None:
    case = cases(RULES["A4"])[0]
    ranges = {"x": (0.0, 1.0), "top": (0.5, 0.5)}
    first, second, other = (_drawn(RULES["A4"], case, ranges, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["H"], other["H"])
    assert first["x"].min() >= 0 and first["x"].max() > 0.9
    assert (first["top"] == 0.5).all()


@COMPILER
@pytest.mark.slow
@pytest.mark.parametrize("tag", RULES)
def test_the_ten_rules_pass(tag: str) -> None:
    domain = {"A4": {"x": (0.0, 1.0)}, "A7": {"n": (2.0, 2.1)}}.get(tag)
    assert check(RULES[tag], ranges=domain, activity=ACTIVITIES.get(tag, "tanh")).passed
