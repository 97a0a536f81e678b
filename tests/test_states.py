"""A state is a tuple of tensors, and what is done with the states of torch.nn works on it."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from conftest import needs_native
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils.data import default_collate

import plastikern
from plastikern import (
    LinearState,
    LSTMState,
    PlasticGRU,
    Plasticity,
    PlasticLinear,
    PlasticLinearCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
    RNNState,
)

RULES = {
    "decay": Plasticity(),
    "retroactive": Plasticity(constraint="clip", modulation="retroactive"),
}
MODULES = {"rnn": PlasticRNN, "lstm": PlasticLSTM, "gru": PlasticGRU, "rnn-cell": PlasticRNNCell,
           "lstm-cell": PlasticLSTMCell, "linear": PlasticLinear, "linear-cell": PlasticLinearCell}  # fmt: skip
each = pytest.mark.parametrize("rule", RULES)
each_module = pytest.mark.parametrize("name", MODULES)


def made(name: str, rule: str, **options: Any) -> tuple[nn.Module, Tensor]:
    """A module, and an input of a batch of 3."""
    torch.manual_seed(0)
    layers = {"num_layers": 2} if name in ("rnn", "lstm", "gru") else {}
    shape = (3, 4) if name.endswith("cell") else (5, 3, 4)
    return MODULES[name](4, 6, plasticity=RULES[rule], **layers, **options), torch.randn(shape)


def run(module: nn.Module, input: Tensor, state: Any = None) -> Any:
    """The state after a call."""
    found = module(input, state)
    return found if isinstance(found, (RNNState, LSTMState)) else found[1]


def repackage_hidden(h: Any) -> Any:
    """As in PyTorch's example of a language model."""
    return h.detach() if isinstance(h, Tensor) else tuple(repackage_hidden(v) for v in h)


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=0, atol=0)


@each
@each_module
def test_what_a_network_lacks_is_not_in_the_tuple(name: str, rule: str) -> None:
    module, input = made(name, rule)
    state = run(module, input)
    assert all(isinstance(tensor, Tensor) for tensor in state)
    assert len(state) == {"rnn": 2, "gru": 2, "lstm": 3, "linear": 1}[name.split("-")[0]] + (
        rule == "retroactive"
    )
    assert state.trace is state[state._fields.index("trace")]
    assert state.eligibility is (state[-1] if rule == "retroactive" else None)
    again = type(state)(*state)
    assert type(again) is type(state) and again._asdict().keys() == state._asdict().keys()
    assert repr(state).startswith(f"{type(state).__name__}({state._fields[0]}=tensor(")


@each
@each_module
def test_a_state_is_taken_apart_and_put_together_as_those_of_torch(name: str, rule: str) -> None:
    module, input = made(name, rule)
    state, keep = run(module, input), torch.tensor([True, False, True])
    axis = 1 if name in ("rnn", "lstm", "gru") else 0
    kept = tuple(h[:, keep] if axis else h[keep] for h in state)
    rest = input[keep] if name.endswith("cell") else input[:, keep]
    expected = [h[:, keep] if axis else h[keep] for h in run(module, input, state)]
    torch.testing.assert_close(tuple(run(module, rest, kept)), tuple(expected))
    same(state.select(keep), kept)
    same(state.select([2, 0]), [h.index_select(axis, torch.tensor([2, 0])) for h in state])
    same(state.select(slice(1, None)), [h.narrow(axis, 1, 2) for h in state])
    detached = repackage_hidden(state)
    assert not any(tensor.requires_grad for tensor in (*detached, *state.detach()))
    same(run(module, input, detached), run(module, input, state.detach()))
    wide = state.to(torch.float64)
    assert type(wide) is type(state) and all(tensor.dtype == torch.float64 for tensor in wide)
    doubled = _pytree.tree_map(lambda tensor: 2 * tensor, state)
    assert type(doubled) is type(state)
    same(doubled, [2 * tensor for tensor in state])


