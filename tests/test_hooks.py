"""Parameters that parametrizations and forward pre-hooks compute are, outside of a call, those of a call."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BACKENDS, close
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import plastikern
from plastikern import (
    Plasticity,
    PlasticLinear,
    PlasticLinearCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
    convert,
)

RULE = Plasticity(constraint="clip", modulation="simple", fan_out="neuron", alpha_init=0.3)


class Halved(nn.Module):
    """A parametrization that takes no value."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def masked(module: nn.Module, name: str) -> None:
    """As weights of the older kind are made: a plain tensor, by a hook that is given the input."""
    raw = nn.Parameter(getattr(module, name).detach().clone())
    del module._parameters[name]
    module.register_parameter(name + "_raw", raw)

    def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert arguments[0].shape[-1] == 4
        setattr(module, name, raw * 0.5)

    module.register_forward_pre_hook(hook)
    hook(module, (torch.empty(0, 4),))


WAYS: dict[str, Any] = {
    "weight_norm": lambda module, name: parametrizations.weight_norm(module, name),
    "spectral_norm": lambda module, name: parametrizations.spectral_norm(module, name),
    "custom": lambda module, name: parametrize.register_parametrization(module, name, Halved()),
    "pruned": lambda module, name: prune.l1_unstructured(module, name, 0.5),
    "old weight_norm": lambda module, name: nn.utils.weight_norm(module, name),
    "hook": masked,
}
each_way = pytest.mark.parametrize("way", WAYS)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*weight_norm.*:FutureWarning", "ignore:.*weight_norm.*:UserWarning"
)


def made(kind: Any, way: str, *names: str, **options: Any) -> Any:
    """A module whose parameters of these names are computed, and have changed since the last call."""
    module = kind(4, 5, dtype=torch.float64, **options)
    for name in names:
        WAYS[way](module, name)
    module.eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.3)
    return module


def input_of(module: nn.Module) -> Tensor:
    return torch.randn(
        *((2, 4) if "Cell" in type(module).__name__ else (6, 2, 4)), dtype=torch.float64
    )


@each_way
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.RNNCell, nn.LSTMCell])
def test_from_torch_takes_weights_as_the_module_computes_them(kind: Any, way: str) -> None:
    suffix = "" if kind in (nn.RNNCell, nn.LSTMCell) else "_l0"
    module = made(kind, way, "weight_hh" + suffix, "weight_ih" + suffix)
    plastic = convert.from_torch(module, Plasticity(alpha_init=0.0))
    input = input_of(module)
    expected = module(input)
    close(plastic(input)[0], expected if kind is nn.RNNCell else expected[0])


@each_way
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM, PlasticRNNCell, PlasticLSTMCell])
def test_to_torch_and_to_authors_give_weights_as_the_module_computes_them(
    kind: Any, way: str
) -> None:
    suffix = "" if kind in (PlasticRNNCell, PlasticLSTMCell) else "_l0"
    module = made(
        kind, way, "weight_ih" + suffix, "weight_hh" + suffix, plasticity=Plasticity(alpha_init=0.0)
    )
    input = input_of(module)
    found = convert.to_torch(module)
    theirs = convert.to_authors(module, orientation="rows")
    expected = module(input)[0]
    close((found(input) if isinstance(found, nn.RNNCell) else found(input)[0]), expected)
    assert type(found) in (nn.RNN, nn.LSTM, nn.RNNCell, nn.LSTMCell)
    twin = kind(4, 5, dtype=torch.float64, plasticity=Plasticity(alpha_init=0.0))
    convert.from_authors(theirs, twin, orientation="rows")
    close(twin(input)[0], expected)


@each_way
def test_from_authors_refuses_by_name_what_is_computed_and_changes_nothing(way: str) -> None:
    module = made(PlasticRNN, way, "weight_hh_l0")
    parameters = convert.to_authors(PlasticRNN(4, 5), orientation="rows")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"from_authors: weight_hh_l0 must be a parameter .* it is computed"
    ):
        convert.from_authors(parameters, module, orientation="rows")
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


@each_way
@pytest.mark.parametrize("name", ["weight_hh_l0", "weight_ih_l0", "alpha_l0", "weight_hh_l1"])
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rollout_acts_and_learns_with_the_parameters_of_a_call(
    kind: Any, way: str, name: str, backend: str
) -> None:
    module = made(kind, way, name, num_layers=2, plasticity=RULE, backend=backend)
    inputs = input_of(module)
    with torch.no_grad():
        rollout = module.rollout(len(inputs), inputs.shape[1])
        steps = [rollout.step(row).clone() for row in inputs]
    output, state = rollout.finish(inputs)
    expected, last = module(inputs)
    close((torch.stack(steps), output, *state), (expected.detach(), expected, *last))
    parameters = dict(module.named_parameters())
    found = torch.autograd.grad(output.square().sum(), list(parameters.values()))
    close(found, torch.autograd.grad(expected.square().sum(), list(parameters.values())))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM])
