"""The CUDA kernels, emulated, under the sanitizers: what is right is clean, and mistakes planted in them are found.

All of it is slow: the kernels take g++ a minute, most of it for the first test. `make sanitize` runs more networks.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EMULATOR = Path("tests", "cuda_emulator")
FORWARD, BACKWARD = Path("csrc/cuda/forward_kernels.cu"), Path("csrc/cuda/backward_kernels.cu")
SUMS = Path("csrc/cuda/sums.cu")
# What a report names: lines are not always known.
KERNELS = {FORWARD: "run_forward", BACKWARD: "run_backward", SUMS: "run_sum_of_each"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("g++") and shutil.which("make")), reason="no g++ or make"),
]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Compiles a copy of the sources for a sanitizer, with one of them changed, and runs networks in a form."""
    copy = tmp_path_factory.mktemp("sanitized")
    for folder in (Path("csrc"), EMULATOR, Path("tests", "cuda_programs")):
        shutil.copytree(ROOT / folder, copy / folder)

    def make(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "--silent", "-f", str(EMULATOR / "sanitize.mk"), *words]
        return subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=1200)

    def run(
        kind: str, networks: str, path: Path | None = None, old: str = "", new: str = ""
    ) -> object:
        if path is not None:
            right = (copy / path).read_text()
            assert right.count(old) == 1, f"{path} has changed: the mistake needs another place"
            (copy / path).write_text(right.replace(old, new))
        try:
            done = make(f"-j{os.cpu_count()}", f"build/sanitized/{kind}")
            assert done.returncode == 0, done.stderr
            return make(f"run-{kind}", f"NETWORKS={networks}")
        finally:
            if path is not None:
                (copy / path).write_text(right)

    return run  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["thread", "address"])
def test_kernels_are_clean(run: Run, kind: str) -> None:
    done = run(kind, "20")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"wrong": 0') == 3


def test_a_kernel_that_computes_something_else_is_told_with_its_network(run: Run) -> None:
    done = run("address", "20 0 streaming", SUMS, "sum += job.parts[part * job.distance + i];\n    job",
               "sum += 2 * job.parts[part * job.distance + i];\n    job")  # fmt: skip
    assert done.returncode != 0
    wrong = [
        json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"wrong_network"')
    ]
    assert wrong and all(
        fact["tensor"].startswith("grad ") and fact["differs"] > fact["allowed"] for fact in wrong
    )


@pytest.mark.parametrize(
    ("networks", "path", "old", "new"),
    [
        pytest.param(
            "20 0 resident", FORWARD,
            "        }\n        __syncthreads();\n        for (int64_t b = first_; b < last_; ++b) {\n"
            "            if (k >= n_.length(b)) continue;",
            "        }\n        for (int64_t b = first_; b < last_; ++b) {\n"
            "            if (k >= n_.length(b)) continue;",
            id="sums of rows are used before all warps have them",
        ),
        pytest.param(
            "20 0 cooperative", FORWARD,
            "barrier_of_blocks(counter_, static_cast<unsigned>(plan_.share), passed_);",
            "__syncthreads();",
            id="blocks do not wait for each other's activities",
        ),
        pytest.param(
            "20 0 streaming", BACKWARD,
            "            pass(k, b, length, k > 0, k < length);\n            __syncthreads();\n",
            "            pass(k, b, length, k > 0, k < length);\n",
            id="gradients of rows are used before all warps have them",
        ),
    ],
)  # fmt: skip
def test_a_missing_barrier_is_a_reported_race(
    run: Run, networks: str, path: Path, old: str, new: str
) -> None:
    done = run("thread", networks, path, old, new)
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr, done.stdout
    assert KERNELS[path] in done.stderr


@pytest.mark.parametrize(
    ("networks", "path", "old", "new"),
    [
        pytest.param("20 0 resident", SUMS, "if (i >= job.size) return;", "if (i > job.size) return;", id="parameters"),
        pytest.param(
            "20 0 streaming", FORWARD,
            "for_threads(at_.rows, [&](int64_t row) { activate(k, b, static_cast<int>(row)); });",
            "for_threads(at_.rows + 1, [&](int64_t row) { activate(k, b, static_cast<int>(row)); });",
            id="rows",
        ),
    ],
)  # fmt: skip
def test_an_index_out_of_range_is_reported(
    run: Run, networks: str, path: Path, old: str, new: str
) -> None:
    done = run("address", networks, path, old, new)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stdout
    assert KERNELS[path] in done.stderr
