"""Whether the chain's tests find what they are there for: ``python -m tests.cuda_stand_in.mutations PYTHON [FIRST]``.

Each mutation changes one line of a copy of the tree, builds what it touches, and runs the tests that should notice. One
that no test notices is printed, and the exit status says so. ``PYTHON`` is as for ``tests.cuda_stand_in``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from build_backend import native, toolchain

ROOT = Path(__file__).resolve().parents[2]
TREE = ROOT / "build" / "mutations"
OPS, PASSES, PLAN = "csrc/cuda/ops.cpp", "csrc/cuda/passes.cu", "csrc/cuda/plan.cpp"
BACKENDS, CHECKS, STREAM = "plastikern/backends.py", "plastikern/checks.py", "csrc/cuda/stream.h"


class Mutation(NamedTuple):
    """A line of a file, what it becomes, and which tests are run (pytest's ``-k``)."""

    file: str
    line: str
    becomes: str
    tests: str


MUTATIONS = (
    # The look-up of the stream.
    Mutation(STREAM, "dlsym(torch_cuda, name)", "dlsym(RTLD_DEFAULT, name)", "current_stream and cuda"),
    Mutation(STREAM, "find(device, &stream)", "find(0, &stream)", "second_card and cuda"),
    Mutation(STREAM, "    return stream;", "    return nullptr;", "current_stream and cuda"),
    # Device and stream of a call.
    Mutation(OPS, "guard_.emplace(index_)", "(void)guard_", "second_card and cuda"),
    Mutation(OPS, "getCurrentDeviceIndex() != index_", "getCurrentDeviceIndex() == index_", "second_card or stays"),
    Mutation(
        OPS, "scratch.mutable_data_ptr(), on.stream()", "scratch.mutable_data_ptr(), nullptr",
        "current_stream and cuda",
    ),
    Mutation(PASSES, "    config.stream = stream;", "    config.stream = nullptr;", "current_stream and cuda"),
    Mutation(
        PASSES, "kSumThreads, 0, false, stream,", "kSumThreads, 0, false, nullptr,",
        "current_stream and cuda",
    ),
    # Lengths, and what a graph captures.
    Mutation(OPS, "/*non_blocking=*/true", "/*non_blocking=*/false", "lengths_come and cuda"),
    Mutation(OPS, "/*pin_memory=*/true", "/*pin_memory=*/false", "lengths_come and cuda"),
    Mutation(OPS, "        on.check_not_captured();", "", "refused_by_name_while"),
    Mutation(PASSES, "status != cudaStreamCaptureStatusNone", "false", "refused_by_name_while"),
    Mutation(CHECKS, "lengths = lengths.pin_memory()", "pass", "lengths_come and cuda"),
    Mutation(CHECKS, "to(device, non_blocking=True)", "to(device)", "lengths_come and cuda"),
    Mutation(CHECKS, "if torch.cuda.is_current_stream_capturing():", "if False:", "refused_by_name_while"),
    # What Triton launches, and where.
    Mutation("plastikern/triton/drivers.py", "torch.cuda.device(call.like.device)", "nullcontext()", "second_card"),
    Mutation(
        "plastikern/triton/steps.py", "plastic_step_synapses_forward, (programs * size.B,)",
        "plastic_step_synapses_forward, (programs, size.B)", "beyond_any_grid",
    ),
    Mutation("plastikern/triton/launch.py", 'os.environ.get(AUTOTUNE) == "1"', "True", "nothing_to_time"),
    # Shared memory.
    Mutation(PASSES, "    allow_shared(kernel);", "", "every_size"),
    Mutation(PASSES, "attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device)", "48 * 1024", "every_size"),
    Mutation(PASSES, "allowed.insert({kernel, device});", "", "allowed_once"),
    Mutation(PASSES, "allowed.count({kernel, device})", "allowed.count({kernel, 0})", "second_card and cuda"),
    Mutation(PASSES, "static_cast<size_t>(shared_bytes);", "0;", "every_form"),
    Mutation(
        PLAN, "plan.shared_bytes <= device.shared_per_block", "plan.shared_bytes <= 2 * device.shared_per_block",
        "every_size",
    ),
    # Cooperative launches.
    Mutation(PASSES, "cooperative ? 1 : 0", "0", "every_form"),
    Mutation(PASSES, "found == cudaErrorCooperativeLaunchTooLarge", "false", "planned_again"),
    Mutation(OPS, "            device.cooperative = false;", "", "planned_again"),
    Mutation(
        PLAN, "most = device.processors / plan.groups;", "most = 2 * device.processors / plan.groups;", "every_size",
    ),
    # Errors that a driver reports.
    Mutation(PASSES, "found == cudaErrorNoKernelImageForDevice", "false", "error_of_a_launch"),
    # Card against build.
    Mutation(BACKENDS, 'if code_for(capability, built["cuda_architectures"]) is None:', "if False:", "without_code"),
    Mutation(BACKENDS, "and (major, minor) <= capability", "and (major, minor) >= capability", "newer_card"),
)  # fmt: skip


def build(source: str) -> None:
    """Compiles, in the copy, the objects that a mutation of C++ touches."""
    compiler, torch, nvcc = (
        toolchain.find_compiler(),
        toolchain.find_torch(),
        native.choose_cuda(TREE, "cuda"),
    )
    assert torch is not None and nvcc is not None
    touched = OPS if source == STREAM else source
    for unit in native.plan(TREE, compiler, torch, nvcc):
        if unit.command[-1] == touched:
            subprocess.run(
                [*unit.command, "-o", str(unit.object)], cwd=TREE, check=True, capture_output=True
            )


def rewrite(path: Path, text: str) -> None:
    """Writes a file with its former time, so that the builder compiles no more than :func:`build` does."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, (before.st_atime, before.st_mtime))


def noticed(python: str, mutation: Mutation) -> bool:
    """Whether a test fails of those that should."""
    path = TREE / mutation.file
    text = path.read_text()
    assert text.count(mutation.line) >= 1, f"{mutation.file} has no {mutation.line!r} any more"
    rewrite(path, text.replace(mutation.line, mutation.becomes, 1))
    command = [
        sys.executable,
        "-m",
        "tests.cuda_stand_in",
        python,
        "-q",
        "-x",
        "tests/test_cuda_chain.py",
        "-k",
    ]
    try:
        if mutation.file.startswith("csrc"):
            build(mutation.file)
        done = subprocess.run(
            [*command, mutation.tests], cwd=TREE, capture_output=True, text=True, check=False
        )
    finally:
        rewrite(path, text)
        if mutation.file.startswith("csrc"):
            build(mutation.file)
    return done.returncode == 1 and " failed" in done.stdout


def main(python: str, first: int = 0) -> int:
    """Prints a line a mutation; the exit status is 1 where one was not noticed."""
    shutil.rmtree(TREE, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in listed:
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, TREE / name)
    for name in ("build/native", "build/stand_in"):
        shutil.copytree(ROOT / name, TREE / name, symlinks=True, dirs_exist_ok=True)
    missed = 0
    for number, mutation in enumerate(MUTATIONS[first:], first):
        found = noticed(python, mutation)
        missed += not found
        print(
            f"{number:3} {'red  ' if found else 'GREEN'} {mutation.file}: {mutation.line.strip()}",
            flush=True,
        )
    print(f"{len(MUTATIONS) - first - missed} of {len(MUTATIONS) - first} mutations were noticed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
