"""``python -m benchmarks.cuda_issue``: plastikern/cuda_issue.json, what the hot loops of the built kernels issue.

``cuobjdump -sass`` (with ``nvdisasm``: of the CUDA toolkit, or ``pip install nvidia-cuda-cuobjdump
nvidia-cuda-nvdisasm``) tells the instructions of every kernel in the library. A loop has many ways through it: layouts,
gates and checkpoints are branches inside. Counted is the shortest one that does the arithmetic of every synapse and
stores its results, so that no launch issues less. ``--check`` writes nothing and fails where a kernel in the library
differs from the table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from plastikern import library
from plastikern.issue import COUNTS, counts

from .cuda_kernels import cuobjdump, in_order, kernel_of_function, nvdisasm
from .flow import Instruction, Loop, blocks_of, innermost, loops_of, shortest

LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?)\s*;")
MULTIPLY_ADD = {"FFMA", "FMUL", "FADD", "DFMA", "DMUL", "DADD"}
# A bound that is a constant is compared with by the minimum that keeps NaN.
COMPARE = {"FSETP", "DSETP", "FMNMX"}
SELECT = {"FSEL", "SEL"}
# What may go to the chip; the checkpoints' guarded stores, which are known to be global, are none of them.
STORE, ANY_STORE = {"ST", "STS"}, {"ST", "STS", "STG"}
LOAD = {"LD", "LDG", "LDS"}
MEMORY = {*ANY_STORE, *LOAD, "LDL", "STL", "ATOM", "ATOMG", "ATOMS", "RED"}
KINDS = {
    "multiply_add": MULTIPLY_ADD, "compare": COMPARE, "store": STORE, "any_store": ANY_STORE, "load": LOAD,
    "exchange": {"SHFL"},
}  # fmt: skip
# Rates per synapse, and alpha's gradient where it is not on the chip, are what a synapse may have in memory that is
# known to be global. Ways with these do more: avoided where there are others. (Checkpoints are stored with a guard.)
AVOIDED: tuple[tuple[str, ...], ...] = (("LDG", "STG"), ("STG",), ())
# Rows of a warp, and columns of a lane, in one iteration of a pass: kRows and kColumns of the kernels.
ROWS, COLUMNS = 2, {"forward": 2, "backward": 1}
# Exchanges between lanes for one sum over two rows: over log2(32) distances.
EXCHANGES = 5
# By how much a compiler may have unrolled the loop over the steps that are computed again.
UNROLLED = (1, 2, 4, 8)
Needs = dict[str, int]
Counts = dict[str, dict[str, dict[str, Any]]]


def kinds(instruction: Instruction) -> list[str]:
    """What an instruction counts as among the needs of a loop."""
    return [kind for kind, operations in KINDS.items() if instruction.operation in operations]


def disassembled(
    program: str, path: Path, disassembler: str
) -> Iterator[tuple[str, str, list[Instruction]]]:
    """Architecture, name and instructions of every forward and backward kernel in a library."""
    environment = {
        **os.environ,
        "PATH": f"{Path(disassembler).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [program, "-sass", str(path)]
    architecture, kernel = "", None
    code: list[Instruction] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := LINE.match(line) if kernel else None:
                address, guard, name, operands = match.groups()
                code.append(Instruction(int(address, 16), name, operands, guard is not None))
            elif "Function :" in line or "code for " in line:
                if kernel:
                    yield architecture, kernel, code
                kernel, code = kernel_of_function(line), []
                if match := re.search(r"code for (sm_\d+)", line):
                    architecture = match[1]
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    if kernel:
        yield architecture, kernel, code


def change_needs(rule: str, constraint: str, retroactive: bool) -> Needs:
    """Least arithmetic of ``next`` in csrc/generated, for the trace, without what is constant in a row.

    A multiplication and the addition to it are one instruction; a bound is two comparisons.
    """
    # What the rule changes times its rate: added by the same instruction, unless the constraint needs it alone.
    change = 0 if retroactive or rule == "hebb" else 1
    multiply_add = {"clip": 1, "clip_on_read": 1, "decay": 2, "soft_clip": 3}[constraint] + change
    return {
        "multiply_add": multiply_add,
        "compare": 2 if constraint in ("clip", "soft_clip") else 0,
    }


def eligibility_needs(rule: str, retroactive: bool) -> int:
    """Multiplications and additions of the next eligibility: its fading, and the rule's increment."""
    return (2 if rule == "hebb" else 3) if retroactive else 0


