"""This tree against another revision: what is compared, what is refused, what counts as slower. Nothing is timed."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import against, variants
from benchmarks.against import Refused, Side
from benchmarks.devices import DEVICES
from benchmarks.measure import Plan
from benchmarks.pool import WorkerFailed, worker
from benchmarks.workloads import workload_named

CPU = variants.parse("plastikern-cpu")
PLAN = Plan(
    variants=[CPU],
    passes=("forward", "forward_backward"),
    repeats=10,
    budget=1e9,
    threads=1,
    memory=False,
)
TINY = workload_named("tiny")


@pytest.mark.parametrize(
    ("ratio", "chance", "expected"),
    [
        (1.2, 0.001, "slower"), (1.2, 0.02, "same"), (1.04, 0.001, "same"), (0.8, 0.001, "faster"),
        (0.8, 0.02, "same"), (0.97, 0.001, "same"), (1.0, 1.0, "same"),
    ],
)  # fmt: skip
def test_a_verdict_needs_the_median_beyond_the_threshold_and_pairs_that_agree(
    ratio: float, chance: float, expected: str
) -> None:
    assert against.verdict({"ratio": ratio, "chance": chance}, 0.05) == expected


def test_chance_is_that_of_a_coin() -> None:
    assert (
        against.chance(3, 3) == 1 / 8
        and against.chance(2, 3) == 4 / 8
        and against.chance(0, 3) == 1
    )
    assert against.chance(10, 11) == 12 / 2**11
    least = against.LEAST_PAIRS
    assert against.chance(least, least) <= against.MAX_CHANCE < against.chance(least - 1, least - 1)


def test_the_status_is_that_of_the_worst() -> None:
    same, slower = {"verdict": "same"}, {"verdict": "slower"}
    assert against.status_of({"comparisons": [same, {"verdict": "faster"}], "failures": []}) == 0
    assert against.status_of({"comparisons": [same, slower], "failures": []}) == 1
    assert against.status_of({"comparisons": [same], "failures": [{}]}) == 1


class Fake:
    """A worker that answers at once, with times that are made up."""

    device = DEVICES["cpu"]

    def __init__(self, folder: Path, times: Iterator[float] | str, log: list[str]) -> None:
        self.folder, self.times, self.log = folder, times, log

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == "package":
            return {"path": str(self.folder / "plastikern" / "__init__.py")}
        if do == "prepare":
            if isinstance(self.times, str):
                raise WorkerFailed(self.times)
            return {"seconds": 10.0, "program": "sequence", "compile_s": 0.0, "max_rel_error": 0.0}
        if do == "sample":
            assert not isinstance(self.times, str)
            self.log.append(self.folder.name)
            return {"seconds": next(self.times)}
        self.log.append(do)
        return {}


def compared(tmp_path: Path, here: Any, there: Any, wrong: bool = False) -> SimpleNamespace:
    log: list[str] = []
    sides = (Side("this tree", tmp_path / "here"), Side("REV", tmp_path / "there"))
    times = {"here": here, "there": there}

    @contextlib.contextmanager
    def start(
        workload: str, variant: variants.Variant, threads: int, scratch: Path, package: Path
    ) -> Iterator[Fake]:
        imported = tmp_path / "elsewhere" if wrong and package.name == "there" else package
        yield Fake(imported, times[package.name], log)

    found = against.compare(TINY, CPU, PLAN, sides, tmp_path, lambda line: None, start)
    return SimpleNamespace(log=log, **found)


def test_samples_are_taken_in_turns_and_neighbours_are_compared(tmp_path: Path) -> None:
    here, there = [11.0, 22.0, 10.0, 33.0, 11.0] * 4, [10.0, 20.0, 20.0, 30.0, 10.0] * 4
    found = compared(tmp_path, iter(here), iter(there))
    one_pass = ["here", "there", "there", "here"] * 5
    assert found.log == ["reference", *one_pass, *one_pass]
    assert not found.failures
    assert [row["pass"] for row in found.comparisons] == ["forward", "forward_backward"]
    for row in found.comparisons:
        assert row["ratio"] == pytest.approx(1.1), (
            "a slow minute of the machine hits both of a pair"
        )
        assert (row["p20"], row["p80"], row["pairs"]) == (
            pytest.approx(0.98),
            pytest.approx(1.1),
            10,
        )
        assert row["chance"] == against.chance(8, 10)
        assert (row["here_ms"], row["there_ms"]) == (11e3, 20e3)


def test_a_side_that_is_wrong_or_cannot_run_is_a_failure_and_not_timed(tmp_path: Path) -> None:
    found = compared(tmp_path, iter([1.0] * 40), "sequence: error 1.0e-03 is beyond 1e-04")
    assert not found.comparisons and found.log == ["reference"]
    assert [(failure["side"], failure["pass"]) for failure in found.failures] == [
        ("REV", "forward"), ("REV", "forward_backward"),
    ]  # fmt: skip
    report = {"against": "REV", "commit": "0" * 40, "threshold": 0.05, **vars(found)}
    assert against.status_of(report) == 1
    assert "FAILED  tiny, forward, REV: sequence: error 1.0e-03" in against.render(report)


def test_a_worker_that_measures_another_package_is_refused(tmp_path: Path) -> None:
    found = compared(tmp_path, iter([1.0] * 40), iter([1.0] * 40), wrong=True)
    assert not found.comparisons
    assert (
        "elsewhere" in found.failures[0]["reason"]
        and "expected one in" in found.failures[0]["reason"]
    )


@pytest.mark.slow
def test_a_worker_runs_the_package_of_its_folder(tmp_path: Path) -> None:
    side = against.pack(against.ROOT, "copy", Path(__file__), tmp_path / "copy")
    (side.folder / "plastikern" / Path(__file__).name).unlink()
    with worker(
        "tiny", variants.parse("plastikern-reference"), 1, tmp_path, side.folder
    ) as process:
        package = Path(process.ask("package")["path"])
    assert package == side.folder / "plastikern" / "__init__.py"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two commits, of a package whose build only writes down that it ran."""
    root = tmp_path / "repository"
    for folder in ("csrc", "build_backend", "plastikern"):
        (root / folder).mkdir(parents=True)
    (root / "csrc" / "kernel.cpp").write_text("first\n")
    (root / "plastikern" / "__init__.py").touch()
    (root / "build_backend" / "__init__.py").touch()
    (root / "build_backend" / "native.py").write_text(
        "def build(root, choice):\n"
        "    source = (root / 'csrc' / 'kernel.cpp').read_text()\n"
        "    if 'broken' in source:\n"
        "        raise SystemExit('plastikern: kernel.cpp.o was not made')\n"
        "    library = root / 'built.so'\n"
        "    library.write_text(choice + ' ' + source)\n"
        "    return library\n"
    )

    def git(*arguments: str) -> None:
        who = (
            "-c",
            "user.name=test",
            "-c",
            "user.email=test@localhost",
            "-c",
            "commit.gpgsign=false",
        )
        subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)

    try:
        git("init", "--quiet")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    (root / "csrc" / "kernel.cpp").write_text("second\n")
    git("commit", "--quiet", "-am", "second")
    return root


