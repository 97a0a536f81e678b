"""Which kernels a module's calls run on a CUDA device, and what they move: calculated, also where there is no GPU."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import backends, issue, library
from .checks import check_positive
from .devices import GPUS, Gpu
from .nn.base import PlasticModule
from .program import spacing
from .rules.calls import rows_apart
from .rules.cells import CELLS
from .rules.explaining import described, registers
from .rules.programs import Program
from .rules.running import SCALARS, checkpoint_spacing
from .rules.sequences import serving
from .rules.uses import RulePlasticity

RESOURCES = Path(__file__).with_name("cuda_resources.json")


@cache
def resources() -> dict[str, dict[str, dict[str, int]]]:
    """Registers, stack and shared memory of every kernel, by architecture and kernel, as ptxas reports them."""
    return json.loads(RESOURCES.read_text()) if RESOURCES.exists() else {}


def kernel_name(direction: str, rule: str, constraint: str, retroactive: bool, scalar: str) -> str:
    """The key of a kernel in :func:`resources`; no constraint is served by ``clip_on_read`` with infinite bounds."""
    constraint = "clip_on_read" if constraint == "none" else constraint
    return f"{direction} {rule} {constraint}{' retroactive' if retroactive else ''} {scalar}"


def kernel_of(module: PlasticModule, direction: str) -> str:
    """The kernel that serves a module's passes, ``forward`` or ``backward``."""
    plasticity = module._built_in
    scalar = "double" if next(module.parameters()).dtype == torch.float64 else "float"
    return kernel_name(
        direction,
        plasticity.rule,
        plasticity.constraint,
        plasticity.modulation == "retroactive",
        scalar,
    )


def plan(module: PlasticModule, sizes: tuple[int, int], gpu: Gpu, backward: bool) -> dict[str, Any]:
    """The native library's plan for a pass of one layer over ``sizes``, T and B.

    ``backward``: of the backward pass, else of the forward pass (which then keeps checkpoints, as for training).
    """
    steps, plasticity = sizes[0], module._built_in
    program = module._program()
    connection = module._connection(0)
    rates = [connection.eta, connection.eligibility_eta]
    rates += [] if connection.modulator is None else [connection.modulator.fan_out_weight]
    per_synapse = any(rate is not None and rate.dim() == 2 for rate in rates)
    layout = 2 if per_synapse else 1 if plasticity.alpha == "connection" else 0
    measures = [
        *sizes, module._posts, module._pres, spacing(steps), layout,
    ]  # fmt: skip
    scalar_bytes = 8 if next(module.parameters()).dtype == torch.float64 else 4
    device = [gpu.processors, gpu.shared_per_block, gpu.level_two]
    return json.loads(
        torch.ops.plastikern.explain_cuda(program.key, measures, scalar_bytes, backward, device)
    )


class Calculated(NamedTuple):
    """Calculated clocks of a whole pass: nobody has measured them.

    Attributes:
        model: what the plan's model makes of bytes, barriers and launches, by which plans are compared.
        issue: what the compiled kernel must issue (:mod:`plastikern.issue`); None where its loops were not counted.
    """

    model: float
    issue: float | None

    @property
    def clocks(self) -> float:
        """The larger one."""
        return max(self.model, self.issue or 0.0)

    @property
    def bound(self) -> str:
        """Which one is the larger: ``model`` or ``issue``."""
        return "model" if self.clocks == self.model else "issue"


def calculated(
    found: dict[str, Any], module: PlasticModule, steps: int, gpu: Gpu, direction: str
) -> Calculated:
    """The clocks of a pass, from its plan ``found``."""
    kernel = issue.counts().get(f"sm_{gpu.capability}", {}).get(kernel_of(module, direction))
    issued = None
    if kernel is not None:
        issued = issue.clocks(
            found, kernel, pres=module._pres, steps=steps, checkpoint_every=spacing(steps),
            processors=gpu.processors, gated=module.kind in CELLS,
            alpha=module._built_in.alpha == "connection",
        )  # fmt: skip
    return Calculated(float(found["clocks_per_step"] * steps), issued)


