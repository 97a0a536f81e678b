"""The issue bound of a pass: clocks below which the compiled kernels cannot be, by the instructions that they issue.

Each of a processor's four schedulers issues one instruction of one warp a clock. The counts of the hot loops, from the
compiled kernels, are in cuda_issue.json; ``python -m benchmarks.cuda_issue`` makes them. Everything else (barriers,
activities, copies of vectors) is left out, and so is all waiting: nothing can be faster.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

COUNTS = Path(__file__).with_name("cuda_issue.json")
# Of a processor, on every architecture that is described; lanes of a warp; rows of a warp at once (kRows of plan.h).
SCHEDULERS, LANES, ROWS = 4, 32, 2

Loop = Mapping[str, float]


@cache
def counts() -> dict[str, dict[str, dict[str, Any]]]:
    """By architecture and kernel, for each hot loop: instructions, arithmetic and memory accesses among them.

    ``synapse`` is a pass over one synapse at one step, with the suffixes ``gated`` (an LSTM; a GRU issues less) and
    ``alpha`` (backward: alpha per synapse, whose gradient is summed in place); ``rows`` what comes once for two rows;
    ``recomputed`` (backward) one synapse at a step that is computed again. Of a warp: for one synapse of each of its
    lanes.
    """
    return json.loads(COUNTS.read_text()) if COUNTS.exists() else {}


def synapse_loop(kernel: Mapping[str, Loop], *, gated: bool, alpha: bool) -> Loop:
    """The loop of :func:`counts` that serves a network: ``gated``: has gates; ``alpha``: it is per synapse."""
    name = " ".join(
        [
            "synapse",
            *(["gated"] if gated else []),
            *(["alpha"] if alpha and "recomputed" in kernel else []),
        ]
    )
    return kernel[name]


def rows_of_fullest_scheduler(rows: int, warps: int) -> tuple[int, int]:
    """Rows, and bundles of two of them, of the scheduler of a block that has most."""
    bundles = [min(ROWS, rows - first) for first in range(0, rows, ROWS)]
    # Warp w takes the bundles w, w + warps, ...; warps go to the schedulers in turn.
    each = [bundles[warp::warps] for warp in range(warps)]
    found = [
        [bundle for warp in each[place::SCHEDULERS] for bundle in warp]
        for place in range(SCHEDULERS)
    ]
    return max((sum(bundles), len(bundles)) for bundles in found)


def clocks(
    plan: Mapping[str, Any],
    kernel: Mapping[str, Any],
    *,
    pres: int,
    steps: int,
    checkpoint_every: int,
    processors: int,
    gated: bool,
    alpha: bool,
) -> float:
    """Clocks of a whole pass below which the busiest scheduler of the busiest processor cannot be.

    Args:
        plan: as :func:`plastikern.explanation.plan` returns it.
        kernel: counts of the kernel on the GPU's architecture.
        pres: I.
        steps: T.
        checkpoint_every: steps between two checkpoints.
        processors: of the GPU.
        gated, alpha: as in :func:`synapse_loop`.
    """
    rows, bundles = rows_of_fullest_scheduler(plan["rows_per_block"], plan["threads"] // LANES)
    columns = math.ceil(pres / LANES)
    per_synapse = synapse_loop(kernel, gated=gated, alpha=alpha)["instructions"]
    unit = rows * columns * per_synapse + bundles * kernel["rows"]["instructions"]
    issued = steps * unit
    if "recomputed" in kernel:
        again = steps - math.ceil(steps / checkpoint_every)
        issued += again * rows * columns * kernel["recomputed"]["instructions"]
    blocks_a_processor = math.ceil(plan["blocks"] / processors)
    return float(issued * plan["elements_together"] * plan["waves"] * blocks_a_processor)
