"""Registers, spills and shared memory of the Triton kernels, read out of what they compile to; no GPU is needed.

``python -m benchmarks.triton_resources docs/kernels-triton.md`` compiles every kernel in every configuration that the
library may choose for the workloads below, for every target, and writes the table. Without a file it prints it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plastikern import Plasticity
from plastikern.network import Connection, Inputs, Modulator, Network, State
from plastikern.ops import fused
from plastikern.plasticity import granular_shape

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942")


class Workload(NamedTuple):
    """A network whose kernels are compiled: one that a program serves by itself, and one that goes by steps."""

    network: Network
    sizes: tuple[int, ...]


SIMPLE: dict[str, Any] = {"modulation": "simple", "constraint": "clip"}
RETROACTIVE: dict[str, Any] = {"modulation": "retroactive", "constraint": "clip"}
WORKLOADS = {
    "rnn": Workload(Network("rnn", Plasticity()), (128, 1000)),
    "rnn, oja, fan-out": Workload(
        Network("rnn", Plasticity("oja", "soft_clip", eta="neuron", modulation="simple", fan_out="connection")),
        (128, 256),
    ),
    "rnn, retroactive": Workload(Network("rnn", Plasticity(**RETROACTIVE)), (128, 200)),
    "lstm, simple": Workload(Network("lstm", Plasticity(**SIMPLE, modulator_input="cell")), (128, 200)),
    "lstm, retroactive": Workload(
        Network("lstm", Plasticity(**RETROACTIVE, eta="connection"), post="hidden"), (128, 200)
    ),
    "linear": Workload(Network("linear", Plasticity(), "softmax"), (128, 1000)),
}  # fmt: skip


class Row(NamedTuple):
    """One kernel, compiled."""

    workload: str
    neurons: int
    kernel: str
    blocks: str
    warps: int
    default: bool
    target: str
    registers: int
    spills: int
    """On NVIDIA's, bytes of stack for each thread; on AMD's, registers that were spilled."""
    shared: int


def launches(
    network: Network, neurons: int, steps: int = 6, batch: int = 2, dtype: torch.dtype = torch.float32
) -> list[Any]:
    """Every launch of a forward and backward pass, in every configuration that it may have."""
    from plastikern.triton.launch import recorded

    plasticity = network.plasticity
    gates = 4 if network.kind == "lstm" else 1

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype).requires_grad_()

    def granular(granularity: str) -> Tensor:
        return empty(*granular_shape(granularity, neurons, neurons))

    modulated, fans_out = plasticity.modulation != "none", plasticity.fan_out != "none"
    retroactive = plasticity.modulation == "retroactive"
    modulator = None
    if modulated:
        fan_out = [granular(plasticity.fan_out) if fans_out else None for _ in range(2)]
        modulator = Modulator(empty(neurons), empty(), *fan_out)
    connection = Connection(
        empty(gates * neurons, neurons), granular(plasticity.alpha), None if modulated else granular(plasticity.eta),
        granular(plasticity.eta) if retroactive else None, modulator,
    )  # fmt: skip
    features = empty(steps, batch, neurons) if network.kind == "linear" else None
    inputs = Inputs(empty(steps, batch, gates * neurons), features)
    trace = empty(batch, neurons, neurons)
    state = State(None, None, trace, empty(*trace.shape) if retroactive else None)
    with recorded() as found:
        output, last = fused.sequence("triton", inputs, state, connection, network, None, False, 2)
        outputs = [output, *(tensor for tensor in last if tensor is not None)]
        torch.autograd.backward(outputs, [torch.ones_like(tensor) for tensor in outputs])
    return found


def compiled(launch: Any, target: str) -> Any:
    """The kernel of a launch, compiled as Triton would at its first call on such a device."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    cuda = target.startswith("sm_")
    gpu = GPUTarget("cuda", int(target[3:]), 32) if cuda else GPUTarget("hip", target, 64)
    backend, kernel = make_backend(gpu), launch.kernel
    given = {**launch.constants, "num_warps": launch.warps, "debug": False}
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    options, signature, constants, attributes = kernel._pack_args(backend, given, *bind(*launch.arguments, **given))
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=gpu, options=options.__dict__)


