"""Facts are found in what programs print for people."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plastikern import __main__ as plastikern_main
from plastikern import selftest
from plastikern.gpu_check import facts, readers


def read(reader: readers.Reader, text: str) -> list[dict[str, Any]]:
    return [fact for line in text.splitlines() for fact in reader(line)]


def test_pytest_tells_failures_and_counts(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_well(): pass\ndef test_bad(): assert 1 == 2\n"
        "@pytest.mark.parametrize('name', ['a b'])\ndef test_named(name): raise ValueError('no - good')\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        str(tmp_path),
    ]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False).stdout
    found = read(readers.pytest, said)
    assert [fact["result"] for fact in found[:2]] == ["failed", "failed"]
    assert "test_bad" in found[0]["test"] and "1 == 2" in found[0]["why"]
    assert found[-1] == {"tests": {"passed": 1, "failed": 2}}


def test_selftest_tells_networks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list(itertools.islice(selftest.cases(), 2))
    monkeypatch.setattr(selftest, "cases", lambda: iter(first))
    assert (
        plastikern_main.main(
            ["selftest", "--device", "cpu", "--backend", "reference", "--repeats", "0"]
        )
        == 0
    )
    found = read(readers.selftest, capsys.readouterr().out)
    assert found[0]["backend"] == "reference"
    assert found[1]["networks"] == found[1]["right"] == 2


def test_selftest_tells_what_is_wrong_and_times() -> None:
    text = (
        "FAIL rnn hebb clip simple: error 0.5, allowed 2e-04\nFAIL: 80 of 81 networks, largest error 5.0e-01\n"
        "cuda: 2.31 ms forward and backward (30 elements, 50 steps, 100 neurons, modulated)\n"
    )
    assert read(readers.selftest, text) == [
        {"wrong_network": "rnn hebb clip simple", "error": "0.5", "allowed": "2e-04"},
        {"networks": 81, "right": 80, "largest_error": "5.0e-01"},
        {"backend": "cuda", "forward_backward_ms": 2.31},
    ]


def test_ncu_tells_metrics_with_their_units() -> None:
    text = (
        "==PROF== Connected to process 1\n"
        '"ID","Kernel Name","gpu__time_duration.sum","launch__registers_per_thread"\n'
        '"","","us","register/thread"\n'
        '"0","run_forward<Rule<hebb_clip, hebb_clip, read_trace>, float>(ForwardJob<float>)","512.3","124"\n'
    )
    (found,) = read(readers.Ncu(), text)
    assert found["metrics"] == {
        "gpu__time_duration.sum": "512.3 us",
        "launch__registers_per_thread": "124 register/thread",
    }
    assert found["kernel"].startswith("run_forward")


def test_ncu_without_permission_is_a_reason_to_skip() -> None:
    (found,) = read(readers.Ncu(), "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission")
    assert "ERR_NVGPUCTRPERM" in found["skip"]


def test_compute_sanitizer_tells_its_summary_and_what_it_saw() -> None:
    text = (
        "========= COMPUTE-SANITIZER\n========= Invalid __global__ read of size 4 bytes\n"
        '{"form": "resident", "networks": 3}\n========= ERROR SUMMARY: 2 errors\n'
        "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n"
    )
    found = read(readers.sanitizer, text)
    assert [fact.get("errors") for fact in found] == [None, None, 2, 1]
    assert "Invalid __global__ read" in found[0]["said"] and found[1]["networks"] == 3


def stand_in(tmp_path: Path, source: str) -> str:
    """A library with some of the driver's functions."""
    (tmp_path / "driver.c").write_text(source)
    path = tmp_path / "libdriver.so"
    subprocess.run(
        ["g++", "-x", "c++", "-shared", "-fPIC", "-o", str(path), str(tmp_path / "driver.c")],
        check=True,
    )
    return str(path)


DRIVER = """
extern "C" {
int cuInit(unsigned) { return STATUS; }
int cuGetErrorName(int, const char** name) { *name = "CUDA_ERROR_NO_DEVICE"; return 0; }
int cuDriverGetVersion(int* version) { *version = 13010; return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int) { *device = 0; return 0; }
int cuDeviceGetName(char* name, int, int) { name[0] = 'C'; name[1] = 0; return 0; }
int cuDeviceTotalMem_v2(unsigned long* bytes, int) { *bytes = 1ul << 37; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int) { *value = 100 + attribute; return 0; }
}
"""


@pytest.fixture
def compiler() -> Iterator[None]:
    if facts.tool("g++") is None:
        pytest.skip("no g++")
    yield


def test_the_driver_tells_its_cards(compiler: None, tmp_path: Path) -> None:
    driver, card = facts.cards(stand_in(tmp_path, DRIVER.replace("STATUS", "0")))
    assert driver == {"fact": "driver", "cuda": "13.1", "cards": 1}
    assert (card["name"], card["memory_bytes"], card["processors"]) == ("C", 2**37, 116)


def test_a_driver_without_a_card_says_why(compiler: None, tmp_path: Path) -> None:
    (found,) = facts.cards(stand_in(tmp_path, DRIVER.replace("STATUS", "100")))
    assert found["fact"] == "no card" and "100 (CUDA_ERROR_NO_DEVICE)" in found["reason"]


def test_no_driver_is_no_card() -> None:
    (found,) = facts.cards("libno-such-driver.so")
    assert found["fact"] == "no card" and "libno-such-driver.so" in found["reason"]
