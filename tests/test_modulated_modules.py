"""What neuromodulation adds to the modules: parameters, half-modulated networks, eligibility traces in the state."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from conftest import BACKENDS, close, random
from torch import Tensor

import plastikern.functional as PF
from plastikern import (
    PlasticGRU,
    Plasticity,
    PlasticLinear,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
)
from plastikern.nn import PlasticModule

KINDS = [PlasticRNN, PlasticLSTM, PlasticGRU, PlasticLinear]
SIMPLE = Plasticity(constraint="clip", alpha_init=0.5, eta_init=0.2, modulation="simple")
RETROACTIVE = Plasticity(
    constraint="clip", alpha_init=0.5, eta_init=0.2, modulation="retroactive", fan_out="neuron"
)
HALF = torch.tensor([True, True, False, False])


def made(kind: Any, plasticity: Plasticity, **options: Any) -> Any:
    """A module of 3 features and 4 neurons, of two layers where it can have them."""
    torch.manual_seed(0)
    layers = {} if kind is PlasticLinear else {"num_layers": 2}
    return kind(3, 4, plasticity=plasticity, dtype=torch.float64, **layers, **options)


def plastic_parameters(module: PlasticModule, suffix: str) -> dict[str, tuple[int, ...]]:
    """Shapes of what a layer has besides weights and biases."""
    return {
        name.removesuffix(suffix): tuple(value.shape)
        for name, value in module.state_dict().items()
        if name.endswith(suffix) and not name.startswith(("weight", "bias"))
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("modulation", ["simple", "retroactive"])
@pytest.mark.parametrize("fan_out", ["none", "neuron", "connection"])
def test_a_layer_has_the_parameters_that_its_rule_uses(
    kind: Any, half: bool, modulation: str, fan_out: str
) -> None:
    plasticity = Plasticity(constraint="clip", modulation=modulation, fan_out=fan_out, eta="neuron")
    module = made(kind, plasticity, modulated=HALF if half else None)
    matrix = (4, 3) if kind is PlasticLinear else (4, 4)
    expected: dict[str, tuple[int, ...]] = {
        "alpha": matrix,
        "modulator_weight": (4,),
        "modulator_bias": (1,),
    }
    if half:
        expected["eta"] = (4,)
    if modulation == "retroactive":
        expected["eligibility_eta"] = (4,)
    if fan_out != "none":
        shape = {"neuron": (4,), "connection": matrix}[fan_out]
        expected |= {"fan_out_weight": shape, "fan_out_bias": shape}
    for suffix in ("",) if kind is PlasticLinear else ("_l0", "_l1"):
        found = plastic_parameters(module, suffix)
        found.pop("modulated", None)
        assert found == expected
        assert all(
            getattr(module, name + suffix) is None
            for name in ("eta", "fan_out_bias")
            if name not in expected
        )
    assert (module.modulated is None) if not half else torch.equal(module.modulated, HALF)


@pytest.mark.parametrize("kind", KINDS)
def test_the_modulator_starts_as_torch_nn_linear_would(kind: Any) -> None:
    module = kind(16, 400, plasticity=Plasticity(
        constraint="clip", eta_init=0.07, learn_eta=False, modulation="retroactive", fan_out="connection"
    ))  # fmt: skip
    suffix = "" if kind is PlasticLinear else "_l0"
    weight = getattr(module, "modulator_weight" + suffix)
    assert 0.045 < weight.abs().max() <= 0.05  # U(-1/sqrt(N), 1/sqrt(N))
    assert getattr(module, "modulator_bias" + suffix).abs() <= 0.05
    for name in ("fan_out_weight", "fan_out_bias"):
        assert 0.95 < getattr(module, name + suffix).abs().max() <= 1
    assert "eligibility_eta" + suffix in dict(module.named_buffers())
    assert torch.equal(getattr(module, "eligibility_eta" + suffix), torch.tensor([0.07]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_chooses_between_the_modulator_and_eta(backend: str, kind: Any) -> None:
    half = made(kind, SIMPLE, modulated=HALF, backend=backend)
    everyone, nobody = (
        made(kind, SIMPLE, backend=backend),
        made(kind, Plasticity(constraint="clip"), backend=backend),
    )
    for module in (everyone, nobody):
        module.load_state_dict(half.state_dict(), strict=False)
    _, state = half(random(3, 2, 3))
    # Without traces all three compute the same activities, and then change the traces each in its own way.
    state, input = state._replace(trace=torch.zeros_like(state.trace)), random(1, 2, 3)
    changed, modulated, unmodulated = (
        module(input, state)[1].trace for module in (half, everyone, nobody)
    )
    close(changed[..., HALF, :], modulated[..., HALF, :])
    close(changed[..., ~HALF, :], unmodulated[..., ~HALF, :])
    assert not torch.allclose(modulated, unmodulated)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("modulated", [None, HALF])
def test_a_retroactive_sequence_goes_on_where_its_state_ended(
    backend: str, kind: Any, batched: bool, modulated: Tensor | None
) -> None:
    module = made(kind, RETROACTIVE, modulated=modulated, backend=backend)
    input = random(7, 2, 3) if batched else random(7, 3)
    whole, last = module(input)
    assert (
        last.eligibility.shape == last.trace.shape and last.eligibility.any() and last.trace.any()
    )
    first, state = module(input[:3])
    second, state = module(input[3:], state)
    close((torch.cat([first, second]), *state), (whole, *last))
    without, _ = module(input[3:], state._replace(eligibility=None))
    zero, _ = module(input[3:], state._replace(eligibility=torch.zeros_like(state.eligibility)))
    close(without, zero)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_element_that_has_ended_keeps_its_eligibility(backend: str, kind: Any) -> None:
    module = made(kind, RETROACTIVE, backend=backend)
    input, lengths = random(5, 3, 3), [5, 0, 3]
    _, state = module(input, lengths=lengths)
    for b, length in enumerate(lengths):
        _, alone = module(input[:length, b : b + 1], lengths=[length])
        element = slice(b, b + 1)
        found = (
            state.eligibility[element] if kind is PlasticLinear else state.eligibility[:, element]
        )
        close(found, alone.eligibility)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "kind, one_step", [(PlasticRNN, PlasticRNNCell), (PlasticLSTM, PlasticLSTMCell)]
)
@pytest.mark.parametrize("batched", [True, False])
def test_a_retroactive_cell_is_a_network_of_one_step(
    backend: str, kind: Any, one_step: Any, batched: bool
) -> None:
    options = {
        "plasticity": RETROACTIVE,
        "modulated": HALF,
        "backend": backend,
        "dtype": torch.float64,
    }
    cell, module = one_step(3, 4, **options), kind(3, 4, **options)
    names = {name: name if name == "modulated" else f"{name}_l0" for name in cell.state_dict()}
    module.load_state_dict({names[name]: value for name, value in cell.state_dict().items()})
    input, state = random(4, 2, 3) if batched else random(4, 3), None
    for now in input:
        state = cell(now, state)
    assert state is not None
    close(state, [tensor.squeeze(0) for tensor in module(input)[1]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_survives_state_dict_copy_and_pickle(kind: Any) -> None:
    module = made(kind, RETROACTIVE, modulated=HALF, backend="reference")
    input = random(5, 2, 3)
    expected, _ = module(input)
    loaded = made(kind, RETROACTIVE, modulated=~HALF, backend="reference")
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    loaded.load_state_dict(module.state_dict())
    for twin in (loaded, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(input)[0], expected) and torch.equal(twin.modulated, HALF)
    assert module.float().modulated.dtype == torch.bool
    module.reset_parameters()
    assert torch.equal(module.modulated, HALF)


@pytest.mark.parametrize("nonlinearity", ["tanh", "sigmoid", "linear"])
def test_the_modulator_signal_is_that_of_the_outputs(nonlinearity: str) -> None:
    plasticity = Plasticity(
        constraint="none", modulation="simple", modulator_nonlinearity=nonlinearity
    )
    module = PlasticRNN(3, 4, 2, plasticity=plasticity, backend="reference", dtype=torch.float64)
    input = random(1, 2, 3)
    output, state = module(input, None)
    assert module.modulator_signal(output).shape == (1, 2)
    close(module.modulator_signal(output), module.modulator_signal(state.hidden[1:], layer=1))
    close(
        module.modulator_signal(output), PF.modulator_signal(output, module.modulator(), plasticity)
    )
    second, after = module(input, state)
    change = torch.einsum("b,bj,bi->bji", module.modulator_signal(second)[0], second[0], output[0])
    close(after.trace[1], state.trace[1] + change)
    with pytest.raises(
        ValueError, match="PlasticRNN: there is no modulator with modulation 'none'"
    ):
        PlasticRNN(3, 4).modulator_signal(output)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"modulated": HALF, "plasticity": Plasticity()},
            "modulated needs a plasticity with modulation",
        ),
        ({"modulated": HALF[:3]}, r"modulated must have shape \(4,\); got \(3,\)"),
        ({"modulated": HALF.float()}, "modulated must have dtype torch.bool; got torch.float32"),
        ({"modulated": [True] * 4}, "modulated must be a tensor; got list"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{kind.__name__}: {message}"):
        kind(3, 4, **{"plasticity": SIMPLE, **options})


@pytest.mark.parametrize(
    "kind, source, allowed",
    [
        (PlasticLinear, "previous_hidden", "hidden"),
        (PlasticLinear, "cell", "hidden"),
        (PlasticRNN, "cell", "hidden, previous_hidden"),
    ],
)
def test_a_modulator_reads_only_what_there_is(kind: Any, source: str, allowed: str) -> None:
    plasticity = Plasticity(modulation="simple", modulator_input=source)
    with pytest.raises(
        ValueError, match=f"plasticity.modulator_input must be one of {allowed}; got '{source}'"
    ):
        kind(3, 4, plasticity=plasticity)


def test_an_eligibility_trace_without_retroactive_modulation_is_refused() -> None:
    module = PlasticRNN(3, 4, plasticity=SIMPLE, backend="reference")
    hidden, trace = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, 4)
    with pytest.raises(
        ValueError, match="eligibility is for retroactive modulation; got modulation 'simple'"
    ):
        module(torch.zeros(5, 2, 3), (hidden, trace, trace))
