"""Compiled rules are found again, and nothing that goes wrong with a compiler or a disk leaves anything broken."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from plastikern import rule, rule_sequence
from plastikern.rules import compiling, layout
from plastikern.rules.compiling import CompilationError, compiled, found_or_made

V = Any
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
SEVEN = 'extern "C" __attribute__((visibility("default"))) int seven() { return 7; }'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test; what this process has loaded is forgotten."""
    monkeypatch.setenv(compiling.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(compiling, "_failures", {})
    compiling.found_or_made.cache_clear()
    compiling._say_once.cache_clear()
    return tmp_path / "cache"


def compiler(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch | None = None) -> Path:
    """A compiler that first does what the script says; it counts its calls."""
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/bash\necho >> {tmp_path}/calls\n{script}\nexec g++ \"$@\"\n")  # fmt: skip
    path.chmod(0o755)
    if monkeypatch is not None:
        monkeypatch.setenv("CXX", str(path))
    return path


def calls(tmp_path: Path) -> int:
    found = tmp_path / "calls"
    return len(found.read_text()) if found.exists() else 0


def left(folder: Path) -> list[str]:
    """What lies in a cache beside whole libraries and their sources."""
    known = ("rule.so", "rule.cpp", "lock")
    return [str(path) for path in folder.rglob("*") if path.is_file() and path.name not in known]


def run(code: str, **environment: str) -> subprocess.Popen[str]:
    """A process of its own, which does not need torch."""
    load = f"""
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("compiling", {compiling.__file__!r})
        compiling = sys.modules["compiling"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(compiling)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(load) + textwrap.dedent(code)], env={**os.environ, **environment},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


USE = f"""
    print(compiling.compiled({SEVEN!r}, "float").seven())
