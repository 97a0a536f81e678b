"""The Triton kernels under Triton's interpreter, against the reference.

tests/test_triton.py runs this file in a process of its own: the interpreter is chosen before Triton is imported.

    TRITON_INTERPRET=1 python -m pytest tests/triton_interpreted.py
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import emulated
import numpy
import pytest
import torch
from conftest import (
    KINDS,
    MODULATED_BY,
    NETWORKS,
    RESET,
    VARIANTS,
    Case,
    assert_close,
    assert_same_bits,
    each_variant,
    ruled,
    run,
    uninitialised_memory_is_nan,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases
from test_compile import check_compiled, check_operators, operator_calls
from test_triton import no_interpreter
from tolerances import FP64, FP64_ROUNDING, fp32
from torch import Tensor

import plastikern.functional as PF
from plastikern import Plasticity, PlasticRNN
from plastikern.plasticity import GRANULARITIES

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)
if (reason := no_interpreter()) is not None:
    pytest.skip(reason, allow_module_level=True)

import triton
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder

from plastikern.triton import launch, neurons
from plastikern.triton.generated import ACTIVITIES


@pytest.fixture(params=["one launch", "steps"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either form of the kernels, with blocks so small that several serve even a small network."""
    monkeypatch.setattr(launch, "TILE_BYTES", 256)
    if request.param == "steps":
        monkeypatch.setattr(launch, "RESIDENT_BYTES", 0)
        monkeypatch.setattr(launch, "TILE_BYTES", 128)
    return request.param


def check(case: Case, tolerance: float = FP64, dtype: torch.dtype = torch.float64) -> None:
    with uninitialised_memory_is_nan():
        found = run(case, "triton", dtype)
    assert_close(found, run(case, "reference"), tolerance)


def check_against_cuda(case: Case) -> None:
    """Triton against the reference, and against the CUDA kernels in their emulator."""
    with uninitialised_memory_is_nan():
        found = run(case, "triton")
        assert_close(found, run(case, "reference"), FP64)
        if shutil.which("g++") is not None:
            emulated.library()
            assert_close(found, run(case, "emulated"), FP64)


@each_variant
def test_every_network_equals_the_reference_and_the_cuda_kernels(case: Case) -> None:
    check_against_cuda(replace(case, steps=3, batch=2, lengths=(3, 1), checkpoint_every=2))


@pytest.mark.parametrize("name", ["rnn-retroactive-half", "lstm-simple", "linear-clip"])
def test_episodes_that_begin_inside_equal_the_reference(name: str) -> None:
    check(replace(RESET[name], steps=4, lengths=(4, 3), checkpoint_every=2))


@pytest.mark.slow
@settings(max_examples=60)
@given(case=st.one_of(cases("rnn"), cases("lstm"), cases("gru"), cases("linear")))
def test_random_networks_equal_the_reference_and_the_cuda_kernels(case: Case) -> None:
    check_against_cuda(replace(case, steps=min(case.steps, 5), lengths=None))


@pytest.mark.parametrize(
    "name",
    [
        "rnn-retroactive-half",
        "lstm-recurrent",
        "lstm-simple",
        "gru-simple-half",
        "gru-retroactive",
        "linear-retroactive",
    ],
)
def test_several_blocks_equal_the_reference(form: str, name: str) -> None:
    check(replace(VARIANTS[name], steps=3, batch=2, lengths=(3, 1), checkpoint_every=2))


@pytest.mark.slow
@each_variant
def test_several_blocks_of_every_network_equal_the_reference(form: str, case: Case) -> None:
    check(replace(case, steps=4, batch=2, lengths=(4, 2), checkpoint_every=3))


@pytest.mark.parametrize("eta", ["neuron", "connection"])
@pytest.mark.parametrize("rule, constraint", KINDS)
def test_every_rule_and_constraint_equals_the_reference(
    rule: str, constraint: str, eta: str
) -> None:
    check(Case(3, 1, 5, ruled(rule, constraint, eta=eta), with_clamp=True, checkpoint_every=2))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("eta", ["neuron", "connection"])
@pytest.mark.parametrize("rule, constraint", KINDS)
def test_every_retroactive_rule_and_constraint_equals_the_reference(
    rule: str, constraint: str, eta: str, half: bool
) -> None:
    plasticity = ruled(rule, constraint, eta=eta, modulation="retroactive")
    check(Case(3, 1, 3, plasticity, checkpoint_every=2, half_modulated=half))


