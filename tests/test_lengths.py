"""Lengths on their way to a device, which is played here: the copy must not wait for what runs there. And padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import close

from plastikern import PlasticGRU, PlasticLSTM, PlasticRNN
from plastikern.checks import lengths_on


class Lengths:
    """Notes what becomes of a tensor."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def pin_memory(self) -> Lengths:
        self.calls.append(("pin_memory",))
        return self

    def to(self, *arguments: Any, **options: Any) -> Lengths:
        self.calls.append(("to", arguments, options))
        return self


def test_a_copy_to_a_gpu_comes_from_page_locked_memory_and_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    lengths, device = Lengths(), torch.device("cuda", 1)
    assert lengths_on(lengths, device) is lengths  # type: ignore[arg-type, comparison-overlap]
    assert lengths.calls == [("pin_memory",), ("to", (device,), {"non_blocking": True})]


def test_while_a_graph_is_captured_lengths_are_refused_and_nothing_is_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    lengths = Lengths()
    with pytest.raises(
        RuntimeError, match="lengths are copied from the host, which no CUDA graph captures"
    ):
        lengths_on(lengths, torch.device("cuda"))  # type: ignore[arg-type]
    assert lengths.calls == []


def test_on_the_cpu_they_stay_as_they_are() -> None:
    lengths = torch.tensor([3, 1])
    assert lengths_on(lengths, torch.device("cpu")) is lengths


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM, PlasticGRU])
def test_padding_that_is_no_number_reaches_no_gradient_of_the_input_layer(
    kind: Any, batch_first: bool
) -> None:
    module = kind(3, 4, num_layers=2, batch_first=batch_first, dtype=torch.float64)
    inputs = torch.randn(5, 2, 3, dtype=torch.float64)
    grads = []
    for padding in (0.0, float("nan")):
        padded = inputs.clone()
        padded[2:, 0] = padding
        module.zero_grad()
        given = padded.transpose(0, 1) if batch_first else padded
        module(given, lengths=[2, 5])[0].square().sum().backward()
        grads.append([parameter.grad for parameter in module.parameters()])
    close(*grads)
