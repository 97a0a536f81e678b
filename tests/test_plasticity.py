"""What the record of a rule promises: it is a value, and no rule that cannot exist can be made."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
import pickle
from typing import Any

import pytest
import torch
from conftest import close

from plastikern import LinearState, LSTMState, Modulator, Plasticity, PlasticRNN, RNNState
from plastikern.plasticity import granular_shape
from plastikern.program import program_of


def test_the_default_is_the_rule_of_paper_1() -> None:
    rule = Plasticity()
    assert (rule.rule, rule.constraint, rule.alpha, rule.eta) == (
        "hebb",
        "decay",
        "connection",
        "layer",
    )
    assert rule.learn_eta and rule.eta_init == 0.01


def test_a_rule_is_a_frozen_value() -> None:
    rule = Plasticity(constraint="clip", clip=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.clip = 2.0  # type: ignore[misc]
    same = Plasticity(constraint="clip", clip=0.5)
    assert rule == same and hash(rule) == hash(same) and rule != Plasticity()
    assert pickle.loads(pickle.dumps(rule)) == rule and copy.deepcopy(rule) == rule


@pytest.mark.parametrize(
    "rule",
    [
        Plasticity(),
        Plasticity(
            rule="oja", constraint="clip", clip=2, alpha="neuron", eta="connection", learn_eta=False, alpha_init=1,
            modulation="retroactive", modulator_input="cell", modulator_nonlinearity="sigmoid", fan_out="neuron",
        ),
    ],
    ids=["default", "other"],
)  # fmt: skip
def test_a_rule_is_made_again_from_what_tools_for_records_make_of_it(rule: Plasticity) -> None:
    options = dataclasses.asdict(rule)
    twins = [
        Plasticity(**options), Plasticity(**json.loads(json.dumps(options))), Plasticity(**vars(rule)),
        Plasticity(*dataclasses.astuple(rule)), dataclasses.replace(rule), copy.copy(rule), copy.deepcopy(rule),
        eval(repr(rule)), *(pickle.loads(pickle.dumps(rule, k)) for k in range(pickle.HIGHEST_PROTOCOL + 1)),
    ]  # fmt: skip
    for twin in twins:
        assert (
            twin == rule
            and hash(twin) == hash(rule)
            and program_of("test", "rnn", twin) == program_of("test", "rnn", rule)
            and vars(twin) == options
        )
    assert (
        {field.name for field in dataclasses.fields(rule)}
        == options.keys()
        == inspect.signature(Plasticity).parameters.keys()
    )
    other = program_of("test", "rnn", dataclasses.replace(rule, rule="oja", constraint="none"))
    assert other.key.startswith("rnn oja none ")


def test_a_rule_pickled_by_an_earlier_version_is_read() -> None:
    # Its codes stood among the options.
    rule = Plasticity.__new__(Plasticity)
    rule.__setstate__(
        {**dataclasses.asdict(Plasticity(rule="oja", constraint="clip")), "codes": (1, 1, 0, 0, 0)}
    )
    assert rule == Plasticity(rule="oja", constraint="clip")
    assert "codes" not in vars(rule)


@pytest.mark.parametrize(
    "record",
    [
        Modulator(torch.ones(3), torch.ones(()), modulated=torch.ones(3, dtype=torch.bool)),
        RNNState(torch.ones(2, 3), torch.ones(2, 3, 3)),
        LSTMState(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3, 3), torch.ones(2, 3, 3)),
        LinearState(torch.ones(2, 3, 3)),
    ],
    ids=lambda record: type(record).__name__,
)
def test_records_of_tensors_are_made_again_likewise(record: Any) -> None:
    kind = type(record)
    twins = [
        kind(**record._asdict()),
        kind(*record),
        record._replace(),
        copy.deepcopy(record),
        pickle.loads(pickle.dumps(record)),
    ]
    for twin in twins:
        assert type(twin) is kind
        close(tuple(twin), tuple(record))


@pytest.mark.parametrize(
    "name, options",
    [
        ("rule", "hebb, oja"),
        ("constraint", "decay, clip, soft_clip, clip_on_read, none"),
        ("alpha", "connection, neuron, layer"),
        ("eta", "connection, neuron, layer"),
        ("modulation", "none, simple, retroactive"),
        ("modulator_input", "hidden, previous_hidden, cell"),
        ("modulator_nonlinearity", "tanh, sigmoid, linear"),
        ("fan_out", "none, neuron, connection"),
    ],
)
@pytest.mark.parametrize("value", ["Hebb", "", None, 1])
def test_an_unknown_option_is_refused_with_those_that_exist(
    name: str, options: str, value: Any
) -> None:
    if (name, value) == ("constraint", None):
        pytest.skip("None is the default")
    with pytest.raises(ValueError, match=f"{name} must be one of {options}; got {value!r}"):
        Plasticity(**{name: value})


@pytest.mark.parametrize("name", ["clip", "alpha_init", "eta_init"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None])
def test_a_number_that_is_not_finite_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a finite number; got {value!r}"):
        Plasticity(**{name: value})


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("clip", 0, "clip must be positive; got 0"),
        ("clip", -1.0, r"clip must be positive; got -1\.0"),
        ("alpha_init", -0.1, r"alpha_init .* not negative; got -0\.1"),
    ],
)
def test_a_number_out_of_range_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plasticity(**{name: value})


def test_oja_is_not_combined_with_decay() -> None:
    with pytest.raises(ValueError, match=r"'oja' decays by itself.*'decay'"):
        Plasticity(rule="oja")


@pytest.mark.parametrize(
    "name, value",
    [("modulator_input", "cell"), ("modulator_nonlinearity", "linear"), ("fan_out", "neuron")],
)
def test_an_option_of_the_modulator_needs_one(name: str, value: str) -> None:
    with pytest.raises(
        ValueError, match=f"{name} '{value}' needs modulation 'simple' or 'retroactive'"
    ):
        Plasticity(**{name: value})  # type: ignore[arg-type]
    for modulation in ("simple", "retroactive"):
        assert getattr(Plasticity(modulation=modulation, **{name: value}), name) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "granularity, shape", [("connection", (3, 4)), ("neuron", (3,)), ("layer", ())]
)
def test_a_coefficient_has_the_shape_of_its_granularity(
    granularity: str, shape: tuple[int, ...]
) -> None:
    assert granular_shape(granularity, 3, 4) == shape


@pytest.mark.parametrize("modulation", ["simple", "retroactive"])
@pytest.mark.parametrize("nonlinearity", ["tanh", "sigmoid", "linear"])
@pytest.mark.parametrize("rule", ["hebb", "oja"])
def test_traces_of_a_modulated_network_as_it_is_made_stay_bounded(
    modulation: str, nonlinearity: str, rule: str
) -> None:
    plasticity = Plasticity(rule, modulation=modulation, modulator_nonlinearity=nonlinearity)
    assert plasticity.constraint == "clip"
    torch.manual_seed(0)
    with torch.no_grad():
        state = PlasticRNN(20, 50, plasticity=plasticity, backend="reference")(
            torch.randn(400, 2, 20)
        )[1]
    assert state.trace.abs().max() <= plasticity.clip and state.hidden.isfinite().all()


def test_defaults_stand_where_an_option_is_named() -> None:
    assert Plasticity().constraint == "decay"
    assert Plasticity(modulation="none") == Plasticity(constraint="decay")
    assert Plasticity(modulation="simple", constraint="decay").constraint == "decay"
    assert Plasticity(modulation="simple") == Plasticity(modulation="simple", constraint="clip")
