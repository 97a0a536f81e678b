"""PlasticGRU stands in the place of torch.nn.GRU, and its state can be taken out and put back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import BACKENDS, close, random
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from plastikern import PlasticGRU, PlasticGRUCell, Plasticity, RNNState

CLIP = Plasticity(constraint="clip", alpha_init=0.5, eta_init=0.2)
PLAIN = Plasticity(alpha_init=0, eta_init=0.1)


def network(*args: Any, plasticity: Plasticity = CLIP, **options: Any) -> PlasticGRU:
    torch.manual_seed(0)
    return PlasticGRU(*args, plasticity=plasticity, dtype=torch.float64, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("batch_first, bias", [(False, True), (True, False)])
@pytest.mark.parametrize("batched", [True, False])
def test_without_plasticity_it_is_torch_nn_gru(
    backend: str, num_layers: int, batch_first: bool, bias: bool, batched: bool
) -> None:
    options: dict[str, Any] = {"batch_first": batch_first, "bias": bias}
    theirs = nn.GRU(3, 6, num_layers, **options, dtype=torch.float64)
    ours = network(3, 6, num_layers, **options, backend=backend, plasticity=PLAIN)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected and all(name.startswith(("alpha", "eta")) for name in missing)
    input = random(4, 5, 3) if batched else random(4, 3)
    shape = (num_layers, 4 if batch_first else 5, 6) if batched else (num_layers, 6)
    start, upstream = random(*shape), random(*input.shape[:-1], 6)
    results = []
    for module in (theirs, ours):
        x, h = (tensor.clone().requires_grad_() for tensor in (input, start))
        output, last = module(x, h if module is theirs else RNNState(h, h.new_zeros(*shape, 6)))
        hidden = last if module is theirs else last.hidden
        torch.autograd.backward([output, hidden], [upstream, torch.ones_like(h)])
        weights = [
            parameter.grad
            for name, parameter in module.named_parameters()
            if not name.startswith(("alpha", "eta"))
        ]
        results.append([output, hidden, x.grad, h.grad, *weights])
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batched", [True, False])
def test_without_plasticity_its_cell_is_torch_nn_gru_cell(backend: str, batched: bool) -> None:
    theirs = nn.GRUCell(3, 6, dtype=torch.float64)
    ours = PlasticGRUCell(3, 6, plasticity=PLAIN, backend=backend, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    front = (5,) if batched else ()
    input, hidden = random(*front, 3), random(*front, 6)
    found = ours(input, RNNState(hidden, hidden.new_zeros(*front, 6, 6)))
    torch.testing.assert_close(found.hidden, theirs(input, hidden), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_do_what_a_packed_sequence_does(backend: str, batch_first: bool) -> None:
    theirs = nn.GRU(3, 6, 2, batch_first=batch_first, dtype=torch.float64)
    ours = network(3, 6, 2, batch_first=batch_first, backend=backend, plasticity=PLAIN)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    lengths, front = torch.tensor([5, 1, 3]), (3, 5) if batch_first else (5, 3)
    input, start = random(*front, 3), random(2, 3, 6)
    packed = pack_padded_sequence(input, lengths, batch_first=batch_first, enforce_sorted=False)
    expected, last = theirs(packed, start)
    expected, _ = pad_packed_sequence(expected, batch_first=batch_first, total_length=5)
    zero = torch.zeros(2, 3, 6, 6, dtype=torch.float64)
    output, state = ours(input, RNNState(start, zero), lengths=lengths)
    close((output, state.hidden), (expected, last))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_element_that_has_ended_keeps_its_state_and_outputs_zero(backend: str) -> None:
    module = network(3, 4, num_layers=2, backend=backend)
    input, lengths = random(5, 3, 3), [5, 0, 3]
    start = RNNState(random(2, 3, 4), random(2, 3, 4, 4))
    output, state = module(input, start, lengths=lengths)
    for b, length in enumerate(lengths):
        assert not output[length:, b].any()
        alone, last = module(input[:length, b], RNNState(*(tensor[:, b] for tensor in start)))
        close(output[:length, b], alone)
        close([tensor[:, b] for tensor in state], last)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("post", ["candidate", "recurrent", "hidden"])
@pytest.mark.parametrize("modulator_input", ["hidden", "previous_hidden"])
def test_a_cell_is_a_network_of_one_step_and_a_sequence_goes_on(
    backend: str, post: str, modulator_input: str
) -> None:
    plasticity = Plasticity(
        constraint="clip", alpha_init=0.5, modulation="simple", modulator_input=modulator_input
    )
    cell = PlasticGRUCell(
        3, 4, plasticity=plasticity, post=post, backend=backend, dtype=torch.float64
    )
    module = network(3, 4, plasticity=plasticity, post=post, backend=backend)
    module.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    input, state, outputs = random(5, 2, 3), None, []
    whole, last = module(input)
    for step in input:
        state = cell(step, state)
        outputs.append(state.hidden)
    close((torch.stack(outputs), *state), (whole, *(tensor.squeeze(0) for tensor in last)))
    first, middle = module(input[:3])
    second, end = module(input[3:], middle)
    close((torch.cat([first, second]), *end), (whole, *last))


def test_its_weights_go_back_into_torch_nn_gru() -> None:
    ours = network(3, 4, num_layers=2, plasticity=PLAIN, backend="reference")
    theirs = nn.GRU(3, 4, 2).double()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not missing and all(name.startswith(("alpha", "eta")) for name in unexpected)
    input = random(5, 2, 3)
    close(theirs(input)[0], ours(input)[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_computes_it_in_single_precision_but_for_the_input(backend: str) -> None:
    module, input = network(3, 4, backend=backend).float(), torch.randn(5, 2, 3)
    exact, _ = module(input)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = module(input)
    assert state.trace.dtype == torch.float32
    torch.testing.assert_close(output.float(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", [PlasticGRU, PlasticGRUCell])
def test_device_and_dtype_and_repr(kind: type[nn.Module]) -> None:
    module = kind(3, 4, post="hidden", plasticity=CLIP, device="meta", dtype=torch.float16)
    assert {(str(value.device), value.dtype) for value in module.state_dict().values()} == {
        ("meta", torch.float16)
    }
    for part in (kind.__name__, "3, 4", "post='hidden'", "bias=True", "constraint='clip'"):
        assert part in repr(module)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"post": "cell"}, "post must be one of candidate, recurrent, hidden; got 'cell'"),
        ({"input_size": None}, "input_size must be a positive integer; got None"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer; got 0"),
        (
            {"plasticity": Plasticity(modulation="simple", modulator_input="cell")},
            "plasticity.modulator_input must be one of hidden, previous_hidden; got 'cell'",
        ),
    ],
)
@pytest.mark.parametrize("kind", [PlasticGRU, PlasticGRUCell])
def test_a_module_that_cannot_be_is_not_made(
    kind: type[nn.Module], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{kind.__name__}: {message}"):
        kind(**{"input_size": 3, "hidden_size": 4, **options})


@pytest.mark.parametrize("backend", BACKENDS)
def test_after_a_reset_an_element_is_what_it_is_from_its_first_state(backend: str) -> None:
    module, input = network(3, 4, num_layers=2, backend=backend), random(6, 2, 3)
    reset = torch.zeros(6, 2, dtype=torch.bool)
    reset[4, 0] = reset[2, 1] = True
    output, last = module(input, RNNState(random(2, 2, 4), random(2, 2, 4, 4)), reset=reset)
    for element, begin in ((0, 4), (1, 2)):
        alone, state = module(input[begin:, element])
        close(output[begin:, element], alone)
        close([tensor[:, element] for tensor in last], state)
