"""Every feature of every network under changes that sum over a row inside: the CPU's kernels, and the emulated CUDA
kernels in every form.

test_adding.py runs this file in a copy of the library that has such changes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import VARIANTS, Case, assert_close, assert_same_bits, run
from emulated import FORMS, library, use_device
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases
from test_cuda_parity import forced, served
from tolerances import FP64
from torch import Tensor

KINDS = (("hebb", "unit_rows"), ("centred", "none"), ("centred", "unit_rows"))
"""A sum in the constraint, one in the rule, one after the other."""
WAYS = ("cpu", *FORMS)
each_way = pytest.mark.parametrize("way", WAYS)
each_kind = pytest.mark.parametrize("kind", KINDS, ids="-".join)


@pytest.fixture(autouse=True, scope="module")
def _emulator() -> None:
    library()
    use_device("A100")


def under(case: Case, kind: tuple[str, str]) -> Case:
    rule, constraint = kind
    return replace(case, plasticity=replace(case.plasticity, rule=rule, constraint=constraint))


def found(case: Case, way: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    if way == "cpu":
        return run(case, "cpu", dtype)
    with forced(way):
        return served(case, "emulated", dtype)


@each_way
@each_kind
@pytest.mark.parametrize("case", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_equals_the_reference(case: Case, kind: tuple[str, str], way: str) -> None:
    case = under(case, kind)
    for every in (None, 3):
        case = replace(case, checkpoint_every=every)
        assert_close(found(case, way), run(case, "reference"), FP64)


# Under unit_rows alone all traces stay bounded, whatever the rates.
@settings(max_examples=400)
@given(
    case=st.one_of(cases("rnn"), cases("lstm"), cases("gru"), cases("linear")),
    way=st.sampled_from(WAYS),
    kind=st.sampled_from([kind for kind in KINDS if "unit_rows" in kind]),
)
def test_random_networks_with_unit_rows_equal_the_reference(
    case: Case, kind: tuple[str, str], way: str
) -> None:
    case = under(case, kind)
    assert_close(found(case, way), run(case, "reference"), FP64)


@each_way
@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("variant", ["rnn-simple", "rnn-retroactive-half", "lstm-simple"])
def test_traces_computed_again_have_the_bits_of_those_kept(
    variant: str, dtype: torch.dtype, kind: tuple[str, str], way: str
) -> None:
    case = replace(under(VARIANTS[variant], kind), neurons=37)
    kept = found(replace(case, checkpoint_every=1), way, dtype)
    for every in (3, 7):
        assert_same_bits(found(replace(case, checkpoint_every=every), way, dtype), kept)
