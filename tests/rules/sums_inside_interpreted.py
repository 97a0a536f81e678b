"""Every feature of every network under changes that sum over a row inside, and under some that are infinite where no
synapse is: the Triton kernels under the interpreter.

test_adding.py runs this file, with TRITON_INTERPRET=1, in copies of the library that have such changes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import VARIANTS, Case, assert_same_bits, run
from triton_interpreted import check

from plastikern.triton import launch

KINDS = (("hebb", "unit_rows"), ("centred", "none"), ("centred", "unit_rows"))
"""A sum in the constraint, one in the rule, one after the other."""
SINGULAR = (("surprise", "none"), ("hebb", "normed"))
"""Of columns beyond the last one; of rows."""
each_kind = pytest.mark.parametrize("kind", KINDS, ids="-".join)


@pytest.fixture(params=["one launch", "steps"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either form of the kernels; by steps with a few rows a program, also of alpha's gradient."""
    if request.param == "steps":
        monkeypatch.setattr(launch, "RESIDENT_BYTES", 0)
        monkeypatch.setattr(launch, "TILE_BYTES", 128)
        monkeypatch.setattr(launch, "ALPHA_TILE", (4, 4))
    return request.param


def under(case: Case, kind: tuple[str, str]) -> Case:
    rule, constraint = kind
    return replace(case, plasticity=replace(case.plasticity, rule=rule, constraint=constraint))


def launched(case: Case) -> set[str]:
    """Names of the kernels that a call takes."""
    with launch.recorded() as found:
        run(case, "triton", torch.float32)
    return {each.kernel.__name__ for each in found}


@each_kind
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_equals_the_reference(name: str, kind: tuple[str, str], form: str) -> None:
    check(
        replace(under(VARIANTS[name], kind), steps=3, batch=2, lengths=(3, 1), checkpoint_every=2)
    )


@each_kind
@pytest.mark.parametrize("name", ["rnn-retroactive-half", "lstm-simple"])
def test_traces_computed_again_have_the_bits_of_those_kept(
    name: str, kind: tuple[str, str], form: str
) -> None:
    case = replace(under(VARIANTS[name], kind), steps=4, batch=1, lengths=None)
    kept = run(replace(case, checkpoint_every=1), "triton", torch.float32)
    assert_same_bits(run(replace(case, checkpoint_every=3), "triton", torch.float32), kept)


@each_kind
def test_one_launch_serves_what_a_program_takes_at_once(kind: tuple[str, str]) -> None:
    """Columns by chunks would cut a row; so larger networks go by steps, which take whole rows."""
    case = replace(Case(), steps=3, batch=1)
    summing = under(case, kind)
    for neurons, in_one in ((64, True), (65, False), (128, False)):
        assert ("plastic_sequence_forward" in launched(replace(summing, neurons=neurons))) == in_one
        assert "plastic_sequence_forward" in launched(replace(case, neurons=neurons))


@pytest.mark.parametrize("kind", KINDS[-1:], ids="-".join)
@pytest.mark.parametrize("name", ["rnn-simple", "linear-simple"])
def test_traces_that_do_not_fit_a_program_equal_the_reference(
    name: str, kind: tuple[str, str]
) -> None:
    check(
        replace(
            under(VARIANTS[name], kind), steps=2, batch=1, neurons=131, features=70, lengths=None
        )
    )


@pytest.mark.parametrize("kind", SINGULAR, ids="-".join)
@pytest.mark.parametrize("name", ["rnn-simple", "rnn-retroactive-half", "lstm", "linear"])
def test_what_is_infinite_where_no_synapse_is_reaches_nothing(
    name: str, kind: tuple[str, str], form: str
) -> None:
    check(replace(under(VARIANTS[name], kind), steps=3, batch=1, lengths=None, checkpoint_every=2))
