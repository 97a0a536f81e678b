"""Parameters of the authors' networks and of torch.nn give, in ours, the same numbers.

Longer than 600 lines: one table of networks and of refusals, which both directions of the conversion share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from conftest import BACKENDS
from tolerances import FP64_ROUNDING
from torch import Tensor, nn

from plastikern import (
    PlasticGRUCell,
    Plasticity,
    PlasticLinear,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
    convert,
)

STEPS, BATCH, SIZE, FEATURES = 7, 3, 5, 4
ORIENTATIONS = ["columns", "rows"]
DA: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda m: m,
}


def random(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, dtype=torch.float64)


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=FP64_ROUNDING, atol=FP64_ROUNDING)


class Authors:
    """Plastic networks in the authors' parametrisation, from the equations; matrices as ``orientation`` says."""

    def __init__(
        self, orientation: str, posts: int = SIZE, pres: int = SIZE, alpha: str = "connection"
    ) -> None:
        self.rows = orientation == "rows"
        matrix = (posts, pres) if self.rows else (pres, posts)
        per_neuron = (posts, 1) if self.rows else (1, 1, posts)
        self.parameters = {
            "w": random(*matrix, scale=0.4),
            "alpha": random(
                *{"connection": matrix, "neuron": per_neuron, "layer": (1,)}[alpha], scale=0.6
            ),
            "eta": torch.tensor([0.15], dtype=torch.float64),
        }

    def __getitem__(self, name: str) -> Tensor:
        return self.parameters[name]

    def add_linear(self, name: str, inputs: int, outputs: int) -> None:
        self.parameters[f"{name}.weight"] = random(outputs, inputs, scale=0.5)
        self.parameters[f"{name}.bias"] = random(outputs, scale=0.5)

    def linear(self, name: str, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self[f"{name}.weight"], self[f"{name}.bias"])

    def read(self, pre: Tensor, hebb: Tensor) -> Tensor:
        effective = self["w"] + self["alpha"] * hebb
        return torch.einsum("bji,bi->bj" if self.rows else "bij,bi->bj", effective, pre)

    def outer(self, pre: Tensor, post: Tensor) -> Tensor:
        return torch.einsum("bi,bj->bji" if self.rows else "bi,bj->bij", pre, post)

    def of_post(self, value: Tensor) -> Tensor:
        return value.unsqueeze(-1 if self.rows else -2)

    def trace(self, hebb: Tensor) -> Tensor:
        return hebb if self.rows else hebb.mT


def constrained(cliptype: str, hebb: Tensor, rate: Tensor, delta: Tensor, bound: float) -> Tensor:
    if cliptype == "decay":
        return (1 - rate) * hebb + rate * delta
    if cliptype == "clip":
        return (hebb + rate * delta).clamp(-bound, bound)
    if cliptype == "soft_clip":
        change = rate * delta
        return (hebb + change.clamp(min=0) * (1 - hebb) + change.clamp(max=0) * (1 + hebb)).clamp(
            -1, 1
        )
    return hebb + rate * delta


