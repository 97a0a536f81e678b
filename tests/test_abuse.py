"""Any argument may be anything: a call ends in an error that names it, or in what the reference gives."""

from __future__ import annotations

import inspect
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import KINDS, SIMPLE, VARIANTS, Case, needs_native, ruled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import plastikern.functional as PF
from plastikern import (
    LinearState,
    LSTMState,
    Modulator,
    Plasticity,
    PlasticLinear,
    PlasticLinearCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
    RNNState,
    convert,
    explain,
    use_backend,
)
from plastikern.program import read, sizes_of

ROOT = Path(__file__).resolve().parents[1]
ERRORS = (TypeError, ValueError, RuntimeError, NotImplementedError)
CASES = {
    **VARIANTS,
    **{f"{rule}-{kind}": Case(plasticity=ruled(rule, kind)) for rule, kind in KINDS},
}
NOT_NUMBERS = ("nan", "inf", "one nan", "one inf")


def spoiled(tensor: Tensor, how: str) -> Any:
    """A tensor that is wrong, or odd, in one way."""
    tensor, floating = tensor.detach(), tensor.is_floating_point()
    numbers = {"nan": math.nan, "inf": math.inf, "denormal": 1e-40, "large": 1e15}
    if (number := numbers.get(how.removeprefix("one "))) is not None:
        found = (
            tensor.clone()
            if how.startswith("one ") or not floating
            else torch.full_like(tensor, number)
        )
        if floating and how.startswith("one ") and found.numel():
            found.view(-1)[-1] = number
        return found
    changes: dict[str, Callable[[], Any]] = {
        "more dimensions": lambda: tensor.unsqueeze(0), "a last dimension": lambda: tensor.unsqueeze(-1),
        "flat": lambda: tensor.flatten(), "empty": lambda: tensor.new_zeros(0),
        "first half": lambda: tensor[: len(tensor) // 2] if tensor.dim() else tensor,
        "twice": lambda: torch.cat([tensor, tensor]) if tensor.dim() else tensor,
        "no last": lambda: tensor[..., :0] if tensor.dim() else tensor,
        "expanded": lambda: tensor[:1].expand(tensor.shape) if tensor.dim() else tensor.expand(()),
        "turned": lambda: tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor,
        "every other": lambda: torch.stack([tensor, tensor], -1)[..., 0],
        "negated view": lambda: torch.complex(tensor, -tensor).conj().imag if floating else tensor,
        "parameter": lambda: torch.nn.Parameter(tensor) if floating else tensor,
        "subclass": lambda: tensor.as_subclass(type("Sub", (Tensor,), {})),
        "int64": tensor.long, "bool": tensor.bool, "half": tensor.half, "bfloat16": tensor.bfloat16,
        "single": tensor.float, "double": tensor.double, "complex": lambda: tensor.to(torch.complex64),
        "on meta": lambda: tensor.to("meta"), "sparse": tensor.to_sparse, "a list": tensor.tolist,
        "an array": tensor.numpy,
    }  # fmt: skip
    return changes[how]()


SPOILED = (
    *NOT_NUMBERS, "denormal", "large", "more dimensions", "a last dimension", "flat", "empty", "first half", "twice",
    "no last", "expanded", "turned", "every other", "negated view", "parameter", "subclass", "int64", "bool", "half",
    "bfloat16", "single", "double", "complex", "on meta", "sparse", "a list", "an array",
)  # fmt: skip
OTHERS: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 2.5, math.nan, 2**70, -(2**70), "x", "tanh", "hebb", (), [], {}, object(), [9, 0],
    [-1, 1], [2**70, 1], [1, 2], [1.5, 2], [True, False], torch.tensor(3), torch.tensor([1, 2], dtype=torch.uint8),
    torch.tensor([1.0, 2.0]), torch.zeros(2, device="meta", dtype=torch.int64), torch.float64, torch.device("meta"),
)  # fmt: skip
"""What no argument is, or only some are."""


def changed(draw: st.DataObject, value: Any) -> tuple[Any, str]:
    """The value spoiled, or another in its place; and in what way."""
    if isinstance(value, Modulator) and draw.draw(st.integers(0, 9)):
        field = draw.draw(st.sampled_from(Modulator._fields))
        inner, how = changed(draw, getattr(value, field))
        return value._replace(**{field: inner}), how
    if isinstance(value, Tensor) and draw.draw(st.booleans()):
        how = draw.draw(st.sampled_from(SPOILED))
        return spoiled(value, how), how
    return draw.draw(st.sampled_from(OTHERS)), "another"


def leaves(arguments: Mapping[str, Any]) -> list[Tensor]:
    values = [
        *arguments.values(),
        *(arguments["modulator"] if isinstance(arguments.get("modulator"), Modulator) else ()),
    ]
    return [
        value
        for value in values
        if isinstance(value, Tensor) and value.requires_grad and value.is_leaf
    ]