def test_a_rollout_learns_with_the_weights_of_its_steps_where_each_look_computes_others(
    kind: Any, backend: str
) -> None:
    module = parametrizations.spectral_norm(
        kind(4, 5, backend=backend, dtype=torch.float64), "weight_hh_l0"
    )
    inputs = input_of(module)
    with torch.no_grad():
        module.parametrizations.weight_hh_l0.original.mul_(torch.rand(5, dtype=torch.float64))
        rollout = module.rollout(len(inputs), inputs.shape[1])
        steps = torch.stack([rollout.step(row).clone() for row in inputs])
    close(rollout.finish(inputs)[0], steps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM])
def test_a_rollout_takes_parameters_from_functional_call(kind: Any, backend: str) -> None:
    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = kind(
                4, 5, num_layers=2, plasticity=RULE, backend=backend, dtype=torch.float64
            )

        def forward(self, inputs: Tensor, how: str) -> Any:
            if how == "call":
                return self.network(inputs)[0]
            rollout = self.network.rollout(len(inputs), inputs.shape[1])
            for row in inputs:
                rollout.step(row)
            return rollout.finish(inputs)[0] if how == "inside" else rollout

    agent, other = Agent(), Agent()
    given = {name: value.detach().requires_grad_() for name, value in other.named_parameters()}
    inputs = input_of(agent.network)
    inside, expected, rollout = (
        torch.func.functional_call(agent, given, (inputs, how))
        for how in ("inside", "call", "outside")
    )
    gradients = torch.autograd.grad(
        expected.square().sum(), list(given.values()), allow_unused=True
    )
    for found in (inside, rollout.finish(inputs)[0]):
        close(found, expected)
        close(
            torch.autograd.grad(found.square().sum(), list(given.values()), allow_unused=True),
            gradients,
        )


def test_a_parameter_changed_during_a_rollout_is_noticed_behind_its_parametrization() -> None:
    for way in ("weight_norm", "pruned"):
        module = made(PlasticRNN, way, "weight_hh_l0")
        rollout = module.rollout(2, 3)
        rollout.step(torch.randn(3, 4, dtype=torch.float64))
        with torch.no_grad():
            next(p for name, p in module.named_parameters() if "hh" in name and p.dim() == 2).mul_(
                2
            )
        with pytest.raises(RuntimeError, match="a parameter or the first state has been changed"):
            rollout.finish()


def test_rates_that_are_not_learnt_are_noticed_when_they_change_during_a_rollout() -> None:
    module = PlasticRNN(4, 5, plasticity=Plasticity(learn_eta=False))
    rollout = module.rollout(2, 3)
    rollout.step(torch.randn(3, 4))
    module.eta_l0.fill_(0.5)
    with pytest.raises(RuntimeError, match="a parameter or the first state has been changed"):
        rollout.finish()


@pytest.mark.parametrize("with_kwargs", [False, True])
def test_hooks_see_a_rollout_and_change_nothing_of_it(with_kwargs: bool) -> None:
    module, seen = PlasticRNN(4, 5, batch_first=True), []
    module.register_forward_pre_hook(lambda *given: seen.append(given[1]), with_kwargs=with_kwargs)
    module.register_forward_hook(lambda *given: seen.append(given[-1]), with_kwargs=with_kwargs)
    rollout = module.rollout(2, 3)
    rollout.step(torch.randn(3, 4))
    output, _ = rollout.finish()
    assert [seen[0][0].shape, seen[1][0] is output] == [(0, 4), True]

    def twice(*given: Any) -> Any:
        return ((given[1][0] * 2,), {}) if with_kwargs else given[1][0] * 2

    before = module.register_forward_pre_hook(twice, with_kwargs=with_kwargs)
    with pytest.raises(
        ValueError, match=r"forward pre-hooks must leave the input as it is; got .* from twice"
    ):
        module.rollout(2, 3)
    before.remove()
    module.register_forward_hook(lambda *given: given[-1][0], with_kwargs=with_kwargs)
    rollout = module.rollout(2, 3)
    with pytest.raises(ValueError, match="rollout: forward hooks must leave the output as it is"):
        rollout.finish()


