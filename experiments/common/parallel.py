"""Data-parallel training under ``torchrun``.

Every process has the same model and draws the same random numbers, for the whole batch; it trains on its share of the
episodes, and gradients and metrics are averaged. So what is learned does not depend on the number of processes, but for
rounding. Without ``torchrun`` there is one process and nothing here does anything.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, distributed, nn

from experiments.common.config import ExperimentError, require

LAUNCHED = "TORCHELASTIC_RUN_ID"
"""What ``torchrun`` sets in the environment."""


def launcher(program: str) -> str:
    """What the user typed in the place of ``program``, which begins with ``python``."""
    if LAUNCHED not in os.environ:
        return program
    return program.replace(
        "python", f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']}", 1
    )


def start(device: torch.device) -> torch.device:
    """Join the processes that ``torchrun`` started; the device of this one."""
    if LAUNCHED not in os.environ:
        return device
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise ExperimentError(
            f"the processes did not find each other: {str(error).splitlines()[0]}"
        ) from error
    return device


def finish() -> None:
    """Leave the other processes."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def size() -> int:
    """Number of processes."""
    return (
        distributed.get_world_size()
        if distributed.is_available() and distributed.is_initialized()
        else 1
    )


def rank() -> int:
    """Number of this process, from 0; it is process 0 that writes files."""
    return distributed.get_rank() if size() > 1 else 0


def share(batch: int) -> slice:
    """The episodes of a batch that this process trains on."""
    require(
        batch % size() == 0,
        f"batch must be a multiple of the number of processes, {size()}; got {batch}",
    )
    each = batch // size()
    return slice(rank() * each, (rank() + 1) * each)


def average(tensor: Tensor) -> Tensor:
    """The mean over all processes; all get the same bits."""
    if size() > 1:
        tensor = tensor.clone()
        distributed.all_reduce(tensor)
        tensor /= size()
    return tensor


def gather(tensor: Tensor, dim: int) -> Tensor:
    """The processes' tensors, of one shape, one after the other along ``dim``; all processes call it."""
    if size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts, dim)


def average_gradients(model: nn.Module) -> None:
    """Replace every gradient by its mean over all processes, in one exchange."""
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    means = average(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, mean in zip(
        gradients, means.split([gradient.numel() for gradient in gradients]), strict=True
    ):
        gradient.copy_(mean.view_as(gradient))


def largest(number: int, device: torch.device) -> int:
    """The largest of the processes' numbers."""
    if size() == 1:
        return number
    tensor = torch.tensor(number, device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return int(tensor)


def wait() -> None:
    """Until all processes are here.

    Raises:
        ExperimentError: one of them has ended, and has said why.
    """
    if size() > 1:
        try:
            distributed.barrier()
        except RuntimeError:
            raise ExperimentError("another process has ended") from None
