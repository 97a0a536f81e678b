"""Which backend serves a call: the caller's choice comes first, and a backend that cannot says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Case, needs_native

import plastikern
import plastikern.functional as PF
from plastikern import PlasticRNN, PlasticRNNCell, library, use_backend
from plastikern.backends import FUSED


def serving(backend: str | None = None, **changes: torch.Tensor) -> str:
    """Name of the backend that really served a call: the node of the fused one in the graph tells."""
    output, *_ = PF.plastic_rnn_sequence(**{**Case().inputs(), **changes}, backend=backend)
    return "cpu" if "PlasticNetworkBackward" in type(output.grad_fn).__name__ else "reference"


@needs_native
def test_the_argument_wins_over_the_block_and_the_block_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PLASTIKERN_BACKEND", raising=False)
    assert serving() == "cpu"
    monkeypatch.setenv("PLASTIKERN_BACKEND", "reference")
    assert serving() == "reference" and serving("cpu") == "cpu"
    with use_backend("cpu"):
        assert serving() == "cpu" and serving("reference") == "reference"
        with use_backend("reference"):
            assert serving() == "reference" and serving("cpu") == "cpu"
        assert serving() == "cpu"
    assert serving() == "reference"
    monkeypatch.setenv("PLASTIKERN_BACKEND", "")
    assert serving() == "cpu"


def test_a_block_that_fails_gives_the_choice_back() -> None:
    before = serving()
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert serving() == before


@needs_native
def test_a_module_hands_its_backend_on() -> None:
    for backend, name in (("reference", "reference"), ("cpu", "cpu"), (None, "cpu")):
        _, state = PlasticRNN(2, 3, backend=backend)(torch.ones(2, 1, 2))
        cell = PlasticRNNCell(2, 3, backend=backend)(torch.ones(1, 2))
        assert isinstance(
            state.trace.grad_fn.next_functions[0][0], torch.autograd.function.BackwardCFunction
        ) == (name == "cpu")
        assert isinstance(cell.trace.grad_fn, torch.autograd.function.BackwardCFunction) == (
            name == "cpu"
        )


def test_an_unknown_name_is_refused_with_those_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"backend must be one of reference, cpu.*; got 'gpu'"):
        serving("gpu")
    with (
        pytest.raises(ValueError, match=r"name must be one of reference, cpu.*; got 'gpu'"),
        use_backend("gpu"),
    ):
        pass
    monkeypatch.setenv("PLASTIKERN_BACKEND", "gpu")
    with pytest.raises(
        ValueError, match=r"PLASTIKERN_BACKEND must be one of reference, cpu.*; got 'gpu'"
    ):
        serving()


@needs_native
def test_what_the_fused_backend_cannot_serve_falls_to_the_reference_unless_it_was_named() -> None:
    meta = {
        name: tensor.detach().to("meta").requires_grad_()
        for name, tensor in Case().inputs().items()
    }
    assert serving(**meta) == "reference"
    with pytest.raises(RuntimeError, match=r"'cpu' cannot serve this call: .* on meta"):
        serving("cpu", **meta)


def test_without_the_native_library_the_reference_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "MISSING", "not built (no compiler)")
    monkeypatch.delitem(
        FUSED, "emulated", raising=False
    )  # which other tests of this process may have added
    assert serving() == "reference"
    with pytest.raises(
        RuntimeError, match=r"'cpu' cannot serve this call: .*not built \(no compiler\)"
    ):
        serving("cpu")
    output, state = PlasticRNN(3, 4)(torch.randn(2, 1, 3))
    (output.sum() + state.trace.sum()).backward()
    info = plastikern.build_info()
    assert (
        info["library"] is None
        and info["native"] == {}
        and "not built (no compiler)" in info["backends"]["cpu"]
    )


def test_build_info_tells_what_is_there() -> None:
    info = plastikern.build_info()
    assert info["version"] == plastikern.__version__ and info["torch"] == torch.__version__
    assert {"reference", "cpu"} <= info["backends"].keys()
    if library.MISSING is None:
        assert Path(info["library"]).is_file() and info["native"]["capability"] in (
            "default",
            "avx2",
            "avx512",
        )


@pytest.mark.parametrize("backend", [None, "reference"])
def test_the_command_prints_what_is_built_and_what_serves_which_device(backend: str | None) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(plastikern.__file__).parents[1])}
    environment |= {} if backend is None else {"PLASTIKERN_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-m", "plastikern"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert f"plastikern {plastikern.__version__}, torch {torch.__version__}" in done.stdout
    assert str(plastikern.build_info()["library"] or "native library: none") in done.stdout
    served = "reference" if library.MISSING or backend == "reference" else "cpu"
    assert f"device cpu: served by {served}" in done.stdout
