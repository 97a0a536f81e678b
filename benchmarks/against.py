"""``python -m benchmarks --against REV``: this tree and another revision, measured in turns in one run.

Both are packages in folders of their own, each with the native library of its own sources, and run the workloads of
this tree. Nothing is timed before the parity tests of this tree have passed: a kernel that is wrong is not fast.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .measure import Plan, Samples, Say
from .pool import WorkerFailed, worker
from .variants import LIBRARY, Variant, parse
from .workloads import Workload

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_THRESHOLD = 0.05
MAX_CHANCE = 0.01
"""Of a difference that is not there being reported. Fewer than LEAST_PAIRS pairs never agree so well."""
LEAST_PAIRS = 7
HERE = "this tree"
PARITY = "tests/test_parity.py"
BUILT = "library: "
BUILD = """
from pathlib import Path
from build_backend import native
print("library: " + str(native.build(Path("."), {!r})))
"""


class Refused(Exception):
    """Why the two cannot be compared, as one line for the user."""


class Side(NamedTuple):
    """One of the two: its name in the report, and the folder that holds its package."""

    name: str
    folder: Path


def run(
    plan: Plan, workloads: Sequence[Workload], name: str, threshold: float, scratch: Path, say: Say
) -> dict[str, Any]:
    """The report of this tree against the revision ``name``; ``scratch`` is an empty folder.

    Raises:
        Refused: no such revision, it does not build, or the parity tests of this tree fail.
    """
    commit, choice = (
        commit_of(ROOT, name),
        "cuda" if any(v.backend == "cuda" for v in plan.variants) else "cpu",
    )
    cache = ROOT / "build" / "against"
    here = pack(
        ROOT, HERE, library(ROOT, cache, choice, say), scratch / "here", "tests", "pyproject.toml"
    )
    check_parity(here, [v.backend or "" for v in plan.variants], say)
    with checked_out(ROOT, commit, scratch / "revision") as tree:
        there = pack(tree, name, library(tree, cache, choice, say), scratch / "there")
    report: dict[str, Any] = {
        "against": name, "commit": commit, "threshold": threshold, "comparisons": [], "failures": [],
    }  # fmt: skip
    for workload in workloads:
        for variant in plan.variants:
            found = compare(workload, variant, plan, (here, there), scratch, say)
            report["comparisons"] += [
                {**row, "verdict": verdict(row, threshold)} for row in found["comparisons"]
            ]
            report["failures"] += found["failures"]
    return report


def commit_of(root: Path, name: str) -> str:
    """The commit that a revision is."""
    # What begins with a dash would be read as an option.
    done = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if done.returncode != 0:
        raise Refused(
            f"--against {name}: there is no such revision in the git repository of {root}"
        )
    return done.stdout.strip()


@contextlib.contextmanager
def checked_out(root: Path, commit: str, folder: Path) -> Iterator[Path]:
    """The tree of a commit, in a worktree that is gone afterwards."""
    done = _git(root, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    if done.returncode != 0:
        raise Refused(f"--against: git cannot check out {commit}: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        _git(root, "worktree", "remove", "--force", str(folder))


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise Refused("--against: git is not installed") from None


def fingerprint(tree: Path, choice: str) -> str:
    """What the native library of a tree is made from: its sources, how it is built, torch and the compiler's name."""
    found = hashlib.sha256(f"{choice} {torch.__version__} {os.environ.get('CXX', '')}".encode())
    for folder in ("csrc", "build_backend"):
        for path in sorted((tree / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                found.update(
                    f"{path.relative_to(tree)} {path.stat().st_size}\n".encode() + path.read_bytes()
                )
    return found.hexdigest()[:16]


def library(tree: Path, cache: Path, choice: str, say: Say) -> Path:
    """The native library of a tree's sources, built only where that has not been done before."""
    known = cache / fingerprint(tree, choice) / "_C.abi3.so"
    if known.exists():
        return known
    say(f"building the native library of {tree}")
    script = BUILD.format(choice)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tree, capture_output=True, text=True, check=False
    )
    built = [
        line.removeprefix(BUILT) for line in done.stdout.splitlines() if line.startswith(BUILT)
    ]
    if done.returncode != 0 or not built:
        raise Refused(
            f"the native library of {tree} cannot be built: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
        )
    known.parent.mkdir(parents=True, exist_ok=True)
    unfinished = known.with_suffix(".part")
    shutil.copy(tree / built[0], unfinished)
    os.replace(unfinished, known)
    return known


def pack(tree: Path, name: str, native: Path, folder: Path, *others: str) -> Side:
    """A folder with the package of a tree, that native library, and the ``others`` of the tree's files and folders."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for part in ("plastikern", *others):
        if (tree / part).is_dir():
            shutil.copytree(tree / part, folder / part, ignore=ignored)
        else:
            shutil.copy(tree / part, folder / part)
    shutil.copy(native, folder / "plastikern" / native.name)
    return Side(name, folder)


def check_parity(side: Side, backends: Sequence[str], say: Say) -> None:
    """Run the quick parity tests, and the selftest of every backend, on the very library that is to be measured."""
    environment = {**os.environ, "PYTHONPATH": str(side.folder)}
    quick = ["pytest", "-q", "-x", "-m", "not slow", PARITY]
    for arguments in (
        quick,
        *(["plastikern", "selftest", "--backend", backend] for backend in dict.fromkeys(backends)),
    ):
        say(f"parity: {' '.join(arguments)}")
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(
            command, cwd=side.folder, env=environment, capture_output=True, text=True, check=False
        )  # fmt: skip
        if done.returncode != 0:
            last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
            raise Refused(
                f"parity fails, so no speed-up is reported: {' '.join(arguments)}: {' | '.join(last)}"
            )


def compare(
    workload: Workload,
    variant: Variant,
    plan: Plan,
    sides: tuple[Side, Side],
    scratch: Path,
    say: Say,
    start: Callable[..., Any] = worker,
) -> dict[str, list[dict[str, Any]]]:
    """Every pass of a workload, by this tree and by the other in turn.

    Returns:
        ``comparisons``, each with the medians of both and the percentiles of the ratios of neighbouring samples, and
        ``failures``.
    """
    truth = scratch / f"{workload.name}.pt"
    comparisons: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        if not truth.exists():
            with start(
                workload.name, parse(f"{LIBRARY}reference"), plan.threads, scratch, sides[0].folder
            ) as process:
                process.ask("reference", path=str(truth))
        processes = [
            stack.enter_context(start(workload.name, variant, plan.threads, scratch, side.folder))
            for side in sides
        ]
        for which in (name for name in plan.passes if name in workload.passes):
            about = {"workload": workload.name, "variant": variant.name, "pass": which}
            both: list[Samples] = []
            for side, process in zip(sides, processes, strict=True):
                try:
                    package = Path(process.ask("package")["path"])
                    if side.folder.resolve() not in package.resolve().parents:
                        raise WorkerFailed(
                            f"its package is {package}, expected one in {side.folder}"
                        )
                    both.append(
                        Samples(process, process.ask("prepare", which=which, reference=str(truth)))
                    )
                except WorkerFailed as error:
                    failures.append({**about, "side": side.name, "reason": str(error)})
            if len(both) == 2:
                say(f"{workload.name}, {which}: timing {variant.name} in turns")
                comparisons.append({**about, **_in_turns(both, which, plan)})
    return {"comparisons": comparisons, "failures": failures}


def _in_turns(both: Sequence[Samples], which: str, plan: Plan) -> dict[str, Any]:
    here, there = both
    while len(here.times) < LEAST_PAIRS or here.wants_more(plan) or there.wants_more(plan):
        # Every other round goes backwards, so that neither always follows the other.
        for samples in both if len(here.times) % 2 == 0 else reversed(both):
            samples.take(which)
    ratios = np.array(here.times) / np.array(there.times)
    p20, median, p80 = (float(value) for value in np.percentile(ratios, (20, 50, 80)))
    agree = int((ratios > 1).sum() if median > 1 else (ratios < 1).sum())
    return {
        "here_ms": 1e3 * float(np.median(here.times)), "there_ms": 1e3 * float(np.median(there.times)),
        "ratio": median, "p20": p20, "p80": p80, "pairs": len(ratios), "chance": chance(agree, len(ratios)),
    }  # fmt: skip


def chance(agree: int, pairs: int) -> float:
    """How often so many of the pairs, or more, would agree if neither side were faster (the sign test)."""
    return sum(math.comb(pairs, count) for count in range(agree, pairs + 1)) / 2**pairs


def verdict(row: dict[str, Any], threshold: float) -> str:
    """``slower`` or ``faster`` where the median is beyond the threshold and the pairs agree, else ``same``."""
    if row["chance"] <= MAX_CHANCE and row["ratio"] > 1 + threshold:
        return "slower"
    if row["chance"] <= MAX_CHANCE and row["ratio"] < 1 / (1 + threshold):
        return "faster"
    return "same"


def status_of(report: dict[str, Any]) -> int:
    """The exit status: 1 for a slowdown, or where something could not be compared."""
    return int(
        bool(report["failures"]) or any(row["verdict"] == "slower" for row in report["comparisons"])
    )


def render(report: dict[str, Any]) -> str:
    """The report as text: times of this tree over those of the revision, below 1 where this tree is faster."""
    lines = [
        f"{HERE} against {report['against']} ({report['commit'][:12]}), slower beyond {report['threshold']:.0%}"
    ]
    for row in report["comparisons"]:
        lines.append(
            f"  {row['verdict']:6}  {row['workload']}, {row['pass']}, {row['variant']}: {row['ratio']:.3f} times its "
            f"time ({row['p20']:.3f} to {row['p80']:.3f}, {row['pairs']} pairs), {row['here_ms']:.2f} ms and "
            f"{row['there_ms']:.2f} ms"
        )
    for failure in report["failures"]:
        lines.append(
            f"  FAILED  {failure['workload']}, {failure['pass']}, {failure['side']}: {failure['reason']}"
        )
    return "\n".join(lines)