def needs_of(kernel: str) -> dict[str, Needs]:
    """What a way through each hot loop must have, for one synapse; stores of columns are in the backward loop's."""
    direction, rule, constraint, *rest = kernel.split()
    retroactive = "retroactive" in rest
    change, traces = change_needs(rule, constraint, retroactive), 2 if retroactive else 1
    fading = eligibility_needs(rule, retroactive)
    on_read = 2 if constraint == "clip_on_read" else 0
    forward = {
        "multiply_add": change["multiply_add"] + fading, "compare": change["compare"], "store": traces,
    }  # fmt: skip
    if direction == "forward":
        # Traces, weight, alpha, and half of what is loaded for two rows: pre of two steps.
        plain = _more(forward, multiply_add=2, compare=on_read, load=traces + 2 + 1)
        return {"synapse": plain, "synapse gated": _more(plain, multiply_add=3, load=3)}
    # The read: effective weight, what it gives to pre, the gradient of the trace, that of alpha (five instructions);
    # the change: what it gives to pre and to the sum for post.
    multiply_add = change["multiply_add"] + 5 + 2 + {"decay": 2, "soft_clip": 2}.get(constraint, 0)
    multiply_add += (2 if rule == "oja" else 0) + (4 if retroactive else 0)
    # The adjoint of a bound compares once more.
    compare = change["compare"] + on_read + (1 if change["compare"] or on_read else 0)
    # Traces and their gradients, weight, alpha; half of pre of two steps, and of the two sums of a column.
    plain = {
        "multiply_add": multiply_add,
        "compare": compare,
        "store": traces + 1,
        "load": 2 * traces + 2 + 1,
    }
    alpha = _more(plain, store=1, load=1)
    gates = {"multiply_add": 3, "load": 6}
    return {
        "synapse": plain, "synapse alpha": alpha,
        "synapse gated": _more(plain, **gates), "synapse gated alpha": _more(alpha, **gates),
    }  # fmt: skip


def recompute_needs(kernel: str) -> Needs:
    """The same for one synapse at a step that is computed again."""
    _, rule, constraint, *rest = kernel.split()
    retroactive = "retroactive" in rest
    needs = change_needs(rule, constraint, retroactive)
    return _more(
        needs,
        multiply_add=eligibility_needs(rule, retroactive),
        any_store=2 if retroactive else 1,
        load=1,
    )


def _more(needs: Needs, **more: int) -> Needs:
    return {name: needs.get(name, 0) + more.get(name, 0) for name in {**needs, **more}}


def count(kernel: str, code: Sequence[Instruction]) -> dict[str, dict[str, float]]:
    """Instructions of every hot loop of a kernel, of one warp: per synapse of a lane, or for two rows."""
    direction = kernel.split()[0]
    loops = loops_of(blocks_of(code))
    # Every synapse of an iteration: two rows of each column.
    synapses = ROWS * COLUMNS[direction]
    needs = {name: _times(least, synapses) for name, least in needs_of(kernel).items()}
    able = [loop for loop in innermost(loops) if _way(loop, needs["synapse"]) is not None]
    if not able:
        raise ValueError(f"{kernel}: no loop has a way with {needs['synapse']}")
    # A kernel has loops that do less, for steps that only read or only change; this one does everything.
    hot = max(able, key=_size)
    found: dict[str, dict[str, float]] = {}
    for name, least in needs.items():
        # The gradients that come back to the gates are read from global memory.
        way = _way(hot, least, 1 if direction == "backward" and "gated" in name else 0)
        if way is None:
            raise ValueError(f"{kernel}: the hot loop has no way with {least} ({name})")
        found[name] = _summary(way, synapses)
    around = min((loop for loop in loops if hot.body < loop.body), key=lambda loop: len(loop.body))
    rows = shortest(around, {"exchange": EXCHANGES, "hot": 1}, _marked(hot), hot.body)
    if rows is None:
        raise ValueError(f"{kernel}: no way around the rows exchanges sums")
    found["rows"] = _summary(rows, 1)
    if direction == "backward":
        found["recomputed"] = _recomputed(kernel, loops)
    return found


