"""Command lines of the programs that stages start; in a dry run they differ by the device only, and do less."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from .setup import Setup

FORMS = ("resident", "cooperative", "streaming")
WORKLOADS = (
    "maze", "cue-reward", "patterns", "lm-small", "images", "images-b8", "maze-act", "lm-large", "omniglot-head",
)  # fmt: skip


def module(setup: Setup, *words: str) -> list[str]:
    """``python -m`` words; in a dry run behind what makes the emulated kernels a backend of the process."""
    if setup.dry_run:
        return [sys.executable, str(setup.root / "tests" / "run_emulated.py"), *words]
    return [sys.executable, "-m", *words]


def selftest(setup: Setup, backend: str) -> list[str]:
    """Of a backend: ``cuda`` or ``triton``."""
    if not setup.dry_run:
        return module(setup, "plastikern", "selftest", "--device", "cuda", "--backend", backend)
    # Triton's interpreter is slower than the emulator.
    stand_in, networks = ("emulated", "27") if backend == "cuda" else (backend, "5")
    return module(
        setup,
        "plastikern",
        "selftest",
        "--device",
        "cpu",
        "--backend",
        stand_in,
        "--repeats",
        "0",
        "--networks",
        networks,
    )


def interpreted(setup: Setup) -> dict[str, str]:
    """Environment of Triton's stage: in a dry run its interpreter stands in for a card."""
    return {"TRITON_INTERPRET": "1"} if setup.dry_run else {}


def benchmarks(
    setup: Setup,
    workloads: Sequence[str],
    variants: Sequence[str],
    rows: Path,
    check_only: bool = False,
) -> list[str]:
    """The benchmark; it writes a JSON line into ``rows`` for everything that it has measured."""
    device, passes = "cuda", "forward,forward_backward"
    if setup.dry_run:
        # What takes the compiler long is left out, and so is most of what is the same again.
        device, passes, workloads = "emulated", "forward", workloads[:1]
        variants = [name for name in variants if not name.startswith("compile-")][:2]
    words = [
        sys.executable, "-m", "benchmarks", "--device", device, "--workloads", ",".join(workloads),
        "--variants", ",".join(variants), "--passes", passes, "--jsonl", str(rows), "--cache", str(compiled(setup)),
    ]  # fmt: skip
    return [*words, *(["--check-only"] if check_only else [])]


def compiled(setup: Setup) -> Path:
    """Folder of what torch.compile has made, which one stage leaves to another."""
    return setup.out / "compiled"


def tests(setup: Setup, file: str, chosen: str = "") -> list[str]:
    """Tests of a file that are not slow, those with a word in their names; in a dry run few of them."""
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow",
        "--maxfail=5",
        "-p",
        "no:cacheprovider",
        file,
    ]
    if setup.dry_run:
        chosen = f"{chosen} and second_run" if chosen in FORMS else chosen
    else:
        words += ["--device", "cuda"]
    return [*words, *(["-k", chosen] if chosen else [])]


def experiment(setup: Setup, out: Path) -> list[str]:
    """A training run that the stage stops; in a dry run one that ends soon."""
    words = ["experiments", "maze", "--threads", "4", "--out", str(out), "--overwrite"]
    if not setup.dry_run:
        return module(setup, *words, "--device", "cuda", "--episodes", "1000000")
    small = ["--set", "hidden=8", "steps=10", "burn_in=0", "batch=2"]
    return module(
        setup, *words, "--device", "cpu", "--backend", "emulated", "--episodes", "10", *small
    )
