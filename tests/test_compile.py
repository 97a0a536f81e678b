"""torch.compile sees the operators of every backend: what they return is known without running them.

Compiled code and exported programs give the numbers of eager calls, for other lengths and batches too.
"""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable
from contextlib import nullcontext
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
    PlasticGRU,
    PlasticGRUCell,
    Plasticity,
    PlasticLinear,
    PlasticLinearCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
    backends,
    use_backend,
)
from plastikern.ops import fused

SEQUENCES, CELLS = (
    (PlasticRNN, PlasticLSTM, PlasticGRU, PlasticLinear),
    (PlasticRNNCell, PlasticLSTMCell, PlasticGRUCell, PlasticLinearCell),
)
RETROACTIVE = Plasticity(constraint="clip", modulation="retroactive", alpha_init=0.3)


def slow(*values: Any) -> Any:
    """A case that only runs with the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


def operator_calls(
    case: Case, backend: str, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Any, tuple[Any, ...]]]:
    """Operators with their arguments: of a step, and of a sequence with its backward pass."""
    calls, look_up = [], fused._operator

    def noting(backend: str, name: str) -> Any:
        operator = look_up(backend, name)

        def call(*arguments: Any) -> Any:
            calls.append((operator, tuple(
                [y if y is None else y.detach() for y in x] if isinstance(x, (list, tuple)) else x for x in arguments
            )))  # fmt: skip
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
    assert_close(
        case.results(dict(zip(case.outputs, found, strict=True)), inputs), expected, FP64_ROUNDING
    )


@needs_native
@pytest.mark.parametrize(
    "name", ["rnn-simple", "lstm-retroactive-fan-out", "gru-recurrent", "linear-simple"]
)
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
@pytest.mark.parametrize(
    "name", ["rnn-retroactive-half", "lstm-simple-half", "gru-simple-half", "linear-simple"]
)
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
    return [
        x
        for part in result
        for x in ((part,) if isinstance(part, Tensor) else part or ())
        if x is not None
    ]


def trained(
    call: Callable[..., Any], module: nn.Module, *arguments: Any, **options: Any
) -> list[Tensor]:
    """What a call returns and, if gradients are on, those of the parameters."""
    found = flat(call(*arguments, **options))
    if not torch.is_grad_enabled():
        return found
    loss = torch.stack([x.square().sum() for x in found]).sum()
    return [
        *(x.detach() for x in found),
        *torch.autograd.grad(loss, list(module.parameters()), allow_unused=True),
    ]


SIZES = (((20, 5), 1), ((31, 2), 1), ((40, 6), 2), ((101, 7), 2))
"""Steps and batch, and how many graphs training may have by then: of checkpoints there are none up to 16 steps, one up
to 32, then many, and torch compiles each of these kinds once. Inference has none."""


def check_sequences(
    kind: Any, train: bool, plasticity: Plasticity = RETROACTIVE, sizes: Any = SIZES, **options: Any
) -> None:
    module = kind(3, 4, plasticity=plasticity, dtype=torch.float64)
    # Compiled before any eager call: nothing may have been looked up already.
    quick = compiled(module, dynamic=True, **options)
    with torch.set_grad_enabled(train):
        for (steps, batch), expected in sizes:
            input, lengths = (
                torch.randn(steps, batch, 3, dtype=torch.float64),
                torch.arange(batch) * 5 % (steps + 1),
            )
            found = trained(quick, module, input, lengths=lengths)
            close(found, trained(module, module, input, lengths=lengths))
            assert graphs() == (expected if train else 1), (
                f"compiled again for {steps} steps of {batch}"
            )


def check_cells(kind: Any, train: bool, **options: Any) -> None:
    cell = kind(3, 4, plasticity=RETROACTIVE, dtype=torch.float64)
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
    [
        Plasticity(),
        Plasticity(constraint="clip", modulation="simple", fan_out="neuron"),
        RETROACTIVE,
    ],
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
    module, input = PlasticLSTM(3, 4, plasticity=RETROACTIVE), torch.randn(5, 2, 3)

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
    module = PlasticRNN(3, 4)
    quick = compiled(module)
    with torch.no_grad(), pytest.raises(RuntimeError, match="lengths"):
        quick(torch.randn(5, 2, 3), lengths=torch.tensor([6, 1]))


@needs_native
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's own backend needs g++")
def test_complaint_9_no_backend_need_be_named_of_either_library() -> None:
    module, input = PlasticRNN(4, 8), torch.randn(6, 3, 4)
    torch.compiler.reset()
    found, expected = (
        trained(call, module, input) for call in (torch.compile(module, fullgraph=True), module)
    )
    torch.testing.assert_close(found, expected)


class Noted:
    """Compiles nothing, and notes which backends have operators in the graphs."""

    def __init__(self) -> None:
        self.served: list[str] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        found = any("plastikern" in str(node.target) for node in graph.graph.nodes)
        self.served.append("cpu" if found else "reference")
        return graph


@needs_native
@pytest.mark.parametrize(
    "kind", [PlasticRNN, PlasticLSTMCell, *(slow(x) for x in (PlasticLSTM, PlasticLinearCell))]
)
def test_another_choice_of_backend_is_compiled_anew(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLASTIKERN_BACKEND", raising=False)
    module, input = kind(3, 4), torch.randn(*((2, 2, 3) if kind in SEQUENCES else (2, 3)))
    quick = compiled(module, backend=(noted := Noted()))
    with torch.no_grad():
        quick(input)
        with use_backend("reference"):
            quick(input)
            with use_backend("cpu"):
                quick(input)
        assert noted.served == ["cpu", "reference", "cpu"]
        monkeypatch.setenv("PLASTIKERN_BACKEND", "reference")
        quick(input)
        monkeypatch.setenv("PLASTIKERN_BACKEND", "cpu")
        quick(input)
        monkeypatch.delenv("PLASTIKERN_BACKEND")
        before = len(noted.served)
        quick(input)
        with use_backend("reference"):
            quick(input)
        assert len(noted.served) == before, "what was compiled is found again"


@needs_native
def test_a_choice_inside_compiled_code_ends_with_its_block() -> None:
    module = PlasticRNN(3, 4)

    def twice(input: Tensor) -> Tensor:
        with use_backend("reference"):
            first = module(input)[0]
        return first + module(input)[0]

    for around, served in ((nullcontext(), "cpu"), (use_backend("reference"), "reference")):
        with around, torch.no_grad():
            quick = compiled(twice, backend=(noted := Noted()))
            torch.testing.assert_close(quick(torch.ones(2, 2, 3)), twice(torch.ones(2, 2, 3)))
            assert noted.served == [served] and backends.select(None, torch.ones(1)) == served


@needs_native
def test_a_choice_is_the_threads_also_in_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLASTIKERN_BACKEND", raising=False)
    quick = compiled(PlasticRNN(3, 4).requires_grad_(False), backend=(noted := Noted()))
    with use_backend("reference"):
        quick(torch.ones(2, 2, 3))
        thread = threading.Thread(target=quick, args=(torch.ones(2, 2, 3),))
        thread.start()
        thread.join()
    assert noted.served == ["reference", "cpu"]


def exported(
    module: nn.Module,
    arguments: tuple[Any, ...],
    dynamic: Any,
    train: bool = False,
    strict: bool = False,
) -> Callable[..., Any]:
    """The module as a program that has been saved and loaded."""
    with torch.set_grad_enabled(train):
        program = torch.export.export(
            module.train(train), arguments, dynamic_shapes=dynamic, strict=strict
        )
    assert any("plastikern" in str(node.target) for node in program.graph.nodes) == (
        module.backend != "reference"
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize(
    "kind, backend",
    [
        (PlasticRNNCell, "reference"),
        *(pytest.param(kind, None, marks=needs_native) for kind in CELLS),
    ],
)
@pytest.mark.parametrize("strict", [False, slow(True)])
def test_an_exported_step_runs_with_other_numbers_and_batches(
    kind: Any, backend: str | None, strict: bool
) -> None:
    cell = kind(3, 4, plasticity=RETROACTIVE, backend=backend)

    def arguments(batch: int) -> tuple[Tensor, Any]:
        result = cell(torch.randn(batch, 3))
        return torch.randn(batch, 3), result if kind is not PlasticLinearCell else result[1]

    with torch.no_grad():
        first, batch = arguments(2), torch.export.Dim("batch", min=2, max=64)
        dynamic = ({0: batch}, [{0: batch} for _ in first[1]])
        program = exported(cell, first, dynamic, strict=strict)
        for given in (arguments(2), arguments(7)):
            found, expected = program(*given), cell(*given)
            assert type(found) is type(expected)
            torch.testing.assert_close(flat(found), flat(expected))


@needs_native
@pytest.mark.parametrize(
    "kind, strict, train, least",
    [
        *((kind, False, True, 0) for kind in SEQUENCES),
        (PlasticRNN, True, True, 2),
        *(slow(kind, strict, False, 0) for kind in SEQUENCES for strict in (True, False)),
        *(slow(kind, True, True, least) for kind in SEQUENCES for least in (0, 1)),
    ],
)
def test_an_exported_sequence_runs_with_any_length_and_batch(
    kind: Any, strict: bool, train: bool, least: int
) -> None:
    module = kind(3, 4, plasticity=RETROACTIVE)
    steps, batch = torch.export.Dim("steps", min=least), torch.export.Dim("batch", min=least)
    program = exported(module, (torch.randn(6, 2, 3),), ({0: steps, 1: batch},), train, strict)
    with torch.no_grad():
        for sizes in ((6, 2), (11, 5), (1100, 3), (2, 17), (1, 1), (0, 2), (2, 0)):
            if min(sizes) >= least:
                input = torch.randn(*sizes, 3)
                torch.testing.assert_close(flat(program(input)), flat(module(input)))


@needs_native
@pytest.mark.parametrize(
    "bounds", [{"min": 2, "max": 999}, {"min": 1500, "max": 3000}, {"max": 5000}]
)
def test_bounds_of_an_exported_length_are_taken(bounds: dict[str, int]) -> None:
    module, steps = PlasticLSTM(3, 4, num_layers=2), bounds.get("min", 2) + 5
    dynamic = ({0: torch.export.Dim("steps", **bounds)},)
    program = exported(module, (torch.randn(steps, 2, 3),), dynamic, train=True)
    with torch.no_grad():
        input = torch.randn(steps + 20, 2, 3)
        torch.testing.assert_close(flat(program(input)), flat(module(input)))


@pytest.mark.parametrize("strict", [False, True])
def test_a_program_exported_from_the_reference_can_be_trained(strict: bool) -> None:
    module, input = (
        PlasticRNN(3, 4, backend="reference", dtype=torch.float64),
        torch.randn(3, 2, 3).double(),
    )
    program = torch.export.export(module, (input,), strict=strict).module()
    found, expected = (dict(each.named_parameters()) for each in (program, module))
    for each in (program, module):
        each(input)[0].square().sum().backward()
    # A program has them under its own names, or those of the module.
    close([found[name].grad for name in expected], [value.grad for value in expected.values()])


@needs_native
@pytest.mark.parametrize("strict", [False, True])
def test_who_trains_a_program_of_fused_operators_is_warned(strict: bool) -> None:
    module, input = PlasticRNN(3, 4), torch.randn(3, 2, 3)
    program = torch.export.export(module, (input,), strict=strict).module()
    with pytest.warns(UserWarning, match="an autograd kernel was not registered"):
        program(input)[0].sum().backward()