@each
@each_module
def test_an_episode_begins_with_zeros(name: str, rule: str) -> None:
    """Also where the last one ended in NaN; the others keep their history."""
    module, input = made(name, rule)
    state = run(module, input)
    begins, axis = torch.tensor([False, True, False]), 1 if name in ("rnn", "lstm", "gru") else 0
    spoilt = type(state)(
        *[tensor.index_fill(axis, torch.tensor([1]), torch.nan) for tensor in state]
    )
    found = spoilt.reset(begins)
    for after, before in zip(found, state, strict=True):
        assert not after.select(axis, 1).any()
        torch.testing.assert_close(after.select(axis, 2), before.select(axis, 2))
    gradient = torch.autograd.grad(sum(tensor.sum() for tensor in found), state[0])[0]
    assert not gradient.select(axis, 1).any() and gradient.select(axis, 0).all()
    for wrong, error in ((begins.long(), TypeError), (True, TypeError), (begins[:2], ValueError)):
        with pytest.raises(error, match="begins must"):
            state.reset(wrong)
    with pytest.raises(IndexError):
        state.select(3)


def test_a_state_without_batch_has_no_elements() -> None:
    state = PlasticRNNCell(4, 6)(torch.randn(4))
    with pytest.raises(ValueError, match="must have a dimension B"):
        state.select([0])


@each
@each_module
def test_states_are_copied_pickled_and_collated(name: str, rule: str) -> None:
    module, input = made(name, rule)
    state = run(module, input).detach()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    for again in (
        pickle.loads(pickle.dumps(state)),
        copy.deepcopy(state),
        torch.load(buffer, weights_only=True),
    ):
        assert type(again) is type(state)
        same(again, state)
    together = default_collate([state, state])
    assert type(together) is type(state)
    same(together, [torch.stack([tensor, tensor]) for tensor in state])


@pytest.mark.parametrize("kind", [RNNState, LSTMState, LinearState])
def test_states_that_were_written_with_none_in_them_are_read(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As named tuples once were: their class, and all fields."""
    tensors = [torch.full((2, 2), float(place)) for place in range(len(kind._fields) - 1)]
    monkeypatch.setattr(kind, "__getnewargs__", lambda state: (*state, None))
    buffer = io.BytesIO()
    torch.save(kind(*tensors), buffer)
    monkeypatch.undo()
    buffer.seek(0)
    found = torch.load(buffer, weights_only=True)
    assert type(found) is kind
    same(found, tensors)


@needs_native
@each
@pytest.mark.parametrize("name", ["rnn", "lstm", "linear"])
def test_compiled_and_exported_code_returns_states(name: str, rule: str) -> None:
    module, input = made(name, rule, backend="cpu")
    begins = torch.tensor([True, False, False])

    def twice(input: Tensor, state: Any) -> Any:
        state = run(module, input, state).detach().reset(begins)
        return run(module, input, state.select(slice(0, 3)))

    first = run(module, input).detach()
    expected = twice(input, first)
    found = torch.compile(twice, fullgraph=True, backend="aot_eager")(input, first)
    assert type(found) is type(expected)
    torch.testing.assert_close(tuple(found), tuple(expected))
    program = torch.export.export(module, (input, first))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    found = torch.export.load(buffer).module()(input, first)[1]
    assert type(found) is type(first)
    torch.testing.assert_close(tuple(found), tuple(run(module, input, first)))


def test_a_rollout_begins_episodes_by_elements() -> None:
    network, inputs = PlasticRNN(4, 6), torch.randn(3, 2, 4)
    rollout = network.rollout(3, 2)
    for row in inputs:
        rollout.step(row)
    state = rollout.state().reset(torch.tensor([True, False]))
    found = network(inputs, state)[0]
    torch.testing.assert_close(found[:, :1], network(inputs[:, :1])[0])
    assert isinstance(state, plastikern.RNNState)
