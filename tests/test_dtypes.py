"""One policy for dtypes, docs/dtypes.md: mixed precision and autocast, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import BACKENDS, VARIANTS, Case, each_variant, needs_native
from torch import Tensor, nn

import plastikern.functional as PF
from plastikern import (
    PlasticGRU,
    PlasticGRUCell,
    Plasticity,
    PlasticLinear,
    PlasticLinearCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
)

BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
TRACES = ("trace", "eligibility")
SEQUENCES = (PlasticRNN, PlasticLSTM, PlasticGRU, PlasticLinear)
CELLS = (PlasticRNNCell, PlasticLSTMCell, PlasticGRUCell, PlasticLinearCell)
RULE = Plasticity(constraint="clip", modulation="retroactive", alpha_init=0.3)


def of(case: Case, dtypes: Callable[[str], torch.dtype]) -> dict[str, Tensor]:
    """Leaves of a case, each in the dtype that its name has."""
    return {
        name: tensor.detach().to(dtypes(name)).requires_grad_()
        for name, tensor in case.inputs(torch.float32).items()
    }


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        assert torch.equal(found[name], right.to(found[name].dtype)), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("half", [BF16, FP16])
@pytest.mark.parametrize("name", ["rnn-retroactive-half", "lstm-simple", "linear-simple"])
def test_half_activities_go_with_float32_parameters(
    backend: str, half: torch.dtype, name: str
) -> None:
    case = VARIANTS[name]
    given = "input" if case.network == "linear" else "drive"
    mixed = of(case, lambda name: half if name in (given, "hidden") else FP32)
    whole = {name: tensor.detach().float().requires_grad_() for name, tensor in mixed.items()}
    found, expected = case.sequence(mixed, backend), case.sequence(whole, backend)
    for name, output in found.items():
        assert output.dtype == (FP32 if name in TRACES else half)
    check_equal(found, expected)
    # A gradient has the dtype of its tensor, and the precision of float32 up to there.
    found, expected = case.results(found, mixed), case.results(expected, whole)
    for name, tensor in mixed.items():
        assert found[f"grad_{name}"].dtype == tensor.dtype
        error = (found[f"grad_{name}"].float() - expected[f"grad_{name}"]).abs().max()
        assert error <= 8 * torch.finfo(half).eps * expected[f"grad_{name}"].abs().max().clamp(
            min=1
        ), name


MIXED = [
    ("weight", FP32, FP64, "weight must have dtype torch.float32; got torch.float64"),
    ("hidden", FP32, BF16, "hidden must have dtype torch.float32; got torch.bfloat16"),
    (
        "weight",
        BF16,
        FP16,
        "weight must have dtype torch.bfloat16 or torch.float32; got torch.float16",
    ),
    (
        "alpha",
        BF16,
        FP64,
        "alpha must have dtype torch.bfloat16 or torch.float32; got torch.float64",
    ),
    (
        "modulator_bias",
        FP16,
        FP64,
        "modulator.bias must have dtype torch.float16 or torch.float32; got torch.float64",
    ),
    ("eligibility", FP16, FP16, "eligibility must have dtype torch.float32; got torch.float16"),
    ("trace", FP64, FP32, "trace must have dtype torch.float64; got torch.float32"),
]


@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize("backend", [*BACKENDS, None])
@pytest.mark.parametrize(
    "name, rest, own, message", MIXED, ids=[f"{m[0]}-{i}" for i, m in enumerate(MIXED)]
)
def test_dtypes_that_do_not_go_together_are_named(
    backend: str | None,
    name: str,
    rest: torch.dtype,
    own: torch.dtype,
    message: str,
    recording: bool,
) -> None:
    case = replace(VARIANTS["rnn-retroactive"], lengths=None)
    traces = FP32 if rest in (BF16, FP16) else rest
    inputs = of(case, lambda each: own if each == name else traces if each in TRACES else rest)
    with torch.set_grad_enabled(recording):
        with pytest.raises(TypeError, match=rf"^plastic_rnn_sequence: {message}$"):
            case.sequence(inputs, backend)
        with pytest.raises(TypeError, match=rf"^plastic_rnn_step: {message}$"):
            case.step(inputs, 0, {each: inputs[each] for each in case.state}, backend)


def test_dtypes_that_nothing_computes_with_are_named() -> None:
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        drive = torch.zeros(2, 3).to(dtype)
        with pytest.raises(
            TypeError, match=r"drive must have dtype torch.float64 or .*; got torch.float8"
        ):
            PF.plastic_rnn_step(drive, None, None, drive, drive, drive)


@pytest.mark.parametrize("kind", [*SEQUENCES, *CELLS])
def test_a_module_refuses_another_dtype_without_autocast(kind: Any) -> None:
    for own, other in ((FP32, FP64), (FP32, BF16), (FP16, FP32), (FP64, FP32), (FP32, torch.int64)):
        with pytest.raises(
            TypeError, match=rf"^{kind.__name__}: input must have dtype {own}; got {other}$"
        ):
            kind(3, 4, dtype=own)(torch.zeros(5, 3, dtype=other))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("half", [BF16, FP16])
@each_variant
def test_under_autocast_functions_compute_in_float32_whatever_comes(
    backend: str, half: torch.dtype, case: Case
) -> None:
    given = "input" if case.network == "linear" else "drive"
    mixed = of(case, lambda name: half if name in (given, "hidden", "weight") else FP32)
    whole = {name: tensor.detach().float().requires_grad_() for name, tensor in mixed.items()}
    with torch.autocast("cpu", half):
        found = case.sequence(mixed, backend)
    expected = case.sequence(whole, backend)
    assert all(output.dtype == FP32 for output in found.values())
    check_equal(found, expected)
    check_equal(case.results(found, mixed), case.results(expected, whole))
    for recording in (torch.enable_grad, torch.no_grad):
        with torch.autocast("cpu", half), recording():
            stepped = case.step(mixed, 0, {name: mixed[name] for name in case.state}, backend)
        with recording():
            expected = case.step(whole, 0, {name: whole[name] for name in case.state}, backend)
        assert all(output.dtype == FP32 for output in stepped.values())
        check_equal(stepped, expected)


@needs_native
@each_variant
def test_complaint_8_a_backward_pass_under_autocast_neither_fails_nor_loses_precision(
    case: Case,
) -> None:
    inputs = case.inputs(torch.float32)
    expected = case.results(case.sequence(inputs, "cpu"), inputs)
    with torch.autocast("cpu", BF16):
        found = case.results(case.sequence(inputs, "cpu"), inputs)
    check_equal(found, expected)


def trained(
    module: nn.Module, *arguments: Any, autocast: torch.dtype | None, whole_pass: bool = False
) -> list[Tensor]:
    module.zero_grad()
    with torch.autocast("cpu", autocast or BF16, enabled=autocast is not None):
        found = module(*arguments)
        tensors = [
            x
            for part in found
            for x in (part if isinstance(part, tuple) else (part,))
            if x is not None
        ]
        loss = torch.stack([x.float().square().sum() for x in tensors]).sum()
        if whole_pass:
            loss.backward()
    if not whole_pass:
        loss.backward()
    return [x.detach() for x in tensors] + [
        p.grad for p in module.parameters() if p.grad is not None
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("half", [BF16, FP16])
@pytest.mark.parametrize("own", [FP32, BF16])
@pytest.mark.parametrize("kind", [*SEQUENCES, *CELLS])
def test_complaint_8_modules_train_under_autocast(
    kind: Any, own: torch.dtype, half: torch.dtype, backend: str
) -> None:
    module = kind(3, 4, plasticity=RULE, backend=backend, dtype=own)
    input = torch.randn(5, 2, 3) if kind in SEQUENCES else torch.randn(2, 3)
    for given in (input, input.to(half)):
        found = trained(module, given, autocast=half)
        gradients = found[-len(list(module.parameters())) :]
        assert all(x.dtype == FP32 for x in found[: -len(gradients)])
        assert [g.dtype for g in gradients] == [p.dtype for p in module.parameters()]
        assert all(x.isfinite().all() for x in found)
    # What came out goes in again.
    with torch.autocast("cpu", half):
        result = module(input)
        module(input, result if isinstance(result[0], Tensor) and len(result) > 2 else result[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_under_autocast_a_module_differs_only_by_its_input_layer(backend: str) -> None:
    input = torch.randn(5, 2, 4)
    for module in (
        PlasticRNN(None, 4, plasticity=RULE, backend=backend),
        PlasticLinear(4, 3, True, plasticity=RULE, backend=backend),
    ):
        for whole_pass in (True, False) if backend == "cpu" else (False,):
            found = trained(module, input, autocast=BF16, whole_pass=whole_pass)
            found = [x.clone() for x in found]
            expected = trained(module, input, autocast=None)
            assert all(
                torch.equal(left, right) for left, right in zip(found, expected, strict=True)
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_float64_is_not_cast_by_autocast(backend: str) -> None:
    module, input = (
        PlasticRNN(3, 4, plasticity=RULE, backend=backend, dtype=FP64),
        torch.randn(5, 2, 3),
    )
    found = [x.clone() for x in trained(module, input.double(), autocast=BF16)]
    expected = trained(module, input.double(), autocast=None)
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))
    with torch.autocast("cpu", BF16):
        with pytest.raises(
            TypeError, match=r"PlasticRNN: input must have dtype torch\.float64; got torch\.float32"
        ):
            module(input)
        message = r"PlasticRNN: input must have dtype torch\.float32 or .*; got torch\.float64"
        with pytest.raises(TypeError, match=message):
            PlasticRNN(3, 4)(input.double())


def test_the_modulator_signal_keeps_its_precision_under_autocast() -> None:
    module = PlasticRNN(3, 4, plasticity=Plasticity(modulation="simple", constraint="clip"))
    source = torch.randn(5, 2, 4)
    expected = module.modulator_signal(source)
    with torch.autocast("cpu", BF16):
        assert torch.equal(module.modulator_signal(source), expected)
        assert module.modulator_signal(source.bfloat16()).dtype == FP32
    signal = module.modulator_signal(source.bfloat16())
    assert signal.dtype == BF16 and (signal.float() - expected).abs().max() < 0.05


@pytest.mark.parametrize("backend", BACKENDS)
def test_scaled_gradients_of_float16_training_are_those_without_scaling(backend: str) -> None:
    module, input = PlasticRNN(3, 4, plasticity=RULE, backend=backend), torch.randn(5, 2, 3)
    scaler, found = torch.amp.GradScaler("cpu", init_scale=2.0**12), []
    for scale in (lambda loss: loss, scaler.scale):
        optimiser = torch.optim.SGD(module.parameters(), lr=0.0)
        optimiser.zero_grad()
        with torch.autocast("cpu", FP16):
            output, _ = module(input)
        scale(output.square().mean()).backward()
        if found:
            scaler.unscale_(optimiser)
        found.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=2e-3, atol=1e-5)
