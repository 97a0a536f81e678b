"""What small calls cost, beside torch.nn: every row runs, and calls what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import needs_native

from benchmarks.beside_torch import cell_rows, main, operators_of


@needs_native
def test_one_command_has_all_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert main(["--no-compile", "--seconds", "0.001", "--json", str(tmp_path / "rows")]) == 0
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "rows").read_text())["rows"]
    assert [row["name"] for row in rows] == [
        "cell, inference", "cell, training step", "3 steps, training", "maze, a step of a rollout, batch 30",
        "maze, a step of a rollout, batch 8", "omniglot-head, forward and backward",
    ]  # fmt: skip
    for row in rows:
        assert 0 < row["operators"] < row["library"]
        assert bool(row["rivals"]) == (row["beyond"] is None)
    assert len(rows[-1]["rivals"]) == 3, "eager PyTorch in every formulation"
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)


@needs_native
def test_operators_are_those_of_the_call_and_a_call_without_any_is_refused() -> None:
    inference, training, sequence = cell_rows(2, 4)
    for row, names in ((inference, ["step"]), (training, ["step", "sequence_backward"])):
        with torch.inference_mode(row.inference), torch.profiler.profile() as profiled:
            operators_of(row.library)()
        found = [event.name for event in profiled.events() if "plastikern::" in event.name]
        wanted = [f"plastikern::{name}" for name in names]
        assert set(found) == set(wanted) and found[-len(wanted) :] == wanted, "alone at the end"
    with pytest.raises(RuntimeError, match="has no operator of the library"):
        operators_of(sequence.rivals["nn.RNN"])