def outcome(
    function: Any, arguments: Mapping[str, Any], grad: bool
) -> tuple[Exception | None, list[Tensor], list[Tensor]]:
    """The error, or the results and their gradients."""
    try:
        with torch.set_grad_enabled(grad):
            results = [*function(**arguments)]
        inputs, differentiable = (
            leaves(arguments),
            [result for result in results if result.requires_grad],
        )
        if not (inputs and differentiable):
            return None, results, []
        loss = torch.stack([result.double().sum() for result in differentiable]).sum()
        found = torch.autograd.grad(loss, inputs, allow_unused=True)
        zeros = (
            torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)
        )
        return None, results, [*zeros]
    except ERRORS as error:
        return error, [], []


def all_finite(tensors: list[Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors if not tensor.is_meta)


@needs_native
@settings(max_examples=400)
@given(st.data())
def test_a_function_names_what_is_wrong_or_gives_what_the_reference_gives(
    data: st.DataObject,
) -> None:
    case = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    case = replace(
        case,
        lengths=data.draw(st.sampled_from((None, (7, 4)))),
        batch_first=data.draw(st.booleans()),
    )
    dtype = data.draw(st.sampled_from((torch.float32, torch.float64)))
    arguments = case.arguments(case.inputs(dtype))
    single = data.draw(st.booleans())
    if single:
        for name in ("input", "drive", "clamp"):
            if arguments.get(name) is not None:
                arguments[name] = (
                    arguments[name]
                    .select(1 if case.batch_first else 0, 0)
                    .detach()
                    .requires_grad_(name != "clamp")
                )
        for name in ("lengths", "reset", "reset_state", "batch_first", "checkpoint_every"):
            del arguments[name]
    function = getattr(PF, f"plastic_{case.network}_{'step' if single else 'sequence'}")
    name = data.draw(st.sampled_from(sorted(arguments)))
    arguments[name], how = changed(data, arguments[name])
    grad = data.draw(st.booleans())
    expected, right, right_gradients = outcome(
        function, {**arguments, "backend": "reference"}, grad
    )
    error, found, gradients = outcome(function, {**arguments, "backend": None}, grad)
    for raised in (expected, error):
        assert raised is None or str(raised).startswith(f"{function.__name__}: "), raised
    assert (error is None) == (expected is None), (error, expected)
    if error is not None:
        assert str(error) == str(expected)
        return
    assert [(x.shape, x.dtype, x.device) for x in found] == [
        (x.shape, x.dtype, x.device) for x in right
    ]
    assert [x.shape for x in gradients] == [x.shape for x in right_gradients]
    if not all_finite(right):
        assert not all_finite(found), "what is no number must not vanish"
    if how in (*NOT_NUMBERS, "large"):
        return  # which of the results rounding spoils, and 0 times infinity, may differ
    coarse = dtype == torch.float32 or how in ("half", "bfloat16", "single")
    for ours, theirs in zip([*found, *gradients], [*right, *right_gradients], strict=True):
        if ours.is_meta or not ours.numel():
            continue
        bound = (1e-3 if coarse else 1e-9) * max(1.0, float(theirs.detach().double().abs().max()))
        assert float((ours.double() - theirs.double()).detach().abs().max()) <= bound


MODULES = (
    PlasticRNN,
    PlasticRNNCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticLinear,
    PlasticLinearCell,
)
SIZES = (3, 4)
STATES: tuple[Any, ...] = (
    RNNState(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, 4)), RNNState(torch.zeros(2, 4), torch.zeros(2, 4, 4)),
    LSTMState(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, 4)), LinearState(torch.zeros(2, 4, 3)),
    (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, 4).double()),
    (torch.zeros(1, 2, 4).to_sparse(), torch.zeros(1, 2, 4, 4)),
    (torch.zeros(1, 2, 4, device="meta"), torch.zeros(1, 2, 4, 4)), (torch.zeros(1, 2, 4),),
)  # fmt: skip
TENSORS: tuple[Any, ...] = tuple(
    torch.zeros(shape, dtype=dtype)
    for shape in (
        (),
        (3,),
        (4,),
        (2, 3),
        (2, 4),
        (5, 2, 3),
        (5, 2, 4),
        (0, 2, 3),
        (5, 0, 3),
        (0, 3),
        (5, 2, 0),
    )
    for dtype in (
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.int64,
        torch.bool,
        torch.complex64,
    )
)
ANYTHING = (
    *OTHERS,
    *STATES,
    *TENSORS,
    torch.zeros(5, 2, 3).to_sparse(),
    torch.zeros(5, 2, 3, device="meta"),
)


