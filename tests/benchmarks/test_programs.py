"""Every rival computes every workload, by each of the ways that it may choose from."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from benchmarks import accuracy, programs
from benchmarks.variants import parse
from benchmarks.workloads import WORKLOADS, Workload, rules, small, workload_named

# One of each network.
NAMES = (
    "tiny", "maze", "maze-act", "cue-reward", "lm-small", "lm-large", "gru", "omniglot-head",
    "rule-hebb", "rule-A3", "rule-A5", "rule-A8",
)  # fmt: skip
SMALL: list[Workload] = [small(workload_named(name)) for name in NAMES]
TINY = workload_named("tiny")
CASES = [
    pytest.param(workload, which, id=f"{workload.name}-{which}")
    for workload in SMALL
    for which in workload.passes
]


@functools.cache
def truth(workload: Workload) -> dict[str, list[torch.Tensor]]:
    return accuracy.reference(workload)


@pytest.fixture
def no_compiler(monkeypatch):
    """The compiler's own work is not under test, and takes minutes: what it is given to compile is run as it is."""
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)


def test_every_network_is_among_the_small_ones():
    assert {type(workload) for workload in SMALL} == {
        type(workload) for workload in WORKLOADS.values()
    }


@pytest.mark.parametrize(("workload", "which"), CASES)
@pytest.mark.parametrize(
    "variant", ["plastikern-reference", "eager", "compile-step", "compile-chunk", "jax"]
)
def test_program_agrees_with_the_reference(variant, workload, which, no_compiler):
    if variant in workload.without:
        pytest.skip(workload.without[variant])
    if variant == "jax":
        pytest.importorskip("jax")
    offered = programs.programs(parse(variant), workload)
    assert len(offered) >= (1 if variant == "plastikern-reference" else 2)
    for program in offered.values():
        placed = program.place(workload.inputs())
        program.compile(placed, which)
        output, gradients = program.run(placed, which)
        got = [program.to_torch(array) for array in (output, *gradients)]
        expected = truth(workload)["output"] + (truth(workload)["gradients"] if gradients else [])
        assert bool(gradients) == (which == "forward_backward")
        assert accuracy.max_rel_error(got, expected) < accuracy.TOLERANCE
        # Nothing was changed that the next iteration starts from.
        torch.testing.assert_close(program.to_torch(program.run(placed, which)[0]), got[0])


@pytest.mark.parametrize("workload", SMALL, ids=lambda workload: workload.name)
def test_every_gradient_is_wanted_and_there(workload):
    inputs = workload.inputs()
    gradients = truth(workload)["gradients"]
    assert [gradient.shape for gradient in gradients] == [
        tensor.shape for tensor in inputs.differentiated()
    ]
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", [workload.name for workload in SMALL if hasattr(workload, "clip")])
def test_traces_meet_their_bound_but_not_all_of_them(name):
    """Else a rival that does not clip would agree with the reference, or one without gradients behind the bound."""
    workload = small(workload_named(name))
    inputs = workload.inputs()
    _, state = workload.library(inputs.parameters, inputs.state, inputs.drives, "reference")
    trace = next(tensor for tensor in state if tensor.dim() == 3)
    share = float((trace.abs() == torch.tensor(workload.clip)).float().mean())
    assert 0.05 < share < 0.95


@pytest.mark.parametrize(
    "workload", [TINY, *(w for w in SMALL if len(w.inputs().drives) > 1)], ids=lambda w: w.name
)
def test_short_run_compiles_everything_that_the_whole_sequence_needs(workload, monkeypatch):
    """Else the compiler would run inside of the iteration whose memory is measured."""
    shapes = []

    def compiled(function, dynamic):
        def recorded(parameters, state, drives):
            shapes.append((function.__name__, *(tuple(drive.shape) for drive in drives)))
            return function(parameters, state, drives)

        return recorded

    monkeypatch.setattr(torch, "compile", compiled)
    offered = programs.programs(parse("compile-chunk"), workload)
    for program in offered.values():
        placed = program.place(workload.inputs())
        program.compile(placed, "forward_backward")
        short, shapes[:] = shapes[:], []
        program.run(placed, "forward_backward")
        assert set(short) == set(shapes)
        shapes.clear()


@pytest.mark.parametrize("which", WORKLOADS["rule-hebb"].passes)
@pytest.mark.parametrize("backend", rules.BUILT_IN)
def test_built_in_kernels_compute_what_the_rule_of_ones_own_says(backend, which):
    workload = small(workload_named("rule-hebb"))
    (program,) = programs.programs(parse(f"plastikern-{backend}"), workload).values()
    output, gradients = program.run(program.place(workload.inputs()), which)
    expected = truth(workload)["output"] + (truth(workload)["gradients"] if gradients else [])
    assert accuracy.max_rel_error([output, *gradients], expected) < accuracy.TOLERANCE


@pytest.mark.parametrize("tag", rules.RULES)
def test_values_of_a_published_rule_keep_single_precision_near_the_truth(tag):
    workload = dataclasses.replace(workload_named(f"rule-{tag}"), batch=1, neurons=16)
    program = programs.programs(parse("plastikern-reference"), workload)["sequence"]
    output, gradients = program.run(program.place(workload.inputs()), "forward_backward")
    expected = accuracy.reference(workload)
    found = [output, *gradients]
    error = accuracy.max_rel_error(found, expected["output"] + expected["gradients"])
    assert error < accuracy.TOLERANCE
    # Activities neither die nor saturate: else anything would agree.
    assert float(output.detach().std()) > 1e-3