def explain(
    module: PlasticModule, batch: int, steps: int = 1, device: str | torch.device | None = None
) -> str:
    """What the CUDA backend does for a call of a module: kernels, launches, bytes moved, shared memory, registers.

    Of a module under a rule of one's own, what any backend does: the rule's class, how often a step goes over the
    synapses, the matrices that it reads and writes, accumulators, the backend that serves where the module is, and the
    registers that its kernels take on the device. These are compiled for it, some seconds the first time, which needs
    NVRTC, which PyTorch's CUDA wheels bring, and no GPU.

    Args:
        module: a plastic module or cell.
        batch: B, elements of the call.
        steps: T, its steps; 1 for a cell.
        device: a CUDA device of this machine (default: the current one), or a name in
            :data:`plastikern.devices.GPUS` such as ``"H100"``, which needs no GPU. Where this machine has none and
            nothing is given, an A100 is described.

    Returns:
        Text: for the forward and the backward pass of one layer a block of lines. Bytes and times are calculated from
        the plan and from public peaks; nothing is measured.

    Raises:
        RuntimeError: the native library is missing, which makes the plans.
        ValueError: a device that is neither here nor described; sizes that are not positive.
    """
    if not isinstance(module, PlasticModule):
        raise TypeError(
            f"explain: module must be a plastic module or cell; got {type(module).__name__}"
        )
    check_positive("explain", "batch", batch)
    check_positive("explain", "steps", steps)
    if module._rule is not None and module._rule.twin is None:
        return _of_a_rule(module, module._rule, (steps, batch), gpu_of(device))
    if library.MISSING is not None:
        raise RuntimeError(f"explain: the native library is {library.MISSING}")
    gpu = gpu_of(device)
    layers = len(module._suffixes)
    lines = [
        f"{type(module).__name__} on {gpu.name}, {steps} steps of {batch} elements"
        + (f", each of {layers} layers" if layers > 1 else "") + " (calculated, not measured)"
    ]  # fmt: skip
    if module._rule is not None:
        lines.append(f"rule: {module._rule.rule.name}, which is the library's {module._built_in}")
    lines.append(f"code: {_code(gpu)}")
    for direction in ("forward", "backward"):
        found = plan(module, (steps, batch), gpu, direction == "backward")
        lines += [
            f"{direction}:",
            *(f"    {line}" for line in _described(found, module, steps, gpu, direction)),
        ]
    return "\n".join(lines)