def named(error: Exception, arguments: list[str]) -> bool:
    return any(argument in str(error) for argument in arguments)


@settings(max_examples=300)
@given(st.data())
def test_a_module_names_what_is_wrong(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(MODULES))
    options = dict(zip(inspect.signature(kind).parameters, SIZES, strict=False))
    # A device is torch's to refuse.
    wrong = data.draw(
        st.sampled_from([name for name in inspect.signature(kind).parameters if name != "device"])
    )
    values = (
        *OTHERS,
        Plasticity(**SIMPLE),
        torch.zeros(4, dtype=torch.bool),
        torch.zeros(4),
        torch.int64,
    )
    options[wrong] = data.draw(st.sampled_from(values))
    shape = (2, 3) if kind.__name__.endswith("Cell") else (5, 2, 3)
    try:
        kind(**options)(torch.zeros(shape))
    except ERRORS as error:
        # A module of another size refuses the input of this one.
        assert named(error, [wrong, "input", "dtype"]), error


@settings(max_examples=300)
@given(st.data())
def test_a_call_of_a_module_names_what_is_wrong_or_gives_what_the_reference_gives(
    data: st.DataObject,
) -> None:
    kind = data.draw(st.sampled_from(MODULES))
    rules = (
        Plasticity(),
        Plasticity(fan_out="neuron", **SIMPLE),
        Plasticity(modulation="retroactive"),
    )
    torch.manual_seed(0)
    module = kind(*SIZES, plasticity=data.draw(st.sampled_from(rules)))
    wrong = data.draw(st.sampled_from([*inspect.signature(kind.forward).parameters][1:]))
    inputs = {"input": torch.ones((2, 3) if kind.__name__.endswith("Cell") else (5, 2, 3))}
    inputs[wrong] = data.draw(st.sampled_from(ANYTHING))
    results: list[Any] = []
    for backend in ("reference", None):
        module.backend = backend
        try:
            results.append(
                [
                    x
                    for x in torch.utils._pytree.tree_leaves(module(**inputs))
                    if isinstance(x, Tensor)
                ]
            )
        except ERRORS as error:
            assert named(
                error, [wrong, "hidden", "trace", "cell"] if wrong == "state" else [wrong]
            ), error
            results.append(str(error))
    assert type(results[0]) is type(results[1])
    if isinstance(results[0], str):
        assert results[0] == results[1]
    else:
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5, equal_nan=True)


SMALL = PlasticRNN(3, 4)
FUNCTIONS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (Plasticity, {field.name: field.default for field in fields(Plasticity) if field.init}),
    (PF.modulator_signal, {
        "source": torch.zeros(2, 4), "modulator": Modulator(torch.zeros(4), torch.zeros(())),
        "plasticity": Plasticity(**SIMPLE),
    }),
    (convert.from_torch, {"module": torch.nn.RNN(3, 4), "plasticity": Plasticity()}),
    (convert.to_torch, {"module": SMALL}),
    (convert.from_authors, {"parameters": {}, "module": SMALL, "orientation": "columns", "layer": 0}),
    (explain, {"module": SMALL, "batch": 2, "steps": 3, "device": "A100"}),
    (lambda name: use_backend(name).__enter__(), {"name": "reference"}),
]  # fmt: skip


@needs_native
@settings(max_examples=200)
@given(st.data())
def test_every_other_function_names_what_is_wrong(data: st.DataObject) -> None:
    function, arguments = data.draw(st.sampled_from(FUNCTIONS))
    wrong = data.draw(st.sampled_from([*arguments]))
    with use_backend("reference"):
        try:
            function(**{**arguments, wrong: data.draw(st.sampled_from(ANYTHING))})
        except ERRORS as error:
            assert named(error, [wrong, "parameters", "modulator.weight"]), error


HUGE = 2**31 + 8


@pytest.mark.parametrize("network", ["rnn", "lstm", "linear"])
def test_what_does_not_fit_into_memory_is_refused(network: str) -> None:
    """By strides: every tensor that is given is one number, or one row."""
    neurons = 2**22
    case = Case(steps=2, batch=1, neurons=1, features=1, network=network)
    shapes = replace(case, neurons=neurons, features=neurons).distributions()
    wide = {name: shape for name, (shape, *_) in shapes.items()}
    inputs = {
        name: x if x.dim() == 0 else x.detach().flatten()[0].expand(wide[name])
        for name, x in case.inputs().items()
    }
    assert inputs["trace"].numel() > HUGE
    with (
        torch.no_grad(),
        pytest.raises((RuntimeError, MemoryError), match=r"memory|bad_alloc|invalid size"),
    ):
        case.sequence(inputs, None)


