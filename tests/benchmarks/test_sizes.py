"""Workloads of any size, and the picture over sizes."""

from __future__ import annotations

import pytest

from benchmarks.workloads import workload_named

sizes = pytest.importorskip("benchmarks.sizes", exc_type=ImportError)  # needs matplotlib


def test_a_workload_of_any_size_has_it_from_its_name():
    workload = workload_named("rnn-B3-N7-T11")
    assert workload.inputs().drives[0].shape == (11, 3, 7)
    assert workload_named("rnn-B3-N7-T11") == workload
    with pytest.raises(ValueError, match="workload must be one of"):
        workload_named("rnn-B0-N7-T11")


def test_the_picture_has_a_line_for_each_that_is_compared(tmp_path, monkeypatch):
    rows = [
        {
            "workload": f"rnn-B{elements}-N{neurons}-T{sizes.STEPS}",
            "variant": variant,
            "median_ms": elements * neurons,
            "peak_bytes": 2**20 * elements * neurons,
        }
        for elements, neurons in sizes.SIZES
        for variant in sizes.NAMES
    ]
    monkeypatch.setattr(sizes, "PICTURE", tmp_path / "sizes.svg")
    sizes.draw(rows, {"threads": 2, "cpu": "this processor"})
    picture = (tmp_path / "sizes.svg").read_text()
    assert picture.count("<!-- PyTorch, eager -->") == 1 and "<!-- plastikern -->" in picture
    assert "this processor" in picture
