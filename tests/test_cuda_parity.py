"""The CUDA kernels give what the reference gives: outputs, and the gradient of every tensor, in every form.

Without a GPU they run in the emulator (cuda_emulator/), every CUDA thread on the CPU, on the devices that it describes.
``pytest --device cuda`` runs the same cases on the GPU that is there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from conftest import (
    KINDS,
    RESET,
    RETROACTIVE,
    SIMPLE,
    VARIANTS,
    Case,
    assert_close,
    assert_same_bits,
    each_variant,
    ruled,
    run,
    threads,
    uninitialised_memory_is_nan,
)
from emulated import FORMS, launches, library, use_device
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases
from tolerances import FP64, fp32
from torch import Tensor

from plastikern import Plasticity
from plastikern.devices import GPUS

each_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> str:
    """``cuda`` on a GPU, else the emulated one."""
    if request.config.getoption("--device") == "cuda":
        return "cuda"
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    library()
    return "emulated"


@pytest.fixture(autouse=True)
def _default_device(backend: str) -> None:
    if backend == "emulated":
        use_device("A100")


def emulated_only(backend: str) -> None:
    if backend == "cuda":
        pytest.skip("the devices are described to the emulator")


@contextmanager
def forced(form: str) -> Iterator[None]:
    """Plans of that form, wherever it is possible."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASTIKERN_CUDA_FORM", form)
        yield


def served(case: Case, backend: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    if backend == "cuda":
        case = replace(case, device="cuda")
    with threads(1), uninitialised_memory_is_nan():
        return {name: tensor.cpu() for name, tensor in run(case, backend, dtype).items()}


def check(case: Case, backend: str, form: str) -> None:
    with forced(form):
        assert_close(served(case, backend), run(case, "reference"), FP64)


@settings(max_examples=60)
@given(
    case=st.one_of(cases("rnn"), cases("lstm"), cases("gru"), cases("linear")),
    form=st.sampled_from(FORMS),
)
def test_random_networks_equal_the_reference(backend: str, case: Case, form: str) -> None:
    check(case, backend, form)


@pytest.mark.slow
@settings(max_examples=1500)
@given(
    case=st.one_of(cases("rnn"), cases("lstm"), cases("gru"), cases("linear")),
    form=st.sampled_from(FORMS),
)
def test_many_random_networks_equal_the_reference(backend: str, case: Case, form: str) -> None:
    check(case, backend, form)


@pytest.mark.parametrize("case", RESET.values(), ids=RESET)
def test_episodes_that_begin_inside_equal_the_reference(backend: str, case: Case) -> None:
    check(case, backend, FORMS[len(case.state) % len(FORMS)])


@each_form
@each_variant
def test_every_variant_equals_the_reference(backend: str, case: Case, form: str) -> None:
    check(case, backend, form)


@each_form
@pytest.mark.parametrize(
    "modulation", [{}, SIMPLE, RETROACTIVE], ids=["none", "simple", "retroactive"]
)
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_every_rule_and_constraint_on_sizes_that_fill_no_warp(
    backend: str, kind: tuple[str, str], modulation: dict[str, str], form: str
) -> None:
    check(
        Case(neurons=33, steps=4, plasticity=ruled(*kind, **modulation), checkpoint_every=3),
        backend,
        form,
    )


@each_form
@each_variant
def test_single_precision_stays_within_its_rounding(backend: str, case: Case, form: str) -> None:
    case = replace(case, neurons=34)
    with forced(form):
        found = served(case, backend, torch.float32)
    tolerance = fp32(case.steps, case.neurons, case.network, case.plasticity.modulation != "none")
    assert_close(found, run(case, "reference"), tolerance)


@each_form
@each_variant
def test_a_second_run_gives_the_same_bits(backend: str, case: Case, form: str) -> None:
    with forced(form):
        first = served(case, backend, torch.float32)
        assert_same_bits(served(case, backend, torch.float32), first)


@each_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_activities_in_half_and_traces_in_single(
    backend: str, dtype: torch.dtype, form: str
) -> None:
    case = Case(
        plasticity=ruled("hebb", "clip", **RETROACTIVE),
        device="cuda" if backend == "cuda" else "cpu",
    )
    whole = {name: tensor.detach() for name, tensor in case.inputs(torch.float32).items()}
    traces = ("trace", "eligibility")
    half = {name: tensor if name in traces else tensor.to(dtype) for name, tensor in whole.items()}
    widened = {name: tensor.float().requires_grad_() for name, tensor in half.items()}
    half = {name: tensor.clone().requires_grad_() for name, tensor in half.items()}
    with forced(form):
        found = case.results(case.sequence(half, backend), half)
    expected = case.results(case.sequence(widened, "reference"), widened)
    for name, tensor in found.items():
        assert tensor.dtype == (torch.float32 if name.removeprefix("grad_") in traces else dtype), (
            name
        )
        # Upstream gradients of activities are rounded as the activities are.
        error = (tensor.float() - expected[name]).abs().max() / expected[name].abs().max().clamp(
            min=1
        )
        assert error <= 4 * torch.finfo(dtype).eps * case.steps**0.5, name


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize("network", ["rnn", "lstm"])
def test_every_device_takes_the_launches_that_are_planned_for_it(
    backend: str, name: str, network: str
) -> None:
    emulated_only(backend)
    use_device(name)
    case = Case(
        2,
        2,
        100,
        Plasticity(modulation="retroactive", constraint="clip", clip=2.0),
        network=network,
    )
    assert_close(
        served(case, backend, torch.float32), run(case, "reference"), fp32(2, 100, network, True)
    )
    assert launches() and not any(launch.error for launch in launches())
    assert max(launch.dynamic_shared_bytes for launch in launches()) <= GPUS[name].shared_per_block


def test_a_small_device_has_small_plans(backend: str) -> None:
    emulated_only(backend)
    use_device("tiny")
    for case in VARIANTS.values():
        check(replace(case, neurons=51, steps=3, lengths=None), backend, "")
    assert not any(launch.error for launch in launches())


@pytest.mark.parametrize("network", ["rnn", "lstm"])
def test_a_refused_cooperative_launch_is_planned_again(backend: str, network: str) -> None:
    emulated_only(backend)
    library().emulator_limit_multiprocessors(
        2
    )  # as in a green context, which the device's attributes do not tell of
    case = Case(3, 2, 51, network=network)
    with forced("cooperative"):
        assert_close(served(case, backend), run(case, "reference"), FP64)
    refused = [launch for launch in launches() if launch.error]
    assert len(refused) == 2 and all(launch.cooperative for launch in refused), (
        "one a pass, and only that"
    )
    assert not any(launch.cooperative for launch in launches() if not launch.error)


@each_form
def test_a_kernel_may_have_all_shared_memory_from_its_first_launch_on(
    backend: str, form: str
) -> None:
    emulated_only(backend)
    with forced(form):
        for neurons in (5, 51, 34):
            served(Case(3, 2, neurons), backend)
    # Set anew for a launch, what another host thread is about to launch with could be too little.
    assert library().emulator_attribute_count() == 2, (
        "of the forward kernel and of the backward one"
    )


def test_barriers_of_groups_are_in_cache_lines_of_their_own(backend: str) -> None:
    emulated_only(backend)
    with forced("cooperative"):
        served(Case(3, 4, 51), backend)
    distances = {launch.closest_atomics for launch in launches() if launch.cooperative}
    assert min(distances) >= 128
