"""Inputs of the workloads under rules: what is measured has one right result."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from benchmarks import accuracy
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.base import Inputs


def clipped(tag: str, inputs: Inputs, H: Tensor) -> Tensor:
    """Which synapses are at a bound."""
    given = inputs.parameters
    if tag == "A4":
        return (H == 0) | (given["top"] == H)
    c, w, alpha = (given[name] for name in ("c", "w", "alpha"))
    return (-torch.relu(c + w) / alpha == H) | (torch.relu(c - w) / alpha == H)


@pytest.mark.parametrize("tag", ["A4", "A5"])
def test_rounding_does_not_decide_which_synapses_are_clipped(tag: str) -> None:
    workload = dataclasses.replace(WORKLOADS[f"rule-{tag}"], batch=3, neurons=60, steps=60)
    found, at_bounds = [], []
    for dtype in (torch.float32, torch.float64):
        inputs = workload.inputs().map(lambda tensor, dtype=dtype: tensor.to(dtype))
        leaves = inputs.differentiated()
        for tensor in leaves:
            tensor.requires_grad_()
        arguments = inputs.parameters, inputs.state, inputs.drives
        output, last = workload.library(*arguments, "reference")
        of_state = dict(zip(workload.rule.states, last[workload.recurrent :], strict=True))
        at_bounds.append(clipped(tag, inputs, of_state["H"]))
        found.append([output.detach(), *torch.autograd.grad(output, leaves, inputs.upstream)])
    assert torch.equal(*at_bounds)
    assert 0.2 < at_bounds[0].double().mean() < 0.8
    assert accuracy.max_rel_error(*found) < 1e-5
