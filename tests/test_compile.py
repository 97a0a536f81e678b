"""torch.compile sees the operators of every backend: what they return is known without running them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import VARIANTS, Case, assert_close, each_variant, needs_native
from tolerances import FP64_ROUNDING
from torch import Tensor

from plastikern.ops import fused


def operator_calls(case: Case, backend: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, tuple[Any, ...]]]:
    """Operators with their arguments: of a step, and of a sequence with its backward pass."""
    calls, look_up = [], fused._operator

    def noting(backend: str, name: str) -> Any:
        operator = look_up(backend, name)

        def call(*arguments: Any) -> Any:
            calls.append((operator, tuple(x.detach() if isinstance(x, Tensor) else x for x in arguments)))
            return operator(*arguments)

        return call

    monkeypatch.setattr(fused, "_operator", noting)
    inputs = case.inputs()
    case.step(inputs, 0, {name: inputs[name] for name in case.state}, backend)
    case.loss(case.sequence(inputs, backend)).backward()
    monkeypatch.undo()
    return calls


def check_operators(case: Case, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # All that is kept is written: no step beyond an element's end, no room beyond the last column.
    calls = operator_calls(replace(case, lengths=None, neurons=8, features=8), backend, monkeypatch)
    names = [operator.__name__.removesuffix(".default") for operator, _ in calls]
    assert names == ["step", "sequence", "sequence_backward"]
    for operator, arguments in calls:
        torch.library.opcheck(operator, arguments)


def check_compiled(case: Case, backend: str) -> None:
    inputs = case.inputs()
    expected = case.results(case.sequence(inputs, backend), inputs)
    torch.compiler.reset()
    compiled = torch.compile(lambda given: case.sequence(given, backend), fullgraph=True, backend="aot_eager")
    assert_close(case.results(compiled(inputs), inputs), expected, FP64_ROUNDING)


@needs_native
@pytest.mark.parametrize("name", ["rnn-simple", "lstm-retroactive-fan-out", "linear-simple"])
def test_operators_are_what_they_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_operators(replace(VARIANTS[name], steps=3), "cpu", monkeypatch)


@needs_native
@pytest.mark.slow
@each_variant
@pytest.mark.parametrize("batch_first", [False, True])
def test_operators_of_every_network_are_what_they_say(
    case: Case, batch_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_operators(replace(case, steps=3, batch_first=batch_first), "cpu", monkeypatch)


@needs_native
def test_a_sequence_is_compiled_without_a_graph_break() -> None:
    check_compiled(Case(steps=3), "cpu")


@needs_native
@pytest.mark.slow
@pytest.mark.parametrize("name", ["rnn-retroactive-half", "lstm-simple-half", "linear-simple"])
def test_every_network_is_compiled_without_a_graph_break(name: str) -> None:
    check_compiled(replace(VARIANTS[name], steps=3, lengths=None), "cpu")
