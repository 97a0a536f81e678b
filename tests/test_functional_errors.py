"""Bad input gives one error that names the argument, what was got and what was expected; emptiness gives emptiness."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BACKENDS, INPUTS, KINDS, Case, gradients, needs_native
from torch import Tensor

import plastikern
import plastikern.functional as PF
from plastikern import Plasticity, PlasticRNN, PlasticRNNCell

CASE = Case(steps=5, batch=2, neurons=4)
SHAPES = {"drive": (5, 2, 4), "hidden": (2, 4), "trace": (2, 4, 4), "weight": (4, 4), "alpha": (4, 4), "eta": ()}


def call(backend: str | None = None, **changes: Any) -> Any:
    return PF.plastic_rnn_sequence(**{**CASE.inputs(), **CASE.options(), **changes}, backend=backend)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("extra", [1, -1])
def test_a_wrong_shape_is_named(name: str, extra: int) -> None:
    right = SHAPES[name]
    wrong = (*right, 1) if extra == 1 else right[1:] if right else (4,)
    expected = "(T, B, N)" if name == "drive" else str(right)
    with pytest.raises(ValueError, match=re.escape(f"{name} must have shape {expected}; got {wrong}")):
        call(**{name: torch.zeros(wrong, dtype=torch.float64)})


@pytest.mark.parametrize("name", INPUTS[1:])
def test_a_wrong_dtype_device_or_type_is_named(name: str) -> None:
    right = torch.zeros(SHAPES[name], dtype=torch.float64)
    with pytest.raises(TypeError, match=rf"{name} must have dtype torch\.float64; got torch\.float32"):
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


@pytest.mark.parametrize("changes, message", BAD, ids=[f"{next(iter(bad))}-{i}" for i, (bad, _) in enumerate(BAD)])
def test_a_bad_argument_is_named_with_what_was_got_and_what_was_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^plastic_rnn_sequence: {message}"):
        call(**changes)


def test_a_step_names_itself_in_its_errors() -> None:
    inputs = {**CASE.inputs(), "drive": torch.zeros(2, 4, dtype=torch.float64), "trace": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"^plastic_rnn_step: trace must have shape \(2, 4, 4\); got \(1,\)"):
        PF.plastic_rnn_step(**inputs)


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
        ({"nonlinearity": "gelu"}, "nonlinearity must be one of tanh, relu, sigmoid, identity; got 'gelu'"),
        ({"plasticity": None}, "plasticity must be a Plasticity; got NoneType"),
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
    (3, {"state": HIDDEN}, "state must .*Tensor"),
    (3, {"clamp": torch.zeros(5, 2, 3, dtype=torch.bool)}, r"clamp must have shape \(5, 2, 4\); got \(5, 2, 3\)"),
    (3, {"clamp": torch.zeros(6, 5, 2, 4, dtype=torch.bool)}, r"clamp must have shape \(5, 2, 4\); got \(6, 5, 2, 4\)"),
    (3, {"clamp": torch.zeros(5, 2, 4)}, r"clamp must have dtype torch\.bool; got torch\.float32"),
    (3, {"clamp": True}, "clamp must be a tensor; got bool"),
    (3, {"lengths": [1, 2, 3]}, r"lengths must have shape \(2,\); got \(3,\)"),
    (3, {"input": torch.zeros(5, 3), "lengths": [3]}, "lengths are for batched input"),
]  # fmt: skip


@pytest.mark.parametrize("input_size, changes, message", NETWORK_CALLS, ids=range(len(NETWORK_CALLS)))
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
        ({"state": HIDDEN}, "state must .*Tensor"),
        ({"clamp": torch.zeros(3, 4, dtype=torch.bool)}, r"clamp must have shape \(2, 4\); got \(3, 4\)"),
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


RUBBISH = """
import itertools, torch
ops = torch.ops.plastikern
good = dict(drive=(5, 2, 4), hidden=(2, 4), trace=(2, 4, 4), weight=(4, 4), alpha=(4, 4), eta=(), clamp=(5, 2, 4),
            lengths=(2,))
