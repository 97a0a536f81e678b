"""What code written for torch.nn does to its recurrent networks, it can do to plastic ones."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BACKENDS, close, random
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import plastikern
from plastikern import (
    PlasticGRU,
    PlasticGRUCell,
    Plasticity,
    PlasticLinear,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
    load,
    save,
)

PAIRS = [(PlasticRNN, nn.RNN), (PlasticLSTM, nn.LSTM), (PlasticGRU, nn.GRU)]
CELLS = [
    (PlasticRNNCell, nn.RNNCell),
    (PlasticLSTMCell, nn.LSTMCell),
    (PlasticGRUCell, nn.GRUCell),
]
CLIP = Plasticity(constraint="clip", alpha_init=0.5, eta_init=0.2)
FIXED = Plasticity(alpha_init=0)
LENGTHS = {True: [6, 4, 4, 1], False: [4, 1, 6, 4]}


def theta(w: Tensor, alpha: Tensor, H: Tensor, theta: Tensor, x: Tensor, y: Tensor) -> Any:
    return H + 0.1 * y * (y - theta) * x, 0.9 * theta + 0.1 * y * y


def first_of(kind: Any, *shape: int) -> Any:
    """A first state as that of torch.nn, and its tensors."""
    tensors = [random(*shape).requires_grad_() for _ in range(2 if kind in (nn.LSTM, nn.LSTMCell) else 1)]  # fmt: skip
    return (tensors[0] if len(tensors) == 1 else tuple(tensors)), tensors


def hidden_of(state: Any, count: int) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [*state[:count]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("presorted", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("ours, theirs", PAIRS)
def test_packed_sequences_go_in_and_out_as_those_of_torch_nn(
    backend: str, presorted: bool, batch_first: bool, ours: Any, theirs: Any
) -> None:
    options: dict[str, Any] = {"batch_first": batch_first, "dtype": torch.float64}
    reference = theirs(3, 5, 2, **options)
    module = ours(3, 5, 2, plasticity=FIXED, backend=backend, **options)
    module.load_state_dict(reference.state_dict(), strict=False)
    padded, lengths = random(6, 4, 3), LENGTHS[presorted]
    state, tensors = first_of(theirs, 2, 4, 5)
    found = []
    for network in (reference, module):
        packed = pack_padded_sequence(padded, torch.tensor(lengths), enforce_sorted=presorted)
        data = packed.data.clone().requires_grad_()
        output, last = network(packed._replace(data=data), state)
        assert type(output) is PackedSequence
        assert torch.equal(output.batch_sizes, packed.batch_sizes)
        for name in ("sorted_indices", "unsorted_indices"):
            expected, order = getattr(packed, name), getattr(output, name)
            assert (order is None and expected is None) or torch.equal(order, expected)
        lasts = hidden_of(last, len(tensors))
        loss = sum((x * torch.arange(x.numel()).view(x.shape)).sum() for x in (output.data, *lasts))
        weights = [network.get_parameter(name) for name, _ in reference.named_parameters()]
        leaves = [data, *tensors, *weights]
        found.append([output.data, *lasts, *torch.autograd.grad(loss, leaves)])
    close(found[1], found[0])


@pytest.mark.parametrize("presorted", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("ours", [PlasticRNN, PlasticLSTM, PlasticGRU])
def test_a_packed_sequence_is_a_padded_one_with_lengths(
    presorted: bool, batch_first: bool, ours: Any
) -> None:
    module = ours(3, 5, batch_first=batch_first, plasticity=CLIP, dtype=torch.float64)
    padded = random(*((4, 6) if batch_first else (6, 4)), 3)
    lengths = torch.tensor(LENGTHS[presorted])
    expected, last = module(padded, lengths=lengths)
    packed = pack_padded_sequence(padded, lengths, batch_first, enforce_sorted=presorted)
    output, state = module(packed)
    back, ends = pad_packed_sequence(output, batch_first)
    assert torch.equal(back, expected) and torch.equal(ends, lengths)
    assert all(torch.equal(*each) for each in zip(state, last, strict=True))
    assert state.trace.abs().sum() > 0


def test_packed_sequences_of_one_length_keep_their_order() -> None:
    module = PlasticRNN(3, 5, plasticity=CLIP)
    packed = pack_padded_sequence(torch.randn(4, 3, 3), torch.tensor([4, 4, 4]))
    order = torch.tensor([2, 0, 1])
    shuffled = PackedSequence(packed.data, packed.batch_sizes, order, order.argsort())
    output, state = module(shuffled)
    alone, last = module(packed)
    assert torch.equal(output.data, alone.data) and torch.equal(output.sorted_indices, order)
    close(state.hidden[:, order], last.hidden)


def test_packed_sequences_compile() -> None:
    module = PlasticRNN(3, 5, plasticity=CLIP, dtype=torch.float64)
    packed = pack_padded_sequence(random(6, 4, 3), torch.tensor([4, 1, 6, 4]), enforce_sorted=False)
    output, state = torch.compile(module, backend="eager")(packed)
    expected, last = module(packed)
    close((output.data, *state), (expected.data, *last))


def test_clamps_of_a_packed_sequence_are_padded_and_in_the_callers_order() -> None:
    module = PlasticRNN(None, 5, plasticity=CLIP)
    padded, lengths = torch.randn(6, 4, 5), torch.tensor([4, 1, 6, 4])
    clamp = torch.rand(6, 4, 5) < 0.5
    expected, _ = module(padded, lengths=lengths, clamp=clamp)
    output, _ = module(pack_padded_sequence(padded, lengths, enforce_sorted=False), clamp=clamp)
    assert torch.equal(pad_packed_sequence(output)[0], expected)


def test_packed_sequences_that_do_not_fit_are_refused_in_one_line() -> None:
    module = PlasticRNN(3, 5)
    rows = torch.randn(6, 3)
    packed = PackedSequence(rows, torch.tensor([3, 2, 1]))
    with pytest.raises(ValueError, match=r"^PlasticRNN: lengths must be None with a packed input"):
        module(packed, lengths=[3, 2, 1])
    for sizes in ([3, 2], [1, 2, 3], [7, -1], [3, 3, 0]):
        broken = packed._replace(batch_sizes=torch.tensor(sizes))
        with pytest.raises(ValueError, match=r"^PlasticRNN: input\.batch_sizes must be positive"):
            module(broken)
    with pytest.raises(ValueError, match=r"^PlasticRNN: input must have 3 features"):
        module(packed._replace(data=torch.randn(6, 4)))
    with pytest.raises(ValueError, match=r"^PlasticRNN: input\.data must have 2 dimensions"):
        module(packed._replace(data=torch.randn(6)))
    with pytest.raises(ValueError, match=r"^PlasticRNN: input\.unsorted_indices must have shape"):
        module(packed._replace(sorted_indices=torch.arange(3), unsorted_indices=torch.arange(2)))
    with pytest.raises(TypeError, match=r"^PlasticLinear: input must be a tensor; got Packed"):
        PlasticLinear(3, 5)(packed)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("ours, theirs", PAIRS)
def test_a_first_state_of_torch_nn_has_traces_of_zero(
    backend: str, batched: bool, ours: Any, theirs: Any
) -> None:
    module = ours(3, 5, 2, plasticity=CLIP, backend=backend, dtype=torch.float64)
    input = random(6, 4, 3) if batched else random(6, 3)
    shape = (2, 4, 5) if batched else (2, 5)
    given, tensors = first_of(theirs, *shape)
    output, last = module(input, given)
    expected, same = module(input, module.State(*tensors, torch.zeros(*shape, 5).double()))
    close((output, *last), (expected, *same))
    assert all(x.any() for x in torch.autograd.grad(output.sum(), tensors))
    if batched:
        rollout = module.rollout(1, 4, given)
        close(rollout.step(input[0]), module(input[:1], given)[0][0])


@pytest.mark.parametrize("ours, theirs", CELLS)
def test_cells_take_the_states_of_torch_nn(ours: Any, theirs: Any) -> None:
    cell = ours(3, 5, plasticity=CLIP, dtype=torch.float64)
    given, tensors = first_of(theirs, 4, 5)
    input = random(4, 3)
    close(cell(input, given), cell(input, cell.State(*tensors, torch.zeros(4, 5, 5).double())))


def test_states_of_a_rule_of_ones_own_begin_with_their_own_first_values() -> None:
    sliding = plastikern.rule(H="synapse", theta="post", fused=False)(theta)
    module = PlasticLSTM(3, 5, plasticity=sliding.use(initial={"theta": 0.5}), dtype=torch.float64)
    given, tensors = first_of(nn.LSTM, 1, 4, 5)
    first = module.State(
        *tensors, torch.zeros(1, 4, 5, 5).double(), torch.full((1, 4, 5), 0.5).double()
    )
    input = random(6, 4, 3)
    close(module(input, given)[1], module(input, first)[1])


def test_other_first_states_are_refused() -> None:
    hidden = torch.zeros(1, 4, 5)
    for module, state in (
        (PlasticRNN(3, 5), (hidden,)), (PlasticLSTM(3, 5), hidden), (PlasticLSTM(3, 5), (hidden,)),
    ):  # fmt: skip
        torch_s = "hidden alone" if type(module) is PlasticRNN else r"\(hidden, cell\)"
        with pytest.raises(
            TypeError, match=rf"state must be None .* or as of torch.nn {torch_s}; got"
        ):
            module(torch.randn(6, 4, 3), state)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"state.hidden must have shape \(1, 4, 5\)"):
        PlasticRNN(3, 5)(torch.randn(6, 4, 3), hidden[0])
    expected = r"state must be None or a tuple of tensors, LinearState \(trace, eligibility\); got"
    with pytest.raises(TypeError, match=expected):
        PlasticLinear(3, 5)(torch.randn(6, 4, 3), hidden)  # type: ignore[arg-type]


@pytest.mark.parametrize("ours, theirs", [*PAIRS, *CELLS, (PlasticLinear, nn.Linear)])
def test_positional_arguments_have_the_order_of_torch_nn(ours: Any, theirs: Any) -> None:
    base = nn.RNNBase if issubclass(theirs, nn.RNNBase) else theirs
    names = [name for name in inspect.signature(base).parameters if name != "mode"]
    if theirs is nn.RNN:
        names.insert(3, "nonlinearity")
    parameters = inspect.signature(ours).parameters.values()
    positional = [x.name for x in parameters if x.kind is x.POSITIONAL_OR_KEYWORD]
    assert positional == names[: len(positional)]
    assert {*names[len(positional) :]} <= {x.name for x in parameters}
    assert {"plasticity", "backend"} <= {x.name for x in parameters if x.kind is x.KEYWORD_ONLY}


@pytest.mark.parametrize("ours", [PlasticRNN, PlasticLSTM, PlasticGRU])
def test_flatten_parameters_changes_nothing(ours: Any) -> None:
    module = ours(3, 5)
    before = {name: x.clone() for name, x in module.state_dict().items()}
    module.flatten_parameters()
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())


@pytest.mark.parametrize("ours, theirs", PAIRS)
def test_dropout_with_one_layer_warns_in_the_words_of_torch(
    ours: Any, theirs: Any, tmp_path: Any
) -> None:
    with pytest.warns(UserWarning) as expected:
        theirs(3, 5, dropout=0.3)
    with pytest.warns(UserWarning) as found:
        module = ours(3, 5, dropout=0.3)
    assert [str(x.message) for x in found] == [str(x.message) for x in expected]
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(3, 5, 2, dropout=0.3)
        pytest.importorskip("safetensors")
        save(module, tmp_path / "module.safetensors")
    with pytest.warns(UserWarning, match="dropout option"):
        assert load(tmp_path / "module.safetensors").dropout == 0.3


@pytest.mark.parametrize("ours", [PlasticRNN, PlasticLSTM, PlasticGRU])
def test_what_there_is_not_is_refused_with_the_reason(ours: Any) -> None:
    with pytest.raises(ValueError, match=r"bidirectional must be False: .* the reversed input"):
        ours(3, 5, bidirectional=True)
    with pytest.raises(
        ValueError, match="proj_size must be 0: traces join the hidden_size neurons"
    ):
        ours(3, 5, proj_size=2)
    with pytest.raises(ValueError, match="dropout must lie from 0 to 1; got True"):
        ours(3, 5, 2, dropout=True)


def test_the_package_itself_imports_no_integration() -> None:
    for path in Path(plastikern.__file__).parent.rglob("*.py"):
        if path.parent.name != "integrations":
            assert not re.search(r"^\s*(from|import) .*(integrations|sb3)", path.read_text(), re.M)