@each_way
def test_the_signal_of_a_modulator_is_that_of_its_present_parameters(way: str) -> None:
    module = made(
        PlasticRNN,
        way,
        "fan_out_weight_l0" if "norm" in way else "modulator_weight_l0",
        plasticity=RULE,
    )
    output = torch.randn(3, 5, dtype=torch.float64)
    found, present = module.modulator_signal(output), module.modulator()
    module(input_of(module))
    close(found, module.modulator_signal(output))
    close(present, module.modulator())


@pytest.mark.parametrize(
    "kind",
    [PlasticRNN, PlasticLSTM, PlasticLinear, PlasticRNNCell, PlasticLSTMCell, PlasticLinearCell],
)
def test_reset_parameters_draws_parameters_and_nothing_else(kind: Any) -> None:
    modulated = torch.arange(50) % 2 == 0
    module = kind(
        4, 50, plasticity=Plasticity(modulation="simple", learn_eta=False), modulated=modulated
    )
    name = next(name for name, value in module.named_parameters() if value.shape[-1:] == (50,) and value.dim() == 2) \
        if "Linear" not in kind.__name__ else "weight"  # fmt: skip
    module.register_buffer("noise", torch.full((3,), 7.0))
    module.register_parameter("gain", nn.Parameter(torch.full((3,), 8.0)))
    module.register_buffer("weight_of_the_loss", torch.full((3,), 9.0))
    prune.random_unstructured(module, name, 0.5)
    mask = getattr(module, name + "_mask").clone()
    before = {key: value.detach().clone() for key, value in module.named_parameters()}
    next(iter(value for key, value in module.named_buffers() if key.startswith("eta"))).fill_(3.0)
    module.reset_parameters()
    assert torch.equal(getattr(module, name + "_mask"), mask) and torch.equal(
        module.modulated, modulated
    )
    assert (
        (module.noise == 7).all()
        and (module.gain == 8).all()
        and (module.weight_of_the_loss == 9).all()
    )
    assert all(
        value == module.plasticity.eta_init
        for key, value in module.named_buffers()
        if key.startswith("eta")
    )
    drawn = {key: value for key, value in module.named_parameters() if key != "gain"}
    assert name + "_orig" in drawn and all(
        not torch.equal(value, before[key]) for key, value in drawn.items()
    )
    assert torch.equal(getattr(module, name), getattr(module, name + "_orig") * mask)


def test_reset_parameters_draws_through_parametrizations_or_refuses_by_name() -> None:
    module = parametrizations.weight_norm(PlasticRNN(4, 50), "weight_hh_l0")
    before = module.weight_hh_l0.detach().clone()
    module.reset_parameters()
    assert not torch.equal(module.weight_hh_l0, before)
    assert 0.9 / 50**0.5 < module.weight_hh_l0.abs().max() <= 1 / 50**0.5 + 1e-6
    for way in ("custom", "old weight_norm"):
        module = made(PlasticRNN, way, "weight_hh_l0")
        with pytest.raises(ValueError, match="weight_hh_l0"):
            module.reset_parameters()


def test_reset_parameters_draws_what_it_drew_before() -> None:
    torch.manual_seed(5)
    module = PlasticLSTM(4, 5, num_layers=2, plasticity=RULE)
    expected = {name: value.detach().clone() for name, value in module.named_parameters()}
    torch.manual_seed(5)
    module.reset_parameters()
    for name, value in module.named_parameters():
        assert torch.equal(value, expected[name])


@each_way
def test_save_refuses_at_once_what_load_could_not_read(way: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    with pytest.raises(
        TypeError, match=re.compile("save: module must .*(weight_hh|ParametrizedPlasticRNN)")
    ):
        plastikern.save(made(PlasticRNN, way, "weight_hh_l0"), tmp_path / "module.safetensors")
    foreign = PlasticRNN(4, 5)
    foreign.register_buffer("steps", torch.zeros(1))
    with pytest.raises(TypeError, match=r"save: module must .*steps"):
        plastikern.save(foreign, tmp_path / "module.safetensors")
    assert not [*tmp_path.iterdir()]


def test_an_error_inside_a_parametrization_is_not_a_missing_parameter() -> None:
    class Broken(nn.Module):
        def forward(self, bias: Tensor) -> Tensor:
            return bias.no_such_attribute if self.armed else bias

        armed = False

    module = PlasticRNN(4, 5)
    for name in ("bias_ih_l0", "weight_ih_l0", "bias_hh_l0"):
        parametrize.register_parametrization(module, name, broken := Broken())
        broken.armed = True
        with pytest.raises(AttributeError):
            module(torch.randn(6, 3, 4))
        broken.armed = False
