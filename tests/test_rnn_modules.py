"""PlasticRNN stands in the place of torch.nn.RNN, and its state can be taken out and put back."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from conftest import BACKENDS, close, needs_native, random
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plastikern import Plasticity, PlasticRNN, PlasticRNNCell, RNNState

CLIP = Plasticity(constraint="clip", alpha_init=0.5, eta_init=0.2)


def network(*args: Any, plasticity: Plasticity = CLIP, **options: Any) -> PlasticRNN:
    torch.manual_seed(0)
    return PlasticRNN(*args, plasticity=plasticity, dtype=torch.float64, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("batch_first, bias", [(False, True), (True, False)])
@pytest.mark.parametrize("batched", [True, False])
def test_without_plasticity_it_is_torch_nn_rnn(
    backend: str, nonlinearity: str, num_layers: int, batch_first: bool, bias: bool, batched: bool
) -> None:
    options: dict[str, Any] = {
        "nonlinearity": nonlinearity,
        "batch_first": batch_first,
        "bias": bias,
    }
    theirs = nn.RNN(3, 6, num_layers, **options, dtype=torch.float64)
    ours = network(
        3,
        6,
        num_layers,
        **options,
        backend=backend,
        plasticity=Plasticity(alpha_init=0, eta_init=0.1),
    )
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected and all(name.startswith(("alpha", "eta")) for name in missing)
    input = random(4, 5, 3) if batched else random(4, 3)
    hidden = random(num_layers, 4 if batch_first else 5, 6) if batched else random(num_layers, 6)
    upstream = random(*input.shape[:-1], 6)
    results = []
    for module in (theirs, ours):
        x, h = input.clone().requires_grad_(), hidden.clone().requires_grad_()
        state: Any = h if module is theirs else RNNState(h, h.new_zeros(*h.shape, 6))
        output, last = module(x, state)
        last = last if module is theirs else last.hidden
        torch.autograd.backward([output, last], [upstream, torch.ones_like(last)])
        weights = [
            parameter.grad
            for name, parameter in module.named_parameters()
            if not name.startswith(("alpha", "eta"))
        ]
        results.append([output, last, x.grad, h.grad, *weights])
    close(results[1], results[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_an_element_that_has_ended_keeps_its_state_and_outputs_zero(
    backend: str, batch_first: bool
) -> None:
    module = network(3, 4, num_layers=2, batch_first=batch_first, backend=backend)
    input, lengths = random(5, 3, 3), torch.tensor([5, 0, 3])
    start = RNNState(random(2, 3, 4), random(2, 3, 4, 4))
    output, state = module(input.transpose(0, 1) if batch_first else input, start, lengths=lengths)
    output = output.transpose(0, 1) if batch_first else output
    for b, length in enumerate(lengths.tolist()):
        assert not output[length:, b].any()
        alone, last = module(input[:length, b], RNNState(start.hidden[:, b], start.trace[:, b]))
        close(output[:length, b], alone)
        close((state.hidden[:, b], state.trace[:, b]), last)
    assert torch.equal(state.trace[:, 1], start.trace[:, 1]) and torch.equal(
        state.hidden[:, 1], start.hidden[:, 1]
    )
    again, _ = module(input.transpose(0, 1) if batch_first else input, start, lengths=[5, 0, 3])
    assert torch.equal(again.transpose(0, 1) if batch_first else again, output)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batched", [True, False])
def test_a_sequence_goes_on_where_its_state_ended(backend: str, batched: bool) -> None:
    module = network(3, 4, num_layers=2, backend=backend)
    input = random(7, 2, 3) if batched else random(7, 3)
    whole, last = module(input)
    assert last.hidden.shape == ((2, 2, 4) if batched else (2, 4))
    assert last.trace.shape == ((2, 2, 4, 4) if batched else (2, 4, 4))
    first, state = module(input[:3])
    second, state = module(input[3:], state)
    close((torch.cat([first, second]), *state), (whole, *last))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_detached_state_cuts_the_history(backend: str) -> None:
    module = network(3, 4, backend=backend)
    early = random(3, 2, 3).requires_grad_()
    _, state = module(early)
    late, _ = module(random(3, 2, 3), state.detach())
    assert isinstance(state.detach(), RNNState)
    late.sum().backward()
    assert early.grad is None and module.weight_hh_l0.grad.any()
    _, joined = module(random(3, 2, 3), state)
    (grad,) = torch.autograd.grad(joined.trace.sum(), early)
    assert grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("input_size", [None, 3])
def test_a_clamped_neuron_takes_its_input_without_the_recurrent_bias(
    backend: str, bias: bool, input_size: int | None
) -> None:
    module = network(input_size, 4, num_layers=2, bias=bias, backend=backend)
    assert (
        hasattr(module, "weight_ih_l0") == (input_size is not None)
        and hasattr(module, "bias_hh_l0") == bias
    )
    assert hasattr(module, "bias_ih_l0") == (
        bias and input_size is not None
    ) and module.weight_ih_l1.shape == (4, 4)
    input = random(5, 2, input_size or 4)
    clamp = torch.rand(5, 2, 4) > 0.5
    drive = (
        nn.functional.linear(input, module.weight_ih_l0, getattr(module, "bias_ih_l0", None))
        if input_size
        else input
    )
    single = network(input_size, 4, bias=bias, backend=backend)
    single.load_state_dict(
        {name: value for name, value in module.state_dict().items() if name.endswith("l0")}
    )
    first, state = single(input, clamp=clamp)
    close(first[clamp], drive[clamp])
    _, both = module(input, clamp=clamp)
    close((both.hidden[0], both.trace[0]), (state.hidden[0], state.trace[0]))
    assert not torch.allclose(first[~clamp], drive[~clamp])


def test_dropout_acts_between_layers_and_only_in_training() -> None:
    input = random(5, 2, 3)
    module, plain = network(3, 4, num_layers=2, dropout=0.5), network(3, 4, num_layers=2)
    plain.load_state_dict(module.state_dict())
    expected, _ = plain(input)
    assert torch.equal(module.eval()(input)[0], expected)
    torch.manual_seed(1)
    dropped, state = module.train()(input)
    assert (
        not torch.allclose(dropped, expected) and dropped.all()
    )  # the last layer's own activities are never dropped
    assert torch.equal(state.hidden[0], plain(input)[1].hidden[0])
    torch.manual_seed(1)
    assert torch.equal(module(input)[0], dropped)
    with pytest.warns(UserWarning, match="dropout option"):
        single = network(3, 4, dropout=0.9)
    assert torch.equal(single(input)[0], single.eval()(input)[0])


@pytest.mark.parametrize("learn_eta", [True, False])
@pytest.mark.parametrize(
    "granularity, shape", [("connection", (4, 4)), ("neuron", (4,)), ("layer", (1,))]
)
def test_a_module_survives_state_dict_copy_and_pickle(
    learn_eta: bool, granularity: str, shape: tuple[int, ...]
) -> None:
    rule = Plasticity(
        alpha=granularity, eta=granularity, learn_eta=learn_eta, eta_init=0.2, alpha_init=0.3
    )
    module = network(3, 4, num_layers=2, plasticity=rule)
    assert module.alpha_l0.shape == module.eta_l1.shape == shape
    assert ("eta_l0" in dict(module.named_parameters())) == learn_eta
    assert ("eta_l0" in dict(module.named_buffers())) == (not learn_eta)
    input = random(3, 2, 3)
    expected, _ = module(input)
    torch.manual_seed(5)
    loaded = PlasticRNN(3, 4, 2, plasticity=rule, dtype=torch.float64)
    assert not torch.equal(loaded(input)[0], expected)
    loaded.load_state_dict(module.state_dict())
    for twin in (loaded, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(input)[0], expected) and twin.plasticity == rule


def test_parameters_start_as_the_rule_and_torch_nn_say() -> None:
    module = network(3, 100, plasticity=Plasticity(alpha_init=0.3, eta_init=0.07))
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        value = getattr(module, name)
        assert 0.08 < value.abs().max() <= 0.1  # U(-1/sqrt(N), 1/sqrt(N))
    assert (
        module.alpha_l0.std().item() == pytest.approx(0.3, rel=0.05)
        and abs(module.alpha_l0.mean()) < 0.02
    )
    assert module.eta_l0.item() == 0.07
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.eta_l0.data.fill_(3)
    module.reset_parameters()
    assert (
        not torch.equal(module.weight_hh_l0, before["weight_hh_l0"])
        and module.eta_l0.item() == 0.07
    )


@pytest.mark.parametrize("kind", [PlasticRNN, PlasticRNNCell])
def test_device_and_dtype_and_repr(kind: type[nn.Module]) -> None:
    module = kind(
        3,
        4,
        plasticity=Plasticity(rule="oja", constraint="none"),
        device="meta",
        dtype=torch.float16,
    )
    assert {(str(value.device), value.dtype) for value in module.state_dict().values()} == {
        ("meta", torch.float16)
    }
    for part in (kind.__name__, "3, 4", "nonlinearity='tanh'", "rule='oja'", "constraint='none'"):
        assert part in repr(module)
    moved = kind(3, 4).double()
    assert {value.dtype for value in moved.state_dict().values()} == {torch.float64}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("input_size", [None, 3])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("clamped", [True, False])
def test_a_cell_is_a_network_of_one_step(
    backend: str, input_size: int | None, batched: bool, clamped: bool
) -> None:
    cell = PlasticRNNCell(input_size, 4, plasticity=CLIP, backend=backend, dtype=torch.float64)
    module = network(input_size, 4, backend=backend)
    module.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    front = (2,) if batched else ()
    input, clamp = random(*front, input_size or 4), torch.rand(*front, 4) > 0.5 if clamped else None
    for state in (None, RNNState(random(*front, 4), random(*front, 4, 4))):
        found = cell(input, state, clamp=clamp)
        stacked = (
            None if state is None else RNNState(state.hidden.unsqueeze(0), state.trace.unsqueeze(0))
        )
        output, last = module(
            input.unsqueeze(0), stacked, clamp=None if clamp is None else clamp.unsqueeze(0)
        )
        close(found, (last.hidden.squeeze(0), last.trace.squeeze(0)))
        close(output.squeeze(0), found.hidden)


def parameter_gradients(module: nn.Module) -> list[Tensor]:
    return [
        parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_add_up_over_calls(backend: str) -> None:
    module, input = network(3, 4, backend=backend), random(5, 2, 3)
    for times in (1, 2, 3):
        output, state = module(input)
        (output.sum() + state.trace.sum()).backward()
        if times == 1:
            once = parameter_gradients(module)
        close(parameter_gradients(module), [times * grad for grad in once])
    assert len(once) == 6 and all(grad.any() for grad in once)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_is_retained_can_be_used_twice(backend: str) -> None:
    module, input = network(3, 4, backend=backend), random(5, 2, 3).requires_grad_()
    output, _ = module(input)
    first, second = (
        torch.autograd.grad(output.sum(), input, retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("constraint", ["decay", "clip"])
@pytest.mark.parametrize("one_step", [True, False])
@needs_native
def test_a_second_derivative_is_refused_by_the_fused_backend_and_right_in_the_reference(
    constraint: str, one_step: bool
) -> None:
    plasticity = Plasticity(constraint=constraint, alpha_init=0.5, eta_init=0.2)
    kind = PlasticRNNCell if one_step else PlasticRNN
    input = random(2, 3) if one_step else random(4, 2, 3)

    def penalty(backend: str, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        module = kind(3, 4, plasticity=plasticity, backend=backend, dtype=torch.float64)
        result = module(x) if one_step else module(x)[1]
        (grad,) = torch.autograd.grad(
            result.trace.square().sum() + result.hidden.sum(), x, create_graph=True
        )
        return grad.square().sum()

    x = input.clone().requires_grad_()
    value = penalty("cpu", x)
    close(value.detach(), penalty("reference", x).detach())
    with pytest.raises(RuntimeError, match="first derivatives only"):
        value.backward()
    assert torch.autograd.gradcheck(lambda x: penalty("reference", x), (x,))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_and_anomaly_mode_change_nothing(
    backend: str, use_reentrant: bool
) -> None:
    module, input = network(3, 4, backend=backend), random(5, 2, 3).requires_grad_()

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        output, state = module(x)
        return output, state.trace

    results = []
    for again in (False, True):
        module.zero_grad()
        input.grad = None
        with torch.autograd.set_detect_anomaly(again):
            output, trace = (
                checkpoint(forward, input, use_reentrant=use_reentrant) if again else forward(input)
            )
            (output.sum() + trace.square().sum()).backward()
        results.append([output.detach(), input.grad, *parameter_gradients(module)])
    assert all(torch.equal(left, right) for left, right in zip(*results, strict=True))


@needs_native
@pytest.mark.parametrize("one_step", [True, False])
def test_a_tensor_changed_in_place_before_the_backward_pass_is_noticed(one_step: bool) -> None:
    module = (PlasticRNNCell if one_step else PlasticRNN)(3, 4, backend="cpu")
    result = module(torch.randn(2, 3)) if one_step else module(torch.randn(5, 2, 3))[1]
    with torch.no_grad():
        module.get_parameter("weight_hh" if one_step else "weight_hh_l0").zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.trace.sum().backward()