def zeros(*shape: int) -> Tensor:
    return torch.zeros(BATCH, *shape, dtype=torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("alpha", ["connection", "neuron", "layer"])
@pytest.mark.parametrize(
    "rule, constraint",
    [("hebb", "decay"), ("hebb", "clip"), ("hebb", "soft_clip"), ("oja", "none")],
)
def test_plastic_recurrent_networks(
    backend: str, orientation: str, alpha: str, rule: str, constraint: str
) -> None:
    theirs = Authors(orientation, alpha=alpha)
    theirs.add_linear("i2h", FEATURES, SIZE)
    for name in ("h2o", "h2v"):
        theirs.add_linear(name, SIZE, 2)
    plasticity = Plasticity(rule=rule, constraint=constraint, clip=0.7, alpha=alpha)
    module = PlasticRNN(FEATURES, SIZE, plasticity=plasticity, backend=backend, dtype=torch.float64)
    unused = convert.from_authors(theirs.parameters, module, orientation=orientation)
    assert unused == ["h2o.bias", "h2o.weight", "h2v.bias", "h2v.weight"]

    input, outputs = random(STEPS, BATCH, FEATURES), []
    hidden, hebb = zeros(SIZE), zeros(SIZE, SIZE)
    for now in input:
        active = torch.tanh(theirs.linear("i2h", now) + theirs.read(hidden, hebb))
        if rule == "hebb":
            hebb = constrained(constraint, hebb, theirs["eta"], theirs.outer(hidden, active), 0.7)
        else:
            pre = hidden.unsqueeze(-2 if theirs.rows else -1)
            hebb = hebb + theirs["eta"] * theirs.of_post(active) * (
                pre - hebb * theirs.of_post(active)
            )
        hidden = active
        outputs.append(active)
    output, state = module(input)
    close((output, state.trace[0]), (torch.stack(outputs), theirs.trace(hebb)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("da", DA)
@pytest.mark.parametrize("half", [False, True])
def test_simple_modulation(backend: str, orientation: str, da: str, half: bool) -> None:
    theirs = Authors(orientation)
    theirs.add_linear("i2h", FEATURES, SIZE)
    theirs.add_linear("h2DA", SIZE, 1)
    modulated = torch.arange(SIZE) < SIZE // 2 if half else None
    plasticity = Plasticity(
        constraint="clip", clip=1.0, modulation="simple", modulator_nonlinearity=da
    )
    module = PlasticRNNCell(
        FEATURES,
        SIZE,
        plasticity=plasticity,
        modulated=modulated,
        backend=backend,
        dtype=torch.float64,
    )
    assert convert.from_authors(theirs.parameters, module, orientation=orientation) == (
        [] if half else ["eta"]
    )

    state, hidden, hebb = None, zeros(SIZE), zeros(SIZE, SIZE)
    for now in random(STEPS, BATCH, FEATURES):
        active = torch.tanh(theirs.linear("i2h", now) + theirs.read(hidden, hebb))
        rate = DA[da](theirs.linear("h2DA", active)).expand(-1, SIZE)
        if modulated is not None:
            rate = torch.where(modulated, rate, theirs["eta"])
        hebb = constrained("clip", hebb, theirs.of_post(rate), theirs.outer(hidden, active), 1.0)
        hidden = active
        state = module(now, state)
    assert state is not None
    close((state.hidden, state.trace), (hidden, theirs.trace(hebb)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("constraint", ["clip", "soft_clip", "none"])
@pytest.mark.parametrize("half", [False, True])
def test_retroactive_modulation(
    backend: str, orientation: str, constraint: str, half: bool
) -> None:
    theirs = Authors(orientation)
    theirs.add_linear("i2h", FEATURES, SIZE)
    theirs.add_linear("h2DA", SIZE, 1)
    theirs.parameters["etaet"] = torch.tensor([0.2], dtype=torch.float64)
    plasticity = Plasticity(constraint=constraint, clip=0.8, modulation="retroactive")
    # The neurons that are not modulated learn from the present product.
    modulated = torch.arange(SIZE) >= SIZE // 2 if half else None
    module = PlasticRNN(
        FEATURES,
        SIZE,
        plasticity=plasticity,
        modulated=modulated,
        backend=backend,
        dtype=torch.float64,
    )
    assert convert.from_authors(theirs.parameters, module, orientation=orientation) == (
        [] if half else ["eta"]
    )

    input = random(STEPS, BATCH, FEATURES)
    hidden, plastic, eligibility = zeros(SIZE), zeros(SIZE, SIZE), zeros(SIZE, SIZE)
    for now in input:
        active = torch.tanh(theirs.linear("i2h", now) + theirs.read(hidden, plastic))
        modulator = torch.tanh(theirs.linear("h2DA", active)).unsqueeze(-1)
        product = theirs.outer(hidden, active)
        changed = constrained(constraint, plastic, modulator, eligibility, 0.8)
        eligibility = (1 - theirs["etaet"]) * eligibility + theirs["etaet"] * product
        if modulated is not None:
            at_once = constrained(constraint, plastic, theirs["eta"], product, 0.8)
            changed = torch.where(theirs.of_post(modulated), changed, at_once)
        plastic = changed
        hidden = active
    output, state = module(input)
    close(output[-1], hidden)
    close(state.trace[0], theirs.trace(plastic))
    rows = slice(None) if modulated is None else modulated
    close(state.eligibility[0][:, rows], theirs.trace(eligibility)[:, rows])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_fan_out_to_neurons(backend: str, orientation: str) -> None:
    theirs = Authors(orientation)
    theirs.add_linear("i2h", FEATURES, SIZE)
    theirs.add_linear("h2mod", SIZE, 1)
    theirs.add_linear("modfanout", 1, SIZE)
    del theirs.parameters["eta"]
    plasticity = Plasticity(constraint="clip", clip=2.0, modulation="simple", fan_out="neuron")
    module = PlasticRNN(FEATURES, SIZE, plasticity=plasticity, backend=backend, dtype=torch.float64)
    assert convert.from_authors(theirs.parameters, module, orientation=orientation) == []

    input = random(STEPS, BATCH, FEATURES)
    hidden, hebb = zeros(SIZE), zeros(SIZE, SIZE)
    for now in input:
        active = torch.tanh(theirs.linear("i2h", now) + theirs.read(hidden, hebb))
        rate = theirs.linear("modfanout", torch.tanh(theirs.linear("h2mod", active)))
        hebb = constrained("clip", hebb, theirs.of_post(rate), theirs.outer(hidden, active), 2.0)
        hidden = active
    output, state = module(input)
    close((output[-1], state.trace[0]), (hidden, theirs.trace(hebb)))


# cliptype, modultype, modulout, hebboutput, alphatype of the authors, and ours.
CLIPTYPES = {"clip": "clip", "decay": "decay", "aditya": "clip_on_read"}
MODULTYPES = {"none": None, "modplasth2mod": "hidden", "modplastc2mod": "cell"}
MODULOUTS = {"single": "none", "fanout": "neuron"}
HEBBOUTPUTS = {"i2c": "candidate", "h2co": "recurrent", "cell": "cell", "hidden": "hidden"}
ALPHATYPES = {"full": "connection", "perneuron": "neuron", "single": "layer"}


def lstm_options() -> Iterator[tuple[str, ...]]:
    """Every option beside the defaults of the others, and all modulators."""
    default = ("clip", "modplasth2mod", "fanout", "i2c", "perneuron")
    for place, options in enumerate((CLIPTYPES, MODULTYPES, MODULOUTS, HEBBOUTPUTS, ALPHATYPES)):
        yield from ((*default[:place], option, *default[place + 1 :]) for option in options)
    yield from (
        ("clip", modultype, modulout, "i2c", "full")
        for modultype, modulout in product(MODULTYPES, MODULOUTS)
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    "cliptype, modultype, modulout, hebboutput, alphatype", sorted({*lstm_options()})
)
def test_plastic_lstms(
    backend: str,
    orientation: str,
    cliptype: str,
    modultype: str,
    modulout: str,
    hebboutput: str,
    alphatype: str,
) -> None:
    modulating, bound = modultype != "none", 0.4
    theirs = Authors(orientation, alpha=ALPHATYPES[alphatype])
    for name in ("x2f", "x2i", "x2opt", "x2c"):
        theirs.add_linear(name, FEATURES, SIZE)
    for name in ("h2f", "h2i", "h2opt"):
        theirs.add_linear(name, SIZE, SIZE)
    options: dict[str, Any] = {}
    if modulating:
        del theirs.parameters["eta"]
        theirs.add_linear("h2mod", SIZE, 1)
        options = {
            "modulation": "simple",
            "modulator_input": MODULTYPES[modultype],
            "fan_out": MODULOUTS[modulout],
        }
        if modulout == "fanout":
            theirs.add_linear("modfanout", 1, SIZE)
    plasticity = Plasticity(
        constraint=CLIPTYPES[cliptype], clip=bound, alpha=ALPHATYPES[alphatype], **options
    )
    module = PlasticLSTM(
        FEATURES,
        SIZE,
        plasticity=plasticity,
        post=HEBBOUTPUTS[hebboutput],
        backend=backend,
        dtype=torch.float64,
    )
    assert convert.from_authors(theirs.parameters, module, orientation=orientation) == []

    input, outputs = random(STEPS, BATCH, FEATURES), []
    hidden, cell, hebb = zeros(SIZE), zeros(SIZE), zeros(SIZE, SIZE)
    for now in input:
        forget, write, out = (
            torch.sigmoid(theirs.linear(f"x2{gate}", now) + theirs.linear(f"h2{gate}", hidden))
            for gate in ("f", "i", "opt")
        )
        recurrent = theirs.read(hidden, hebb.clamp(-bound, bound) if cliptype == "aditya" else hebb)
        candidate = torch.tanh(theirs.linear("x2c", now) + recurrent)
        cell = forget * cell + write * candidate
        active = out * torch.tanh(cell)
        post = {"i2c": candidate, "h2co": recurrent, "cell": cell, "hidden": active}[hebboutput]
        if modulating:
            rate = torch.tanh(
                theirs.linear("h2mod", active if modultype == "modplasth2mod" else cell)
            )
            rate = (
                theirs.linear("modfanout", rate) if modulout == "fanout" else rate.expand(-1, SIZE)
            )
        else:
            rate = theirs["eta"].expand(BATCH, SIZE)
        hebb = constrained(cliptype, hebb, theirs.of_post(rate), theirs.outer(hidden, post), bound)
        hidden = active
        outputs.append(active)
    output, state = module(input)
    close(
        (output, state.cell[0], state.trace[0]),
        (torch.stack(outputs), cell, theirs.trace(hebb)),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("alpha", ["connection", "layer"])
@pytest.mark.parametrize("rule, constraint", [("oja", "none"), ("hebb", "decay")])
def test_the_output_layer_of_omniglot(
    backend: str, orientation: str, alpha: str, rule: str, constraint: str
) -> None:
    theirs = Authors(orientation, posts=SIZE, pres=FEATURES, alpha=alpha)
    theirs.parameters["cv1.weight"] = random(2, 1, 3, 3)
    plasticity = Plasticity(rule=rule, constraint=constraint, alpha=alpha)
    module = PlasticLinear(
        FEATURES, SIZE, plasticity=plasticity, backend=backend, dtype=torch.float64
    )
    assert convert.from_authors(theirs.parameters, module, orientation=orientation) == [
        "cv1.weight"
    ]

    features, outputs = random(STEPS, BATCH, FEATURES), []
    labels = nn.functional.one_hot(
        torch.arange(STEPS * BATCH).view(STEPS, BATCH) % SIZE, SIZE
    ).double()
    labels[-1] = 0
    hebb = torch.zeros(BATCH, *theirs["w"].shape, dtype=torch.float64)
    for now, label in zip(features, labels, strict=True):
        active = torch.softmax(theirs.read(now, hebb) + 1000 * label, -1)
        if rule == "hebb":
            hebb = constrained(constraint, hebb, theirs["eta"], theirs.outer(now, active), 1.0)
        else:
            pre = now.unsqueeze(-2 if theirs.rows else -1)
            hebb = hebb + theirs["eta"] * theirs.of_post(active) * (
                pre - hebb * theirs.of_post(active)
            )
        outputs.append(active)
    output, state = module(features, drive=1000 * labels)
    close((output, state.trace), (torch.stack(outputs), theirs.trace(hebb)))


def test_a_layer_of_several_takes_the_parameters() -> None:
    theirs = Authors("columns")
    theirs.add_linear("i2h", SIZE, SIZE)
    module = PlasticRNN(FEATURES, SIZE, num_layers=2, bias=True)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert convert.from_authors(theirs.parameters, module, orientation="columns", layer=1) == []
    after = module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.endswith("_l0"))
    torch.testing.assert_close(after["weight_hh_l1"], theirs["w"].mT.float())
    torch.testing.assert_close(after["bias_ih_l1"], theirs["i2h.bias"].float())
    assert not after["bias_hh_l1"].any() and after["eta_l1"].shape == (1,)


ETA = {"eta": torch.ones(1)}
W = {"w": torch.ones(5, 5), "alpha": torch.ones(5, 5), **ETA}
SIMPLE = Plasticity(modulation="simple")


@pytest.mark.parametrize(
    "parameters, options, arguments, message",
    [
        (W, {}, {"orientation": "pre"}, "orientation must be one of columns, rows; got 'pre'"),
        (W, {}, {"layer": 1}, "layer must lie from 0 to 0; got 1"),
        ({**W, "alpha": None}, {}, {}, "alpha must be a tensor; got NoneType"),
        ({"w": W["w"], **ETA}, {}, {}, r"must have 'alpha', for alpha; got \['eta', 'w'\]"),
        ({**W, "w": torch.ones(5, 4)}, {}, {}, r"w must have shape \(5, 5\) for this module; got \(5, 4\)"),
        ({**W, "alpha": torch.ones(1)}, {}, {}, r"alpha must have shape \(5, 5\).*got \(1,\).* per layer"),
        ({**W, "alpha": torch.ones(1, 1, 5)}, {}, {}, r"got \(1, 1, 5\), which is one coefficient per neuron"),
        (W, {"plasticity": Plasticity(alpha="neuron")}, {}, r"alpha .*\(5,\).* one coefficient per connection"),
        ({**W, "i2h.weight": torch.ones(5, 4)}, {}, {}, r"\['i2h.weight'\] have no place: .* has no weight_ih"),
        ({**W, "h2DA.bias": torch.ones(1)}, {}, {}, r"\['h2DA.bias'\] have no place: .* no modulator_bias"),
        ({**W, "etaet": torch.ones(1)}, {}, {}, r"\['etaet'\] have no place"),
        (W, {"plasticity": SIMPLE}, {}, "must have 'h2mod.weight', for modulator_weight"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_changes_nothing(
    parameters: dict[str, Any], options: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    module = PlasticRNN(None, 5, **options)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises((TypeError, ValueError), match=message):
        convert.from_authors(parameters, module, **{"orientation": "rows", **arguments})
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_the_shape_of_a_layer_that_is_not_square_tells_a_wrong_orientation() -> None:
    theirs = Authors("columns", posts=SIZE, pres=FEATURES)
    with pytest.raises(
        ValueError, match=r"w must have shape \(5, 4\) for this module; got \(4, 5\)"
    ):
        convert.from_authors(theirs.parameters, PlasticLinear(FEATURES, SIZE), orientation="rows")
    with pytest.raises(
        TypeError, match="module must be a plastic RNN, LSTM or linear layer; got Linear"
    ):
        convert.from_authors(theirs.parameters, nn.Linear(4, 5), orientation="rows")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_first, bias", [(False, True), (True, False)])
@pytest.mark.parametrize(
    "kind, options",
    [(nn.RNN, {"nonlinearity": "relu"}), (nn.RNN, {}), (nn.LSTM, {}), (nn.GRU, {})],
)
def test_from_torch_and_back(
    backend: str, kind: Any, options: dict[str, Any], batch_first: bool, bias: bool
) -> None:
    theirs = kind(
        FEATURES,
        SIZE,
        2,
        batch_first=batch_first,
        bias=bias,
        dropout=0.3,
        dtype=torch.float64,
        **options,
    )
    ours = convert.from_torch(theirs.eval(), Plasticity(alpha_init=0), backend=backend)
    assert type(ours).__name__ == f"Plastic{kind.__name__}" and ours.dropout == 0.3
    input = random(STEPS, BATCH, FEATURES)
    close(ours(input)[0], theirs(input)[0])
    back = convert.to_torch(ours)
    assert type(back) is kind and not back.training and repr(back) == repr(theirs)
    assert torch.equal(back(input)[0], theirs(input)[0])
    with torch.no_grad():
        ours.weight_hh_l0.zero_()
    assert theirs.weight_hh_l0.any() and back.weight_hh_l0.any()


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: convert.from_torch(nn.Linear(3, 4)),
            "must be one of torch.nn's RNN, LSTM, RNNCell, LSTMCell, GRU, GRUCell; got Linear",
        ),
        (
            lambda: convert.from_torch(nn.RNN(3, 4, bidirectional=True)),
            "must have no bidirectional; got True",
        ),
        (lambda: convert.from_torch(nn.LSTM(3, 4, proj_size=2)), "must have no proj_size; got 2"),
        (
            lambda: convert.to_torch(nn.RNN(3, 4)),
            "must be one of PlasticRNN, PlasticLSTM, .*; got RNN",
        ),
        (
            lambda: convert.to_torch(PlasticLinear(3, 4)),
            "must be one of .*PlasticLSTMCell, PlasticGRU, PlasticGRUCell; got PlasticLinear",
        ),
        (
            lambda: convert.to_torch(PlasticRNN(None, 4)),
            "must have an input layer; got input_size None",
        ),
        (
            lambda: convert.to_torch(PlasticRNN(3, 4, nonlinearity="sigmoid")),
            "one of tanh, relu; got 'sigmoid'",
        ),
    ],
)
def test_what_torch_nn_cannot_be_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "kind, twin, options",
    [
        (nn.RNNCell, PlasticRNNCell, {"nonlinearity": "relu"}),
        (nn.RNNCell, PlasticRNNCell, {}),
        (nn.LSTMCell, PlasticLSTMCell, {}),
        (nn.GRUCell, PlasticGRUCell, {}),
    ],
)
def test_cells_from_torch_and_back(
    backend: str, bias: bool, kind: Any, twin: Any, options: dict[str, Any]
) -> None:
    theirs = kind(FEATURES, SIZE, bias=bias, dtype=torch.float64, **options)
    ours = convert.from_torch(theirs, Plasticity(alpha_init=0), backend=backend)
    assert type(ours) is twin
    input = random(BATCH, FEATURES)
    found, expected = ours(input), theirs(input)
    close((found.hidden, found.cell) if kind is nn.LSTMCell else found.hidden, expected)
    back = convert.to_torch(ours)
    assert type(back) is kind and repr(back) == repr(theirs)
    assert all(
        torch.equal(left, right)
        for left, right in zip(back.parameters(), theirs.parameters(), strict=True)
    )


ROUND_TRIPS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "rnn": (PlasticRNN, {"alpha": "neuron"}, {"num_layers": 2}),
    "rnn-modulated": (
        PlasticRNN,
        {"modulation": "simple", "fan_out": "neuron", "constraint": "clip"},
        {},
    ),
    "rnn-cell-retroactive": (
        PlasticRNNCell,
        {"modulation": "retroactive", "constraint": "clip"},
        {"bias": False},
    ),
    "lstm": (PlasticLSTM, {"alpha": "layer", "eta": "neuron"}, {}),
    "lstm-cell": (PlasticLSTMCell, {"modulation": "simple", "constraint": "clip"}, {}),
    "linear": (PlasticLinear, {"rule": "oja", "constraint": "none"}, {}),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind, rule, options", ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_to_the_authors_names_and_back(
    orientation: str, kind: Any, rule: dict[str, Any], options: Any
) -> None:
    ours = kind(
        FEATURES,
        SIZE,
        plasticity=Plasticity(**rule, alpha_init=0.4),
        dtype=torch.float64,
        **options,
    )
    layer = options.get("num_layers", 1) - 1
    theirs = convert.to_authors(ours, orientation=orientation, layer=layer, modulator="h2DA")
    assert not any(name.startswith("h2mod") for name in theirs)
    back = kind(FEATURES, SIZE, plasticity=ours.plasticity, dtype=torch.float64, **options)
    back.load_state_dict(ours.state_dict())
    with torch.no_grad():
        for name, value in back.named_parameters():
            if layer == 0 or name.endswith("_l1"):
                value.fill_(7)
    assert convert.from_authors(theirs, back, orientation=orientation, layer=layer) == []
    input = (
        random(STEPS, BATCH, FEATURES)
        if kind in (PlasticRNN, PlasticLSTM, PlasticLinear)
        else random(1, FEATURES)
    )
    found, expected = (module(input) for module in (back, ours))
    close(found[0], expected[0])
    theirs["w"].zero_()
    assert all(value.any() for name, value in ours.named_parameters() if name.startswith("weight"))


@pytest.mark.parametrize(
    "orientation, per_neuron", [("columns", (1, 1, SIZE)), ("rows", (SIZE, 1))]
)
def test_parameters_leave_in_the_authors_shapes(
    orientation: str, per_neuron: tuple[int, ...]
) -> None:
    plasticity = Plasticity(
        alpha="neuron", modulation="simple", fan_out="neuron", constraint="clip"
    )
    rnn = PlasticRNN(FEATURES, SIZE, plasticity=plasticity)
    found = convert.to_authors(rnn, orientation=orientation)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "i2h.weight": (SIZE, FEATURES),
        "i2h.bias": (SIZE,),
        "w": (SIZE, SIZE),
        "alpha": per_neuron,
        "h2mod.weight": (1, SIZE),
        "h2mod.bias": (1,),
        "modfanout.weight": (SIZE, 1),
        "modfanout.bias": (SIZE,),
    }
    assert torch.equal(found["i2h.bias"], rnn.bias_ih_l0 + rnn.bias_hh_l0)
    assert torch.equal(
        found["w"], rnn.weight_hh_l0 if orientation == "rows" else rnn.weight_hh_l0.mT
    )
    assert not any(value.requires_grad for value in found.values())
    lstm = PlasticLSTM(FEATURES, SIZE)
    gates = lstm.bias_ih_l0.chunk(4), lstm.bias_hh_l0.chunk(4)
    found = convert.to_authors(lstm, orientation=orientation)
    assert torch.equal(found["x2c.bias"], gates[0][2] + gates[1][2]) and torch.equal(
        found["h2f.bias"], gates[1][1]
    )
    assert found["eta"].shape == (1,)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: convert.to_authors(nn.RNN(3, 4), orientation="rows"),
            "must be a plastic RNN, LSTM or linear layer",
        ),
        (
            lambda: convert.to_authors(PlasticRNN(3, 4), orientation="up"),
            "orientation must be one of columns, rows",
        ),
        (
            lambda: convert.to_authors(PlasticRNN(3, 4), orientation="rows", layer=1),
            "layer must lie from 0 to 0",
        ),
        (
            lambda: convert.to_authors(PlasticRNN(3, 4), orientation="rows", modulator="h2"),
            "modulator must be one of h2mod, h2DA; got 'h2'",
        ),
        (
            lambda: convert.to_authors(PlasticRNN(None, 4), orientation="rows"),
            "bias_hh_l0 must be zero",
        ),
        (
            lambda: convert.to_authors(PlasticLinear(3, 4, bias=True), orientation="rows"),
            "bias must be zero",
        ),
        (
            lambda: convert.to_authors(
                PlasticRNN(3, 4, plasticity=Plasticity(modulation="simple", fan_out="connection")),
                orientation="rows",
            ),
            "fan-out to neurons or none; got fan_out 'connection'",
        ),
    ],
)
def test_what_the_authors_do_not_have_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^to_authors: .*{message}"):
        call()
