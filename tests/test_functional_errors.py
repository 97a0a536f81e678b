"""Bad input gives one error that names the argument, what was got and what was expected; emptiness gives emptiness."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    BACKENDS,
    INPUTS,
    KINDS,
    RETROACTIVE,
    SIMPLE,
    Case,
    each_variant,
    gradients,
    is_modulators,
    needs_native,
    ruled,
)  # fmt: skip
from torch import Tensor

import plastikern
import plastikern.functional as PF
from plastikern import Plasticity, PlasticRNN, PlasticRNNCell

CASE = Case(steps=5, batch=2, neurons=4)
SHAPES = {
    "drive": (5, 2, 4),
    "hidden": (2, 4),
    "trace": (2, 4, 4),
    "weight": (4, 4),
    "alpha": (4, 4),
    "eta": (),
}


def call(**changes: Any) -> Any:
    return PF.plastic_rnn_sequence(**{**CASE.inputs(), **CASE.options(), **changes})


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("extra", [1, -1])
def test_a_wrong_shape_is_named(name: str, extra: int) -> None:
    right = SHAPES[name]
    # One number may be (1,).
    wrong = (*right, 1 if right else 2) if extra == 1 else right[1:] if right else (4,)
    expected = "(T, B, N)" if name == "drive" else str(right)
    with pytest.raises(
        ValueError, match=re.escape(f"{name} must have shape {expected}; got {wrong}")
    ):
        call(**{name: torch.zeros(wrong, dtype=torch.float64)})


@pytest.mark.parametrize("name", INPUTS[1:])
def test_a_wrong_dtype_device_or_type_is_named(name: str) -> None:
    right = torch.zeros(SHAPES[name], dtype=torch.float64)
    with pytest.raises(
        TypeError, match=rf"{name} must have dtype torch\.float64; got torch\.float32"
    ):
        call(**{name: right.float()})
    with pytest.raises(ValueError, match=rf"{name} must be on the drive's device cpu; got meta"):
        call(**{name: right.to("meta")})
    with pytest.raises(TypeError, match=rf"{name} must be a tensor; got list"):
        call(**{name: right.tolist() if right.dim() else [0.1]})


NAN = math.nan
BAD: list[tuple[dict[str, Any], str]] = [
    ({"drive": torch.zeros(5, 2, 4).long()}, r"drive must be a floating-point tensor; got a tensor of torch\.int64"),
    ({"drive": torch.zeros(5, 2, 4).to(torch.complex64)}, r"drive must be a floating-point tensor; got .*complex64"),
    ({"drive": None}, "drive must be a floating-point tensor; got NoneType"),
    ({"drive": torch.zeros(5, 2, 0)}, r"drive must have at least one neuron; got shape \(5, 2, 0\)"),
    ({"weight": None}, "weight must be a tensor; got NoneType"),
    ({"nonlinearity": "softplus"}, "nonlinearity must be one of tanh, relu, sigmoid, identity; got 'softplus'"),
    ({"plasticity": "hebb"}, "plasticity must be a Plasticity; got str"),
    ({"clamp": torch.zeros(2, 4, dtype=torch.bool)}, r"clamp must have shape \(5, 2, 4\); got \(2, 4\)"),
    ({"clamp": torch.zeros(5, 2, 4)}, r"clamp must have dtype torch\.bool; got torch\.float32"),
    ({"clamp": torch.zeros(5, 2, 4).bool().to("meta")}, "clamp must be on the drive's device cpu; got meta"),
    ({"clamp": [True]}, "clamp must be a tensor; got list"),
    ({"lengths": torch.tensor([5, 6])}, "lengths must lie from 0 to 5; got 5 to 6"),
    ({"lengths": [-1, 5]}, "lengths must lie from 0 to 5; got -1 to 5"),
    ({"lengths": torch.tensor([5.0, 4.0])}, r"lengths must be integers; got torch\.float32"),
    ({"lengths": [True, False]}, r"lengths must be integers; got torch\.bool"),
    ({"lengths": torch.tensor([5])}, r"lengths must have shape \(2,\); got \(1,\)"),
    ({"lengths": 5}, r"lengths must have shape \(2,\); got \(\)"),
    ({"lengths": "five"}, "lengths must .*got "),
    ({"lengths": [5, None]}, "lengths must .*got "),
    ({"checkpoint_every": 0}, "checkpoint_every must be a positive integer; got 0"),
    ({"checkpoint_every": -3}, "checkpoint_every must be a positive integer; got -3"),
    ({"checkpoint_every": 2.0}, r"checkpoint_every must be a positive integer; got 2\.0"),
    ({"checkpoint_every": True}, "checkpoint_every must be a positive integer; got True"),
]  # fmt: skip


@pytest.mark.parametrize(
    "changes, message", BAD, ids=[f"{next(iter(bad))}-{i}" for i, (bad, _) in enumerate(BAD)]
)
def test_a_bad_argument_is_named_with_what_was_got_and_what_was_expected(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^plastic_rnn_sequence: {message}"):
        call(**changes)


def test_a_step_names_itself_in_its_errors() -> None:
    inputs = {
        **CASE.inputs(),
        "drive": torch.zeros(2, 4, dtype=torch.float64),
        "trace": torch.zeros(1),
    }
    with pytest.raises(
        ValueError, match=r"^plastic_rnn_step: trace must have shape \(2, 4, 4\); got \(1,\)"
    ):
        PF.plastic_rnn_step(**inputs)


def spoken(name: str) -> str:
    """A tensor's name in errors: the modulator's are its fields."""
    return f"modulator.{name.removeprefix('modulator_')}" if is_modulators(name) else name


@each_variant
def test_a_wrong_shape_or_dtype_is_named_in_every_network(case: Case) -> None:
    inputs = case.inputs()
    for name, right in inputs.items():
        wrong = right.unsqueeze(-1) if right.dim() else right.view(1, 1)  # one number may be (1,)
        got = re.escape(str(tuple(wrong.shape)))
        with pytest.raises(
            ValueError,
            match=rf"^plastic_{case.network}_sequence: {spoken(name)} must .*; got {got}",
        ):
            case.sequence({**inputs, name: wrong}, None)
        if name == ("input" if case.network == "linear" else "drive"):
            continue
        with pytest.raises(
            TypeError, match=rf"{spoken(name)} must have dtype torch\.float64; got torch\.float32"
        ):
            case.sequence({**inputs, name: right.float()}, None)


PLAIN, FAN_OUT = Case(), Case(plasticity=ruled("hebb", "clip", fan_out="neuron", **SIMPLE))
MODULATED, HALF = (
    Case(plasticity=Plasticity(**SIMPLE)),
    Case(plasticity=Plasticity(**SIMPLE), half_modulated=True),
)
REACTIVE = Case(plasticity=Plasticity(eta="neuron", **RETROACTIVE))
LSTM, LAYER = Case(network="lstm"), Case(network="linear")
BY_CELL = Plasticity(modulator_input="cell", **SIMPLE)
SQUARE, ROW = torch.zeros(2, 5, 5).double(), torch.zeros(5).double()
WITHOUT = "must be None with modulation 'none' and fan_out 'none'"
NETWORK_BAD: list[tuple[Case, dict[str, Any], str]] = [
    (MODULATED, {"modulator": None}, "modulator must be a Modulator; got None"),
    (PLAIN, {"modulator": MODULATED.arguments(MODULATED.inputs())["modulator"]}, f"modulator {WITHOUT}"),
    (PLAIN, {"eta": None}, "eta must be a tensor; got None"),
    (HALF, {"eta": None}, "eta must be a tensor; got None"),
    (MODULATED, {"eta": ROW[0]}, "eta must be None where a modulator governs every neuron with modulation 'simple'"),
    (REACTIVE, {"eligibility_eta": None}, "eligibility_eta must be a tensor; got None"),
    (REACTIVE, {"eligibility_eta": ROW[0]}, r"eligibility_eta must have shape \(5,\); got \(\)"),
    (MODULATED, {"eligibility_eta": ROW[0]}, "eligibility_eta must be None with modulation 'simple'"),
    (PLAIN, {"eligibility": SQUARE}, "eligibility is for retroactive modulation; got modulation 'none'"),
    (MODULATED, {"eligibility": SQUARE}, "eligibility is for retroactive modulation; got modulation 'simple'"),
    (REACTIVE, {"eligibility": SQUARE[:1]}, r"eligibility must have shape \(2, 5, 5\); got \(1, 5, 5\)"),
    (MODULATED, {"plasticity": BY_CELL}, "modulator_input must be one of hidden, previous_hidden; got 'cell'"),
    (LAYER, {"nonlinearity": "gelu"}, "nonlinearity must be one of .*, softmax; got 'gelu'"),
    (PLAIN, {"nonlinearity": "softmax"}, "nonlinearity must be one of tanh, relu, sigmoid, identity; got 'softmax'"),
    (LSTM, {"drive": torch.zeros(7, 2, 21)}, r"drive must have four values per neuron; got shape \(7, 2, 21\)"),
    (LSTM, {"post": "gate"}, "post must be one of candidate, recurrent, cell, hidden; got 'gate'"),
    (LSTM, {"cell": SQUARE[0]}, r"cell must have shape \(2, 5\); got \(5, 5\)"),
    (LAYER, {"input": torch.zeros(7, 2, 3).double()}, r"weight must have shape \(5, 3\); got \(5, 4\)"),
    (LAYER, {"input": torch.zeros(2, 4)}, r"input must have shape \(T, B, I\); got \(2, 4\)"),
    (LAYER, {"input": [1.0]}, "input must be a floating-point tensor; got list"),
    (LAYER, {"weight": None}, r"weight must have shape \(O, 4\); got NoneType"),
    (LAYER, {"weight": ROW}, r"weight must have shape \(O, 4\); got \(5,\)"),
    (LAYER, {"drive": torch.zeros(7, 2, 4).double()}, r"drive must have shape \(7, 2, 5\); got \(7, 2, 4\)"),
    (LAYER, {"drive": torch.zeros(7, 3, 5).double()}, r"drive must have shape \(7, 2, 5\); got \(7, 3, 5\)"),
    (LAYER, {"trace": SQUARE}, r"trace must have shape \(2, 5, 4\); got \(2, 5, 5\)"),
]  # fmt: skip


@pytest.mark.parametrize("case, changes, message", NETWORK_BAD, ids=range(len(NETWORK_BAD)))
def test_what_a_network_does_not_take_is_named(
    case: Case, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(
        (TypeError, ValueError), match=f"^plastic_{case.network}_sequence: {message}"
    ):
        case.sequence(case.inputs(), None, **changes)


@pytest.mark.parametrize(
    "case, changes, message",
    [
        (FAN_OUT, {"fan_out_weight": None}, "fan_out_weight must be a tensor; got None"),
        (FAN_OUT, {"fan_out_bias": None}, "fan_out_bias must be a tensor; got None"),
        (
            FAN_OUT,
            {"fan_out_weight": SQUARE[0]},
            r"fan_out_weight must have shape \(5,\); got \(5, 5\)",
        ),
        (
            MODULATED,
            {"fan_out_weight": ROW},
            "fan_out_weight must be None with modulation 'simple' and fan_out 'none'",
        ),
        (
            MODULATED,
            {"fan_out_bias": ROW},
            "fan_out_bias must be None with modulation 'simple' and fan_out 'none'",
        ),
        (MODULATED, {"weight": ROW[:3]}, r"weight must have shape \(5,\); got \(3,\)"),
        (MODULATED, {"bias": ROW}, r"bias must have shape \(\); got \(5,\)"),
        (MODULATED, {"bias": 0.5}, "bias must be a tensor; got float"),
        (HALF, {"modulated": ROW}, r"modulated must have dtype torch\.bool; got torch\.float64"),
        (HALF, {"modulated": ROW[:4] == 0}, r"modulated must have shape \(5,\); got \(4,\)"),
    ],
)
def test_a_bad_field_of_a_modulator_is_named(
    case: Case, changes: dict[str, Any], message: str
) -> None:
    for network in ("rnn", "lstm", "linear"):
        case = replace(case, network=network)
        inputs = case.inputs()
        modulator = case.arguments(inputs)["modulator"]._replace(**changes)
        with pytest.raises(
            (TypeError, ValueError), match=rf"^plastic_{network}_sequence: modulator\.{message}"
        ):
            case.sequence(inputs, None, modulator=modulator)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hidden_size": 0}, "hidden_size must be a positive integer; got 0"),
        ({"hidden_size": -4}, "hidden_size must be a positive integer; got -4"),
        ({"hidden_size": 4.0}, r"hidden_size must be a positive integer; got 4\.0"),
        ({"input_size": -1}, "input_size must be a positive integer; got -1"),
        ({"input_size": True}, "input_size must be a positive integer; got True"),
        ({"num_layers": 0}, "num_layers must be a positive integer; got 0"),
        ({"dropout": 1.5}, r"dropout must lie from 0 to 1; got 1\.5"),
        ({"dropout": NAN}, "dropout must lie from 0 to 1; got nan"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a positive integer; got 0"),
        ({"checkpoint_every": True}, "checkpoint_every must be a positive integer; got True"),
        (
            {"nonlinearity": "gelu"},
            "nonlinearity must be one of tanh, relu, sigmoid, identity; got 'gelu'",
        ),
        ({"plasticity": None}, "plasticity must be a Plasticity or a rule; got NoneType"),
    ],
)
def test_a_module_that_cannot_be_is_not_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        PlasticRNN(**{"input_size": 3, "hidden_size": 4, **options})


HIDDEN, TRACE = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, 4)
NETWORK_CALLS: list[tuple[int | None, dict[str, Any], str]] = [
    (3, {"input": torch.zeros(3)}, "input must have 3 dimensions"),
    (3, {"input": [1.0]}, "input must be a tensor; got list"),
    (3, {"input": torch.zeros(5, 2, 7)}, r"input must have 3 features; got .*\(5, 2, 7\)"),
    (None, {"input": torch.zeros(5, 2, 7)}, r"input must have 4 features; got .*\(5, 2, 7\)"),
    (None, {"input": torch.zeros(5, 2, 1)}, r"input must have 4 features; got .*\(5, 2, 1\)"),
    (3, {"input": torch.zeros(5, 2, 3).double()}, r"input must have dtype torch\.float32; got torch\.float64"),
    (3, {"state": (HIDDEN[:, :1], TRACE)}, r"hidden must have shape \(1, 2, 4\); got \(1, 1, 4\)"),
    (3, {"state": (HIDDEN, HIDDEN)}, r"trace must have shape \(1, 2, 4, 4\); got \(1, 2, 4\)"),
    (3, {"state": TRACE}, r"hidden must have shape \(1, 2, 4\); got \(1, 2, 4, 4\)"),
    (3, {"state": [1.0]}, r"state must .*got list of \(float\)"),
    (3, {"clamp": torch.zeros(5, 2, 3, dtype=torch.bool)}, r"clamp must have shape \(5, 2, 4\); got \(5, 2, 3\)"),
    (3, {"clamp": torch.zeros(6, 5, 2, 4, dtype=torch.bool)}, r"clamp must have shape \(5, 2, 4\); got \(6, 5, 2, 4\)"),
    (3, {"clamp": torch.zeros(5, 2, 4)}, r"clamp must have dtype torch\.bool; got torch\.float32"),
    (3, {"clamp": True}, "clamp must be a tensor; got bool"),
    (3, {"lengths": [1, 2, 3]}, r"lengths must have shape \(2,\); got \(3,\)"),
    (3, {"input": torch.zeros(5, 3), "lengths": [3]}, "lengths are for batched input"),
]  # fmt: skip


@pytest.mark.parametrize(
    "input_size, changes, message", NETWORK_CALLS, ids=range(len(NETWORK_CALLS))
)
def test_a_bad_call_of_a_network_names_the_argument(
    input_size: int | None, changes: dict[str, Any], message: str
) -> None:
    given = {"input": torch.zeros(5, 2, input_size or 4), **changes}
    with pytest.raises((TypeError, ValueError), match=message):
        PlasticRNN(input_size, 4)(given.pop("input"), **given)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"input": torch.zeros(5, 2, 3)}, r"input must have 2 dimensions.*got \(5, 2, 3\)"),
        ({"input": [1.0]}, "input must .*got list"),
        ({"input": torch.zeros(2, 7)}, r"input must have 3 features; got .*\(2, 7\)"),
        ({"state": (HIDDEN[0], TRACE)}, r"trace must have shape \(2, 4, 4\); got \(1, 2, 4, 4\)"),
        ({"state": HIDDEN}, r"hidden must have shape \(2, 4\); got \(1, 2, 4\)"),
        ({"state": [1.0]}, r"state must .*got list of \(float\)"),
        (
            {"clamp": torch.zeros(3, 4, dtype=torch.bool)},
            r"clamp must have shape \(2, 4\); got \(3, 4\)",
        ),
        ({"clamp": torch.zeros(2, 4)}, r"clamp must have dtype torch\.bool; got torch\.float32"),
    ],
)
def test_a_bad_call_of_a_cell_names_the_argument(changes: dict[str, Any], message: str) -> None:
    given = {"input": torch.zeros(2, 3), **changes}
    with pytest.raises((TypeError, ValueError), match=message):
        PlasticRNNCell(3, 4)(given.pop("input"), **given)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule, constraint", KINDS)
@pytest.mark.parametrize("steps, batch", [(0, 2), (5, 0), (0, 0)])
@pytest.mark.parametrize("granularity", ["connection", "neuron", "layer"])
def test_no_steps_or_no_elements_give_the_empty_result(
    backend: str, rule: str, constraint: str, steps: int, batch: int, granularity: str
) -> None:
    plasticity = Plasticity(rule=rule, constraint=constraint, alpha=granularity, eta=granularity)
    case = Case(steps, batch, 3, plasticity, with_clamp=True, lengths=(0,) * batch)
    inputs = case.inputs()
    output, hidden, trace = PF.plastic_rnn_sequence(**inputs, **case.options(), backend=backend)
    assert output.shape == (steps, batch, 3)
    assert torch.equal(hidden, inputs["hidden"]) and torch.equal(trace, inputs["trace"])
    grads = gradients(output.sum() + hidden.sum() + 2 * trace.sum(), inputs)
    assert (grads["grad_hidden"] == 1).all() and (grads["grad_trace"] == 2).all()
    assert not any(grads[f"grad_{name}"].any() for name in ("drive", "weight", "alpha", "eta"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps, batch", [(0, 2), (5, 0), (0, 0)])
@each_variant
def test_every_network_gives_the_empty_result(
    backend: str, steps: int, batch: int, case: Case
) -> None:
    case = replace(case, steps=steps, batch=batch, lengths=(0,) * batch if steps else None)
    inputs = case.inputs()
    outputs = case.sequence(inputs, backend)
    assert outputs["output"].shape == (steps, batch, case.neurons)
    assert all(torch.equal(outputs[name], inputs[name]) for name in case.state)
    for name, grad in gradients(
        torch.stack([tensor.sum() for tensor in outputs.values()]).sum(), inputs
    ).items():
        assert (grad == (name.removeprefix("grad_") in case.state)).all(), name


def test_no_elements_and_their_lengths_as_an_empty_list() -> None:
    output, _ = PlasticRNN(3, 4)(torch.zeros(5, 0, 3), lengths=[])
    assert output.shape == (5, 0, 4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_in_a_tensor_is_passed_on(backend: str, name: str, value: float) -> None:
    for constraint in ("decay", "clip", "soft_clip"):
        inputs = CASE.inputs()
        with torch.no_grad():
            inputs[name].fill_(value)
        options = {**CASE.options(), "plasticity": Plasticity(constraint=constraint)}
        outputs = PF.plastic_rnn_sequence(**inputs, **options, backend=backend)
        grads = gradients(sum(result.sum() for result in outputs), inputs)  # type: ignore[arg-type]
        found: list[Tensor] = [*outputs, *grads.values()]
        assert math.isinf(value) or any(tensor.isnan().any() for tensor in found[:3])


@pytest.mark.parametrize("backend", BACKENDS)
@each_variant
def test_nan_in_a_tensor_of_any_network_is_passed_on(backend: str, case: Case) -> None:
    for name in case.inputs():
        inputs = case.inputs()
        with torch.no_grad():
            inputs[name].fill_(torch.nan)
        outputs = case.sequence(inputs, backend)
        assert any(tensor.isnan().any() for tensor in outputs.values()), name
        gradients(case.loss(outputs), inputs)


RUBBISH = """
import itertools, torch
from plastikern.program import GRADIENTS, KEPT, OPERANDS, UPSTREAM, WORDS, read, results_of
ops = torch.ops.plastikern
NETWORKS = [
    ("rnn hebb clip tanh candidate none hidden tanh", dict(drive=(5, 2, 4), hidden=(2, 4), trace=(2, 4, 4),
     weight=(4, 4), alpha=(4, 4), rate=(), clamp=(5, 2, 4), lengths=(2,))),
    ("lstm hebb clip tanh candidate retroactive hidden tanh", dict(drive=(5, 2, 16), hidden=(2, 4), cell=(2, 4),
     trace=(2, 4, 4), eligibility=(2, 4, 4), weight=(16, 4), alpha=(4,), rate=(4,), rate_scale=(4,),
     eligibility_rate=(), modulator_weight=(4,), modulator_bias=(), modulated=(4,), lengths=(2,))),
    ("linear hebb clip softmax candidate simple hidden tanh", dict(drive=(5, 2, 4), features=(5, 2, 3),
     trace=(2, 4, 3), weight=(4, 3), alpha=(4, 3), rate=(4, 3), rate_scale=(4, 3), modulator_weight=(4,),
     modulator_bias=(), lengths=(2,))),
]
kinds = dict(clamp=torch.bool, modulated=torch.bool, lengths=torch.int64)
made = lambda shapes: {k: torch.zeros(s, dtype=kinds.get(k)) for k, s in shapes.items()}
def there(t, tables, *but, more=()):
    names = [operand.name for operand in tables if operand.name in t and operand.name not in but]
    return [t[name] for name in names] + [t["alpha"] for _ in more], " ".join([*names, *more])