def _way(loop: Loop, needs: Needs, first: int = 0) -> list[Instruction] | None:
    """The shortest way of those that avoid most."""
    ways = (shortest(loop, needs, kinds, avoid=avoid) for avoid in AVOIDED[first:])
    return next((way for way in ways if way is not None), None)


def _size(loop: Loop) -> int:
    return sum(len(block.instructions) for block in loop.body)


def _marked(hot: Loop) -> Any:
    first = hot.header.instructions[0]
    return lambda instruction: [*kinds(instruction), *(["hot"] if instruction is first else [])]


def _recomputed(kernel: str, loops: Sequence[Loop]) -> dict[str, float]:
    # The loop over steps, inside of columns, rows and all that the passes are inside of: the deepest of all.
    depth = {id(loop): sum(loop.body < other.body for other in loops) for loop in loops}
    deepest = [loop for loop in innermost(loops) if depth[id(loop)] == max(depth.values())]
    needs = recompute_needs(kernel)
    found = [
        _summary(way, times)
        for loop in deepest
        for times in UNROLLED
        if (way := shortest(loop, _times(needs, times), kinds)) is not None
    ]
    if not found:
        raise ValueError(f"{kernel}: no loop computes steps again with {needs}")
    return min(found, key=lambda summary: summary["instructions"])


def _times(needs: Needs, times: int) -> Needs:
    return {name: times * count for name, count in needs.items()}


def _summary(way: Sequence[Instruction], synapses: int) -> dict[str, float]:
    arithmetic = MULTIPLY_ADD | COMPARE | SELECT
    return {
        "instructions": len(way) / synapses,
        "arithmetic": sum(instruction.operation in arithmetic for instruction in way) / synapses,
        "memory": sum(instruction.operation in MEMORY for instruction in way) / synapses,
    }


def read(program: str, disassembler: str, paths: Sequence[Path], jobs: int | None = None) -> Counts:
    """The counts of every kernel in libraries or cubins, by architecture."""
    found: Counts = {}
    with ProcessPoolExecutor(jobs) as pool:
        asked = {
            (architecture, kernel): pool.submit(count, kernel, code)
            for path in paths
            for architecture, kernel, code in disassembled(program, path, disassembler)
        }
        for (architecture, kernel), answer in asked.items():
            found.setdefault(architecture, {})[kernel] = answer.result()
    return in_order(found)


def differences(found: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Kernels of the library whose counts are not those of the table."""
    return [
        f"{architecture} {kernel}: {name} is {counted} in the library, "
        f"{known.get(architecture, {}).get(kernel, {}).get(name)} in the table"
        for architecture, kernels in found.items()
        for kernel, loops in kernels.items()
        for name, counted in loops.items()
        if known.get(architecture, {}).get(kernel, {}).get(name) != counted
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where library and table differ"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument(
        "files", nargs="*", type=Path, help="libraries or cubins (default: the library as built, which replaces all)"
    )  # fmt: skip
    chosen = parser.parse_args(arguments)
    program, disassembler = cuobjdump(), nvdisasm()
    if program is None or disassembler is None:
        parser.error(
            "cuobjdump or nvdisasm is not there: they come with the CUDA toolkit, or "
            "pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
        )
    if not chosen.files and (library.MISSING is not None or not library.info().get("cuda")):
        parser.error("the library has no CUDA kernels")
    found = read(program, disassembler, chosen.files or [library.PATH], chosen.jobs)
    number = sum(map(len, found.values()))
    if chosen.check:
        wrong = differences(found, counts())
        print("\n".join(wrong) or f"{number} kernels are as the table says")
        return 1 if wrong else 0
    if chosen.files:
        found = in_order(
            {name: counts().get(name, {}) | found.get(name, {}) for name in {**counts(), **found}}
        )
    COUNTS.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{COUNTS.name}: {number} kernels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
