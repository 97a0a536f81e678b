"""torch.compile sees the operators of every backend: what they return is known without running them.

Compiled code and exported programs give the numbers of eager calls, for other lengths and batches too.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import VARIANTS, Case, assert_close, close, each_variant, needs_native
from tolerances import FP64_ROUNDING
from torch import Tensor, nn
from torch._dynamo.utils import counters

import plastikern.functional as PF
from plastikern import (
    Plasticity,
    PlasticLinear,
    PlasticLinearCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
)
from plastikern.ops import fused

SEQUENCES, CELLS = (PlasticRNN, PlasticLSTM, PlasticLinear), (PlasticRNNCell, PlasticLSTMCell, PlasticLinearCell)
RETROACTIVE = Plasticity(constraint="clip", modulation="retroactive", alpha_init=0.3)


def operator_calls(case: Case, backend: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, tuple[Any, ...]]]:
    """Operators with their arguments: of a step, and of a sequence with its backward pass."""
    calls, look_up = [], fused._operator

    def noting(backend: str, name: str) -> Any:
        operator = look_up(backend, name)

        def call(*arguments: Any) -> Any:
            calls.append((operator, tuple(x.detach() if isinstance(x, Tensor) else x for x in arguments)))
            return operator(*arguments)

        return call

    monkeypatch.setattr(fused, "_operator", noting)
    inputs = case.inputs()
    case.step(inputs, 0, {name: inputs[name] for name in case.state}, backend)
    case.loss(case.sequence(inputs, backend)).backward()
    monkeypatch.undo()
    return calls


def check_operators(case: Case, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # All that is kept is written: no step beyond an element's end, no room beyond the last column.
    calls = operator_calls(replace(case, lengths=None, neurons=8, features=8), backend, monkeypatch)
    names = [operator.__name__.removesuffix(".default") for operator, _ in calls]
    assert names == ["step", "sequence", "sequence_backward"]
    for operator, arguments in calls:
        torch.library.opcheck(operator, arguments)


def check_compiled(case: Case, backend: str) -> None:
    inputs = case.inputs()
    expected = case.results(case.sequence(inputs, backend), inputs)
    torch.compiler.reset()
    function = getattr(PF, f"plastic_{case.network}_sequence")
    quick = torch.compile(function, fullgraph=True, backend="aot_eager")
    found = quick(**case.arguments(inputs), backend=backend)
    assert_close(case.results(dict(zip(case.outputs, found, strict=True)), inputs), expected, FP64_ROUNDING)


@needs_native
@pytest.mark.parametrize("name", ["rnn-simple", "lstm-retroactive-fan-out", "linear-simple"])
def test_operators_are_what_they_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_operators(replace(VARIANTS[name], steps=3), "cpu", monkeypatch)


@needs_native
@pytest.mark.slow
@each_variant
@pytest.mark.parametrize("batch_first", [False, True])
def test_operators_of_every_network_are_what_they_say(
    case: Case, batch_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_operators(replace(case, steps=3, batch_first=batch_first), "cpu", monkeypatch)


@needs_native
def test_a_sequence_is_compiled_without_a_graph_break() -> None:
    check_compiled(Case(steps=3), "cpu")


@needs_native
@pytest.mark.slow
@pytest.mark.parametrize("name", ["rnn-retroactive-half", "lstm-simple-half", "linear-simple"])
def test_every_network_is_compiled_without_a_graph_break(name: str) -> None:
    check_compiled(replace(VARIANTS[name], steps=3, lengths=None), "cpu")


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The function, to be compiled anew without graph breaks."""
    torch.compiler.reset()
    counters.clear()
    return torch.compile(function, fullgraph=True, **{"backend": "aot_eager", **options})


def graphs() -> int:
    """Graphs compiled since then."""
    return counters["stats"]["unique_graphs"]


def flat(result: Any) -> list[Tensor]:
    """Tensors of a module's result: output and state, or the state that is both."""
    return [x for part in result for x in ((part,) if isinstance(part, Tensor) else part or ()) if x is not None]


def trained(call: Callable[..., Any], module: nn.Module, *arguments: Any, **options: Any) -> list[Tensor]:
    """What a call returns and, if gradients are on, those of the parameters."""
    found = flat(call(*arguments, **options))
    if not torch.is_grad_enabled():
        return found
    loss = torch.stack([x.square().sum() for x in found]).sum()
    return [*(x.detach() for x in found), *torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)]


SIZES = (((20, 5), 1), ((31, 2), 1), ((40, 6), 2), ((101, 7), 2))
"""Steps and batch, and how many graphs training may have by then: of checkpoints there are none up to 16 steps, one up
to 32, then many, and torch compiles each of these kinds once. Inference has none."""


def check_sequences(
    kind: Any, train: bool, plasticity: Plasticity = RETROACTIVE, sizes: Any = SIZES, **options: Any
) -> None:
    module = kind(3, 4, plasticity=plasticity, backend="cpu", dtype=torch.float64)
    # Compiled before any eager call: nothing may have been looked up already.
    quick = compiled(module, dynamic=True, **options)
    with torch.set_grad_enabled(train):
        for (steps, batch), expected in sizes:
            input, lengths = torch.randn(steps, batch, 3, dtype=torch.float64), torch.arange(batch) * 5 % (steps + 1)
            found = trained(quick, module, input, lengths=lengths)
            close(found, trained(module, module, input, lengths=lengths))
            assert graphs() == (expected if train else 1), f"compiled again for {steps} steps of {batch}"