def step(t, key, checkpoint_every=2, reversible=False, more=()):
    t = {k: v[0] if k in ("drive", "features", "clamp") and v.dim() == 3 and len(v) else v for k, v in t.items()}
    return ops.step(*there(t, OPERANDS, "lengths", more=more), key, 1.0, True)
def sequence(t, key, checkpoint_every=2, reversible=False, more=()):
    return ops.sequence(*there(t, OPERANDS, more=more), key, 1.0, False, checkpoint_every, reversible)
def backward(t, key, checkpoint_every=2, reversible=False, more=()):
    wanted = " ".join(grad.name for grad in GRADIENTS if grad.asked and grad.name in t)
    tables = (*OPERANDS, *KEPT, *UPSTREAM)
    return ops.sequence_backward(*there(t, tables, "drive", more=more), key, 1.0, False, checkpoint_every, wanted)
def complete(shapes, key):
    t = made(shapes)
    names = [result.name for result in results_of(read(key), False, True, True)]
    found = dict(zip(names, sequence(t, key, reversible=True), strict=True))
    t.update({"grad_" + name: torch.zeros_like(found[name]) for name in found if "grad_" + name in
              [operand.name for operand in UPSTREAM]})
    t.update({operand.name: found[operand.name] for operand in KEPT[:4] if operand.name in found})
    return {**t, "trace_out": found["trace"], "lost": found["lost"],
            **({"eligibility_out": found["eligibility"]} if "eligibility" in found else {})}
