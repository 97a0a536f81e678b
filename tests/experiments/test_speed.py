"""The table of speeds: what it compares, and that memory is that of one path alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.common import speed
from experiments.common.cli import main
from experiments.common.comparison import REFERENCE
from experiments.common.speed import Subject, alone, peak_memory
from experiments.patterns import PAPER, Patterns
from plastikern import library

pytest.importorskip("resource", reason="peak memory is measured on POSIX only")
pytestmark = pytest.mark.skipif(
    library.MISSING is not None, reason=f"native library {library.MISSING}"
)


class Small(Patterns):
    """Enough neurons that the pure PyTorch path's history of traces shows in the memory."""

    name = "small"
    presets = {"quick": {"plastic": replace(PAPER, bits=400, cycles=1)}}  # noqa: RUF012


def test_a_row_has_both_paths_speed_and_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        speed, "ROWS", (("small", "quick", "plastic"), ("elsewhere", "quick", "net"))
    )
    monkeypatch.setattr(speed, "alone", lambda function, *arguments: function(*arguments))
    assert main({"small": Small, "other": Small}, ["speed", "--updates", "1"]) == 0
    head, _, row = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.strip().splitlines()
    )
    found = dict(zip(head, row, strict=True))
    assert tuple(found) == speed.COLUMNS
    assert found["experiment"] == "small, quick, plastic"
    assert float(found["updates/s"]) > 0 and found["updates/s"] == found["episodes/s"], (
        "an update is an episode"
    )
    ratio = float(found["updates/s"]) / float(found["updates/s, pure PyTorch"])
    assert ratio == pytest.approx(float(found["times as fast"]), abs=0.06)


@pytest.mark.slow
def test_memory_is_that_of_one_path_in_a_process_of_its_own() -> None:
    subject = Subject(Small, "quick", "plastic", None, 1)
    ours, theirs = alone(peak_memory, subject, None), alone(peak_memory, subject, REFERENCE)
    # 75 steps keep at least one trace of 401 x 401 single-precision numbers each for the backward pass.
    assert theirs - ours > 75 * 401**2 * 4 / 2**20 / 2
    with pytest.raises(Exception, match="no preset 'none'"):
        alone(peak_memory, subject._replace(preset="none"), None)


def test_the_pages_show_the_record() -> None:
    record = json.loads(speed.RECORD.read_text(encoding="utf-8"))
    for path, text in speed.pages(record).items():
        assert path.read_text(encoding="utf-8") == text, "python -m experiments speed --pages"
        assert speed.table(record) in text and record["machine"]["cpu"] in text
    assert [(row["experiment"], row["preset"], row["net"]) for row in record["rows"]] == [
        *speed.ROWS
    ]


def test_what_is_measured_goes_into_the_record_and_from_there_into_the_pages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{speed.MARK}\nformer\n{speed.MARK}\nafter\n")
    for name, value in (("ROOT", tmp_path), ("RECORD", tmp_path / "new" / "speed.json"), ("PAGES", (page,)),
                        ("ROWS", (("small", "quick", "plastic"),))):  # fmt: skip
        monkeypatch.setattr(speed, name, value)
    numbers = (8.0, 4.0, 2.0, 2.0, 500.0, 1234.5)
    monkeypatch.setattr(speed, "_row", lambda *_: dict(zip(speed.NUMBERS, numbers, strict=True)))
    assert main({"small": Small}, ["speed", "--threads", "1", "--record"]) == 0
    shown = capsys.readouterr().out
    assert "| small, quick, plastic | 8 | 4 | 2 | 2.0 | 500 | 1,234 |\n" in shown
    text = page.read_text()
    assert text.startswith(f"before\n{speed.MARK}\n") and text.endswith(f"{speed.MARK}\nafter\n")
    assert "| 1,234 |" in text and "former" not in text
    assert json.loads(speed.RECORD.read_text())["machine"]["cpu"] in text
    page.write_text(text.replace("1,234", "1,235"))
    assert main({"small": Small}, ["speed", "--pages"]) == 0
    assert page.read_text() == text
    assert main({"small": Small}, ["speed", "--only", "small", "--record"]) == 2
    assert capsys.readouterr().err.endswith("--record: for all experiments, without --only\n")


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main({"small": Small, "other": Small}, ["speed", "--only", "large"]) == 2
    assert (
        capsys.readouterr().err == "error: --only: no experiment 'large'; there are: small, other\n"
    )
