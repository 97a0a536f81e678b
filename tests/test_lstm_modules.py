"""PlasticLSTM stands in the place of torch.nn.LSTM, and its state can be taken out and put back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import BACKENDS, close, random
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from plastikern import LSTMState, Plasticity, PlasticLSTM, PlasticLSTMCell

CLIP = Plasticity(constraint="clip", alpha_init=0.5, eta_init=0.2)
PLAIN = Plasticity(alpha_init=0, eta_init=0.1)


def network(*args: Any, plasticity: Plasticity = CLIP, **options: Any) -> PlasticLSTM:
    torch.manual_seed(0)
    return PlasticLSTM(*args, plasticity=plasticity, dtype=torch.float64, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("batch_first, bias", [(False, True), (True, False)])
@pytest.mark.parametrize("batched", [True, False])
def test_without_plasticity_it_is_torch_nn_lstm(
    backend: str, num_layers: int, batch_first: bool, bias: bool, batched: bool
) -> None:
    options: dict[str, Any] = {"batch_first": batch_first, "bias": bias}
    theirs = nn.LSTM(3, 6, num_layers, **options, dtype=torch.float64)
    ours = network(3, 6, num_layers, **options, backend=backend, plasticity=PLAIN)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected and all(name.startswith(("alpha", "eta")) for name in missing)
    input = random(4, 5, 3) if batched else random(4, 3)
    shape = (num_layers, 4 if batch_first else 5, 6) if batched else (num_layers, 6)
    starts = random(*shape), random(*shape)
    upstream = random(*input.shape[:-1], 6)
    results = []
    for module in (theirs, ours):
        x, h, c = (tensor.clone().requires_grad_() for tensor in (input, *starts))
        state: Any = (h, c) if module is theirs else LSTMState(h, c, h.new_zeros(*shape, 6))
        output, last = module(x, state)
        torch.autograd.backward(
            [output, *last[:2]], [upstream, torch.ones_like(h), torch.ones_like(c)]
        )
        weights = [
            parameter.grad
            for name, parameter in module.named_parameters()
            if not name.startswith(("alpha", "eta"))
        ]
        results.append([output, *last[:2], x.grad, h.grad, c.grad, *weights])
    close(results[1], results[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_do_what_a_packed_sequence_does(backend: str, batch_first: bool) -> None:
    theirs = nn.LSTM(3, 6, 2, batch_first=batch_first, dtype=torch.float64)
    ours = network(3, 6, 2, batch_first=batch_first, backend=backend, plasticity=PLAIN)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    lengths, front = torch.tensor([5, 1, 3]), (3, 5) if batch_first else (5, 3)
    input, start = random(*front, 3), (random(2, 3, 6), random(2, 3, 6))
    packed = pack_padded_sequence(input, lengths, batch_first=batch_first, enforce_sorted=False)
    expected, last = theirs(packed, start)
    expected, _ = pad_packed_sequence(expected, batch_first=batch_first, total_length=5)
    output, state = ours(
        input, LSTMState(*start, torch.zeros(2, 3, 6, 6, dtype=torch.float64)), lengths=lengths
    )
    close((output, state.hidden, state.cell), (expected, *last))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_element_that_has_ended_keeps_its_state_and_outputs_zero(backend: str) -> None:
    module = network(3, 4, num_layers=2, backend=backend)
    input, lengths = random(5, 3, 3), [5, 0, 3]
    start = LSTMState(random(2, 3, 4), random(2, 3, 4), random(2, 3, 4, 4))
    output, state = module(input, start, lengths=lengths)
    for b, length in enumerate(lengths):
        assert not output[length:, b].any()
        alone, last = module(input[:length, b], LSTMState(*(tensor[:, b] for tensor in start[:3])))
        close(output[:length, b], alone)
        close([tensor[:, b] for tensor in state[:3]], last)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batched", [True, False])
def test_a_sequence_goes_on_where_its_state_ended(backend: str, batched: bool) -> None:
    module = network(3, 4, num_layers=2, backend=backend)
    input = random(7, 2, 3) if batched else random(7, 3)
    whole, last = module(input)
    front = (2, 2) if batched else (2,)
    assert [tuple(tensor.shape) for tensor in last[:3]] == [
        (*front, 4),
        (*front, 4),
        (*front, 4, 4),
    ]
    first, state = module(input[:3])
    second, state = module(input[3:], state)
    close((torch.cat([first, second]), *state), (whole, *last))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("post", ["candidate", "recurrent", "cell", "hidden"])
@pytest.mark.parametrize("modulator_input", ["hidden", "previous_hidden", "cell"])
def test_a_cell_is_a_network_of_one_step(
    backend: str, batched: bool, post: str, modulator_input: str
) -> None:
    plasticity = Plasticity(
        constraint="clip", alpha_init=0.5, modulation="simple", modulator_input=modulator_input
    )
    cell = PlasticLSTMCell(
        3, 4, plasticity=plasticity, post=post, backend=backend, dtype=torch.float64
    )
    module = network(3, 4, plasticity=plasticity, post=post, backend=backend)
    module.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    front = (2,) if batched else ()
    input = random(*front, 3)
    for state in (None, LSTMState(random(*front, 4), random(*front, 4), random(*front, 4, 4))):
        found = cell(input, state)
        stacked = (
            None if state is None else LSTMState(*(tensor.unsqueeze(0) for tensor in state[:3]))
        )
        output, last = module(input.unsqueeze(0), stacked)
        close(found, [tensor.squeeze(0) for tensor in last[:3]])
        close(output.squeeze(0), found.hidden)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_detached_state_cuts_the_history(backend: str) -> None:
    module = network(3, 4, backend=backend)
    early = random(3, 2, 3).requires_grad_()
    _, state = module(early)
    late, _ = module(random(3, 2, 3), state.detach())
    assert isinstance(state.detach(), LSTMState)
    late.sum().backward()
    assert early.grad is None and module.weight_hh_l0.grad.any()
    _, joined = module(random(3, 2, 3), state)
    (grad,) = torch.autograd.grad(joined.trace.sum(), early)
    assert grad.any()


def test_its_weights_go_back_into_torch_nn_lstm() -> None:
    ours, theirs = (
        network(3, 4, num_layers=2, plasticity=PLAIN, backend="reference"),
        nn.LSTM(3, 4, 2).double(),
    )
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not missing and all(name.startswith(("alpha", "eta")) for name in unexpected)
    input = random(5, 2, 3)
    close(theirs(input)[0], ours(input)[0])
    cell = PlasticLSTMCell(3, 4, plasticity=PLAIN, backend="reference")
    assert not nn.LSTMCell(3, 4).load_state_dict(cell.state_dict(), strict=False).missing_keys


@pytest.mark.parametrize("kind", [PlasticLSTM, PlasticLSTMCell])
def test_device_and_dtype_and_repr(kind: type[nn.Module]) -> None:
    module = kind(3, 4, post="cell", plasticity=CLIP, device="meta", dtype=torch.float16)
    assert {(str(value.device), value.dtype) for value in module.state_dict().values()} == {
        ("meta", torch.float16)
    }
    for part in (kind.__name__, "3, 4", "post='cell'", "bias=True", "constraint='clip'"):
        assert part in repr(module)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"post": "gate"}, "post must be one of candidate, recurrent, cell, hidden; got 'gate'"),
        ({"input_size": None}, "input_size must be a positive integer; got None"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer; got 0"),
    ],
)
@pytest.mark.parametrize("kind", [PlasticLSTM, PlasticLSTMCell])
def test_a_module_that_cannot_be_is_not_made(
    kind: type[nn.Module], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{kind.__name__}: {message}"):
        kind(**{"input_size": 3, "hidden_size": 4, **options})


def test_a_state_of_the_wrong_parts_is_named() -> None:
    module, hidden, trace = PlasticLSTM(3, 4), torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, 4)
    with pytest.raises(
        TypeError,
        match=r"LSTMState \(hidden, cell, trace, eligibility\), or .*; got tuple of \(Tensor\)",
    ):
        module(torch.zeros(5, 2, 3), (hidden,))
    with pytest.raises(
        ValueError, match=r"state.cell must have shape \(1, 2, 4\); got \(1, 2, 4, 4\)"
    ):
        module(torch.zeros(5, 2, 3), LSTMState(hidden, trace, trace))
