"""A file of gpu-check becomes rows of the tables, and nothing that was not measured does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cards
from plastikern.gpu_check.results import Malformed, read

Records = list[dict[str, Any]]


def stage(name: str, outcome: str, *facts: dict[str, Any]) -> Records:
    return [
        {"record": "begin", "at": 1.0, "stage": name, "limit": 10},
        *({"record": "fact", "at": 1.5, "stage": name, "step": "step", **fact} for fact in facts),
        {"record": "end", "at": 2.0, "stage": name, "outcome": outcome, "took": 1.0, "reason": ""},
    ]


def constant(name: str, variant: str, size: int, unit: str, value: float) -> dict[str, Any]:
    return {"constant": name, "variant": variant, "size": size, "unit": unit, "value": value}


CARD = {"fact": "card", "index": 0, "name": "Card of the tests", "processors": 7}
FACTS = stage(
    "facts",
    "passed",
    CARD,
    {"fact": "torch", "version": "0.0"},
    {"fact": "driver", "cuda": "0.0", "cards": 1},
)
PROOFS = [record for name in cards.PROOFS for record in stage(name, "passed")]
CONSTANTS = stage(
    "constants", "passed",
    constant("barrier of blocks", "counter", 2, "clocks", 1111.0),
    constant("barrier of blocks", "counter", 7, "clocks", 7777.0),
    constant("shared memory", "generic addresses, 8 bytes", 32, "bytes a clock", 3.25),
    constant("shared memory", "generic addresses, 8 bytes", 512, "bytes a clock", 55.5),
    {"note": "something else"},
)  # fmt: skip
TIME = {"workload": "maze", "pass": "forward", "variant": "plastikern-cuda", "median_ms": 2.0}
TIMES = stage(
    "timing", "passed", TIME, {**TIME, "variant": "eager", "median_ms": 9.0},
    {**TIME, "variant": "eager-graph", "median_ms": 5.0},
    {**TIME, "variant": "plastikern-cuda-streaming", "median_ms": 3.0},
    {**TIME, "variant": "compile-chunk", "median_ms": None, "reason": "did not run"},
)  # fmt: skip


def run(*stages: Records, **fields: Any) -> Records:
    first = {
        "record": "run", "at": 0.0, "schema": 1, "started": "2000-01-01T00:00:00+00:00", "dry_run": False,
        "budget": 600.0, "version": "0.0", **fields,
    }  # fmt: skip
    return [first, *(record for records in stages for record in records)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def collect(file: Path, *runs: Records) -> tuple[str, dict[str, Any]]:
    file.write_text("".join(json.dumps(record) + "\n" for records in runs for record in records))
    return cards.collect(read(file))


def test_what_was_measured_stands_beside_what_is_assumed(file: Path) -> None:
    name, entry = collect(file, run(FACTS, PROOFS, CONSTANTS, TIMES))
    table = cards.constants_table({name: entry})
    assert "| `kBarrierClocks` | " in table and "| 4,000 | 7,777 |" in table
    assert "| 128 | 55.5 |" in table and "| 12 | 3.25 |" in table
    assert "| 8,000 | - |" in table, "what was not measured is not made up"


def test_times_stand_beside_the_rivals_and_by_form(file: Path) -> None:
    name, entry = collect(file, run(FACTS, PROOFS, CONSTANTS, TIMES))
    assert (
        "| Card of the tests | `maze` | forward | 2 | 5 `eager-graph` | 2.5 | `eager` 9 |"
        in cards.rivals_table({name: entry})
    )
    assert "| Card of the tests | `maze` | forward | 2 | - | - | 3 |" in cards.forms_table(
        {name: entry}
    )


def test_stages_of_several_runs_belong_together_and_the_last_counts(file: Path) -> None:
    slower = stage("timing", "passed", {**TIME, "median_ms": 4.0})
    skipped = stage("constants", "skipped")
    _, entry = collect(file, run(FACTS, PROOFS, CONSTANTS, TIMES), run(FACTS, slower, skipped))
    assert [row["median_ms"] for row in entry["times"]] == [4.0]
    assert len(entry["constants"]) == 4


@pytest.mark.parametrize("name", cards.PROOFS)
def test_no_times_are_taken_of_kernels_that_are_not_right(file: Path, name: str) -> None:
    _, entry = collect(file, run(FACTS, PROOFS, stage(name, "failed"), CONSTANTS, TIMES))
    assert entry["times"] == [] and entry["unproved"] == [name] and entry["constants"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (run(FACTS, PROOFS, CONSTANTS, dry_run=True), "a dry run measures nothing"),
        (run(PROOFS, CONSTANTS), "cards of one name"),
        (run(stage("facts", "passed", CARD, {**CARD, "name": "Other"}), CONSTANTS), "cards of one name"),
        (run(FACTS, PROOFS), "nothing to record"),
        (run(FACTS, stage("constants", "passed", constant("launch", "waited for", 1, "ns", -1.0))), "positive value"),
        (run(FACTS, stage("constants", "passed", constant("launch", "waited for", 1, "miles", 1.0))), "a unit of"),
        (run(FACTS, PROOFS, stage("timing", "passed", {**TIME, "workload": "other"})), "a time needs a workload"),
        (run(FACTS, PROOFS, stage("timing", "passed", {**TIME, "median_ms": 0})), "a time must be positive"),
    ],
)  # fmt: skip
def test_what_cannot_be_recorded_is_refused(file: Path, records: Records, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        collect(file, records)


def test_a_card_is_added_to_data_and_pages(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DATA", "KERNELS", "BENCHMARKS"):
        copy = tmp_path / getattr(cards, name).name
        copy.write_text(getattr(cards, name).read_text())
        monkeypatch.setattr(cards, name, copy)
    collect(file, run(FACTS, PROOFS, CONSTANTS, TIMES))
    assert cards.main(["record", str(file)]) == 0
    assert "Card of the tests" in cards.DATA.read_text()
    assert (
        "Card of the tests" in cards.KERNELS.read_text()
        and "Card of the tests" in cards.BENCHMARKS.read_text()
    )
    assert cards.main(["--check"]) == 0
    cards.KERNELS.write_text(cards.KERNELS.read_text().replace("7,777", "7,000"))
    assert cards.main(["--check"]) == 1
    file.write_text("garbage\n")
    assert cards.main(["record", str(file)]) == 1
    assert "no run in it" in capsys.readouterr().err


def test_the_pages_are_as_the_data_says() -> None:
    assert cards.main(["--check"]) == 0


def test_the_constants_that_are_measured_are_those_of_the_plans() -> None:
    assert set(cards.ASSUMED) <= set(cards.assumed())


def test_every_entry_was_measured_on_a_card() -> None:
    for name, entry in json.loads(cards.DATA.read_text()).items():
        assert entry["card"]["name"] == name and "tests" not in name
