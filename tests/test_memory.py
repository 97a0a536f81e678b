"""A sequence keeps activities and a few traces for its backward pass, never a trace per step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import (
    KINDS,
    VARIANTS,
    Case,
    assert_close,
    assert_same_bits,
    each_variant,
    needs_native,
    run,
)
from tolerances import FP64
from torch import Tensor

import plastikern.functional as PF
from plastikern import Plasticity, PlasticRNN
from plastikern.nn import recurrent

pytestmark = needs_native


def kept_traces(case: Case, backend: str) -> float:
    """Memory saved for the backward pass, in traces of the whole batch, without what the caller holds anyway."""
    inputs = case.inputs()
    given = {tensor.untyped_storage().data_ptr() for tensor in inputs.values()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in given:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = case.sequence(inputs, backend)
    assert all(result.requires_grad for result in outputs.values())
    return sum(saved.values()) / (case.batch * case.neurons**2 * 8)


# Neurons fill whole cache lines, so that rows of checkpoints have no padding.
LONG: dict[str, Any] = {"steps": 100, "batch": 1, "neurons": 64}
ACTIVITIES = 100 / 64


def test_the_measure_sees_a_trace_per_step_in_the_reference() -> None:
    assert kept_traces(Case(**LONG), "reference") > LONG["steps"]


@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize("eta", [0.01, 0.3])
def test_about_the_square_root_of_the_steps_are_kept(
    rule: str, constraint: str, eta: float
) -> None:
    case = Case(**LONG, plasticity=Plasticity(rule=rule, constraint=constraint), eta=eta)
    # And the last trace, from which most rules run backwards.
    assert kept_traces(case, "cpu") <= math.sqrt(case.steps) + 1 + ACTIVITIES


def test_a_slow_decay_is_run_backwards_from_its_last_trace() -> None:
    assert kept_traces(Case(**LONG, eta=0.01), "cpu") <= 1 + ACTIVITIES


@pytest.mark.parametrize("constraint", ["decay", "clip"])
@pytest.mark.parametrize("every", [1, 7, 25, 99, 100, 1000])
def test_a_spacing_that_is_asked_for_is_honoured(constraint: str, every: int) -> None:
    case = Case(**LONG, plasticity=Plasticity(constraint=constraint), checkpoint_every=every)
    assert kept_traces(case, "cpu") == pytest.approx(ACTIVITIES + (case.steps - 1) // every)


def long(case: Case, every: int | None = None) -> Case:
    return replace(case, **LONG, features=64, eta=0.3, lengths=None, checkpoint_every=every)


def traces(case: Case) -> int:
    """How many a checkpoint holds."""
    return 2 if case.plasticity.modulation == "retroactive" else 1


@each_variant
def test_about_the_square_root_of_the_steps_are_kept_in_every_network(case: Case) -> None:
    # Activities: of an LSTM four gates, the cell, the plastic sum and the output, each of the size of the output; of a
    # GRU two gates, the recurrent sum, the candidate and the output; else the output and what the nonlinearity's
    # derivative needs. And rates per connection, made from several parameters.
    activities = {"lstm": 7, "gru": 5}.get(case.network, 2)
    rates = 3
    limit = traces(case) * (math.sqrt(LONG["steps"]) + 1) + activities * ACTIVITIES + rates
    assert kept_traces(long(case), "cpu") <= limit


@each_variant
def test_a_spacing_that_is_asked_for_is_honoured_in_every_network(case: Case) -> None:
    sparse = kept_traces(long(case, 1000), "cpu")
    for every in (1, 7, 25, 99):
        kept = kept_traces(long(case, every), "cpu")
        assert kept - sparse == pytest.approx(traces(case) * ((LONG["steps"] - 1) // every))


@pytest.mark.parametrize(
    "name", ["rnn-simple", "rnn-retroactive", "lstm-simple", "lstm-retroactive", "linear-simple"]
)
def test_the_measure_sees_a_trace_per_step_in_the_reference_of_every_network(name: str) -> None:
    assert kept_traces(long(VARIANTS[name]), "reference") > LONG["steps"]


def test_nothing_is_kept_where_no_gradient_is_asked_for() -> None:
    case = Case(**LONG)
    with torch.no_grad():
        output, *_ = PF.plastic_rnn_sequence(**case.inputs(), **case.options(), backend="cpu")
    assert output.grad_fn is None


@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize("eta", ["layer", "connection"])
def test_the_spacing_changes_no_bit_of_what_is_recomputed(
    rule: str, constraint: str, eta: str
) -> None:
    def case(every: int | None) -> Case:
        plasticity = Plasticity(rule=rule, constraint=constraint, clip=0.6, eta=eta)
        return Case(
            23, 2, 13, plasticity, with_clamp=True, lengths=(23, 16), checkpoint_every=every
        )

    expected = run(case(1), "cpu")
    for every in (2, 5, 8, 22, 23, 24, 2**40):
        assert_same_bits(run(case(every), "cpu"), expected)
    by_the_library = run(case(None), "cpu")
    assert_close(by_the_library, expected, FP64)
    if rule == "oja" or constraint == "soft_clip":  # the others run backwards
        assert_same_bits(by_the_library, expected)


@each_variant
def test_the_spacing_changes_no_bit_of_any_network(case: Case) -> None:
    case = replace(case, steps=23, neurons=13, lengths=(23, 16))
    expected = run(replace(case, checkpoint_every=1), "cpu")
    for every in (2, 5, 22, 24):
        assert_same_bits(run(replace(case, checkpoint_every=every), "cpu"), expected)
    assert_close(run(case, "cpu"), expected, FP64)


def test_a_module_hands_its_spacing_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    original = recurrent.run

    def spy(*arguments: Any) -> Any:
        seen.append(arguments[-1].checkpoint_every)
        return original(*arguments)

    monkeypatch.setattr(recurrent, "run", spy)
    PlasticRNN(3, 4, num_layers=2, checkpoint_every=3)(torch.randn(5, 2, 3))
    assert seen == [3, 3]
