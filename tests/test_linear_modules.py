"""PlasticLinear is torch.nn.Linear and a nonlinearity, with traces that go from step to step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import BACKENDS, random
from tolerances import FP64_ROUNDING
from torch import nn

from plastikern import LinearState, Plasticity, PlasticLinear, PlasticLinearCell

OJA = Plasticity(rule="oja", constraint="none", alpha_init=0.5, eta_init=0.2)
PLAIN = Plasticity(alpha_init=0, eta_init=0.1)


def layer(*args: Any, plasticity: Plasticity = OJA, **options: Any) -> PlasticLinear:
    torch.manual_seed(0)
    return PlasticLinear(*args, plasticity=plasticity, dtype=torch.float64, **options)


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=FP64_ROUNDING, atol=FP64_ROUNDING)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "nonlinearity, function", [("softmax", lambda z: z.softmax(-1)), ("identity", lambda z: z)]
)
def test_without_plasticity_it_is_torch_nn_linear(
    backend: str, bias: bool, nonlinearity: str, function: Any
) -> None:
    theirs = nn.Linear(3, 4, bias=bias, dtype=torch.float64)
    ours = layer(3, 4, bias, plasticity=PLAIN, nonlinearity=nonlinearity, backend=backend)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected and set(missing) == {"alpha", "eta"}
    input, upstream = random(5, 2, 3), random(5, 2, 4)
    results = []
    for module in (theirs, ours):
        x = input.clone().requires_grad_()
        output = function(theirs(x)) if module is theirs else ours(x)[0]
        output.backward(upstream)
        results.append([output, x.grad, module.weight.grad] + ([module.bias.grad] if bias else []))
    close(results[1], results[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("driven", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_sequence_is_its_steps(
    backend: str, batched: bool, batch_first: bool, driven: bool, bias: bool
) -> None:
    module = layer(3, 4, bias, batch_first=batch_first, backend=backend)
    cell = PlasticLinearCell(3, 4, bias, plasticity=OJA, backend=backend, dtype=torch.float64)
    cell.load_state_dict(module.state_dict())
    front = (2,) if batched else ()
    input, drive = random(5, *front, 3), random(5, *front, 4) if driven else None
    for start in (None, LinearState(random(*front, 4, 3))):
        state, outputs = start, []
        for t in range(5):
            output, state = cell(input[t], state, drive=None if drive is None else drive[t])
            outputs.append(output)
        flip = batched and batch_first
        given = [None if x is None else x.transpose(0, 1) if flip else x for x in (input, drive)]
        whole, last = module(given[0], start, drive=given[1])
        close(
            (whole.transpose(0, 1) if flip else whole, last.trace),
            (torch.stack(outputs), state.trace),
        )
        assert last.trace.shape == (*front, 4, 3) and last.eligibility is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_label_forces_the_output(backend: str) -> None:
    module = layer(3, 4, backend=backend)
    label = nn.functional.one_hot(torch.tensor([[2, 0], [1, 3]]), 4).double()
    output, state = module(random(2, 2, 3), drive=1000 * label)
    assert torch.equal(output, label) and state.trace.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_an_element_that_has_ended_keeps_its_state_and_outputs_zero(
    backend: str, batch_first: bool
) -> None:
    module = layer(3, 4, batch_first=batch_first, backend=backend)
    input, lengths, start = random(5, 3, 3), [5, 0, 3], random(3, 4, 3)
    output, state = module(
        input.transpose(0, 1) if batch_first else input, LinearState(start), lengths=lengths
    )
    output = output.transpose(0, 1) if batch_first else output
    for b, length in enumerate(lengths):
        assert not output[length:, b].any()
        alone, last = module(input[:length, b], (start[b],))
        close((output[:length, b], state.trace[b]), (alone, last.trace))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_detached_state_cuts_the_history(backend: str) -> None:
    module, early = layer(3, 4, backend=backend), random(3, 2, 3).requires_grad_()
    _, state = module(early)
    late, _ = module(random(3, 2, 3), state.detach())
    late.square().sum().backward()
    assert (
        isinstance(state.detach(), LinearState) and early.grad is None and module.weight.grad.any()
    )


def test_parameters_start_as_torch_nn_says() -> None:
    module = layer(100, 50, True, plasticity=Plasticity(alpha_init=0.3))
    for value in (module.weight, module.bias):
        assert 0.08 < value.abs().max() <= 0.1  # U(-1/sqrt(I), 1/sqrt(I))
    assert module.weight.shape == module.alpha.shape == (50, 100) and module.bias.shape == (50,)
    assert layer(3, 4).bias is None


@pytest.mark.parametrize("kind", [PlasticLinear, PlasticLinearCell])
def test_device_and_dtype_and_repr(kind: type[nn.Module]) -> None:
    module = kind(3, 4, plasticity=OJA, device="meta", dtype=torch.float16)
    assert {(str(value.device), value.dtype) for value in module.state_dict().values()} == {
        ("meta", torch.float16)
    }
    for part in (kind.__name__, "3, 4", "bias=False", "nonlinearity='softmax'", "rule='oja'"):
        assert part in repr(module)


@pytest.mark.parametrize("backend", BACKENDS)
def test_under_autocast_the_drive_may_keep_its_precision(backend: str) -> None:
    module = PlasticLinear(3, 4, backend=backend)
    input, drive = torch.randn(5, 2, 3), torch.randn(5, 2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = module(input.bfloat16(), drive=drive)
    assert state.trace.dtype == torch.float32 and output.shape == (5, 2, 4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"in_features": 0}, "in_features must be a positive integer; got 0"),
        ({"out_features": True}, "out_features must be a positive integer; got True"),
        ({"nonlinearity": "gelu"}, "nonlinearity must be one of .*softmax; got 'gelu'"),
        ({"plasticity": None}, "plasticity must be a Plasticity or a rule; got NoneType"),
    ],
)
@pytest.mark.parametrize("kind", [PlasticLinear, PlasticLinearCell])
def test_a_module_that_cannot_be_is_not_made(
    kind: type[nn.Module], options: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{kind.__name__}: {message}"):
        kind(**{"in_features": 3, "out_features": 4, **options})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"input": [1.0]}, "input must be a tensor; got list"),
        ({"input": torch.zeros(3)}, "input must have 3 dimensions, or 2 for one element"),
        ({"input": torch.zeros(5, 2, 4)}, r"input must have 3 features; got shape \(5, 2, 4\)"),
        ({"drive": torch.zeros(5, 2, 3)}, r"drive must have shape \(5, 2, 4\); got \(5, 2, 3\)"),
        (
            {"drive": torch.zeros(5, 2, 4).double()},
            "drive must have dtype torch.float32; got torch.float64",
        ),
        ({"drive": 1.0}, "drive must be a tensor; got float"),
        (
            {"state": torch.zeros(2, 4, 3)},
            r"state must .* LinearState \(trace, eligibility\); got Tensor",
        ),
        (
            {"state": LinearState(torch.zeros(2, 3, 4))},
            r"state.trace must have shape \(2, 4, 3\); got \(2, 3, 4\)",
        ),
        ({"lengths": [1, 6]}, "lengths must lie from 0 to 5"),
        ({"input": torch.zeros(5, 3), "lengths": [3]}, "lengths are for batched input"),
    ],
)
def test_a_bad_call_names_the_argument(changes: dict[str, Any], message: str) -> None:
    given = {"input": torch.zeros(5, 2, 3), **changes}
    with pytest.raises((TypeError, ValueError), match=message):
        PlasticLinear(3, 4, bias=True)(given.pop("input"), **given)


@pytest.mark.parametrize("kind", [PlasticLinear, PlasticLinearCell])
def test_shapes_are_found_on_the_device_meta(kind: type[nn.Module]) -> None:
    over_time = (5, 2) if kind is PlasticLinear else (2,)
    input, drive = (torch.empty(*over_time, size, device="meta") for size in (3, 4))
    output, state = kind(3, 4, device="meta")(input, drive=drive)
    assert output.shape == (*over_time, 4) and state.trace.shape == (2, 4, 3)