def test_a_revision_is_checked_out_for_a_while_and_nothing_stays(
    repository: Path, tmp_path: Path
) -> None:
    first = against.commit_of(repository, "HEAD~1")
    with against.checked_out(repository, first, tmp_path / "revision") as tree:
        assert (tree / "csrc" / "kernel.cpp").read_text() == "first\n"
    assert not (tmp_path / "revision").exists()
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True
    )
    assert listed.stdout.count("\n") == 1


@pytest.mark.parametrize("name", ["no-such-revision", "--help", "HEAD~9", ""])
def test_a_revision_that_does_not_exist_is_refused(repository: Path, name: str) -> None:
    with pytest.raises(Refused, match=f"--against {name}: there is no such revision"):
        against.commit_of(repository, name)


def test_a_library_is_built_once_for_the_same_sources(repository: Path, tmp_path: Path) -> None:
    said: list[str] = []
    built = against.library(repository, tmp_path / "cache", "cpu", said.append)
    assert (built.read_text(), len(said)) == ("cpu second\n", 1)
    (repository / "plastikern" / "__init__.py").write_text("# Python only\n")
    assert (
        against.library(repository, tmp_path / "cache", "cpu", said.append) == built
        and len(said) == 1
    )
    assert against.library(repository, tmp_path / "cache", "cuda", said.append) != built
    (repository / "csrc" / "kernel.cpp").write_text("third\n")
    assert (
        against.library(repository, tmp_path / "cache", "cpu", said.append).read_text()
        == "cpu third\n"
    )
    (repository / "csrc" / "kernel.cpp").write_text("broken\n")
    with pytest.raises(Refused, match=r"cannot be built: plastikern: kernel\.cpp\.o was not made"):
        against.library(repository, tmp_path / "cache", "cpu", said.append)


