"""A stage's process cannot hold up the run: it is ended at its limit, with all that it has started."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from plastikern.gpu_check import process

pytestmark = pytest.mark.skipif(not hasattr(os, "waitid"), reason="no os.waitid here")


def python(code: str, limit: float = 60.0, **options: float) -> tuple[process.Ended, list[str]]:
    lines: list[str] = []
    ended = process.run([sys.executable, "-c", code], limit, lines.append, **options)
    return ended, lines


def alive(pid: int) -> bool:
    """Whether it runs; a zombie, which its parent has not asked for yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    for _ in range(100):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_lines_come_as_they_are_printed() -> None:
    ended, lines = python(
        "import sys; print('one'); print('two', file=sys.stderr); print('end', end='')"
    )
    assert (ended.how, ended.status) == ("exited", 0)
    assert sorted(lines) == ["end", "one", "two"]


def test_an_exit_status_is_told() -> None:
    ended, _ = python("import sys; sys.exit(5)")
    assert (ended.how, ended.status) == ("exited", 5)


def test_a_killed_process_is_told_from_one_that_ended() -> None:
    ended, lines = python(
        "import os, signal; print('before', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert (ended.how, ended.status, lines) == ("killed", signal.SIGKILL, ["before"])


def test_one_that_hangs_is_ended_at_its_limit_with_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "GRACE", 0.2)
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)']);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    ended, lines = python(code, 3.0)
    assert ended.how == "hung"
    assert gone(int(lines[0]))


def test_one_that_hangs_may_say_where() -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('in network 3', flush=True), sys.exit(1)))\n"
        "print('begun', flush=True)\n"
        "time.sleep(600)"
    )
    ended, lines = python(code, 2.0)
    assert ended.how == "hung" and lines == ["begun", "in network 3"]


def test_an_end_that_was_planned_is_none_at_the_limit() -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "print('begun', flush=True)\n"
        "time.sleep(600)"
    )
    ended, _ = python(code, 60.0, stop_after=2.0)
    assert (ended.how, ended.status) == ("stopped", 143)


def test_what_a_process_left_behind_is_ended_with_it() -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    ended, lines = python(code)
    assert ended.how == "exited"
    assert gone(int(lines[0]))


def test_a_process_that_left_the_group_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LINGER", 0.2)
    code = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)"
    ended, lines = python(code, 30.0)
    try:
        assert ended.how == "exited" and ended.seconds < 25
    finally:
        os.kill(int(lines[0]), signal.SIGKILL)


def test_a_program_that_is_not_there_is_told() -> None:
    ended = process.run(["/no/such/program"], 1.0, lambda line: None)
    assert ended.how == "not started" and "/no/such/program" in ended.reason


def test_garbage_is_cut_into_lines_that_end() -> None:
    code = "import sys; w = sys.stdout.buffer.write; w(b'x' * 500_000 + b'\\n'); w(bytes(range(256))); w(b'\\nlast\\n')"
    ended, lines = python(code)
    assert ended.status == 0 and lines[-1] == "last"
    assert max(map(len, lines)) <= 2 * process.LONGEST_LINE
