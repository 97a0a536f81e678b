"""Kernels of the ten rules under sanitizers of g++: ``python -m tests.rules.sanitized thread|address [RULE...]``.

Those of the CPU and, in the emulator, those of CUDA are compiled for a sanitizer and run on two threads, forward and
backward, at odd sizes. What they compute is compared with the reference, too.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "thread": (
        "tsan", ["-fsanitize=thread"],
        {"TSAN_OPTIONS": "halt_on_error=1 ignore_noninstrumented_modules=1"},
    ),
    "address": (
        "asan",
        [
            "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "--param",
            "asan-instrumentation-with-call-threshold=0",
        ],
        {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    ),
}  # fmt: skip
"""The sanitizer's library, which must be there before all others, flags of the compiler, and options of the library."""
SIZES = ((3, 2, 5, 33), (5, 3, 33, 51), (1, 1, 51, 5))
"""T, B, O, I."""
CACHE = "PLASTIKERN_CACHE"


def outside(kind: str, tags: list[str]) -> int:
    """Starts this program under a sanitizer; its exit status."""
    compiler = shlex.split(os.environ.get("CXX") or "g++")
    library, flags, options = KINDS[kind]
    asked = [*compiler, f"-print-file-name=lib{library}.so"]
    there = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    # The compiler itself runs without.
    wrapped = ["env", "-u", "LD_PRELOAD", *compiler, *flags, "-g1"]
    folder = ROOT / "build" / "sanitized" / "rules"
    environment = {
        CACHE: str(folder), **os.environ, **options, "LD_PRELOAD": there, "CXX": shlex.join(wrapped),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    # Race detectors older than the system can need addresses that are not random.
    fixed = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []
    command = [*fixed, sys.executable, "-m", "tests.rules.sanitized", "inside", *tags]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def inside(tags: list[str]) -> int:
    """Runs rules on kernels that are compiled as ``CXX`` says; the exit status."""
    import torch

    from plastikern.rules import compiling

    from .ten import RULES
    from .test_ten_rules import drawn, equal

    compiling.FLAGS = tuple("-O1" if flag == "-O3" else flag for flag in compiling.FLAGS)
    torch.set_num_threads(2)
    for tag in tags or RULES:
        for backend in ("cpu", "emulated"):
            for sizes in SIZES:
                equal(RULES[tag], drawn(tag, sizes), backend)
            print(f"{tag} {backend}", flush=True)
    print("rules: nothing is reported, and all is what the reference computes")
    return 0


if __name__ == "__main__":
    kind, *chosen = sys.argv[1:]
    sys.exit(inside(chosen) if kind == "inside" else outside(kind, chosen))
