"""gpu-check goes on whatever a stage does, writes down what it said, and its exit status tells."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plastikern import __main__ as plastikern_main
from plastikern.gpu_check import cli, process, runner
from plastikern.gpu_check.results import read
from plastikern.gpu_check.setup import ROOT, Setup
from plastikern.gpu_check.stages import Stage, Step, stages

pytestmark = pytest.mark.skipif(not hasattr(os, "waitid"), reason="no os.waitid here")
Records = list[dict[str, Any]]
Check = Callable[..., tuple[int, Records]]


def step(code: str, limit: float = 30.0, **options: Any) -> Step:
    return Step("step", [sys.executable, "-c", code], limit, **options)


def stage(name: str, *steps: Step, limit: float = 60.0, **options: Any) -> Stage:
    return Stage(name, f"what {name} is", limit, list(steps), **options)


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs stages of the test in the place of the real ones; exit status and records."""

    def run(*chosen: Stage, arguments: tuple[str, ...] = ()) -> tuple[int, Records]:
        monkeypatch.setattr(cli, "stages", lambda setup: list(chosen))
        status = cli.main(["--out", str(tmp_path / "out"), *arguments])
        return status, read(tmp_path / "out" / "results.jsonl")[-1]

    return run


def ends(records: Records) -> dict[str, tuple[str, str]]:
    return {
        record["stage"]: (record["outcome"], record["reason"])
        for record in records
        if record["record"] == "end"
    }


def facts(records: Records) -> Records:
    return [record for record in records if record["record"] == "fact"]


WELL = stage("well", step("print('{\"networks\": 3}')", expects="networks"))


def test_facts_are_written_and_all_well_is_0(
    check: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    status, records = check(WELL)
    assert status == 0
    assert [(fact["stage"], fact["step"], fact["networks"]) for fact in facts(records)] == [
        ("well", "step", 3)
    ]
    assert records[-1]["record"] == "summary" and records[-1]["outcomes"] == {"well": "passed"}
    said = capsys.readouterr().out
    assert "1 passed" in said and "what well is" in said


@pytest.mark.parametrize(
    ("code", "outcome", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "crashed", "signal 9"),
        ("import sys; print('it is broken'); sys.exit(4)", "failed", "exit status 4: it is broken"),
        ("import time; print('far', flush=True); time.sleep(600)", "hung", "stopped at its limit"),
        ("print('nothing to see')", "failed", "without a word of 'networks'"),
        ("import os; os.write(1, b'\\xff\\x00{garbage\\n{}[]\\n' * 1000)", "failed", "without a word"),
        ("import sys; print('{\"skip\": \"no such card\"}'); sys.exit(77)", "skipped", "no such card"),
        ("print('{\"networks\": 0}')", "failed", "without a word"),
    ],
    ids=["killed", "fails", "hangs", "says nothing", "garbage", "cannot run here", "did nothing"],
)  # fmt: skip
def test_it_goes_on_after_a_stage_that_is_not_well(
    check: Check, code: str, outcome: str, reason: str
) -> None:
    limit = 2.0 if outcome == "hung" else 30.0
    status, records = check(stage("bad", step(code, limit, expects="networks")), WELL)
    assert status == (0 if outcome == "skipped" else 1)
    found = ends(records)
    assert found["bad"][0] == outcome and reason in found["bad"][1]
    assert found["well"] == ("passed", "")


def test_what_a_stage_said_before_it_was_killed_is_kept(check: Check) -> None:
    code = 'import os, signal; print(\'{"constant": "clock"}\', flush=True); os.kill(os.getpid(), signal.SIGKILL)'
    _, records = check(stage("bad", step(code)))
    assert facts(records)[0]["constant"] == "clock"


def test_a_program_does_not_pass_for_gpu_check_itself(check: Check) -> None:
    code = 'print(\'{"record": "summary", "stage": "other", "at": -1, "value": 2}\')'
    _, records = check(stage("odd", step(code)))
    (fact,) = facts(records)
    assert (fact["stage"], fact["value"]) == ("odd", 2) and fact["at"] >= 0