@pytest.mark.parametrize("fan_out", ["neuron", "connection"])
def test_rates_of_any_shape_beside_each_other_equal_the_reference(fan_out: str) -> None:
    """A rate by neuron beside an eligibility's by connection, and the other way about."""
    for eta in ("layer", "connection"):
        plasticity = ruled("oja", "soft_clip", eta=eta, fan_out=fan_out, modulation="retroactive")
        check(Case(3, 1, 3, plasticity, checkpoint_every=2))


@pytest.mark.parametrize(
    "steps, batch, neurons, lengths",
    [(0, 2, 5, None), (1, 1, 1, None), (3, 0, 5, None), (2, 3, 5, (0, 1, 2)), (2, 1, 33, None)],
)
def test_odd_sizes_equal_the_reference(
    form: str,
    steps: int,
    batch: int,
    neurons: int,
    lengths: tuple[int, ...] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if neurons > 16:
        monkeypatch.setattr(launch, "TILE_BYTES", 8 << 10)
    case = VARIANTS["lstm-simple" if form == "steps" else "rnn-retroactive"]
    check(
        replace(case, steps=steps, batch=batch, neurons=neurons, lengths=lengths, batch_first=True)
    )


@pytest.mark.parametrize("name", ["rnn-simple", "linear-simple"])
def test_traces_that_do_not_fit_a_program_equal_the_reference(name: str) -> None:
    check(replace(VARIANTS[name], steps=2, batch=1, neurons=131, features=70, lengths=None))


@pytest.mark.parametrize("name", ["rnn-retroactive", "linear"])
def test_single_precision_is_as_near_to_double_as_rounding_allows(form: str, name: str) -> None:
    case = replace(VARIANTS[name], steps=4, neurons=9, features=9, lengths=None, eta=0.03)
    modulated = case.plasticity.modulation != "none"
    check(case, fp32(case.steps, case.neurons, case.network, modulated), torch.float32)


@triton.jit
def activities_kernel(inputs, outputs, SIZE: tl.constexpr, ACTIVITY: tl.constexpr):
    index = tl.arange(0, SIZE)
    z = tl.load(inputs + index)
    if ACTIVITY is None:
        y = neurons.softmax(z, index < SIZE)
    else:
        y = ACTIVITY.forward(z)
    tl.store(outputs + index, y)


def activities(inputs: Tensor, nonlinearity: str) -> Tensor:
    outputs = torch.empty_like(inputs)
    activities_kernel[(1,)](inputs, outputs, len(inputs), ACTIVITIES.get(nonlinearity))
    return outputs


def magnitudes(dtype: torch.dtype, least: int) -> Tensor:
    """Numbers of either sign, from 10^least to beyond where exp overflows, closest where formulas change."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.rand(2**12, generator=generator, dtype=torch.float64)
    sizes[: 2**11] = 10 ** (least + (4 - least) * sizes[: 2**11])
    sizes[2**11 :] *= 30
    edges = [0.625, math.nextafter(0.625, 0), 1e-3, 1e-6, 87.3, 88.5, 104, 709, 746, 1e30]
    sizes[: len(edges)] = torch.tensor(edges, dtype=torch.float64)
    return (sizes * torch.randn(len(sizes), generator=generator).sign()).to(dtype)


@pytest.fixture
def approximate_exponential(monkeypatch: pytest.MonkeyPatch) -> None:
    """exp in single precision as Triton has it on NVIDIA's: 2 to the power of a product that was rounded."""
    exact = InterpreterBuilder.create_exp

    def approximate(builder: Any, argument: Any) -> Any:
        found = exact(builder, argument)
        if argument.data.dtype == numpy.float32:
            found.data = numpy.exp2(argument.data * numpy.float32(1 / math.log(2)))
        return found

    monkeypatch.setattr(InterpreterBuilder, "create_exp", approximate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nonlinearity", ["tanh", "sigmoid"])
@pytest.mark.usefixtures("approximate_exponential")
def test_activities_have_full_relative_accuracy_at_every_magnitude(
    nonlinearity: str, dtype: torch.dtype
) -> None:
    inputs = magnitudes(dtype, least=-36 if dtype == torch.float32 else -300)
    found, wide = activities(inputs, nonlinearity).double(), inputs.double()
    widest = wide.numpy().astype(numpy.longdouble)
    accurate = numpy.tanh(widest) if nonlinearity == "tanh" else 1 / (1 + numpy.exp(-widest))
    exact = torch.from_numpy(accurate.astype(numpy.float64))
    normal = exact.abs() >= torch.finfo(dtype).tiny
    error = ((found - exact) / exact)[normal].abs().max() / torch.finfo(dtype).eps
    assert normal.sum() > 3000 and error <= 2.5, f"{float(error)} units in the last place"
    # Below the smallest normal number, results may be 0.
    assert torch.all((found - exact)[~normal].abs() <= torch.finfo(dtype).tiny)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("approximate_exponential")
def test_a_softmax_has_full_relative_accuracy_down_to_its_smallest_values(
    dtype: torch.dtype,
) -> None:
    inputs = -magnitudes(dtype, least=-6)[: 2**11].abs().clamp(max=80)
    inputs[0] = 0  # the largest, so that its subtraction rounds nothing
    found, exact = activities(inputs, "softmax").double(), torch.softmax(inputs.double(), 0)
    error = ((found - exact) / exact).abs().max() / torch.finfo(dtype).eps
    # Sums of 2048 values, added in pairs, are wrong by less than log2(2048) / 2 = 5.5 units.
    assert error <= 8, f"{float(error)} units in the last place"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nonlinearity", ["tanh", "sigmoid", "relu", "identity"])
def test_activities_of_infinities_and_nan_are_those_of_torch(
    nonlinearity: str, dtype: torch.dtype
) -> None:
    inputs = torch.tensor([math.inf, -math.inf, math.nan, 0.0], dtype=dtype)
    expected = {"relu": torch.relu, "identity": torch.clone}.get(nonlinearity) or getattr(
        torch, nonlinearity
    )
    torch.testing.assert_close(
        activities(inputs, nonlinearity), expected(inputs), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("name", ["rnn-retroactive", "linear-retroactive"])
def test_lengths_are_brought_to_the_device_once_for_both_passes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Any] = []
    move = Tensor.to

    def moved(tensor: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if tensor.dtype == torch.int64 and arguments == (torch.device("cpu"),):
            copies.append(options)
        return move(tensor, *arguments, **options)

    monkeypatch.setattr(Tensor, "to", moved)
    run(replace(VARIANTS[name], steps=2, lengths=(2, 1)), "triton")
    assert copies == [{"non_blocking": True}]


def test_the_operator_refuses_lengths_that_nobody_has_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = replace(VARIANTS["rnn-retroactive"], steps=2, lengths=(2, 1))
    _, (operator, arguments), _ = operator_calls(case, "triton", monkeypatch)
    for lengths in ([3, 0], [0, -1]):
        with pytest.raises(RuntimeError, match=r"lengths must lie from 0 to 2; got"):
            operator(
                *changed(arguments, "lengths", lambda tensor, values=lengths: torch.tensor(values))
            )


def test_a_layer_too_wide_for_a_program_is_refused_by_its_argument() -> None:
    wide = torch.zeros(1, (1 << 20) + 1)
    with pytest.raises(
        RuntimeError,
        match=r"weight must have at most 1048576 rows per gate and columns; got 1048577",
    ):
        PF.plastic_linear_step(wide, None, wide, wide, torch.tensor(0.1), backend="triton")


@pytest.mark.parametrize("name", ["rnn-simple", "lstm-recurrent", "linear-retroactive"])
def test_steps_equal_the_reference_with_and_without_gradients(form: str, name: str) -> None:
    case = replace(VARIANTS[name], steps=2, lengths=None)
    inputs = case.inputs()
    expected = case.results(case.by_steps(inputs, "reference"), inputs)
    assert_close(case.results(case.by_steps(inputs, "triton"), inputs), expected, FP64)
    with torch.no_grad(), uninitialised_memory_is_nan():
        for found in (case.by_steps(inputs, "triton"), case.sequence(inputs, "triton")):
            assert_close(found, {key: expected[key] for key in found}, FP64)


def test_a_missing_state_is_zero_and_a_module_is_served(form: str) -> None:
    network, input = (
        PlasticRNN(3, 5, plasticity=Plasticity(modulation="retroactive")),
        torch.randn(3, 2, 3),
    )
    results = []
    for backend in ("triton", "reference"):
        network.zero_grad()
        network.backend = backend
        output, state = network(input)
        (output.sum() + state.trace.square().sum()).backward()
        found = {"output": output.detach(), "trace": state.trace.detach()}
        results.append(
            found | {name: parameter.grad for name, parameter in network.named_parameters()}
        )
    assert_close(*results, fp32(3, 5, modulated=True))


def test_nan_beyond_the_end_of_an_element_reaches_no_gradient(form: str) -> None:
    case = replace(
        VARIANTS["lstm-simple-half" if form == "steps" else "linear-retroactive"],
        steps=2,
        lengths=(2, 1),
    )
    expected, inputs = run(case, "triton"), case.inputs()
    with torch.no_grad():
        for key in {"input", "drive"} & inputs.keys():
            inputs[key][1:, 1] = torch.nan
    assert_close(case.results(case.sequence(inputs, "triton"), inputs), expected, FP64_ROUNDING)


def test_two_runs_give_the_same_bits_in_any_memory_layout(form: str) -> None:
    case = replace(VARIANTS["rnn-simple-half"], steps=2)
    given = case.inputs()
    laid_out = {name: torch.stack([tensor, tensor], -1)[..., 0] for name, tensor in given.items()}
    assert_same_bits(case.results(case.sequence(laid_out, "triton"), given), run(case, "triton"))


def changed(
    arguments: tuple[Any, ...], name: str, change: Callable[[Tensor], Tensor]
) -> tuple[Any, ...]:
    tensors, names, *more = arguments
    place = names.split().index(name)
    return ([*tensors[:place], change(tensors[place]), *tensors[place + 1 :]], names, *more)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_and_drives_of_half_precision_are_taken_as_they_are(
    form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = replace(VARIANTS["lstm-simple"], steps=2, lengths=None)
    _, (operator, arguments), _ = operator_calls(case, "triton", monkeypatch)
    for place in ("drive", "weight"):
        low = operator(*changed(arguments, place, lambda tensor: tensor.to(dtype)))
        same = operator(*changed(arguments, place, lambda tensor: tensor.to(dtype).double()))
        assert all(torch.equal(a, b) for a, b in zip(low, same, strict=True) if a is not None)
        assert all(tensor.dtype == torch.float64 for tensor in low if tensor is not None)


def test_the_operator_says_what_is_wrong_with_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = replace(VARIANTS["rnn-simple"], steps=2)
    (operator, arguments), *_ = operator_calls(case, "triton", monkeypatch)
    with pytest.raises(RuntimeError, match=r"weight must have shape \(5, 5\); got \(4, 5\)"):
        operator(*changed(arguments, "weight", lambda tensor: tensor[:4]))
    with pytest.raises(
        RuntimeError, match=r"weight must have dtype float64 or bfloat16 or float16; got float32"
    ):
        operator(*changed(arguments, "weight", lambda tensor: tensor.float()))


@pytest.mark.parametrize("name", ["rnn-simple", "lstm-retroactive-fan-out"])
def test_operators_are_what_they_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_operators(replace(VARIANTS[name], steps=2), "triton", monkeypatch)


def test_a_sequence_is_compiled_without_a_graph_break() -> None:
    check_compiled(Case(steps=2), "triton")


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize("modulation", ["none", "simple", "retroactive"])
def test_everything_together_equals_the_reference(
    form: str, network: str, rule: str, constraint: str, modulation: str
) -> None:
    for seed in range(3):
        alpha, eta = GRANULARITIES[seed], GRANULARITIES[(seed + len(rule + constraint)) % 3]
        options: dict[str, Any] = {"alpha": alpha, "eta": eta}
        if modulation != "none":
            sources = MODULATED_BY[network]
            options |= {
                "modulation": modulation, "modulator_input": sources[seed % len(sources)],
                "fan_out": ("none", "neuron", "connection")[seed],
                "modulator_nonlinearity": ("tanh", "sigmoid", "linear")[seed],
            }  # fmt: skip
        plasticity = ruled(rule, constraint, **options)
        case = Case(
            5, 2, (1, 5, 9)[seed], plasticity, seed=seed, network=network, features=7, batch_first=seed == 1,
            post=("candidate", "recurrent", "cell")[seed], with_clamp=network == "rnn" and seed == 1,
            half_modulated=modulation != "none" and seed != 2, checkpoint_every=(None, 1, 2)[seed],
            lengths=(None, (5, 3), (1, 5))[seed],
        )  # fmt: skip
        check(case)


@pytest.mark.slow
@each_variant
def test_a_gradient_of_one_output_alone_equals_the_reference(form: str, case: Case) -> None:
    for name in case.outputs:
        check(replace(case, steps=3, lengths=None, upstream=(name,)))


@pytest.mark.slow
@each_variant
def test_each_tensor_alone_gets_the_gradient_that_it_gets_among_all(form: str, case: Case) -> None:
    case = replace(case, steps=2, lengths=None)
    expected = run(case, "triton")
    for name in case.inputs():
        inputs = {key: tensor.detach() for key, tensor in case.inputs().items()}
        wanted = {name: inputs[name].requires_grad_()}
        found = case.results(case.sequence(inputs, "triton"), wanted)
        assert_close(found, {key: expected[key] for key in found}, FP64_ROUNDING)