all_ops = lambda: (step, sequence, backward)
kinds = dict(clamp=torch.bool, lengths=torch.int64)
made = lambda shapes: {k: torch.zeros(s, dtype=kinds.get(k)) for k, s in shapes.items()}
rest = dict(rule=0, constraint=1, clip=1.0, nonlinearity=0)
tail = dict(batch_first=False, checkpoint_every=2)
back = dict(reversible=False, needs_trace=True, needs_weight=True, needs_alpha=True, needs_eta=True)
def step(t, o):
    t = {k: v for k, v in t.items() if k != "lengths"}
    t = {k: v[0] if k in ("drive", "clamp") and v.dim() == 3 and len(v) else v for k, v in t.items()}
    return ops.rnn_step(**t, **{k: v for k, v in o.items() if k in rest})
def sequence(t, o):
    return ops.rnn_sequence(**t, **{k: v for k, v in o.items() if k in rest or k in tail})
def backward(t, o, **more):
    t = dict(t)
    t["output"] = t.pop("drive")
    made = dict(grad_output=torch.zeros(5, 2, 4), grad_hidden=torch.zeros(2, 4), grad_trace=torch.zeros(2, 4, 4),
                trace_out=torch.zeros(2, 4, 4), checkpoints=torch.zeros(2, 2, 4, 16))
    return ops.rnn_sequence_backward(**t, **{**made, **more}, **o)
plain = {**rest, **tail, **back}
for op in all_ops():
    op(made(good), plain)
wrong = []
for name, op in itertools.product(good, all_ops()):
    if name == "lengths" and op is step: continue
    base = made(good)
    for bad in (torch.zeros(3, dtype=base[name].dtype), torch.zeros(1, 1, 1, 1), base[name].to(torch.float16),
                base[name].to("meta"), base[name].to(torch.complex64)):
        wrong.append((op, {**base, name: bad}, plain, {}))
for key, value in itertools.product(("rule", "constraint", "nonlinearity"), (-1, 5, 2**40)):
    wrong += [(op, made(good), {**plain, key: value}, {}) for op in all_ops()]
wrong.append((sequence, made(good), {**plain, "rule": 1, "constraint": 0}, {}))
wrong += [(op, made(good), {**plain, "checkpoint_every": -1}, {}) for op in (sequence, backward)]
wrong.append((backward, made(good), {**plain, "checkpoint_every": 0}, {}))
wrong.append((backward, made(good), {**plain, "checkpoint_every": 1}, {}))
for lengths in (torch.tensor([6, 0]), torch.tensor([0, -1])):
    wrong += [(op, {**made(good), "lengths": lengths}, plain, {}) for op in (sequence, backward)]
fine_eta = {"eta": torch.zeros(4, 4), "alpha": torch.zeros(())}
wrong += [(op, {**made(good), **fine_eta}, plain, {}) for op in all_ops()]
for name in ("grad_output", "grad_hidden", "grad_trace", "checkpoints"):
    wrong += [(backward, made(good), plain, {name: bad}) for bad in (torch.zeros(3), torch.zeros(5, 2, 4).double())]
wrong.append((backward, made(good), {**plain, "constraint": 0, "reversible": True}, {"trace_out": torch.zeros(0)}))
accepted = []
for op, tensors, options, more in wrong:
    try:
        op(tensors, options, **more)
        described = {k: (v.dtype, v.device.type, tuple(v.shape)) for k, v in tensors.items()}
        accepted.append((op.__name__, described, options, list(more)))
    except (RuntimeError, NotImplementedError):
        pass
print(len(wrong), "calls; accepted:", accepted)
"""


@needs_native
def test_the_raw_operators_refuse_rubbish_and_do_not_crash() -> None:
    root = str(Path(plastikern.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); import plastikern\n{RUBBISH}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-2000:]}"
    assert done.stdout.strip().endswith("accepted: []"), done.stdout