def check_cells(kind: Any, train: bool, **options: Any) -> None:
    cell = kind(3, 4, plasticity=RETROACTIVE, backend="cpu", dtype=torch.float64)
    quick = compiled(cell, **options)
    with torch.set_grad_enabled(train):
        for batch in (2, 5, 7):
            input = torch.randn(batch, 3, dtype=torch.float64)
            result = cell(torch.randn(batch, 3, dtype=torch.float64))
            state = (result if kind is not PlasticLinearCell else result[1]).detach()
            for tensor in (input, *state):
                torch._dynamo.mark_dynamic(tensor, 0)
            close(trained(quick, cell, input, state), trained(cell, cell, input, state))
        assert graphs() == 1


@needs_native
def test_complaint_9_training_compiles_once_for_all_lengths_and_batches() -> None:
    check_sequences(PlasticRNN, True, sizes=SIZES[:2])


@needs_native
@pytest.mark.parametrize("kind", CELLS)
def test_complaint_9_a_step_compiles_once_for_all_batches(kind: Any) -> None:
    check_cells(kind, False)


@needs_native
@pytest.mark.slow
@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    "plasticity",
    [Plasticity(), Plasticity(constraint="clip", modulation="simple", fan_out="neuron"), RETROACTIVE],
    ids=["none", "simple", "retroactive"],
)
def test_complaint_9_every_module_compiles_and_changes_no_numbers(
    kind: Any, train: bool, plasticity: Plasticity
) -> None:
    check_sequences(kind, train, plasticity)


@needs_native
@pytest.mark.slow
@pytest.mark.parametrize("kind", CELLS)
def test_complaint_9_every_cell_trains_compiled(kind: Any) -> None:
    check_cells(kind, True)


@needs_native
@pytest.mark.slow
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM])
def test_complaint_9_inductor_changes_no_numbers(kind: Any) -> None:
    check_sequences(kind, True, backend="inductor")


@needs_native
@pytest.mark.slow
@each_variant
def test_every_function_is_compiled_without_a_graph_break(case: Case) -> None:
    case = replace(case, steps=3, lengths=case.lengths and (3, 1))
    check_compiled(case, "cpu")
    case = replace(case, with_clamp=False)  # which a case draws anew in every call
    inputs = case.inputs()
    state = {name: inputs[name] for name in case.state}
    quick = compiled(lambda given, first: case.step(given, 0, first, "cpu"))
    assert_close(
        case.results(quick(inputs, state), inputs), case.results(case.step(inputs, 0, state, "cpu"), inputs),
        FP64_ROUNDING,
    )  # fmt: skip
    assert graphs() == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SEQUENCES, *CELLS])
def test_the_reference_compiles_too(kind: Any) -> None:
    module = kind(3, 4, plasticity=RETROACTIVE, backend="reference", dtype=torch.float64)
    quick = compiled(module)
    input = torch.randn(*((3, 2, 3) if kind in SEQUENCES else (2, 3)), dtype=torch.float64)
    close(trained(quick, module, input), trained(module, module, input))


@needs_native
@pytest.mark.slow
def test_autocast_is_compiled_with_the_rest() -> None:
    module, input = PlasticLSTM(3, 4, plasticity=RETROACTIVE, backend="cpu"), torch.randn(5, 2, 3)

    def under_autocast(given: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return module(given)

    quick = compiled(under_autocast)
    found, expected = trained(quick, module, input), trained(under_autocast, module, input)
    for left, right in zip(found, expected, strict=True):
        assert left.dtype == right.dtype == torch.float32
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@needs_native
def test_lengths_out_of_range_are_refused_in_compiled_code() -> None:
    module = PlasticRNN(3, 4, backend="cpu")
    quick = compiled(module)
    with torch.no_grad(), pytest.raises(RuntimeError, match="lengths"):
        quick(torch.randn(5, 2, 3), lengths=torch.tensor([6, 1]))


def exported(module: nn.Module, arguments: tuple[Any, ...], dynamic: tuple[Any, ...]) -> Callable[..., Any]:
    """The module as a program that has been saved and loaded."""
    with torch.no_grad():
        program = torch.export.export(module, arguments, dynamic_shapes=dynamic)
    assert any("plastikern" in str(node.target) for node in program.graph.nodes) == (module.backend == "cpu")
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize(
    "kind, backend",
    [(PlasticRNNCell, "reference"), *(pytest.param(kind, "cpu", marks=needs_native) for kind in CELLS)],
)
def test_an_exported_step_runs_with_other_numbers_and_batches(kind: Any, backend: str) -> None:
    cell = kind(3, 4, plasticity=RETROACTIVE, backend=backend)

    def arguments(batch: int) -> tuple[Tensor, Any]:
        result = cell(torch.randn(batch, 3))
        return torch.randn(batch, 3), result if kind is not PlasticLinearCell else result[1]

    with torch.no_grad():
        first, batch = arguments(2), torch.export.Dim("batch", min=2, max=64)
        program = exported(cell, first, ({0: batch}, type(first[1])(*({0: batch} for _ in first[1]))))
        for given in (arguments(2), arguments(7)):
            found, expected = program(*given), cell(*given)
            assert type(found) is type(expected)
            torch.testing.assert_close(flat(found), flat(expected))


@needs_native
@pytest.mark.parametrize("kind", SEQUENCES)
def test_an_exported_sequence_runs_with_other_lengths_and_batches(kind: Any) -> None:
    module = kind(3, 4, plasticity=RETROACTIVE, backend="cpu")
    steps, batch = torch.export.Dim("steps", min=2, max=999), torch.export.Dim("batch", min=2, max=64)
    program = exported(module, (torch.randn(6, 2, 3),), ({0: steps, 1: batch},))
    with torch.no_grad():
        for sizes in ((6, 2), (11, 5), (200, 3)):
            input = torch.randn(*sizes, 3)
            torch.testing.assert_close(flat(program(input)), flat(module(input)))
