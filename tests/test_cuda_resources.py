"""docs/kernels.md and plastikern/cuda_resources.json say what ptxas allotted to the kernels of this build."""

from __future__ import annotations

import pytest

from benchmarks import cuda_kernels, rule_kernels
from plastikern import library
from plastikern.explanation import resources

# Where a part of the build is newer or older than the table's compiler, registers differ.
NVCC = "nvcc 13.0"


@pytest.mark.skipif(cuda_kernels.cuobjdump() is None, reason="no cuobjdump")
@pytest.mark.skipif(
    library.info().get("cuda") != NVCC,
    reason=f"the library was not built by {NVCC}, as the table was",
)
def test_the_kernels_of_this_build_are_as_the_table_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cuda_kernels.main(["--check"]) == 0, capsys.readouterr().out


def test_the_page_shows_the_table() -> None:
    table = cuda_kernels.resource_table(resources())
    assert table in cuda_kernels.PAGE.read_text()
    assert set(resources()) == {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"}


def test_single_precision_kernels_spill_nothing() -> None:
    for kernels in resources().values():
        for kernel, used in kernels.items():
            if kernel.endswith("float"):
                assert used["stack"] == 0, kernel


def test_a_kernel_that_changed_is_found() -> None:
    known = {"sm_80": {"forward hebb clip float": {"registers": 90, "stack": 0, "shared": 0}}}
    changed = {"sm_80": {"forward hebb clip float": {"registers": 91, "stack": 0, "shared": 0}}}
    assert cuda_kernels.differences(known, known) == []
    assert len(cuda_kernels.differences(changed, known)) == 1
    assert len(cuda_kernels.differences(changed, {})) == 1


def test_kernels_of_ten_rules_spill_nothing_in_single_precision() -> None:
    _, table = rule_kernels.written()
    assert [*table] == rule_kernels.COMPILED
    for (tag, scalar), cells in table.items():
        assert scalar == "double" or not any("spilled" in cell for cell in cells.values()), tag
