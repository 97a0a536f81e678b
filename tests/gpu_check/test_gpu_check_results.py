"""The file of results is whole at every moment, and nothing else passes for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plastikern.gpu_check.results import Malformed, Results, parse, read

RUN = {
    "record": "run", "at": 0.0, "schema": 1, "started": "2026-01-01T00:00:00+00:00", "dry_run": True, "budget": 600.0,
    "version": "0.1.0",
}  # fmt: skip
BEGIN = {"record": "begin", "at": 0.1, "stage": "smoke", "limit": 30}
FACT = {"record": "fact", "at": 0.2, "stage": "smoke", "networks": 3}
END = {"record": "end", "at": 0.3, "stage": "smoke", "outcome": "passed", "took": 0.2, "reason": ""}
SUMMARY = {"record": "summary", "at": 0.4, "outcomes": {"smoke": "passed"}, "status": 0}


def written(path: Path, *records: dict[str, Any] | str) -> Path:
    file = path / "results.jsonl"
    file.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in records)
    )
    return file


def test_records_are_read_back_run_by_run(tmp_path: Path) -> None:
    for _ in range(2):
        results = Results(tmp_path)
        for record in (RUN, BEGIN, FACT, END, SUMMARY):
            assert results.write(record)
        results.close()
    assert read(tmp_path / "results.jsonl") == [[RUN, BEGIN, FACT, END, SUMMARY]] * 2


def test_a_run_that_was_killed_while_it_wrote_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(
        json.dumps(RUN) + "\n" + json.dumps(BEGIN) + '\n{"record": "fa'
    )
    results = Results(tmp_path)
    results.write(RUN)
    results.close()
    assert read(tmp_path / "results.jsonl") == [[RUN, BEGIN], [RUN]]


def test_a_full_disk_loses_lines_and_says_so(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    (tmp_path / "results.jsonl").symlink_to(full)
    results = Results(tmp_path)
    assert not results.write(RUN)
    assert json.loads(results.lost[0]) == RUN and "No space left" in results.error


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no run"),
        ([BEGIN], "before any run"),
        ([RUN, {**BEGIN, "limit": "long"}], "line 2: begin needs limit"),
        ([RUN, {**BEGIN, "record": "start"}], "line 2: record must be one of run, begin"),
        ([{**RUN, "schema": 2}], "schema 2"),
        ([{**RUN, "dry_run": 1}], "run needs dry_run"),
        ([{**RUN, "budget": True}], "run needs budget"),
        ([RUN, FACT], "outside of it"),
        ([RUN, BEGIN, BEGIN], "begins before smoke has ended"),
        ([RUN, BEGIN, {**END, "outcome": "fine"}], "outcome must be one of passed"),
        ([RUN, BEGIN, END, FACT], "outside of it"),
        ([RUN, SUMMARY, BEGIN], "follow a summary"),
        ([RUN, "garbage", BEGIN], "line 2 is no JSON object"),
        (
            [RUN, BEGIN, '{"record": "fact", "at": 1, "stage": "smoke", "value": NaN}', END],
            "line 3 is no JSON",
        ),
    ],
)
def test_what_gpu_check_did_not_write_is_refused(
    tmp_path: Path, records: list[dict[str, Any] | str], message: str
) -> None:
    with pytest.raises(Malformed, match=message):
        read(written(tmp_path, *records))


@pytest.mark.parametrize(
    "line",
    ["", "text", "[1]", '{"a": NaN}', '{"a": 1e999}', '{"a": [-Infinity]}', '{"a":', "{" * 100_000],
)
def test_only_json_objects_of_finite_numbers_are_facts(line: str) -> None:
    assert parse(line) is None


def test_a_json_object_is_a_fact() -> None:
    assert parse('{"networks": 3, "worst": 1e-7}') == {"networks": 3, "worst": 1e-7}
