"""The fp64 truth of a workload, and how far a variant may be from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .workloads import FORWARD, Drives, Inputs, Parameters, State, Workload

# Largest error of any output or gradient, as a share of that tensor's largest value. Every variant computes in fp32,
# whose unit is 6e-8; a thousand summands and hundreds of steps may cost three digits. A wrong formula costs them all.
TOLERANCE = 1e-4


def reference(
    workload: Workload, place: str = "cpu", whole_batch: bool = False
) -> dict[str, list[Tensor]]:
    """Outputs, and outputs with gradients, of the library's reference backend in fp64, computed on a device of torch.

    One element of the batch at a time (unless ``whole_batch``), and checkpointed every sqrt(T) steps, so that the truth
    needs less memory than the rivals.
    """
    inputs = workload.inputs().map(lambda tensor: tensor.to(place, torch.float64))
    outputs = []
    drive_gradients: list[list[Tensor]] = [[] for _ in inputs.drives]
    gradients = [torch.zeros_like(tensor) for tensor in inputs.parameters.values()]
    for element in (
        [inputs] if whole_batch else (inputs.element(index) for index in range(workload.batch))
    ):
        for tensor in element.differentiated():
            tensor.requires_grad_()
        output = _sequence(workload, element)
        of_element = torch.autograd.grad(output, element.differentiated(), element.upstream)
        outputs.append(output.detach())
        for of_drive, gradient in zip(drive_gradients, of_element, strict=False):
            of_drive.append(gradient)
        for total, gradient in zip(gradients, of_element[len(drive_gradients) :], strict=True):
            total += gradient
    drives = (torch.cat(of_drive, 1) for of_drive in drive_gradients)
    found = {"output": [torch.cat(outputs, 1)], "gradients": [*drives, *gradients]}
    return {name: [tensor.cpu() for tensor in tensors] for name, tensors in found.items()}


def _sequence(workload: Workload, inputs: Inputs) -> Tensor:
    def advance(parameters: Parameters, state: State, drives: Drives) -> tuple[Tensor, State]:
        return workload.library(parameters, state, drives, "reference")

    outputs, state = [], inputs.state
    parts = (drive.split(math.isqrt(workload.steps)) for drive in inputs.drives)
    for drives in zip(*parts, strict=True):
        output, state = checkpoint(advance, inputs.parameters, state, drives, use_reentrant=False)
        outputs.append(output)
    return torch.cat(outputs)


def load(path: Path, which: str) -> list[Tensor]:
    """What :func:`max_rel_error` compares a pass with, from a file that holds :func:`reference`."""
    truth = torch.load(path, weights_only=True)
    return truth["output"] if which == FORWARD else truth["output"] + truth["gradients"]


def max_rel_error(got: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """Largest difference of each tensor over its largest value, the worst of all tensors; NaN where anything is NaN."""
    errors = []
    for tensor, expected in zip(got, truth, strict=True):
        if tensor.shape != expected.shape:
            raise ValueError(
                f"shape {tuple(tensor.shape)} where {tuple(expected.shape)} is expected"
            )
        errors.append(
            float((tensor.detach().cpu().double() - expected).abs().max() / expected.abs().max())
        )
    return math.nan if any(map(math.isnan, errors)) else max(errors)