def test_rows_of_a_file_are_facts_as_soon_as_they_are_there(check: Check, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"workload": "of an earlier run"}\n')
    code = (
        f"import os, signal\nfile = open({str(rows)!r}, 'a')\n"
        'print(\'{"workload": "maze", "median_ms": 2.5}\', file=file, flush=True)\n'
        "print('{\"workload\": \"pat', end='', file=file, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    status, records = check(stage("timing", step(code, rows=rows, labels={"form": "resident"})))
    assert status == 1
    assert [(fact["workload"], fact["form"]) for fact in facts(records)] == [("maze", "resident")]


def test_a_training_run_is_stopped_as_planned_and_its_last_line_is_kept(
    check: Check, tmp_path: Path
) -> None:
    rows = tmp_path / "metrics.jsonl"
    code = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"file = open({str(rows)!r}, 'w')\n"
        "for episode in range(10_000):\n"
        "    print('{\"episode\": %d}' % episode, file=file, flush=True)\n    time.sleep(0.05)"
    )
    options: dict[str, Any] = {
        "rows": rows,
        "last_row": True,
        "stop_after": 1.5,
        "accepts": (0, 143),
    }
    status, records = check(stage("experiments", step(code, expects="episode", **options)))
    assert status == 0, ends(records)
    assert len(facts(records)) == 1 and facts(records)[0]["episode"] > 0


def test_a_step_that_explains_a_failure_runs_after_one_only(check: Check) -> None:
    again = step("print('{\"again\": 1}')", after_failure=True)
    _, records = check(
        stage("well", step(""), again), stage("bad", step("raise SystemExit(1)"), again)
    )
    assert [fact["stage"] for fact in facts(records)] == ["bad"]


def test_stages_beyond_the_budget_are_skipped(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LEAST_SECONDS", 1.0)
    status, records = check(
        stage("slow", step("import time; time.sleep(600)"), limit=60), stage("late", step("")),
        arguments=("--budget", "2"),
    )  # fmt: skip
    assert status == 1
    assert ends(records)["slow"][0] == "hung" and "budget" in ends(records)["late"][1]


def test_without_a_card_what_needs_one_is_skipped_and_nothing_ran(check: Check) -> None:
    knows = stage(
        "facts", step('print(\'{"fact": "no card", "reason": "no driver"}\')'), on_card=False
    )
    status, records = check(knows, WELL)
    assert status == 3
    assert ends(records)["well"] == ("skipped", "no card: no driver")


def test_a_missing_tool_is_a_reason_and_no_failure(check: Check) -> None:
    status, records = check(stage("ncu", step("1 / 0"), missing=lambda: "ncu is not there"), WELL)
    assert status == 0 and ends(records)["ncu"] == ("skipped", "ncu is not there")


def test_a_program_that_cannot_be_started_is_skipped(check: Check) -> None:
    status, records = check(Stage("smoke", "", 30, [Step("step", ["/no/such/program"], 10)]))
    assert status == 3 and "/no/such/program" in ends(records)["smoke"][1]


def test_stages_are_chosen_by_name(check: Check) -> None:
    other = stage("other", step("1 / 0"))
    assert ends(check(WELL, other, arguments=("--only", "well"))[1]).keys() == {"well"}
    assert ends(check(WELL, other, arguments=("--skip", "other"))[1]).keys() == {"well"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "--only: got nothing, expected some of facts, build"),
        (["--only", "smoke", "--skip", "smoke"], "leave no stage"),
        (["--budget", "-1"], "positive number of seconds; got '-1'"),
        (["--budget", "nan"], "positive number"),
    ],
)
def test_bad_arguments_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        plastikern_main.main(["gpu-check", "--out", str(tmp_path), *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["--out", str(tmp_path / "file" / "out")]) == 3
    assert capsys.readouterr().err.startswith(f"error: --out {tmp_path / 'file' / 'out'}: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_on_a_full_disk_the_run_goes_on_and_prints_what_it_cannot_write(
    check: Check,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr(cli, "stages", lambda setup: [WELL])
    assert cli.main(["--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    records = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
    assert [record["record"] for record in records] == ["run", "begin", "fact", "end", "summary"]
    assert "could not be written" in said.err and "No space left" in said.err


def test_a_log_ends_at_its_size(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LARGEST_LOG", 10_000)
    check(stage("loud", step("for i in range(100_000): print('x' * 100)")))
    assert (tmp_path / "out" / "loud.log").stat().st_size <= 10_000


def test_an_interrupted_run_kills_its_stage_and_leaves_a_whole_file(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'plastikern')!r});"
        "from gpu_check import cli; from gpu_check.stages import Stage, Step;"
        "sleeps = [sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'];"
        "cli.stages = lambda setup: [Stage('long', '', 600, [Step('step', sleeps, 600)])];"
        f"sys.exit(cli.main(['--out', {str(tmp_path)!r}]))"
    )
    process_ = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell's background jobs ignore it
    )
    log = tmp_path / "long.log"
    while process_.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 1):
        time.sleep(0.1)
    process_.send_signal(signal.SIGINT)
    assert process_.wait(60) == 130
    assert not Path(f"/proc/{log.read_text().splitlines()[1]}").exists()
    (records,) = read(tmp_path / "results.jsonl")
    assert records[-1]["status"] == 130 and ends(records)["long"][1] == "interrupted"


