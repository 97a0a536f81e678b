"""The library's rules, written as rules of one's own with masks, on every kind of kernels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plastikern import Plasticity
from plastikern.network import Connection, Modulator
from plastikern.rules import ours
from plastikern.rules.decorator import kind_shape
from plastikern.rules.programs import Program
from plastikern.rules.running import PlasticRule, Spec
from plastikern.rules.sequences import How, _by_torch
from plastikern.rules.uses import DROPPED, RUNNING

EMULATOR = Path(__file__).resolve().parents[1] / "cuda_emulator"
T, B, N = 6, 2, 5
PLASTIC = {
    "decay": Plasticity(constraint="decay"),
    "modulated": Plasticity(constraint="soft_clip", modulation="retroactive", fan_out="neuron"),
    "from before": Plasticity(rule="oja", constraint="clip", modulation="simple", modulator_input="previous_hidden"),
}  # fmt: skip


def drawn(*shape: int) -> Tensor:
    return (torch.rand(*shape, dtype=torch.float64) * 0.8 - 0.3).requires_grad_()


def connection(plasticity: Plasticity) -> Connection:
    modulated = plasticity.modulation != "none"
    modulator = None
    if modulated:
        fans = [drawn(N), drawn(N)] if plasticity.fan_out == "neuron" else [None, None]
        modulator = Modulator(drawn(N), drawn(1), *fans)
    retroactive = plasticity.modulation == "retroactive"
    return Connection(
        drawn(N, N), drawn(N, N), None if modulated else drawn(1), drawn(1) if retroactive else None, modulator
    )  # fmt: skip


def check(name: str, sequence: Any, target: str) -> None:
    """A layer on kernels, with all gradients, against the reference."""
    torch.manual_seed(0)
    use, parameters = ours.used("test", PLASTIC[name], connection(PLASTIC[name]), "hidden")
    rule = use.rule.with_dropout.with_lengths
    kept, changing = torch.rand(T, B, N) < 0.7, torch.rand(T, B) < 0.5
    masks = {DROPPED: kept.double(), RUNNING: changing.double()}
    states = {n: drawn(B, *kind_shape(kind, N, N)) for n, kind in rule.states.items()}
    given: dict[str, Tensor] = {**states, **masks, **parameters}
    drive, first = drawn(T, B, N), drawn(B, N)
    granularities = dict(use.granularities)
    output, _, last = _by_torch(rule, drive, first, given, granularities, How())
    expected = [output, *last.values()]
    spec = Spec(Program(rule, granularities), tuple(given), "tanh", True, target=target)
    found = list(sequence.apply(spec, drive, first, *given.values()))[: len(expected)]
    leaves = [x for x in (drive, first, *given.values()) if x.requires_grad]
    upstream = [torch.randn_like(x) for x in expected]

    def whole(outputs: list[Any]) -> list[Tensor]:
        return [*outputs, *torch.autograd.grad(outputs, leaves, upstream)]

    torch.testing.assert_close(whole(found), whole(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLASTIC)
@pytest.mark.parametrize("target", ["cpu", str(EMULATOR)], ids=["cpu", "emulated"])
def test_kernels_equal_the_reference_with_frozen_steps_and_dropped_neurons(
    name: str, target: str
) -> None:
    check(name, PlasticRule, target)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="run by test_interpreted.py")
@pytest.mark.parametrize("name", PLASTIC)
def test_interpreted_kernels_equal_the_reference_with_masks(name: str) -> None:
    from plastikern.triton.rules import PlasticRule as OnTriton

    check(name, OnTriton, "cpu")