all_ops, wrong = (step, sequence, backward), []
for key, shapes in NETWORKS:
    good, words = complete(shapes, key), key.split()
    for op in all_ops:
        op(good, key)
    mine = {step: [k for k in shapes if k != "lengths"], sequence: list(shapes),
            backward: [k for k in good if k != "drive" and good[k].numel()]}
    for op in all_ops:
        for name in mine[op]:
            for bad in (torch.zeros(3, dtype=good[name].dtype), torch.zeros(1, 1, 1, 1), good[name].to(torch.float16),
                        good[name].to("meta"), good[name].to(torch.complex64)):
                wrong.append((op, {**good, name: bad}, key, {}))
        for place, word in itertools.product(range(len(WORDS)), ("", "Hebb", "nobody", "1", "\\0", "x" * 10**5)):
            wrong.append((op, good, " ".join([*words[:place], word, *words[place + 1:]]), {}))
        bad_keys = [words[:-1], [*words, "tanh"], [words[0], "oja", "decay", *words[3:]]]
        bad_keys = ["", *(" ".join(bad) for bad in bad_keys)]
        wrong += [(op, good, bad, {}) for bad in bad_keys]
        wrong += [(op, good, key, dict(more=more)) for more in (["nobody"], ["alpha"], ["weight alpha"])]
        wrong += [(op, {k: v for k, v in good.items() if k != name}, key, {}) for name in ("weight", "alpha")]
    for op in (sequence, backward):
        wrong.append((op, good, key, dict(checkpoint_every=-1)))
        wrong += [(op, {**good, "lengths": torch.tensor(bad)}, key, {}) for bad in ([6, 0], [0, -1])]
    wrong += [(backward, good, key, dict(checkpoint_every=every)) for every in (0, 1)]
key, shapes = NETWORKS[0]
good = complete(shapes, key)
wrong += [(op, {**good, "rate": torch.zeros(4, 4), "alpha": torch.zeros(())}, key, {}) for op in all_ops]
wrong.append((backward, {**good, "trace_out": torch.zeros(0)}, key.replace("clip", "decay"), {}))
accepted, unnamed = [], []
for op, tensors, key, options in wrong:
    try:
        op(tensors, key, **options)
        described = {k: (v.dtype, v.device.type, tuple(v.shape)) for k, v in tensors.items()}
        accepted.append((op.__name__, described, key[:100], options))
    except NotImplementedError:
        pass
    except RuntimeError as error:
        if not str(error).startswith("plastikern: "):
            unnamed.append(str(error)[:200])
print(len(wrong), "calls; accepted:", accepted, "unnamed:", unnamed)
"""


@needs_native
def test_the_raw_operators_refuse_rubbish_and_do_not_crash() -> None:
    root = str(Path(plastikern.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); import plastikern\n{RUBBISH}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-2000:]}"
    assert done.stdout.strip().endswith("accepted: [] unnamed: []"), done.stdout
