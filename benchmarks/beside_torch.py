"""What a small call costs, beside torch.nn: ``python -m benchmarks.beside_torch``.

Networks of a few neurons have nothing to compute: what is timed is the way from a module to its kernel and back. Every
row has the library and its rivals in one process, on one thread, in turns; the time is that of the processor, the least
of nine blocks, so that what else the machine does counts as little as possible. ``operators`` is the time of the row's
own operators, called again with the very arguments that the library called them with; ``floor`` is that of the same
call where an autograd function with nothing to do, and operators with no element to compute, stand in its place.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from plastikern import PlasticRNN, PlasticRNNCell

from .machine import machine
from .programs import programs
from .variants import parse
from .workloads import FORWARD_BACKWARD, workload_named
from .workloads.rnn import ActingRNNWorkload

Run = Callable[[], Any]
BLOCKS = 9


@dataclass(frozen=True)
class Row:
    """The library and its rivals on one task.

    Attributes:
        goal: the most times of the best rival's time that the library may take; None: there is no rival.
        beyond: where there is none, the most microseconds beyond the operators.
        inference: in ``torch.inference_mode``, which is entered once for a block of calls.
        others: the part of the floor that is PyTorch's.
    """

    name: str
    library: Run
    rivals: dict[str, Run]
    goal: float | None = None
    beyond: float | None = None
    inference: bool = False
    others: Run | None = None


@dataclass(frozen=True)
class Found:
    """Of a row, microseconds of processor time a call."""

    name: str
    library: float
    operators: float
    floor: float | None
    rivals: dict[str, float]
    goal: float | None
    beyond: float | None

    @property
    def best(self) -> tuple[str, float]:
        """The fastest rival."""
        return min(self.rivals.items(), key=lambda item: item[1])

    def cells(self) -> list[str]:
        """Of the table."""
        if not self.rivals:
            rest = self.library - self.operators
            verdict = f"{rest:.1f} us beyond the operators (goal: {self.beyond:g})"
        else:
            name, time = self.best
            verdict = f"{time:.1f} `{name}`: {self.library / time:.2f} times (goal: {self.goal:g})"
        floor = "" if self.floor is None else f"{self.floor:.1f}"
        return [self.name, f"{self.library:.1f}", f"{self.operators:.1f}", floor, verdict]


class _Nothing(torch.autograd.Function):
    """As many tensors as the library's, and as many gradients; nothing is computed."""

    @staticmethod
    def forward(
        grads: tuple[Tensor | None, ...], output: Tensor, *tensors: Tensor | None
    ) -> Tensor:
        return output.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.grads = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[2:], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, grad, *ctx.grads


def others(
    module: Any, suffix: str, input: Tensor, state: tuple[Tensor, ...]
) -> Callable[[], Tensor]:
    """The input layer of a network, and an autograd function on its tensors that computes nothing."""
    names = ("weight_hh", "alpha", "eta")
    layer = [module.get_parameter(name + suffix) for name in names]
    weight, *biases = (
        module.get_parameter(name + suffix) for name in ("weight_ih", "bias_ih", "bias_hh")
    )
    grads = (*[None] * len(state), *(torch.randn_like(tensor) for tensor in layer))

    def run() -> Tensor:
        drive = nn.functional.linear(input, weight, biases[0] + biases[1])
        if not torch.is_grad_enabled():
            return drive
        found: Tensor = _Nothing.apply(grads, drive, *state, *layer)
        return found

    return run


def cell_rows(batch: int, neurons: int) -> list[Row]:
    """A cell, in inference and in training, and three steps of a network."""
    ours, theirs = PlasticRNNCell(neurons, neurons), nn.RNNCell(neurons, neurons)
    input, hidden = torch.randn(batch, neurons), torch.zeros(batch, neurons)
    with torch.no_grad():
        state = ours(input)
    network, torchs = PlasticRNN(neurons, neurons), nn.RNN(neurons, neurons)
    inputs = torch.randn(3, batch, neurons)

    apart = others(ours, "", input, tuple(state))
    network_apart = others(network, "_l0", inputs, ())

    def trained(output: Callable[[], Tensor]) -> Run:
        return lambda: output().sum().backward()

    return [
        Row(
            "cell, inference",
            lambda: ours(input, state),
            {"nn.RNNCell": lambda: theirs(input, hidden)},
            2.0,
            inference=True,
            others=apart,
        ),
        Row(
            "cell, training step",
            trained(lambda: ours(input, state)[0]),
            {"nn.RNNCell": trained(lambda: theirs(input, hidden))},
            2.0,
            others=trained(apart),
        ),
        Row(
            "3 steps, training",
            trained(lambda: network(inputs)[0]),
            {"nn.RNN": trained(lambda: torchs(inputs)[0])},
            1.3,
            others=trained(network_apart),
        ),
    ]


