"""What the compiled kernels issue: ways through made-up code, the committed counts, and the bound made of them."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import needs_native

from benchmarks import cuda_issue, cuda_kernels
from benchmarks.cuda_issue import LINE, Instruction
from benchmarks.flow import Block, Loop, blocks_of, innermost, loops_of, shortest
from benchmarks.workloads import NETWORKS
from plastikern import issue, library
from plastikern.devices import GPUS
from plastikern.explanation import calculated, plan, resources

NVCC = "nvcc 13.0"

# A loop over rows around one over columns, which has a branch that skips the arithmetic, one to a longer way that does
# it twice, and a guarded store. Sums are exchanged behind it, with a way that only divergent lanes take.
CODE = """
        /*0000*/                   MOV R1, RZ ;
        /*0010*/                   ISETP.GE.AND P1, PT, R1, R2, PT ;
        /*0020*/                   LD.E R3, desc[UR4][R6.64] ;
        /*0030*/              @!P1 BRA 0x70 ;
        /*0040*/                   FFMA R4, R3, R5, R4 ;
        /*0050*/                   ISETP.NE.AND P2, PT, R9, RZ, PT ;
        /*0060*/               @P2 BRA 0xf0 ;
        /*0070*/               @P3 ST.E desc[UR4][R6.64], R4 ;
        /*0080*/                   IADD3 R1, R1, 0x20, RZ ;
        /*0090*/               @P0 CALL.REL.NOINC 0xb0 ;
        /*00a0*/                   BRA 0x20 ;
        /*00b0*/                   BRA.DIV ~URZ, 0x140 ;
        /*00c0*/                   SHFL.BFLY PT, R8, R4, 0x10, 0x1f ;
        /*00d0*/               @P4 BRA 0x10 ;
        /*00e0*/                   EXIT ;
        /*00f0*/                   FFMA R4, R3, R5, R4 ;
        /*0100*/                   LDG.E R7, desc[UR4][R6.64] ;
        /*0110*/                   FMUL R4, R4, R7 ;
        /*0120*/                   NOP ;
        /*0130*/                   BRA 0x70 ;
        /*0140*/                   SHFL.BFLY PT, R8, R4, 0x8, 0x1f ;
        /*0150*/                   BRA 0xc0 ;