def _of_a_rule(
    module: PlasticModule, rule: RulePlasticity, sizes: tuple[int, int], gpu: Gpu
) -> str:
    steps, batch = sizes
    lines = [
        f"{type(module).__name__}, {steps} steps of {batch} elements (calculated, not measured)"
    ]
    if not rule.rule.fused:
        return "\n".join(
            [*lines, f"rule: {rule.rule.name}, run by the reference alone (fused=False)"]
        )
    first = module._first()
    program = Program(rule.inner, rule.granularities)
    served = serving(rule.inner, first.device, module.backend)
    activity = getattr(module, "nonlinearity", "tanh")
    apart = served.backend == "cpu" and rows_apart(program, module.kind != "linear", activity)
    every = checkpoint_spacing(steps, apart)
    # States of a module in half precision are kept in single precision.
    scalar_bytes = max(first.element_size(), 4)
    lines += described(rule, program, scalar_bytes, every)
    states = [module._kind_shape(kind) for kind in rule.rule.states.values()]
    kept = sum(math.prod(shape) for shape in states if len(shape) == 2)
    kept *= batch * (max(steps - 1, 0) // every) * scalar_bytes
    lines.append(
        f"kept for the backward pass: {kept:,} bytes of checkpoints, and vectors of all steps"
    )
    lines.append(f"served by: {served.said}")
    scalar = SCALARS.get(first.dtype, "float")
    lines.append(registers(program, scalar, gpu.name, divmod(gpu.capability, 10)))
    return "\n".join(lines)


def _code(gpu: Gpu) -> str:
    """Whether the build has code for a device."""
    built = library.info()["cuda_architectures"]
    entry = backends.code_for(divmod(gpu.capability, 10), built)
    if entry is not None:
        return f"of this build's {', '.join(built)} that of {entry} runs on compute capability {gpu.capability / 10}"
    has = ", ".join(built) or "it has no CUDA kernels"
    return f"none in this build ({has}): triton or the reference would serve it"


def gpu_of(device: str | torch.device | None) -> Gpu:
    """The GPU that :func:`explain` means by its argument: one that is described, else a CUDA device of this machine."""
    if isinstance(device, str) and device in GPUS:
        return GPUS[device]
    if device is None and not torch.cuda.is_available():
        return GPUS["A100"]
    if not torch.cuda.is_available():
        raise ValueError(
            f"explain: device must be one of {', '.join(GPUS)}, or a CUDA device; got {device!r}"
        )
    here: Any = torch.cuda.get_device_properties(device or torch.cuda.current_device())
    return Gpu(
        here.name, 10 * here.major + here.minor, here.multi_processor_count, here.shared_memory_per_block_optin,
        here.L2_cache_size, math.nan, math.nan,
    )  # fmt: skip


def _times(time: Calculated, gpu: Gpu) -> str:
    issued = "not counted for this architecture" if time.issue is None else f"{time.issue:,.0f}"
    larger = {"model": "the plan's model", "issue": "the instructions of the compiled kernel"}[
        time.bound
    ]
    microseconds = "" if math.isnan(gpu.clock) else f", {time.clocks / gpu.clock * 1e6:,.0f} us"
    return (
        f"calculated clocks: {time.clocks:,.0f}{microseconds}, by {larger} (model {time.model:,.0f}, "
        f"instructions {issued})"
    )


def _described(
    found: dict[str, Any], module: PlasticModule, steps: int, gpu: Gpu, direction: str
) -> list[str]:
    per = found["blocks_per_element"]
    reasons = {
        "resident": "one block has an element to itself: no barrier between blocks",
        "cooperative": f"{per} blocks share an element: a barrier between them at every step",
        "streaming": "a launch for every unit: the traces do not fit on the chip, or launches cost less than barriers",
    }
    kernel = kernel_of(module, direction)
    known = resources().get(f"sm_{gpu.capability}", {}).get(kernel)
    on_chip = [name.removesuffix("_on_chip").replace("_", " ") for name, there in found.items()
               if name.endswith("_on_chip") and there]  # fmt: skip
    lines = [
        f"kernel: {kernel}, {found['form']} ({reasons[found['form']]})",
        f"launches: {found['launches']} of {found['blocks']} blocks of {found['threads']} threads; a block has "
        f"{found['rows_per_block']} rows of {found['elements_together']} elements, {found['waves']} times",
        f"shared memory: {found['shared_bytes']:,} of {gpu.shared_per_block:,} bytes a block; on the chip: "
        f"{', '.join(on_chip) or 'nothing'}",
        f"registers: {known['registers'] if known else 'not known for this architecture'}"
        + (f" a thread, {known['stack']} bytes of stack" if known else ""),
        f"scratch: {found['scratch_bytes']:,} bytes",
        f"moved between chip and memory: {found['memory_bytes']:,} bytes"
        + (
            ""
            if math.isnan(gpu.bandwidth)
            else f", {found['memory_bytes'] / gpu.bandwidth * 1e6:,.0f} us at the peak"
        ),
        _times(calculated(found, module, steps, gpu, direction), gpu),
    ]
    return lines