def head_row(variants: Sequence[str]) -> Row:
    """``omniglot-head``, forward and backward, beside PyTorch's formulations."""
    workload = workload_named("omniglot-head")
    runs: dict[str, Run] = {}
    for name in variants:
        for way, program in programs(parse(name), workload).items():
            placed = program.place(workload.inputs())
            program.compile(placed, FORWARD_BACKWARD)
            runs[f"{name}, {way}"] = partial(program.run, placed, FORWARD_BACKWARD)
    ours = runs.pop("plastikern-cpu, sequence")
    return Row("omniglot-head, forward and backward", ours, runs, 1 / 2.5)


def acting_row(batch: int, neurons: int = 100) -> Row:
    """A step of a rollout of ``maze-act``, as an agent takes it."""
    of = ActingRNNWorkload("maze-act", batch=batch, steps=200, neurons=neurons, clip=2.0)
    network = PlasticRNN(None, neurons, bias=False, plasticity=of.plasticity)
    drive = torch.randn(batch, neurons)
    rollouts = [network.rollout(of.steps, batch)]

    def step() -> None:
        if rollouts[0].taken == of.steps:
            rollouts[0] = network.rollout(of.steps, batch)
        rollouts[0].step(drive)

    return Row(f"maze, a step of a rollout, batch {batch}", step, {}, beyond=10.0, inference=True)


class _Calls(TorchDispatchMode):
    """Keeps the calls of the library's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Run] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "plastikern":
            self.found.append(lambda: func(*args))
        return func(*args, **(kwargs or {}))


def operators_of(run: Run) -> Run:
    """The library's operators of a call, with the arguments that it calls them with, and nothing else."""
    run()
    with _Calls() as calls:
        run()
    if not calls.found:
        raise RuntimeError("the call has no operator of the library: is there a native library?")

    def operators() -> None:
        with torch.no_grad():
            for call in calls.found:
                call()

    return operators


def least(runs: Sequence[Run], seconds: float, blocks: int = BLOCKS) -> list[float]:
    """Microseconds of processor time of each, the least of so many blocks of so many seconds, in turns."""
    counts = []
    for run in runs:
        run()
        start, count = process_time(), 0
        while process_time() - start < seconds / 2:
            run()
            count += 1
        counts.append(max(2 * count, 1))
    found = [float("inf")] * len(runs)
    for block in range(blocks):
        order = range(len(runs)) if block % 2 == 0 else reversed(range(len(runs)))
        for at in order:
            run, count = runs[at], counts[at]
            start = process_time()
            for _ in range(count):
                run()
            found[at] = min(found[at], (process_time() - start) / count * 1e6)
    return found


def measured(row: Row, seconds: float) -> Found:
    """Times of a row."""
    with torch.inference_mode(row.inference):
        runs = [row.library, operators_of(row.library), *row.rivals.values()]
        runs += [] if row.others is None else [row.others]
        library, operators, *rest = least(runs, seconds)
    named = dict(zip(row.rivals, rest, strict=False))
    floor = None if row.others is None else operators + rest[-1]
    return Found(row.name, library, operators, floor, named, row.goal, row.beyond)


def main(arguments: list[str]) -> int:
    """Print a table, and write it as JSON where a file is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside_torch", description=__doc__)
    add: Any = parser.add_argument
    add("--batch", type=int, default=1, help="of the cells and of the network of 3 steps")
    add("--neurons", type=int, default=8, help="likewise")
    add("--seconds", type=float, default=0.05, help="of a block")
    add("--no-compile", action="store_true", help="without the rivals that torch.compile makes")
    add("--json", type=Path, help="a file for all figures")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rivals = ["eager"] if options.no_compile else ["eager", "compile-step", "compile-chunk"]
    rows = cell_rows(options.batch, options.neurons)
    rows += [acting_row(30), acting_row(8), head_row(["plastikern-cpu", *rivals])]
    print("| task | library, us | its operators | floor | beside |")
    print("| --- | --- | --- | --- | --- |")
    found = []
    for row in rows:
        found.append(measured(row, options.seconds))
        print("| " + " | ".join(found[-1].cells()) + " |", flush=True)
    if options.json is not None:
        report = {"machine": machine(1), "rows": [asdict(each) for each in found]}
        options.json.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