@pytest.mark.parametrize(("tests", "selftest"), [(0, 0), (1, 0), (0, 1)])
def test_parity_is_that_of_the_package_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tests: int, selftest: int
) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$PWD" "$PYTHONPATH" "$*" >> {tmp_path}/ran\n'
        f'case "$*" in *pytest*) echo "1 failed"; exit {tests};; esac\necho "FAIL: rnn" >&2; exit {selftest}\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(against.sys, "executable", str(python))
    side, said = Side("this tree", tmp_path), list[str]()
    if tests or selftest:
        reason = "test_parity.py: 1 failed" if tests else "selftest --backend cpu: FAIL: rnn"
        with pytest.raises(
            Refused, match=f"^parity fails, so no speed-up is reported: .*{reason}$"
        ):
            against.check_parity(side, ["cpu"], said.append)
        return
    against.check_parity(side, ["cpu", "cpu"], said.append)
    commands = (
        "-m pytest -q -x -m not slow tests/test_parity.py",
        "-m plastikern selftest --backend cpu",
    )
    expected = [f"{tmp_path} {tmp_path} {one}" for one in commands]
    assert (tmp_path / "ran").read_text().splitlines() == expected and len(said) == 2


@pytest.fixture
def untimed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The whole command in that repository, with parity and times that are made up."""
    (repository / "tests").mkdir()
    (repository / "pyproject.toml").touch()
    made_up = SimpleNamespace(ratio=1.0, parity=[], compared=[])

    def compare(workload: Any, variant: Any, plan: Any, sides: Any, scratch: Path, say: Any) -> Any:
        made_up.compared.append(
            (
                workload.name,
                variant.name,
                [(s.folder / "plastikern" / "_C.abi3.so").read_text() for s in sides],
            )
        )
        ratio = made_up.ratio
        row = {
            "workload": workload.name,
            "variant": variant.name,
            "pass": "forward",
            "here_ms": ratio,
            "there_ms": 1.0,
        }
        return {
            "comparisons": [
                {**row, "ratio": ratio, "p20": ratio, "p80": ratio, "pairs": 9, "chance": 0.002}
            ],
            "failures": [],
        }

    def check_parity(side: Side, backends: Any, say: Any) -> None:
        made_up.parity.append(side.name)
        if made_up.ratio < 0:
            raise Refused("parity fails, so no speed-up is reported: test_parity.py")

    monkeypatch.setattr(against, "ROOT", repository)
    monkeypatch.setattr(against, "compare", compare)
    monkeypatch.setattr(against, "check_parity", check_parity)
    return made_up


def test_the_command_compares_both_trees_and_its_status_tells_a_slowdown(
    untimed: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    arguments = ["--against", "HEAD~1", "--workloads", "tiny,maze", "--json", str(path)]
    assert command.main(arguments) == 0
    libraries = ["cpu second\n", "cpu first\n"]
    assert untimed.compared == [(name, "plastikern-cpu", libraries) for name in ("tiny", "maze")]
    report = json.loads(path.read_text())
    assert [row["verdict"] for row in report["comparisons"]] == ["same", "same"] and report[
        "machine"
    ]["threads"] >= 1
    untimed.ratio = 1.08
    assert command.main(arguments) == 1
    assert "slower  tiny, forward, plastikern-cpu: 1.080 times its time" in capsys.readouterr().out
    assert command.main([*arguments, "--threshold", "0.1"]) == 0


def test_nothing_is_timed_while_parity_fails(
    untimed: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    untimed.ratio = -1.0
    assert command.main(["--against", "HEAD~1", "--workloads", "tiny"]) == 1
    assert untimed.parity == ["this tree"] and not untimed.compared
    said = capsys.readouterr()
    assert said.out == "" and said.err.endswith(
        "parity fails, so no speed-up is reported: test_parity.py\n"
    )


def test_rivals_have_no_revisions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--against", "HEAD", "--variants", "plastikern-cpu,eager"])
    assert (
        "--against compares variants of the library only: plastikern-BACKEND"
        in capsys.readouterr().err
    )


def test_too_few_pairs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--against", "HEAD", "--repeats", "6"])
    assert "--against needs --repeats 7 or more" in capsys.readouterr().err


def test_the_command_line_refuses_a_revision_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["--against", "no-such-revision", "--workloads", "tiny"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("--against no-such-revision: there is no such revision")