@needs_native
@pytest.mark.parametrize("network", ["rnn", "lstm", "linear"])
def test_shapes_of_results_beyond_31_bits(network: str) -> None:
    """Under fake tensors the operators have their shapes, and no memory."""
    steps, batch, neurons = 3, 70_000, 500
    assert (
        batch * neurons * neurons > HUGE and steps * batch * neurons * 4 < batch * neurons * neurons
    )
    wide = Case(steps, batch, neurons, ruled("oja", "clip"), features=neurons, network=network)
    with FakeTensorMode():
        shapes = {name: shape for name, (shape, *_) in wide.distributions().items()}
        inputs = {name: torch.empty(shape, requires_grad=True) for name, shape in shapes.items()}
        outputs = wide.sequence(inputs, "cpu")
        assert outputs["trace"].shape == (batch, neurons, neurons) and outputs["output"].shape == (
            steps,
            batch,
            neurons,
        )
        gradients = torch.autograd.grad(outputs["trace"].sum(), [inputs["trace"], inputs["weight"]])
    assert [gradient.shape for gradient in gradients] == [shapes["trace"], shapes["weight"]]
    drive, alpha = torch.empty(steps, HUGE, 8, device="meta"), torch.empty(())
    words = read("rnn hebb decay tanh candidate none hidden tanh").words
    assert math.prod(sizes_of(words, {"drive": drive, "alpha": alpha}).shape("BOI")) == HUGE * 64


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="uses g++")
def test_no_index_of_a_kernel_is_narrowed_to_31_bits(tmp_path: Path) -> None:
    """The compiler names every place where 64 bits of an integer go into fewer without a cast."""
    toolchain = pytest.importorskip("build_backend.toolchain")
    try:
        compiler, installed = toolchain.find_compiler(), toolchain.find_torch()
    except toolchain.BuildError:
        pytest.skip("no C++ compiler")
    flags = [
        toolchain.LANGUAGE, "-fsyntax-only", "-Wconversion", "-Wno-unknown-pragmas", "-Icsrc", "-Itests/cuda_emulator",
        "-isystem", str(installed.folder / "include"), f"-DTORCH_TARGET_VERSION={toolchain.TORCH_TARGET_VERSION}",
        "-DPLASTIKERN_CAPABILITY=default", "-DPLASTIKERN_SCALAR=float", "-DPLASTIKERN_EMULATED", "-x", "c++",
    ]  # fmt: skip
    sources = sorted(
        [
            *ROOT.glob("csrc/cpu/*.cpp"),
            *ROOT.glob("csrc/cuda/*.cu"),
            ROOT / "csrc" / "cuda" / "plan.cpp",
        ]
    )
    assert len(sources) > 8
    (tmp_path / "narrow.cpp").write_text(
        "#include <cstdint>\nint narrow(int64_t size) { return size; }\n"
    )
    in_english = {**os.environ, "LC_ALL": "C"}
    for source in [*sources, tmp_path / "narrow.cpp"]:
        command = [*compiler.command, *flags, str(source)]
        said = subprocess.run(
            command, cwd=ROOT, env=in_english, capture_output=True, text=True, check=False
        )
        assert said.returncode == 0, said.stderr
        warned = [line for line in said.stderr.splitlines() if "[-Wconversion]" in line]
        narrowed = [line for line in warned if not re.search(r"to '(float|double)'", line)]
        assert bool(narrowed) == (source.parent == tmp_path), narrowed


@needs_native
def test_offsets_into_a_long_sequence_are_counted_in_64_bits(tmp_path: Path) -> None:
    """Step 40,000 of 70,000 elements lies 2.8 million rows, and more than 2**31 numbers, behind the first."""
    toolchain = pytest.importorskip("build_backend.toolchain")
    try:
        compiler = toolchain.find_compiler()
    except toolchain.BuildError:
        pytest.skip("no C++ compiler")
    program = tmp_path / "offsets.cpp"
    program.write_text(
        '#include "network.h"\n'
        "using namespace plastikern;\n"
        "int main() {\n"
        "  const int64_t batch = 70000, neurons = 1001, t = 40000, b = 69999;\n"
        "  float* first = reinterpret_cast<float*>(uintptr_t{1} << 40);\n"
        "  const Sequence<float> sequence{first, batch * neurons, neurons};\n"
        "  return sequence.at(t, b) - first == (t * batch + b) * neurons ? 0 : 1;\n"
        "}\n"
    )
    binary = str(tmp_path / "offsets")
    flags = [toolchain.LANGUAGE, f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'cpu'}"]
    subprocess.run(
        [*compiler.command, *flags, str(program), "-o", binary],
        check=True,
        capture_output=True,
        text=True,
    )
    assert subprocess.run([binary], check=False).returncode == 0