"""


def made_up() -> tuple[list[Block], Loop, Loop]:
    """The blocks, and the loops over columns and rows."""
    code = []
    for line in CODE.strip().splitlines():
        match = LINE.match("        " + line.strip())
        assert match is not None, line
        address, guard, name, operands = match.groups()
        code.append(Instruction(int(address, 16), name, operands, guard is not None))
    blocks = blocks_of(code)
    loops = loops_of(blocks)
    (columns,) = innermost(loops)
    (rows,) = (loop for loop in loops if loop is not columns)
    return blocks, columns, rows


def test_loops_are_found_and_ways_of_divergent_lanes_are_not_taken() -> None:
    blocks, columns, rows = made_up()
    assert (
        columns.header.instructions[0].address == 0x20
        and rows.header.instructions[0].address == 0x10
    )
    assert columns.body < rows.body
    addresses = {instruction.address for block in blocks for instruction in block.instructions}
    assert addresses == set(range(0x0, 0x140, 0x10))


@pytest.mark.parametrize(
    ("needs", "avoid", "expected"),
    [
        ({}, (), [0x20, 0x30, 0x70, 0x80, 0x90, 0xA0]),
        ({"multiply_add": 1}, (), [*range(0x20, 0xB0, 0x10)]),
        (
            {"multiply_add": 2},
            (),
            [*range(0x20, 0x70, 0x10), *range(0xF0, 0x140, 0x10), *range(0x70, 0xB0, 0x10)],
        ),
        ({"multiply_add": 2}, ("LDG",), None),
        ({"multiply_add": 4}, (), None),
        # Whoever has a guard is issued, too, and may be avoided all the same.
        ({"multiply_add": 1, "store": 1}, ("ST",), [*range(0x20, 0xB0, 0x10)]),
    ],
)
def test_the_shortest_way_that_does_the_work_is_found(
    needs: dict[str, int], avoid: tuple[str, ...], expected: list[int] | None
) -> None:
    _, columns, _ = made_up()
    way = shortest(columns, needs, cuda_issue.kinds, avoid=avoid)
    assert (None if way is None else [instruction.address for instruction in way]) == expected


def test_a_loop_around_counts_without_the_one_inside() -> None:
    _, columns, rows = made_up()
    way = shortest(rows, {"exchange": 1}, cuda_issue.kinds, columns.body)
    assert way is not None and [instruction.address for instruction in way] == [
        0x10,
        0xB0,
        0xC0,
        0xD0,
    ]


def kernels(scalar: str) -> list[Any]:
    return [
        pytest.param(kernel, loops, id=f"{architecture} {kernel}")
        for architecture, found in issue.counts().items()
        for kernel, loops in found.items()
        if kernel.endswith(scalar)
    ]


def test_every_kernel_of_every_architecture_is_counted() -> None:
    counted, known = issue.counts(), resources()
    assert counted.keys() == known.keys()
    for architecture, found in counted.items():
        assert found.keys() == known[architecture].keys(), architecture


@pytest.mark.parametrize(("kernel", "loops"), [*kernels("float"), *kernels("double")])
def test_counts_are_those_of_what_the_kernel_does(
    kernel: str, loops: dict[str, dict[str, float]]
) -> None:
    assert loops.keys() >= {"rows", *cuda_issue.needs_of(kernel)}
    assert ("recomputed" in loops) == kernel.startswith("backward")
    for name, needs in cuda_issue.needs_of(kernel).items():
        found = loops[name]
        assert found["instructions"] >= found["arithmetic"] + found["memory"]
        assert found["arithmetic"] >= needs["multiply_add"] + needs["compare"], name
        assert found["memory"] >= needs["load"] + needs["store"], name
        assert found["instructions"] >= loops["synapse"]["instructions"]


def test_the_counts_of_sm_90_are_those_that_were_counted_by_hand() -> None:
    """One path was followed by hand through the loops of the rule hebb with clip, when adjoints were written by hand:
    62 and 82 instructions forward; those of a pass backward and of steps computed again took ways of 131 and 129, and
    there are shorter ones."""
    found = issue.counts()["sm_90"]
    assert found["forward hebb clip float"]["synapse"]["instructions"] == 62.25
    assert found["forward hebb clip retroactive float"]["synapse"]["instructions"] == 79.5
    assert 110 <= found["backward hebb clip float"]["synapse alpha"]["instructions"] <= 131
    assert 90 <= found["backward hebb clip float"]["recomputed"]["instructions"] <= 129


@pytest.mark.parametrize(
    ("rows", "warps", "expected"),
    [
        (2, 1, (2, 1)),
        (1, 1, (1, 1)),
        (9, 4, (3, 2)),
        (10, 8, (4, 2)),
        (100, 13, (30, 15)),
        (26, 7, (8, 4)),
    ],
)
def test_the_fullest_scheduler_is_found(rows: int, warps: int, expected: tuple[int, int]) -> None:
    assert issue.rows_of_fullest_scheduler(rows, warps) == expected


def test_the_bound_is_instructions_times_what_the_fullest_scheduler_has() -> None:
    plan = {"rows_per_block": 10, "threads": 256, "elements_together": 2, "waves": 3, "blocks": 5}
    forward = {
        "synapse": {"instructions": 50.0},
        "synapse gated": {"instructions": 60.0},
        "rows": {"instructions": 100.0},
    }
    sizes = {"pres": 40, "steps": 9, "checkpoint_every": 3, "gated": False, "alpha": True}
    # 4 rows of two bundles, two columns of a lane: 4 x 2 x 50 + 2 x 100 a unit.
    unit = 600.0
    assert issue.clocks(plan, forward, processors=5, **sizes) == 9 * unit * 2 * 3
    assert issue.clocks(plan, forward, processors=4, **sizes) == 9 * unit * 2 * 3 * 2
    assert (
        issue.clocks(plan, forward, processors=5, **{**sizes, "gated": True})
        == 9 * (unit + 80) * 2 * 3
    )
    backward = {
        **forward,
        "synapse alpha": {"instructions": 55.0},
        "recomputed": {"instructions": 30.0},
    }
    # Of 9 steps in segments of 3, 6 are computed again.
    again = 6 * 4 * 2 * 30.0
    assert issue.clocks(plan, backward, processors=5, **sizes) == (9 * (unit + 40) + again) * 2 * 3


@needs_native
@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_no_calculated_time_is_below_what_must_be_issued(gpu: Any) -> None:
    for workload in NETWORKS:
        module, steps = workload.module(), workload.steps_of_call
        for direction in ("forward", "backward"):
            found = plan(module, (steps, workload.batch), gpu, direction == "backward")
            time = calculated(found, module, steps, gpu, direction)
            assert time.model == found["clocks_per_step"] * steps
            assert time.clocks == max(time.model, time.issue or 0)
            assert time.bound == ("issue" if (time.issue or 0) > time.model else "model")
            assert (time.issue is None) == (f"sm_{gpu.capability}" not in issue.counts())


@needs_native
def test_the_page_shows_the_plans_as_they_are_calculated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLASTIKERN_CUDA_FORM", raising=False)
    table = cuda_kernels.workload_table(("A100", "H100", "H200", "B200"), resources())
    assert table in cuda_kernels.PAGE.read_text()


def test_a_kernel_whose_counts_changed_is_found() -> None:
    known = {"sm_90": {"forward hebb clip float": {"rows": {"instructions": 103.0}}}}
    changed = {"sm_90": {"forward hebb clip float": {"rows": {"instructions": 90.0}}}}
    assert cuda_issue.differences(known, known) == []
    assert len(cuda_issue.differences(changed, known)) == 1
    assert len(cuda_issue.differences(changed, {})) == 1


@pytest.mark.slow
@pytest.mark.skipif(
    cuda_kernels.cuobjdump() is None or cuda_kernels.nvdisasm() is None, reason="no disassembler"
)
@pytest.mark.skipif(
    library.info().get("cuda") != NVCC,
    reason=f"the library was not built by {NVCC}, as the table was",
)
def test_the_kernels_of_this_build_issue_what_the_table_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cuda_issue.main(["--check"]) == 0, capsys.readouterr().out
