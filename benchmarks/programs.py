"""Programs: ways to compute a workload. A variant of the table may offer several, of which the fastest is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .variants import EAGER, Variant
from .workloads import FORWARD, Drives, Inputs, Parameters, State, Step, Workload

SequenceFunction = Callable[[Parameters, State, Drives], Tensor]

# The longer a chunk, the longer the compiler takes: these two keep a whole run within reason.
CHUNK_LENGTHS = (4, 8)
# One code object is compiled for each combination of shapes and needs for gradients; beyond its limit dynamo would
# quietly run the rest of them as eager PyTorch.
RECOMPILE_LIMIT = 64


class Program(ABC):
    """One way to compute a workload; ``place`` once, then ``compile`` and ``run`` a pass as often as wanted."""

    # Whether compile() always compiles, or only where that was not done before.
    ahead_of_time = False

    def place(self, inputs: Inputs) -> Any:
        """The inputs as the framework wants them. Not timed."""
        return inputs.map(Tensor.clone)

    @abstractmethod
    def compile(self, placed: Any, which: str) -> None:
        """Whatever a first run does once, without a run of the whole sequence."""

    @abstractmethod
    def run(self, placed: Any, which: str) -> tuple[Any, tuple[Any, ...]]:
        """One iteration: the outputs, and the gradients of drives and parameters (none for the pass ``forward``)."""

    def to_torch(self, array: Any) -> Tensor:
        return array


class TorchProgram(Program):
    def __init__(self, sequence: SequenceFunction, warm_steps: int = 3) -> None:
        self._sequence = sequence
        self._warm_steps = warm_steps

    def place(self, inputs: Inputs) -> Inputs:
        placed = inputs.map(Tensor.clone)
        for tensor in placed.differentiated():
            tensor.requires_grad_()
        return placed

    def compile(self, placed: Inputs, which: str) -> None:
        self.run(placed.first_steps(self._warm_steps), which)

    def run(self, placed: Inputs, which: str) -> tuple[Tensor, tuple[Tensor, ...]]:
        if which == FORWARD:
            with torch.inference_mode():
                return self._sequence(placed.parameters, placed.state, placed.drives), ()
        output = self._sequence(placed.parameters, placed.state, placed.drives)
        return output, torch.autograd.grad(output, placed.differentiated(), placed.upstream)


def programs(variant: Variant, workload: Workload) -> dict[str, Program]:
    """The programs that a variant offers for a workload, by a short name."""
    if variant.kind in workload.without:
        return {}
    if variant.backend is not None:
        return {"sequence": TorchProgram(_library(workload, variant.backend))}
    if variant.kind == "jax":
        from .jax_scan import jax_programs

        return jax_programs(workload)
    if variant.kind == EAGER:
        return {name: TorchProgram(_stepwise(workload, step)) for name, step in workload.eager_steps().items()}
    _prepare_compiler()
    steps = workload.compiled_steps()
    compiled = {name: torch.compile(step, dynamic=False) for name, step in steps.items()}
    if variant.kind == "compile-step":
        return {name: TorchProgram(_stepwise(workload, step)) for name, step in compiled.items()}
    return {
        f"{name}, {length} steps": TorchProgram(
            _chunkwise(workload, torch.compile(_chunk(step), dynamic=False), compiled[name], length),
            warm_steps=2 * length + workload.steps % length,
        )
        for name, step in steps.items()
        for length in dict.fromkeys(min(length, workload.steps) for length in CHUNK_LENGTHS)
    }


def _prepare_compiler() -> None:
    import torch._dynamo

    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    torch._dynamo.config.fail_on_recompile_limit_hit = True


def _library(workload: Workload, backend: str) -> SequenceFunction:
    def sequence(parameters: Parameters, state: State, drives: Drives) -> Tensor:
        return workload.library(parameters, state, drives, backend)[0]

    return sequence


def _steps(step: Step, parameters: Parameters, state: State, drives: Drives) -> tuple[Tensor, State]:
    outputs = []
    # One unbind, whose backward is one stack; indexing would fill a whole drive's gradient with zeros at every step.
    for step_drives in zip(*(drive.unbind(0) for drive in drives), strict=True):
        output, state = step(parameters, state, step_drives)
        outputs.append(output)
    return torch.stack(outputs), state


def _stepwise(workload: Workload, step: Step) -> SequenceFunction:
    def sequence(parameters: Parameters, state: State, drives: Drives) -> Tensor:
        return _steps(step, parameters, *workload.begin(parameters, state, drives))[0]

    return sequence


def _chunk(step: Step) -> Step:
    def chunk(parameters: Parameters, state: State, drives: Drives) -> tuple[Tensor, State]:
        return _steps(step, parameters, state, drives)

    return chunk


def _chunkwise(workload: Workload, chunk: Step, step: Step, length: int) -> SequenceFunction:
    """Whole chunks by ``chunk``, the rest by ``step``."""

    def sequence(parameters: Parameters, state: State, drives: Drives) -> Tensor:
        outputs = []
        state, drives = workload.begin(parameters, state, drives)
        for part in zip(*(drive.split(length) for drive in drives), strict=True):
            advance = chunk if part[0].shape[0] == length else lambda *arguments: _steps(step, *arguments)
            output, state = advance(parameters, state, part)
            outputs.append(output)
        return torch.cat(outputs)

    return sequence
