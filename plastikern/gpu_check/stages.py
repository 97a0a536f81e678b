"""What is run, in which order, for how long: the table of stages."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import commands
from .facts import tool
from .readers import Ncu, Reader, json_lines, pytest, sanitizer, selftest
from .setup import Setup


@dataclass(frozen=True)
class Step:
    """One process of a stage.

    Attributes:
        name: what it is, within the stage.
        command: program and arguments.
        limit: seconds; the stage's own limit still holds.
        reader: makes what finds the facts in its lines.
        environment: in addition to that of this process.
        labels: what is added to each of its facts.
        expects: a fact must have this key, with something in it: a program that did nothing is not well.
        rows: a file of JSON lines that it writes; each is a fact as soon as it is there.
        last_row: only the last of them is.
        stop_after: seconds after which its end is planned; None: it ends itself.
        accepts: exit statuses that are well.
        after_failure: it runs only where a step before it failed.
        beside: it runs beside the steps that follow and ends with them; nothing depends on what becomes of it.
    """

    name: str
    command: list[str]
    limit: float
    reader: Callable[[], Reader] = lambda: json_lines
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    expects: str | None = None
    rows: Path | None = None
    last_row: bool = False
    stop_after: float | None = None
    accepts: tuple[int, ...] = (0,)
    after_failure: bool = False
    beside: bool = False


@dataclass(frozen=True)
class Stage:
    """Steps that tell about one thing.

    Attributes:
        name: for ``--only`` and ``--skip``, and of its log.
        what: it is, in a few words.
        limit: seconds for all of its steps.
        steps: in their order; each runs whatever became of the others.
        missing: why it cannot run, asked when its turn has come; None where it can.
        on_card: whether it needs a card.
    """

    name: str
    what: str
    limit: float
    steps: list[Step]
    missing: Callable[[], str | None] = lambda: None
    on_card: bool = True


def stages(setup: Setup) -> list[Stage]:
    """All of them, in the order in which they run."""
    return [
        _facts(setup), _build(setup), _smoke(setup), _selftest(setup), _timing(setup), _parity(setup),
        _constants(setup), _ncu(setup), _sanitizer(setup), _rival(setup), _triton(setup), _experiments(setup),
    ]  # fmt: skip


def _needs(setup: Setup, *modules: str) -> Callable[[], str | None]:
    """Of a stage whose programs are in the repository and import these modules."""

    def missing() -> str | None:
        if not setup.repository:
            return "its programs are in the repository, and only the package is installed"
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    return missing


def _needs_program(
    setup: Setup, name: str, needed_tool: str | None = None
) -> Callable[[], str | None]:
    def missing() -> str | None:
        if needed_tool is not None and tool(needed_tool) is None:
            return f"{needed_tool} is not there (looked at PATH, CUDA_HOME and /usr/local/cuda)"
        path = setup.programs / name
        return (
            None
            if os.access(path, os.X_OK)
            else f"there is no program {path}: `make gpu-check` builds it"
        )

    return missing


def _facts(setup: Setup) -> Stage:
    script = str(Path(__file__).with_name("facts.py"))
    steps = [
        Step(name, [sys.executable, script, name], 40)
        for name in ("machine", "torch", "plastikern")
    ]
    return Stage(
        "facts", "machine, card, versions, whether the library loads", 60, steps, on_card=False
    )


def _build(setup: Setup) -> Stage:
    def missing() -> str | None:
        if setup.prebuilt:
            return f"the programs are in {setup.programs}"
        if not setup.repository:
            return "the programs' sources are in the repository, and only the package is installed"
        if not setup.dry_run and tool("nvcc") is None:
            return "nvcc is not there"
        return None

    command = [
        sys.executable,
        "-m",
        "build_backend.programs",
        *(["--emulated"] if setup.dry_run else []),
    ]
    steps = [Step("programs", [*command, *setup.wanted_programs], 300)]
    return Stage("build", "the programs without torch", 300, steps, missing, on_card=False)


def _smoke(setup: Setup) -> Stage:
    steps = []
    for program in ("smoke", "smoke-double"):
        for form in commands.FORMS:
            command = [str(setup.programs / program), "60", "0", form]
            steps.append(Step(f"{program}, {form}", command, 10, expects="networks"))
    if not setup.dry_run:
        for program, size, count in (("smoke-double", "large", "12"), ("smoke", "maze", "1")):
            for form in commands.FORMS:
                command = [str(setup.programs / program), count, "0", form, size]
                steps.append(Step(f"{size}, {form}", command, 10, expects="form"))
    return Stage(
        "smoke", "kernels of each form against the CPU's", 40, steps, _needs_program(setup, "smoke")
    )


def _selftest(setup: Setup) -> Stage:
    command = commands.selftest(setup, "cuda")
    steps = [
        Step("networks", command, 60 if setup.dry_run else 40, lambda: selftest, expects="networks"),
        Step("again, every launch waited for", command, 40, lambda: selftest, {"CUDA_LAUNCH_BLOCKING": "1"},
             expects="networks", after_failure=True),
    ]  # fmt: skip
    return Stage("selftest", "torch's operators against the reference", 80, steps)


def _timing(setup: Setup) -> Stage:
    steps = []
    of_forms = tuple(f"plastikern-cuda-{form}" for form in commands.FORMS)
    for name, workloads, variants, limit in (
        ("plans", commands.WORKLOADS, ("plastikern-cuda", "eager", "eager-graph"), 80),
        ("forms", commands.WORKLOADS[:4], of_forms, 40),
    ):
        rows = setup.out / f"timing-{name}.jsonl"
        command = commands.benchmarks(setup, workloads, variants, rows)
        steps.append(Step(name, command, limit, rows=rows, expects="median_ms"))
    return Stage(
        "timing", "the workloads, each pass and form", 120, steps, _needs(setup, "benchmarks")
    )


def _parity(setup: Setup) -> Stage:
    # One process a form: an error that stays in a CUDA context does not reach the next one.
    steps = [
        Step(
            form,
            commands.tests(setup, "tests/test_cuda_parity.py", chosen=form),
            60,
            lambda: pytest,
            expects="tests",
        )
        for form in commands.FORMS
    ]
    if not setup.dry_run:
        random = commands.tests(
            setup,
            "tests/test_cuda_parity.py",
            chosen="not resident and not cooperative and not streaming",
        )
        steps.append(Step("other tests", random, 60, lambda: pytest, expects="tests"))
        device = commands.tests(setup, "tests/test_cuda_device.py")
        steps.append(Step("streams, graphs, sizes", device, 60, lambda: pytest, expects="tests"))
    compiled = commands.benchmarks(
        setup, RIVAL_WORKLOADS, RIVALS, setup.out / "compiled.jsonl", check_only=True
    )
    steps.insert(0, Step("compiles what the stage rival will time", compiled, 120, beside=True))
    missing = _needs(setup, "pytest", "hypothesis")
    return Stage("parity", "the tests, on the card", 120, steps, missing)


def _constants(setup: Setup) -> Stage:
    command = [str(setup.programs / "constants"), *(["quick"] if setup.dry_run else [])]
    steps = [Step("microbenchmarks", command, 30, expects="constant")]
    missing = _needs_program(setup, "constants")
    return Stage("constants", "barriers, launches, bytes a clock", 30, steps, missing)


METRICS = (
    "gpu__time_duration.sum", "smsp__inst_executed.sum", "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "smsp__warps_active.avg.per_cycle_active", "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "l1tex__throughput.avg.pct_of_peak_sustained_active", "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
    "lts__t_bytes.sum", "dram__bytes.sum", "launch__registers_per_thread", "launch__occupancy_limit_shared_mem",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio",
)  # fmt: skip


def _ncu(setup: Setup) -> Stage:
    profiler = [tool("ncu") or "ncu", "--csv", "--page", "raw", "--metrics", ",".join(METRICS)]
    profiler += ["--kernel-name", "regex:run_(forward|backward)"]
    steps = [
        Step(form, [*profiler, str(setup.programs / "smoke"), "1", "0", form, "small" if setup.dry_run else "maze"], 40,
             Ncu, labels={"form": form}, expects="kernel")
        for form in ("resident", "cooperative")
    ]  # fmt: skip
    return Stage(
        "ncu", "one kernel of each pass, profiled", 80, steps, _needs_program(setup, "smoke", "ncu")
    )


def _sanitizer(setup: Setup) -> Stage:
    program = [str(setup.programs / "smoke"), "12", "0"]
    watch = [tool("compute-sanitizer") or "compute-sanitizer", "--error-exitcode", "9", "--tool"]
    steps = [
        Step(
            name,
            [*watch, name, *program],
            50,
            lambda: sanitizer,
            labels={"tool": name},
            expects="networks",
        )
        for name in ("memcheck", "racecheck", "synccheck")
    ]
    missing = _needs_program(setup, "smoke", "compute-sanitizer")
    return Stage("compute-sanitizer", "memory, races and barriers on the card", 100, steps, missing)


RIVAL_WORKLOADS = ("maze", "cue-reward")
RIVALS = ("plastikern-cuda", "eager-graph", "compile-step", "compile-chunk")


def _rival(setup: Setup) -> Stage:
    steps = []
    for workload in RIVAL_WORKLOADS[:1] if setup.dry_run else RIVAL_WORKLOADS:
        rows = setup.out / f"rival-{workload}.jsonl"
        command = commands.benchmarks(setup, (workload,), RIVALS, rows)
        steps.append(Step(workload, command, 90, rows=rows, expects="median_ms"))
    return Stage("rival", "compiled PyTorch", 150, steps, _needs(setup, "benchmarks"))


def _triton(setup: Setup) -> Stage:
    rows = setup.out / "triton.jsonl"
    variants = ("plastikern-triton", "plastikern-cuda")
    steps = [Step("networks", commands.selftest(setup, "triton"), 60, lambda: selftest,
                  commands.interpreted(setup), expects="networks")]  # fmt: skip
    if not setup.dry_run:
        command = commands.benchmarks(
            setup, ("maze", "cue-reward", "lm-small", "patterns"), variants, rows
        )
        steps.append(Step("beside cuda", command, 60, rows=rows, expects="median_ms"))
    return Stage("triton", "the other backend for this card", 90, steps, _needs(setup, "triton"))


def _experiments(setup: Setup) -> Stage:
    out = setup.out / "experiment"
    command = commands.experiment(setup, out)
    rows = out / "seed-0" / "metrics.jsonl"
    # Told to stop it writes its checkpoint and ends with 128 + SIGTERM.
    step = Step("maze", command, 90, rows=rows, last_row=True, stop_after=60, accepts=(0, 143),
                expects="episode")  # fmt: skip
    return Stage(
        "experiments",
        "training on the card, for a minute",
        90,
        [step],
        _needs(setup, "experiments"),
    )
