"""Programs: ways to compute a workload. A variant of the table may offer several, of which the fastest is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .devices import DEVICES, Device
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

    @abstractmethod
    def place(self, inputs: Inputs) -> Any:
        """The inputs as the framework wants them. Not timed."""

    @abstractmethod
    def compile(self, placed: Any, which: str) -> None:
        """Whatever a first run does once, without a run of the whole sequence."""

    @abstractmethod
    def run(self, placed: Any, which: str) -> tuple[Any, tuple[Any, ...]]:
        """One iteration: the outputs, and the gradients of drives and parameters (none for the pass ``forward``)."""

    def to_torch(self, array: Any) -> Tensor:
        return array


class TorchProgram(Program):
    def __init__(self, sequence: SequenceFunction, device: Device, warm_steps: int = 3) -> None:
        self._sequence = sequence
        self._device = device
        self._warm_steps = warm_steps

    def place(self, inputs: Inputs) -> Inputs:
        placed = inputs.map(lambda tensor: tensor.to(self._device.place, copy=True))
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


class CompiledProgram(TorchProgram):
    """Runs functions of ``torch.compile``, which on a GPU keeps a CUDA graph of each call of an iteration."""

    def place(self, inputs: Inputs) -> Inputs:
        placed = super().place(inputs)
        for parameter in placed.parameters.values():
            self._device.hold(parameter)
        return placed

    def run(self, placed: Inputs, which: str) -> tuple[Tensor, tuple[Tensor, ...]]:
        self._device.begin_compiled()
        return super().run(placed, which)


class CapturedProgram(TorchProgram):
    """A whole pass as one CUDA graph, captured at the first run of a pass on placed inputs."""

    def place(self, inputs: Inputs) -> Inputs:
        self._replays: dict[str, Callable[[], tuple[Tensor, tuple[Tensor, ...]]]] = {}
        return super().place(inputs)

    def compile(self, placed: Inputs, which: str) -> None:
        """Nothing: a capture needs the whole sequence."""

    def run(self, placed: Inputs, which: str) -> tuple[Tensor, tuple[Tensor, ...]]:
        if which not in self._replays:
            self._replays[which] = self._device.captured(
                lambda: super(CapturedProgram, self).run(placed, which)
            )
        return self._replays[which]()


def programs(
    variant: Variant, workload: Workload, device: Device = DEVICES["cpu"]
) -> dict[str, Program]:
    """The programs that a variant offers for a workload, by a short name."""
    if variant.family in workload.without:
        return {}
    program = CapturedProgram if variant.graph else TorchProgram
    if variant.backend is not None:
        return {"sequence": program(_library(workload, device.backend(variant.backend)), device)}
    if variant.kind == "jax":
        from .jax_scan import jax_programs

        return jax_programs(workload)
    if variant.kind == EAGER:
        steps = workload.eager_steps()
        if variant.graph and workload.steps_of_call < workload.steps:
            return {
                name: TorchProgram(_by_graphs(workload, step, device), device)
                for name, step in steps.items()
            }
        return {name: program(_stepwise(workload, step), device) for name, step in steps.items()}
    return _compiled_programs(variant, workload, device)


def _compiled_programs(variant: Variant, workload: Workload, device: Device) -> dict[str, Program]:
    _prepare_compiler()
    steps, options = workload.compiled_steps(), {"dynamic": False, **device.compile_options}
    compiled = {name: torch.compile(step, **options) for name, step in steps.items()}
    if variant.kind == "compile-step":
        return {
            name: CompiledProgram(_stepwise(workload, step), device)
            for name, step in compiled.items()
        }
    return {
        f"{name}, {length} steps": CompiledProgram(
            _chunkwise(workload, torch.compile(_chunk(step), **options), compiled[name], length),
            device,
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


def _steps(
    step: Step, parameters: Parameters, state: State, drives: Drives
) -> tuple[Tensor, State]:
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


def _by_graphs(workload: Workload, step: Step, device: Device) -> SequenceFunction:
    """One CUDA graph of a step, replayed for every drive: for who must answer one before the next is there."""
    kept: list[Any] = []

    def capture(parameters: Parameters, state: State, drives: Drives) -> None:
        drives, state = (
            tuple(drive[0].clone() for drive in drives),
            tuple(tensor.clone() for tensor in state),
        )

        def advance() -> Tensor:
            output, after = step(parameters, state, drives)
            for tensor, new in zip(state, after, strict=True):
                if new is not tensor:
                    tensor.copy_(new)
            return output

        kept[:] = drives, state, device.captured(advance)

    def sequence(parameters: Parameters, state: State, drives: Drives) -> Tensor:
        state, drives = workload.begin(parameters, state, drives)
        if not kept:
            capture(parameters, state, drives)
        own_drives, own_state, replay = kept
        outputs = []
        for tensor, first in zip(own_state, state, strict=True):
            tensor.copy_(first)
        for step_drives in zip(*(drive.unbind(0) for drive in drives), strict=True):
            for own, given in zip(own_drives, step_drives, strict=True):
                own.copy_(given)
            outputs.append(replay().clone())
        return torch.stack(outputs)

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
            advance = (
                chunk if part[0].shape[0] == length else lambda *arguments: _steps(step, *arguments)
            )
            output, state = advance(parameters, state, part)
            outputs.append(output)
        return torch.cat(outputs)

    return sequence