def test_a_broken_torch_is_a_fact(tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(
        "raise ImportError('libcudart.so.13: cannot open shared object file')"
    )
    command = [
        sys.executable,
        str(ROOT / "plastikern" / "gpu_check"),
        "--only",
        "facts",
        "--out",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "broken")}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    (records,) = read(tmp_path / "out" / "results.jsonl")
    assert any("libcudart.so.13" in fact.get("error", "") for fact in facts(records))
    assert any(fact.get("fact") == "machine" for fact in facts(records))


def test_where_only_the_package_is_installed_stages_say_what_they_lack(tmp_path: Path) -> None:
    setup = Setup(tmp_path, root=tmp_path)
    missing = {stage.name: stage.missing() for stage in stages(setup)}
    for name in ("timing", "parity", "rival", "experiments", "triton"):
        assert "only the package is installed" in (missing[name] or ""), name
    for name in ("smoke", "constants"):
        assert "`make gpu-check` builds it" in (missing[name] or ""), name
    assert missing["selftest"] is None and missing["facts"] is None


def test_prebuilt_programs_need_no_compiler(tmp_path: Path) -> None:
    (tmp_path / "smoke").touch(0o755)
    setup = Setup(tmp_path, prebuilt=tmp_path)
    missing = {stage.name: stage.missing() for stage in stages(setup)}
    assert missing["smoke"] is None and str(tmp_path) in (missing["build"] or "")


def test_the_limits_of_a_stage_leave_time_for_its_grace() -> None:
    assert process.GRACE < process.PLANNED_GRACE <= 15
    for each in stages(Setup(Path("out"))):
        assert each.limit <= 300 and all(
            step.limit <= each.limit or each.name == "build" for step in each.steps
        )


def test_a_step_beside_the_others_ends_with_them_and_decides_nothing(check: Check) -> None:
    code = "import time; print('{\"begun\": 1}', flush=True); time.sleep(600)"
    waits = "import time; time.sleep(1.5); print('{\"networks\": 1}')"
    status, records = check(
        stage("parity", step(code, 60.0, beside=True), step(waits, expects="networks"))
    )
    assert status == 0 and ends(records)["parity"] == ("passed", "")
    assert [sorted(fact) for fact in facts(records)] == [
        ["at", "begun", "record", "stage", "step"],
        ["at", "networks", "record", "stage", "step"],
    ]


def test_a_mistake_of_gpu_check_costs_one_stage(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(line: str) -> None:
        raise ZeroDivisionError("division by zero")

    status, records = check(stage("bad", step("print('a line')", reader=lambda: broken)), WELL)
    assert status == 1
    assert ends(records)["bad"] == (
        "failed",
        "gpu-check itself: ZeroDivisionError: division by zero",
    )
    assert ends(records)["well"][0] == "passed"


def test_facts_may_have_any_names(check: Check) -> None:
    code = 'print(\'{"kind": "train", "self": 1, "limit": 2}\')'
    status, records = check(stage("odd", step(code)))
    assert status == 0 and facts(records)[0]["kind"] == "train" and facts(records)[0]["self"] == 1
