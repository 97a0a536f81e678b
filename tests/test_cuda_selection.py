"""The backend ``cuda`` is chosen from what the card and the build are: both are played here, for want of a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import needs_native

from plastikern import PlasticRNN, backends, explain, library
from plastikern.backends import code_for


@pytest.mark.parametrize(
    ("capability", "built", "entry"),
    [
        ((9, 0), ["8.0", "9.0+PTX"], "9.0+PTX"),
        ((8, 6), ["8.0", "9.0+PTX"], "8.0"),
        ((8, 9), ["8.0", "8.6", "9.0"], "8.6"),
        ((7, 5), ["8.0", "12.0+PTX"], None),
        ((8, 0), ["8.6"], None),
        ((10, 0), ["9.0"], None),
        ((10, 3), ["9.0+PTX"], "9.0+PTX"),
        ((10, 3), ["8.0+PTX", "9.0+PTX"], "9.0+PTX"),
        ((9, 0), ["9.0a"], "9.0a"),
        ((10, 3), ["10.0a"], None),
        ((10, 3), ["10.0f"], "10.0f"),
        ((12, 0), ["10.0f"], None),
        ((9, 0), [], None),
    ],
)
def test_code_runs_on_its_generation_and_ptx_on_every_later_one(
    capability: tuple[int, int], built: list[str], entry: str | None
) -> None:
    assert code_for(capability, built) == entry


class Card:
    """A card that torch believes in as far as the choice of a backend goes; no tensor can be on it."""

    device = torch.device("cuda:0")
    dtype = torch.float32


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def play(
        capability: tuple[int, int], built: list[str], driver: int = 13, triton: str | None = None
    ) -> None:
        info = {"cuda": "nvcc 13.0", "cuda_architectures": built}
        monkeypatch.setattr(library, "MISSING", None)
        monkeypatch.setattr(library, "info", lambda: info)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
        monkeypatch.setattr(backends, "_driver", lambda: driver)
        monkeypatch.setitem(
            backends.FUSED, "triton", backends.FUSED["triton"]._replace(missing=lambda: triton)
        )
        backends._missing_code.cache_clear()

    yield play
    backends._missing_code.cache_clear()


def test_a_card_that_the_build_has_code_for_is_served_by_it(play: Any) -> None:
    play((9, 0), ["8.0", "9.0+PTX"])
    assert backends.select(None, Card()) == backends.select("cuda", Card()) == "cuda"


def test_a_card_without_code_falls_to_triton_then_to_the_reference(play: Any) -> None:
    play((7, 5), ["8.0", "9.0+PTX"])
    assert backends.select(None, Card()) == "triton"
    with pytest.raises(
        RuntimeError,
        match=r"code for compute capability 8\.0, 9\.0\+PTX, and cuda:0 \(Tesla T4\) has 7\.5",
    ):
        backends.select("cuda", Card())
    play((7, 5), ["8.0", "9.0+PTX"], triton="the package triton is not installed")
    assert backends.select(None, Card()) == "reference"


def test_a_driver_older_than_the_toolkit_is_named_before_it_fails(play: Any) -> None:
    play((9, 0), ["9.0+PTX"], driver=12)
    assert backends.select(None, Card()) == "triton"
    with pytest.raises(
        RuntimeError, match=r"built by nvcc 13\.0, and the driver of cuda:0 .* is for CUDA 12"
    ):
        backends.select("cuda", Card())


def test_the_device_is_told_with_the_reason(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    play((7, 5), ["9.0+PTX"])
    monkeypatch.setattr(torch, "empty", lambda *shape, device: Card())
    assert backends.serving("cuda:0").startswith(
        "served by triton; not by cuda: the native library has code for"
    )
    play((9, 0), ["9.0+PTX"])
    assert backends.serving("cuda:0") == "served by cuda"


@needs_native
@pytest.mark.parametrize(
    ("device", "told"),
    [("H100", "9.0+PTX runs on compute capability 9.0"), ("A100", "none in this")],
)
def test_explain_says_whether_the_build_has_code_for_a_card(
    device: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "info", lambda: {"cuda_architectures": ["9.0+PTX"]})
    code = explain(PlasticRNN(3, 10), 2, device=device).splitlines()[1]
    assert code.startswith("code: ") and told in code
