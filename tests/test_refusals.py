"""What the library does not do is said in one line, at once; what torch.nn takes with its default value is taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import needs_native
from torch.autograd import forward_ad

from plastikern import (
    PlasticLinear,
    PlasticLinearCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
    load,
    save,
)

MODULES = (
    PlasticRNN,
    PlasticRNNCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticLinear,
    PlasticLinearCell,
)


def one_line(error: pytest.ExceptionInfo[Any]) -> bool:
    return "\n" not in str(error.value)


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("backend", ["cpuu", "", 3])
def test_a_backend_that_does_not_exist_is_refused_where_a_module_is_made(
    kind: Any, backend: Any
) -> None:
    with pytest.raises(
        ValueError, match=f"^{kind.__name__}: backend must be one of reference, cpu, .*; got"
    ) as error:
        kind(3, 4, backend=backend)
    assert one_line(error)


@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM])
def test_options_of_torch_are_taken_with_their_default_values_only(
    kind: Any, tmp_path: Any
) -> None:
    module = kind(3, 4, bidirectional=False, proj_size=0)
    assert module(torch.randn(5, 2, 3))[0].shape == (5, 2, 4)
    several = torch.tensor([1, 2])
    for option in (
        {"bidirectional": True}, {"proj_size": 2}, {"bidirectional": "no"}, {"bidirectional": several},
        {"proj_size": several}, {"proj_size": None},
    ):  # fmt: skip
        (name,) = option
        with pytest.raises(ValueError, match=f"^{kind.__name__}: {name} must be ") as error:
            kind(3, 4, **option)
        assert one_line(error)
    pytest.importorskip("safetensors")
    save(module, tmp_path / "module.safetensors")
    assert type(load(tmp_path / "module.safetensors")) is kind


@needs_native
@pytest.mark.parametrize("kind", MODULES)
def test_forward_mode_and_tracing_are_refused_by_the_kernels(kind: Any) -> None:
    fused, reference = kind(3, 4, backend="cpu"), kind(3, 4, backend="reference")
    input = torch.randn(2, 3) if "Cell" in kind.__name__ else torch.randn(5, 2, 3)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(input, torch.ones_like(input))
        with pytest.raises(
            RuntimeError, match="no forward-mode derivatives; backend='reference' has"
        ) as error:
            fused(dual)
        assert one_line(error)
        assert forward_ad.unpack_dual(reference(dual)[0]).tangent is not None
    with pytest.raises(
        RuntimeError, match=r"torch\.jit\.trace cannot record the fused kernels"
    ) as error:
        torch.jit.trace(fused, input, strict=False, check_trace=False)
    assert one_line(error)


@needs_native
@pytest.mark.parametrize("kind", MODULES)
def test_onnx_is_given_the_reference_and_the_kernels_refuse_it_in_one_line(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What torch.onnx.export does first; what it does then needs the package onnxscript.
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    input = torch.randn(2, 3) if "Cell" in kind.__name__ else torch.randn(5, 2, 3)
    with torch.no_grad():
        program = torch.export.export(kind(3, 4), (input,), strict=False)
        assert not [node for node in program.graph.nodes if "plastikern" in str(node.target)]
        with pytest.raises(
            RuntimeError, match="ONNX has no form for the fused kernels; backend='reference'"
        ):
            torch.export.export(kind(3, 4, backend="cpu"), (input,), strict=False)


@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM])
@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_native)])
def test_a_finished_rollout_takes_no_further_step(kind: Any, backend: str) -> None:
    network = kind(3, 4, backend=backend)
    rollout = network.rollout(3, 2)
    rollout.step(torch.randn(2, 3))
    output, _ = rollout.finish()
    with pytest.raises(RuntimeError, match="rollout: it is finished, and takes no further step"):
        rollout.step(torch.randn(2, 3))
    output.sum().backward()
