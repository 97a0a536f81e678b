"""The way of a call from a module to its operator: how many Python frames, what an operator says, what is passed on."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from conftest import needs_native

import plastikern
from plastikern import Plasticity, PlasticLSTM, PlasticRNN, PlasticRNNCell
from plastikern.ops import fused
from plastikern.program import OPERANDS, program_of

FOLDER = str(Path(plastikern.__file__).parent)


def frames_on_the_way(module: torch.nn.Module, *inputs: Any) -> list[str]:
    """Functions of plastikern between ``forward`` and the operator, the outer ones first."""
    stacks: list[list[str]] = []

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        # An OpOverload is called by a Python function of torch.
        if event != "call" or not isinstance(frame.f_locals.get("self"), torch._ops.OpOverload):
            return
        if frame.f_locals["self"].namespace != "plastikern":
            return
        names, at = [], frame.f_back
        while at is not None:
            if at.f_code.co_filename.startswith(FOLDER):
                names.append(at.f_code.co_name)
            at = at.f_back
        stacks.append(names[::-1])

    module(*inputs)  # caches are filled
    sys.setprofile(profile)
    try:
        module(*inputs)
    finally:
        sys.setprofile(None)
    assert len(stacks) == 1 and stacks[0][0] == "forward"
    return stacks[0][1:]


@needs_native
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM, PlasticRNNCell])
@pytest.mark.parametrize("training", [True, False])
def test_at_most_five_functions_lie_between_a_module_and_its_operator(
    kind: Any, training: bool
) -> None:
    input = torch.randn(2, 4) if kind is PlasticRNNCell else torch.randn(3, 2, 4)
    with torch.set_grad_enabled(training):
        found = frames_on_the_way(kind(4, 8), input)
    assert 1 <= len(found) <= 5, found


@needs_native
def test_an_error_of_an_operator_names_the_operand_with_what_was_got_and_expected() -> None:
    program = program_of("test", "rnn", Plasticity())
    tensors = {
        "drive": torch.zeros(2, 4), "weight": torch.zeros(4, 4), "alpha": torch.zeros(()), "rate": torch.zeros(())
    }  # fmt: skip

    def step(**changed: torch.Tensor) -> None:
        given = {**tensors, **changed}
        torch.ops.plastikern.step([*given.values()], " ".join(given), program.key, 1.0, False)

    step()
    for change, message in (
        ({"weight": torch.zeros(4, 5)}, r"^plastikern: weight must have shape \(4, 4\); got \(4, 5\)$"),
        ({"weight": torch.zeros(4, 4).double()}, "^plastikern: weight must have dtype Float; got Double$"),
        ({"cell": torch.zeros(2, 4)}, "^plastikern: cell is for an LSTM$"),
        ({"lengths": torch.ones(2).long()}, "^plastikern: lengths is for a sequence$"),
        ({"modulator_weight": torch.zeros(4)}, "^plastikern: modulator_weight is for a network with a modulator$"),
        ({"nobody": torch.zeros(4)}, "^plastikern: there is no tensor 'nobody' in this call$"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=message):
            step(**change)
    del tensors["rate"]
    with pytest.raises(RuntimeError, match=r"^plastikern: rate is missing$"):
        step()


@needs_native
def test_what_an_operator_refuses_is_explained_and_everything_else_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell, input = PlasticRNNCell(4, 8), torch.randn(2, 4)
    calls: list[str] = []

    def failing(message: str) -> Any:
        def operator(*arguments: Any) -> Any:
            calls.append(message)
            raise RuntimeError(message)

        return lambda backend, name: operator

    for message in ("a fault of the device", "plastikern: what no check has found"):
        monkeypatch.setattr(fused, "_operator", failing(message))
        with torch.no_grad(), pytest.raises(RuntimeError, match=f"^{message}$"):
            cell(input)
        assert calls.pop() == message and not calls, "an operator is called once"
    monkeypatch.setattr(fused, "_operator", failing("plastikern: out of memory. Tried to allocate"))
    for training in (True, False):
        with torch.set_grad_enabled(training), pytest.raises(torch.OutOfMemoryError):
            cell(input)


def test_names_of_operands_are_said_once() -> None:
    names = [operand.name for operand in OPERANDS]
    assert len(set(names)) == len(names)


MOST = 8
"""Parameters that a call may give by their position."""
SOURCES = Path(FOLDER).parent / "csrc"


def parameters_by_position(path: Path) -> Iterator[tuple[str, int]]:
    """Functions of a module, with how many; not those that Triton compiles, which knows no others."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        decorators = [] if isinstance(node, ast.Lambda) else map(ast.unparse, node.decorator_list)
        if any("jit" in decorator for decorator in decorators):
            continue
        names = [argument.arg for argument in node.args.posonlyargs + node.args.args]
        own = names[:1] in (["self"], ["cls"])
        yield f"{path.name}: {getattr(node, 'name', 'lambda')}", len(names) - own


def parameters_of(text: str) -> Iterator[tuple[str, int]]:
    """Functions that a C++ file defines or declares, with how many parameters each has."""
    text = re.sub(r'//[^\n]*|"(\\.|[^"\\])*"', "", text)
    for found in re.finditer(r"[\w>\]][&*]* +[&*]?(\w+)\(", text):
        if re.search(r"\b(return|else|new|throw|case)\s+[&*]?\w+\($", found.group()):
            continue
        depth, count, at = 1, 1, found.end()
        while depth and at < len(text):
            depth += (text[at] in "([{<") - (text[at] in ")]}>" and text[at - 1] != "-")
            count += text[at] == "," and depth == 1
            at += 1
        yield found.group(1), count


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(Path(FOLDER).rglob("*.py")) if "generated" not in path.parts],
    ids=lambda path: str(path.relative_to(FOLDER)),
)
def test_no_function_has_more_than_eight_parameters_by_position(path: Path) -> None:
    assert not [found for found in parameters_by_position(path) if found[1] > MOST]


def test_no_function_in_cpp_has_more_than_eight_parameters() -> None:
    # One synapse of the CUDA kernels, in registers; and a function of torch's.
    allowed = {("backward_kernels.cu", "change"), ("ops.cpp", "torch_from_blob")}
    files = [path for path in sorted(SOURCES.rglob("*.*")) if "generated" not in path.parts]
    assert len(files) > 30
    found = [(path.name, *each) for path in files for each in parameters_of(path.read_text())]
    assert len(found) > 300
    many = {(name, function) for name, function, count in found if count > MOST}
    assert many <= allowed, many - allowed


def test_parameters_of_functions_in_cpp_are_counted() -> None:
    text = """
    template <class P, int N> // of, a, comment
    std::vector<int> f(const std::pair<int, P>& a, int b = g(1, 2), const char* c = "x, y",
                       void (*d)(int, int)) { return h(1, 2, 3); }
    """
    assert dict(parameters_of(text))["f"] == 4
