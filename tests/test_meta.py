"""Without values: modules on the device ``meta``, made real later, and under ``FakeTensorMode``."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

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

SEQUENCES, CELLS = (
    (PlasticRNN, PlasticLSTM, PlasticGRU, PlasticLinear),
    (PlasticRNNCell, PlasticLSTMCell, PlasticGRUCell, PlasticLinearCell),
)
SIMPLE = Plasticity(constraint="clip", modulation="simple", fan_out="connection", learn_eta=False)
MASK = [True, False, True, True, False]
RULES = {
    "decay": {},
    "retroactive": {"plasticity": Plasticity(constraint="clip", modulation="retroactive")},
    "half": {"plasticity": SIMPLE, "modulated": MASK},
}


def made(kind: Any, rule: str = "decay", **options: Any) -> Any:
    given = {**RULES[rule], **options}
    if "modulated" in given:
        given["modulated"] = torch.tensor(given["modulated"])
    return kind(4, 5, **given)


def flat(result: Any) -> list[Tensor]:
    return [
        x
        for part in result
        for x in ((part,) if isinstance(part, Tensor) else part or ())
        if x is not None
    ]


def same(module: nn.Module, **options: Any) -> None:
    """It has a mask and rates, and computes what one that was real from the beginning does."""
    twin = made(type(module), "half")
    twin.load_state_dict({**module.state_dict(), "modulated": torch.tensor(MASK)})
    input = torch.randn(*((3, 4) if type(module) in CELLS else (6, 3, 4)))
    for left, right in zip(flat(module(input)), flat(twin(input)), strict=True):
        assert torch.equal(left, right) and left.isfinite().all()


@pytest.mark.parametrize("kind", [*SEQUENCES, *CELLS])
def test_the_mask_of_a_half_modulated_network_outlives_memory_without_values(kind: Any) -> None:
    outer = nn.Sequential(made(kind, "half", device="meta"))
    for make_real in (
        lambda: outer.to_empty(device="cpu"),
        lambda: outer.to_empty(device="cpu"),
        lambda: outer.to("meta").to_empty(device="cpu"),
        lambda: copy.deepcopy(outer.to("meta")).to_empty(device="cpu"),
    ):
        module = make_real()[0]
        module.reset_parameters()
        assert module.modulated.tolist() == MASK
        same(module)
    outer.to_empty(device="cpu")[0].modulated.logical_not_()
    assert outer.to("meta").to_empty(device="cpu")[0].modulated.tolist() == [
        not value for value in MASK
    ]


def test_a_mask_that_nobody_knows_is_refused_until_it_is_loaded() -> None:
    with torch.device("meta"):
        module = made(PlasticRNN, "half")
    module.reset_parameters()
    module.to_empty(device="cpu")
    with pytest.raises(
        ValueError, match="PlasticRNN: modulated must be a mask with values, to be given or loaded"
    ):
        module.reset_parameters()
    with pytest.raises(ValueError, match="modulated must be on the drive's device cpu; got meta"):
        module(torch.randn(6, 3, 4))
    for assign in (False, True):
        with torch.device("meta"):
            module = made(PlasticRNN, "half")
        if not assign:
            module.to_empty(device="cpu")
        module.load_state_dict(made(PlasticRNN, "half").state_dict(), assign=assign)
        assert module.modulated.tolist() == MASK
        same(module)
        module.reset_parameters()
        assert module.to("meta").to_empty(device="cpu").modulated.tolist() == MASK


def acted(module: Any, inputs: Tensor) -> Any:
    rollout = module.rollout(len(inputs), inputs.shape[1])
    for row in inputs:
        rollout.step(row)
    rollout.state()
    return rollout.finish(inputs)


def under_autocast(module: Any, input: Tensor) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return module(input)


CALLS = {
    "call": lambda module, input: module(input),
    "lengths": lambda module, input: module(input, lengths=[6, 0, 2]),
    "lengths in a tensor": lambda module, input: module(input, lengths=torch.tensor([6, 0, 2])),
    "autocast": under_autocast,
    "rollout": acted,
}


def shapes(kind: Any, rule: str, call: str, **options: Any) -> list[tuple[Any, ...]]:
    """Of the results of a call and of all gradients, with their dtypes."""
    module = made(kind, rule, **options)
    size = (3, 4) if kind in CELLS else (6, 3, 4)
    input = torch.randn(size, dtype=options.get("dtype"), device=options.get("device"))
    results = flat(CALLS[call](module, input))
    loss = torch.stack([result.double().sum() for result in results]).sum()
    gradients = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    return [(tuple(x.shape), x.dtype) for x in (*results, *gradients) if x is not None]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", [*SEQUENCES, *CELLS])
def test_shapes_are_found_on_the_device_meta(kind: Any, rule: str) -> None:
    for call in ("call", *(["rollout"] if kind in (PlasticRNN, PlasticLSTM) else [])):
        assert shapes(kind, rule, call, device="meta") == shapes(kind, rule, call)


@pytest.mark.parametrize(
    "kind, call",
    [
        *((kind, call) for kind in (PlasticRNN, PlasticLSTM) for call in CALLS),
        *((PlasticLinear, call) for call in CALLS if call != "rollout"),
        *((kind, call) for kind in CELLS for call in ("call", "autocast")),
    ],
)
def test_shapes_are_found_under_a_fake_tensor_mode(kind: Any, call: str) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [(rule, {}) for rule in RULES]
    cases += [("half", {"backend": "reference"})]
    if call != "autocast":
        cases += [("decay", {"dtype": torch.float64}), ("retroactive", {"dtype": torch.bfloat16})]
    for rule, options in cases:
        expected = shapes(kind, rule, call, **options)
        with FakeTensorMode():
            assert shapes(kind, rule, call, **options) == expected
