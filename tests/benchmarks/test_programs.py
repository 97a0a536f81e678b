"""Every rival computes the workload, by each of the ways that it may choose from."""

from __future__ import annotations

import pytest
import torch

from benchmarks import accuracy, programs
from benchmarks.variants import parse
from benchmarks.workloads import PASSES, workload_named

WORKLOAD = workload_named("tiny")


@pytest.fixture(scope="module")
def truth() -> dict[str, list[torch.Tensor]]:
    return accuracy.reference(WORKLOAD)


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("variant", ["plastikern-reference", "eager", "compile-step", "compile-chunk", "jax"])
def test_program_agrees_with_the_reference(variant, which, truth, monkeypatch):
    if variant == "jax":
        pytest.importorskip("jax")
    # The compiler's own work is not under test, and takes minutes: what it is given to compile is run as it is.
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    expected = truth["output"] + (truth["gradients"] if which == "forward_backward" else [])
    offered = programs.programs(parse(variant), WORKLOAD)
    assert offered
    for program in offered.values():
        placed = program.place(WORKLOAD.inputs())
        program.compile(placed, which)
        output, gradients = program.run(placed, which)
        got = [program.to_torch(array) for array in (output, *gradients)]
        assert accuracy.max_rel_error(got, expected) < accuracy.TOLERANCE


def test_short_run_compiles_everything_that_the_whole_sequence_needs(monkeypatch):
    """Else the compiler would run inside of the iteration whose memory is measured."""
    lengths = []

    def compiled(function, dynamic):
        def recorded(parameters, state, drive):
            lengths.append((function.__name__, tuple(drive.shape)))
            return function(parameters, state, drive)

        return recorded

    monkeypatch.setattr(torch, "compile", compiled)
    offered = programs.programs(parse("compile-chunk"), WORKLOAD)
    for program in offered.values():
        placed = program.place(WORKLOAD.inputs())
        program.compile(placed, "forward_backward")
        short, lengths[:] = lengths[:], []
        program.run(placed, "forward_backward")
        assert set(short) == set(lengths)
        lengths.clear()