"""


def test_a_compiled_rule_is_found_by_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(tmp_path, "", monkeypatch)
    for seconds in (True, False):
        compiling.found_or_made.cache_clear()
        found = found_or_made(SEVEN, "float")
        assert found.handle.seven() == 7 and (found.seconds is not None) == seconds
    assert calls(tmp_path) == 1


def test_eight_processes_that_start_at_once_compile_once(tmp_path: Path, folder: Path) -> None:
    path = compiler(tmp_path, "sleep 0.3")
    processes = [run(USE, CXX=str(path)) for _ in range(8)]
    assert [process.communicate() for process in processes] == [("7\n", "")] * 8
    assert calls(tmp_path) == 1 and left(folder) == []


def test_processes_without_locks_compile_at_once_and_leave_one_library(
    tmp_path: Path, folder: Path
) -> None:
    path = compiler(tmp_path, "sleep 0.3")
    without = "compiling.fcntl = None\n"
    processes = [run(without + textwrap.dedent(USE), CXX=str(path)) for _ in range(3)]
    assert [process.communicate() for process in processes] == [("7\n", "")] * 3
    assert len([*folder.rglob("rule.so")]) == 1 and left(folder) == []


def test_a_process_that_is_killed_while_it_compiles_leaves_nothing_broken(
    tmp_path: Path, folder: Path
) -> None:
    slow = compiler(tmp_path, "sleep 60")
    killed = run(USE, CXX=str(slow))
    while calls(tmp_path) == 0:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert [*folder.rglob("rule.so")] == []
    compiler(tmp_path, "")
    assert run(USE, CXX=str(slow)).communicate() == ("7\n", "")
    (stale,) = folder.glob(f"{compiling.MAKING}*")
    os.utime(stale, (0, 0))
    assert compiled(SEVEN + "\n", "float").seven() == 7
    assert not stale.exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (f"kill -{int(signal.SIGKILL)} $$", r"failed on \S+rule\.cpp: signal 9 ended it"),
        ("exit 0", "it made no library and ended with 0"),
        ("exit 1", "it made no library and ended with 1"),
        ("echo broken >&2; exit 3", r"rule\.cpp: broken"),
        ("echo 'rule.cpp:1: error: what?' >&2; echo more >&2; exit 1", r"rule\.cpp:1: error: what\?$"),
        ("ulimit -f 4; trap '' XFSZ", "."),
    ],
)  # fmt: skip
def test_a_compiler_that_fails_is_one_line_is_not_asked_again_and_leaves_nothing_broken(
    script: str, message: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(tmp_path, script, monkeypatch)
    for _ in range(2):
        with pytest.raises(CompilationError, match=message) as caught:
            compiled(SEVEN, "float")
        assert "\n" not in str(caught.value)
    assert calls(tmp_path) == 1
    assert [*folder.rglob("rule.so")] == [] and left(folder) == []
    compiler(tmp_path, "", monkeypatch)  # Another compiler, as its size says.
    assert compiled(SEVEN, "float").seven() == 7


@pytest.mark.parametrize("named", ["no-such-compiler", "no-such-compiler -O1"])
def test_a_compiler_that_is_not_there_is_named(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", named)
    with pytest.raises(CompilationError, match="CXX names 'no-such-compiler', and there is no"):
        compiled(SEVEN, "float")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CompilationError, match=r"no C\+\+ compiler was found: install g\+\+"):
        compiled(SEVEN, "float")


def test_a_compiler_that_cannot_be_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compiler(tmp_path, "", monkeypatch)
    path.write_text("#!/no/such/shell\n")
    with pytest.raises(CompilationError, match="compiler cannot be run: No such file"):
        compiled(SEVEN, "float")


def test_arguments_of_the_compiler_are_taken_and_part_of_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = set()
    for arguments in ("", " -DNUMBER=8", " -DNUMBER=9"):
        monkeypatch.setenv("CXX", f"g++{arguments}")
        keys.add(compiling.key("", "float"))
    assert len(keys) == 3
    assert compiled(SEVEN.replace("7", "NUMBER"), "float").seven() == 9


@pytest.mark.parametrize("what", ["compiler", "processor", "headers", "flags", "scalar", "text"])
def test_everything_that_decides_the_machine_code_is_in_the_key(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a shared home, a machine of another processor finds nothing that was made for this one."""
    compiler(tmp_path, "", monkeypatch)
    before = compiling.key(SEVEN, "float")
    if what == "compiler":
        compiler(tmp_path, "true", monkeypatch)
    elif what in ("processor", "headers"):
        monkeypatch.setattr(compiling, f"_{what}", lambda: "another")
    elif what == "flags":
        monkeypatch.setattr(compiling, "FLAGS", (*compiling.FLAGS, "-g"))
    after = compiling.key(SEVEN + " " * (what == "text"), "double" if what == "scalar" else "float")
    assert before != after