def resources(kernel: Any, target: str) -> tuple[int, int, int]:
    """Registers of a thread, what of them is spilled, and bytes of shared memory of a program."""
    if not target.startswith("sm_"):
        text = kernel.asm["amdgcn"]
        registers, spills = (
            int(re.findall(rf"\.{name}:\s+(\d+)", text)[-1]) for name in ("vgpr_count", "vgpr_spill_count")
        )
        return registers, spills, kernel.metadata.shared
    import triton

    dump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        done = subprocess.run([dump, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", done.stdout)[-1]
    return int(registers), int(stack), kernel.metadata.shared


def rows_of(workload: str, neurons: int, target: str) -> list[Row]:
    """Every kernel of a workload, once for each configuration."""
    found: dict[tuple[str, str, int], Row] = {}
    seen: set[tuple[str, str]] = set()
    for launch in launches(WORKLOADS[workload].network, neurons):
        name = launch.kernel.__name__
        blocks = " ".join(f"{key}={value}" for key, value in launch.constants.items() if key != "network")
        default = (name, blocks) not in seen
        seen.add((name, blocks))
        if (name, blocks, launch.warps) not in found:
            used = resources(compiled(launch, target), target)
            found[name, blocks, launch.warps] = Row(
                workload, neurons, name, blocks, launch.warps, default, target, *used
            )
    return list(found.values())


def markdown(rows: Iterable[Row]) -> str:
    """A table with a line for each kernel and configuration, and a column for each target."""
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in rows:
        mark = f" **({row.spills} spilled)**" if row.spills else ""
        cells = lines.setdefault(tuple(row[:6]), {})
        cells[row.target] = f"{row.registers} / {row.shared}{mark}"
    targets = [target for target in TARGETS if any(target in cells for cells in lines.values())]
    heads = ["network", "neurons", "kernel", "blocks", "warps", *targets]
    text = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for (workload, neurons, kernel, blocks, warps, default), cells in lines.items():
        count = str(warps) if default else f"({warps})"
        line = [workload, str(neurons), f"`{kernel}`", blocks, count, *(cells.get(target, "") for target in targets)]
        text.append(f"| {' | '.join(line)} |")
    return "\n".join(text) + "\n"


HEAD = """# Resources of the Triton kernels

Written by `python -m benchmarks.triton_resources docs/kernels-triton.md` with Triton {version}; no GPU was used.

Where the traces of one element have at most 64 KiB, `plastic_sequence_forward` and `plastic_sequence_backward` run all
steps in one launch, a program for each element. Beyond that every step is one launch of the `synapses` kernels, a
program for some rows of an element, and one of the `neurons` kernels; no step waits for the host, so that CUDA graphs
can capture them (after a first call, which compiles and tunes). `plastic_alpha_gradient` ends either backward pass.

Every cell is registers per thread / bytes of shared memory per program, in single precision. Spills are named where
there are any: on NVIDIA's, bytes of stack per thread; on AMD's (gfx942), vector registers. Numbers of warps in brackets
are those that autotuning may choose instead of the default; with `PLASTIKERN_AUTOTUNE=0` only the default is used.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="Markdown file to write")
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    tasks = [
        (workload, neurons, target)
        for workload in arguments.workloads
        for neurons in WORKLOADS[workload].sizes
        for target in arguments.targets
    ]
    start = time.perf_counter()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        rows = [row for found in pool.map(rows_of, *zip(*tasks, strict=True)) for row in found]
    print(f"{len(rows)} kernels in {time.perf_counter() - start:.0f} s")
    if arguments.file is None:
        print(markdown(rows))
        return
    import triton

    arguments.file.write_text(HEAD.format(version=triton.__version__) + markdown(rows))


if __name__ == "__main__":
    main()
