"""The table of speeds: what it compares, and that memory is that of one path alone."""

from __future__ import annotations

from dataclasses import replace

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


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main({"small": Small, "other": Small}, ["speed", "--only", "large"]) == 2
    assert (
        capsys.readouterr().err == "error: --only: no experiment 'large'; there are: small, other\n"
    )