@pytest.mark.parametrize("broken", ["empty", "cut", "changed", "longer", "foreign"])
def test_a_broken_library_is_made_once_more(broken: str, folder: Path) -> None:
    path = found_or_made(SEVEN, "float").path
    whole = path.read_bytes()
    content = {
        "empty": b"", "cut": whole[: len(whole) // 2], "longer": whole + b"\0", "foreign": b"\0" * 10_000,
        "changed": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
    }[broken]  # fmt: skip
    path.unlink()  # The process has mapped it.
    path.write_bytes(content)
    compiling.found_or_made.cache_clear()
    found = found_or_made(SEVEN, "float")
    assert found.handle.seven() == 7 and found.seconds is not None
    assert path.read_bytes() == whole


def _blocked(tmp_path: Path) -> Path:
    """A place where nothing can be made, not even by root."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


def test_a_cache_that_cannot_be_written_is_one_warning_and_rules_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiling.CACHE, str(_blocked(tmp_path)))
    with pytest.warns(UserWarning, match=r"cannot be kept in \S+ \(Not a directory\)") as caught:
        assert compiled(SEVEN, "float").seven() == 7
        assert compiled(SEVEN + "\n", "float").seven() == 7
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


def test_what_a_cache_has_that_cannot_be_written_is_used(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_or_made(SEVEN, "float")

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    compiling.found_or_made.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found_or_made(SEVEN, "float").seconds is None


def test_a_folder_of_the_process_goes_with_it_and_not_with_its_children(tmp_path: Path) -> None:
    code = f"""
        import os, warnings
        warnings.simplefilter("ignore")
        compiling.compiled({SEVEN!r}, "float")
        if os.fork() == 0:
            raise SystemExit
        os.wait()
        assert compiling._own.is_dir()
        print(compiling.compiled({SEVEN!r} + " ", "float").seven(), compiling._own)
    """
    output, error = run(code, PLASTIKERN_CACHE=str(_blocked(tmp_path))).communicate()
    number, own = output.split()
    assert number == "7" and error == "" and not Path(own).exists()


def test_a_user_without_a_home_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(compiling.CACHE)
    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.warns(UserWarning, match="there is no home directory") as caught:
        assert compiled(SEVEN, "float").seven() == 7
    assert len(caught) == 1


def test_a_full_disk_is_one_warning_and_the_rule_is_compiled_elsewhere(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = f'case "$*" in *{folder}*) echo "as: No space left on device" >&2; exit 1;; esac'
    compiler(tmp_path, full, monkeypatch)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert compiled(SEVEN, "float").seven() == 7
    assert [*folder.rglob("rule.so")] == []
    compiler(tmp_path, 'echo "as: No space left on device" >&2; exit 1', monkeypatch)
    with pytest.raises(CompilationError, match="No space left on device"):
        compiled(SEVEN + " ", "float")


def test_a_source_that_another_process_reads_is_never_a_part_of_it(folder: Path) -> None:
    path = compiling.kept("a.py", "x = 1\n")
    inode = path.stat().st_ino
    assert compiling.kept("a.py", "x = 1\n").stat().st_ino == inode
    assert compiling.kept("a.py", "x = 2\n").read_text() == "x = 2\n"
    assert path.stat().st_ino != inode and left(folder) == [str(path)]


@rule(H="synapse")
def hebb(H: V, x: V, y: V) -> V:
    return H + 0.125 * x * y


def _call(backend: str | None) -> torch.Tensor:
    state, parameters = (
        {"H": torch.zeros(2, 3, 4)},
        {"w": torch.ones(3, 4), "alpha": torch.ones(3, 4)},
    )
    return rule_sequence(
        hebb, torch.zeros(5, 2, 3), torch.ones(5, 2, 4), state, parameters, backend=backend
    )[0]


def test_without_a_compiler_the_reference_runs_after_one_warning_unless_the_kernel_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.warns(UserWarning, match=r"hebb runs on the reference, slowly: no C\+\+") as caught:
        output = _call(None)
    assert len(caught) == 1
    assert torch.equal(output, _call("reference"))
    with pytest.raises(CompilationError, match=r"no C\+\+ compiler was found"):
        _call("cpu")


def test_a_library_of_other_structures_is_refused_before_it_is_called() -> None:
    class Other:
        _name = "rule.so"
        plastikern_layout = staticmethod(lambda: 1)

    with pytest.raises(layout.LayoutError, match=r"compiled m:hebb was made for other structures"):
        layout.check(Other(), "m:hebb")  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["name", "order"])
def test_a_rule_does_not_compile_where_its_structures_are_not_those_of_python(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = [(name, ctypes.c_int64) for name in ("role", "base", "step", "batch", "offset")]
    if change == "name":
        fields[2] = ("stride", ctypes.c_int64)
    else:
        fields[2:4] = fields[3:1:-1]
    other = type("_Source", (ctypes.Structure,), {"_fields_": fields})
    right = layout.stated.__wrapped__()
    monkeypatch.setattr("plastikern.rules.running._Source", other)
    wrong = layout.stated.__wrapped__()
    assert wrong != right
    include = '#include "cpu/rule.h"\n'
    with pytest.raises(CompilationError, match=r"Source.*is another one in|no member named"):
        compiled(include + "\n".join(line for line in wrong if line not in right), "double")
