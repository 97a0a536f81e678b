"""What torch counts and shows of plastic networks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from conftest import needs_native
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import plastikern
from plastikern import (
    PlasticGRU,
    Plasticity,
    PlasticLinear,
    PlasticLSTM,
    PlasticRNN,
    PlasticRNNCell,
)

T, B, N = 7, 4, 5
SYNAPSES = T * B * N * N
DECAY = Plasticity(constraint="decay")


@plastikern.rule(H="synapse")
def decaying(H: Any, x: Any, y: Any, eta: Any) -> Any:
    return (1 - eta) * H + eta * (y * x)


@plastikern.rule(H="synapse")
def cubic(H: Any, x: Any, y: Any, eta: Any) -> Any:
    return H + eta * y * x * H * H


def counted(module: Any, *inputs: Any, backward: bool = False) -> int:
    """Operations of the fused operators."""
    with FlopCounterMode(display=False) as counter:
        output = module(*inputs)[0]
        if backward:
            output.sum().backward()
    found = counter.get_flop_counts()["Global"]
    return sum(count for name, count in found.items() if str(name).startswith("plastikern"))


@needs_native
def test_the_counter_counts_the_arithmetic_of_every_synapse_at_every_step() -> None:
    # The read is (w + alpha H) x and its sum, the change is a H + b x.
    input = torch.randn(T, B, N)
    options: dict[str, Any] = {"plasticity": DECAY, "backend": "cpu"}
    assert counted(PlasticRNN(N, N, **options), input) == 7 * SYNAPSES
    assert counted(PlasticRNN(N, N, 2, **options), input) == 14 * SYNAPSES
    assert counted(PlasticLinear(N, N, **options), input) == 7 * SYNAPSES
    assert counted(PlasticRNNCell(N, N, **options), input[0]) == 7 * B * N * N
    gates = 3 * 2
    assert counted(PlasticLSTM(N, N, **options), input) == (7 + gates) * SYNAPSES
    assert counted(PlasticGRU(N, N, **options), input) == (7 + 2 * 2) * SYNAPSES
    rollout = PlasticRNN(N, N, **options).rollout(T, B)
    assert counted(lambda: [rollout.step(each) for each in input]) == 7 * SYNAPSES


@needs_native
def test_the_counter_counts_backward_passes() -> None:
    # Of H: a g + (gs alpha) x. Of x: g b + gs (w + alpha H). Of y and eta: g x, g H and g y x as sums over the row.
    input = torch.randn(T, B, N)
    for kind, gates in ((PlasticRNN, 0), (PlasticLSTM, 6), (PlasticGRU, 4)):
        module = kind(N, N, plasticity=DECAY, backend="cpu")
        both, alone = counted(module, input, backward=True), counted(module, input)
        assert (both - alone) % SYNAPSES == 0
        assert 10 + gates < (both - alone) // SYNAPSES < 30 + gates


@needs_native
def test_richer_rules_and_coefficients_count_more() -> None:
    input = torch.randn(T, B, N)

    def of(rule: Any) -> int:
        return counted(PlasticRNN(N, N, plasticity=rule, backend="cpu"), input)

    assert of(Plasticity(constraint="clip")) > of(DECAY)
    assert of(Plasticity(constraint="soft_clip")) > of(Plasticity(constraint="clip"))
    assert of(Plasticity(modulation="retroactive")) > of(Plasticity(modulation="simple"))
    assert of(Plasticity(constraint="decay", eta="connection")) > of(DECAY)


@needs_native
def test_rules_of_ones_own_are_counted_too() -> None:
    input = torch.randn(T, B, N)
    one = PlasticRNN(N, N, plasticity=cubic.use(), backend="cpu")
    assert counted(one, input) == (4 + 4) * SYNAPSES  # ((b x) H) H + H
    assert counted(one, input, backward=True) > 2 * counted(one, input)
    plain = one(input)[0]
    with FlopCounterMode(display=False):
        assert torch.equal(one(input)[0], plain)
    same_as_ours = PlasticRNN(N, N, plasticity=decaying.use(), backend="cpu")
    assert counted(same_as_ours, input) == 7 * SYNAPSES


def test_formulas_wait_for_the_counter_which_imports_triton() -> None:
    program = (
        "import sys, torch, plastikern; assert 'torch.utils.flop_counter' not in sys.modules;"
        "from torch.utils.flop_counter import FlopCounterMode, flop_registry as known;"
        "before = len(known); plastikern.PlasticRNN(2, 3); assert len(known) > before"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@needs_native
def test_the_profiler_shows_operators_with_the_shapes_of_their_tensors() -> None:
    for rule, name in ((DECAY, "PlasticNetwork"), (cubic.use(), "PlasticRule")):
        module = PlasticRNN(3, N, plasticity=rule, backend="cpu")
        module(torch.randn(T, B, 3))
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
            module(torch.randn(T, B, 3))[0].sum().backward()
        events = {event.name: event for event in found.events()}
        assert [T, B, N] in events[name].input_shapes and [N, N] in events[name].input_shapes
        assert f"{name}Backward" in events
        if rule is DECAY:
            assert "plastikern::sequence" in events and "plastikern::sequence_backward" in events


def test_torchinfo_lists_layers_with_their_parameters() -> None:
    torchinfo = pytest.importorskip("torchinfo")
    module = PlasticRNN(3, N)
    found = torchinfo.summary(module, (T, B, 3), verbose=0)
    assert found.total_params == sum(parameter.numel() for parameter in module.parameters())
    (layer,) = found.summary_list
    assert layer.output_size == [T, B, N] and layer.class_name == "PlasticRNN"
