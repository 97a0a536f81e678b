"""Plans of the CUDA kernels, as `plastikern.explain` tells them, on devices that are described."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import needs_native
from torch import nn

import plastikern
from plastikern import Plasticity, PlasticLinear, PlasticLSTM, PlasticRNN, PlasticRNNCell
from plastikern.devices import GPUS
from plastikern.explanation import plan

pytestmark = needs_native
SIMPLE = Plasticity(modulation="simple", constraint="clip")
RETROACTIVE = Plasticity(modulation="retroactive", constraint="clip")
each_gpu = pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)


def rnn(neurons: int, plasticity: Plasticity = SIMPLE) -> PlasticRNN:
    return PlasticRNN(None, neurons, plasticity=plasticity, device="meta")


@each_gpu
@pytest.mark.parametrize("neurons", [1, 64, 100, 200, 1001])
@pytest.mark.parametrize("batch", [1, 4, 30, 500])
def test_no_plan_takes_more_than_the_device_has(gpu: Any, neurons: int, batch: int) -> None:
    for module in (
        rnn(neurons),
        rnn(neurons, RETROACTIVE),
        PlasticLSTM(3, neurons, plasticity=SIMPLE, device="meta"),
    ):
        for backward in (False, True):
            found = plan(module, (20, batch), gpu, backward)
            assert found["shared_bytes"] <= gpu.shared_per_block
            assert found["threads"] <= 512
            # All rows of all elements are taken, and no block is idle.
            assert found["blocks_per_element"] * found["rows_per_block"] >= neurons
            assert (found["blocks_per_element"] - 1) * found["rows_per_block"] < neurons
            groups = found["blocks"] // found["blocks_per_element"]
            assert groups * found["elements_together"] * found["waves"] >= batch
            if found["form"] == "cooperative":
                assert found["blocks"] <= gpu.processors and found["waves"] == 1
            assert found["launches"] == (
                20 + (2 if backward else 1) if found["form"] == "streaming" else 1
            )


@each_gpu
@pytest.mark.parametrize("neurons", [64, 100, 200])
def test_the_traces_of_small_networks_stay_on_the_chip_for_the_whole_sequence(
    gpu: Any, neurons: int
) -> None:
    for backward in (False, True):
        found = plan(rnn(neurons), (200, 30), gpu, backward)
        # 30 elements of 200 neurons are 4.8 MB, which an RTX 3090 has, an L4 has not, in shared memory.
        room = gpu.processors * gpu.shared_per_block
        if 2 * 4 * neurons**2 * 30 < room:
            assert found["launches"] == 1 and found["traces_on_chip"]


@pytest.mark.parametrize("name", ["A100", "H100", "B200"])
def test_retroactive_networks_of_200_neurons_stay_on_the_chip(name: str) -> None:
    for backward in (False, True):
        found = plan(rnn(200, RETROACTIVE), (120, 30), GPUS[name], backward)
        assert (
            found["launches"] == 1 and found["traces_on_chip"] and found["blocks_per_element"] > 1
        )


@pytest.mark.parametrize("name", ["A100", "H100", "B200"])
@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_networks_of_1000_neurons_take_all_processors_in_one_launch(name: str, batch: int) -> None:
    for backward in (False, True):
        found = plan(rnn(1001), (106, batch), GPUS[name], backward)
        assert found["form"] == "cooperative" and found["launches"] == 1
        assert found["blocks"] >= 0.8 * GPUS[name].processors
        assert found["traces_on_chip"] or batch > 1


def test_a_step_is_one_launch() -> None:
    for module in (rnn(100), rnn(200, RETROACTIVE), PlasticRNNCell(None, 3000, device="meta")):
        assert plan(module, (1, 30), GPUS["H100"], False)["launches"] == 1


def test_a_form_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for form in ("resident", "cooperative", "streaming"):
        monkeypatch.setenv("PLASTIKERN_CUDA_FORM", form)
        assert plan(rnn(100), (20, 4), GPUS["H100"], True)["form"] == form
    monkeypatch.setenv("PLASTIKERN_CUDA_FORM", "resident")
    assert (
        plan(rnn(1001), (20, 4), GPUS["H100"], True)["form"] == "streaming"
    )  # a block cannot hold it


def test_the_explanation_says_kernel_launches_bytes_and_reason() -> None:
    text = plastikern.explain(rnn(100), batch=30, steps=200, device="H100")
    for part in ("PlasticRNN on H100, 200 steps of 30 elements (calculated, not measured)", "forward:", "backward:",
                 "kernel: forward hebb clip float, resident", "launches: 1 of 30 blocks", "shared memory:",
                 "registers:", "scratch:", "moved between chip and memory:",
                 "calculated clocks:", " us, by the instructions of the compiled kernel (model "):  # fmt: skip
        assert part in text
    layers = PlasticLSTM(10, 20, num_layers=2, plasticity=Plasticity(), dtype=torch.float64)
    text = plastikern.explain(layers, 3, 5, "A100")
    assert "each of 2 layers" in text and "kernel: backward hebb decay double" in text
    head = PlasticLinear(64, 5, plasticity=Plasticity(rule="oja", constraint="none"))
    assert "oja clip_on_read" in plastikern.explain(head, 32, 6, "L4")
    if not torch.cuda.is_available():
        assert "on A100" in plastikern.explain(head, 32)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((nn.Linear(3, 4), 1), TypeError, "module must be a plastic module or cell; got Linear"),
        ((PlasticLinear(3, 4), 0), ValueError, "batch must be a positive integer; got 0"),
        ((PlasticLinear(3, 4), 1, 0), ValueError, "steps must be a positive integer; got 0"),
    ],
)
def test_bad_arguments_are_named(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plastikern.explain(*arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_neither_here_nor_described_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"device must be one of A100, .* or a CUDA device; got 'cuda:0'"
    ):
        plastikern.explain(PlasticLinear(3, 4), 1, device="cuda:0")
