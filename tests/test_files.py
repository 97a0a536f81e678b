"""Modules in files and state dicts: made anew from the file alone, on any backend, from older formats, and no code."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BACKENDS, needs_native
from torch import Tensor, nn

import plastikern
from experiments.common import checkpoint
from experiments.common.config import ExperimentError
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
)

DATA = Path(__file__).parent / "data"
KINDS = (
    PlasticRNN, PlasticRNNCell, PlasticLSTM, PlasticLSTMCell, PlasticGRU, PlasticGRUCell, PlasticLinear,
    PlasticLinearCell,
)  # fmt: skip
HALF = torch.tensor([True, False, True, False])
RULES = [
    Plasticity(rule="oja", constraint="none", alpha="neuron", eta="connection", learn_eta=False),
    Plasticity(
        constraint="clip",
        clip=0.7,
        modulation="simple",
        fan_out="neuron",
        modulator_nonlinearity="sigmoid",
    ),
    Plasticity(constraint="soft_clip", modulation="retroactive", eta="neuron", alpha_init=0.3),
]
OTHERWISE: dict[type[nn.Module], dict[str, Any]] = {
    PlasticRNN: {
        "num_layers": 2,
        "nonlinearity": "sigmoid",
        "batch_first": True,
        "dropout": 0.25,
        "bias": False,
    },
    PlasticRNNCell: {"nonlinearity": "relu"},
    PlasticLSTM: {"num_layers": 2, "post": "cell", "checkpoint_every": 3},
    PlasticLSTMCell: {"post": "hidden", "bias": False},
    PlasticGRU: {"num_layers": 2, "post": "recurrent", "batch_first": True},
    PlasticGRUCell: {"post": "hidden", "bias": False},
    PlasticLinear: {"bias": True, "nonlinearity": "identity", "batch_first": True},
    PlasticLinearCell: {"nonlinearity": "tanh"},
}


def flat(result: Any) -> list[Tensor]:
    return [
        x
        for part in result
        for x in ((part,) if isinstance(part, Tensor) else part or ())
        if x is not None
    ]


def same(left: nn.Module, right: nn.Module) -> None:
    input = torch.randn(5, 3, dtype=next(left.parameters()).dtype)
    for ours, theirs in zip(flat(left.eval()(input)), flat(right.eval()(input)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES, ids=["plain", "simple", "retroactive"])
def test_a_module_is_made_anew_from_its_file_alone(
    kind: Any, rule: Plasticity, backend: str, tmp_path: Path
) -> None:
    pytest.importorskip("safetensors")
    for options in ({}, OTHERWISE[kind], {"dtype": torch.float64}, {"dtype": torch.bfloat16}):
        modulated = HALF if rule.modulation == "simple" else None
        module = kind(3, 4, plasticity=rule, modulated=modulated, backend=backend, **options)
        plastikern.save(module, tmp_path / "module.safetensors")
        drawn = torch.get_rng_state()
        loaded = plastikern.load(tmp_path / "module.safetensors", backend=backend)
        assert torch.equal(torch.get_rng_state(), drawn)
        assert (
            type(loaded) is kind
            and loaded.plasticity == rule
            and loaded.training
            and repr(loaded) == repr(module)
        )
        assert [*dict(loaded.named_parameters())] == [*dict(module.named_parameters())]
        assert all(value.requires_grad for value in loaded.parameters())
        for name, value in module.state_dict().items():
            assert (
                torch.equal(value, loaded.state_dict()[name])
                and value.dtype == loaded.state_dict()[name].dtype
            )
        for name in OTHERWISE[kind]:
            ours, theirs = getattr(module, name), getattr(loaded, name)
            assert torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours == theirs
        same(module, loaded)
    assert [path.name for path in tmp_path.iterdir()] == ["module.safetensors"]


@needs_native
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES, ids=["plain", "simple", "retroactive"])
def test_a_state_dict_goes_from_any_backend_to_any_other(kind: Any, rule: Plasticity) -> None:
    for source, target in (("cpu", "reference"), ("reference", "cpu"), (None, "reference")):
        left, right = (kind(3, 4, plasticity=rule, backend=name) for name in (source, target))
        right.load_state_dict(left.state_dict())
        assert right.backend == target and [*left.state_dict()] == [*right.state_dict()]
        right.backend = left.backend
        same(left, right)


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_survives_pickle_and_copy_with_its_rule(kind: Any) -> None:
    module = kind(3, 4, plasticity=RULES[1], modulated=HALF, **OTHERWISE[kind])
    for twin in (copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module))):
        assert twin.plasticity == module.plasticity
        same(module, twin)


def test_a_state_dict_has_a_version_and_one_of_a_later_is_refused() -> None:
    outer = nn.ModuleDict({"memory": PlasticRNN(3, 4)})
    saved = outer.state_dict()
    assert saved._metadata["memory"]["version"] == 2
    saved._metadata["memory"]["version"] = 3
    message = r"PlasticRNN: the state dict must have version 1 to 2; got 3, from a later plastikern"
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=message):
            outer.load_state_dict(saved, strict=strict)


# Written by hand: weights 0, so that y = tanh(u + b) and the trace is a Hebbian product of two of them.
def by_hand(values: dict[str, Any], module: nn.Module) -> None:
    result = module(torch.tensor([[1.0], [-2.0]]))
    first, second = (torch.tanh(torch.tensor([0.5 * x + 0.25, -x])) for x in (1.0, -2.0))
    torch.testing.assert_close(result[0], torch.stack([first, second]))
    torch.testing.assert_close(
        result[1].trace[0], values["eta_l0"] * second.unsqueeze(1) * first.unsqueeze(0)
    )


def test_a_state_dict_from_before_there_were_versions_is_still_read() -> None:
    values = json.loads((DATA / "state-dict-without-version.json").read_text())
    module = PlasticRNN(1, 2, plasticity=Plasticity(constraint="clip"))
    module.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    by_hand(values, module)


def test_a_file_from_before_there_were_modulators_is_still_read() -> None:
    pytest.importorskip("safetensors")
    module = plastikern.load(DATA / "plastic-rnn-version-1.safetensors")
    assert isinstance(module, PlasticRNN) and module.plasticity == Plasticity(
        constraint="clip", eta_init=0.125
    )
    by_hand({"eta_l0": 0.125}, module)


def rewritten(path: Path, **changes: str | None) -> None:
    """The file with other metadata."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        metadata = {
            key: value for key, value in {**file.metadata(), **changes}.items() if value is not None
        }
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": None}, "must be a file that plastikern.save wrote"),
        (
            {"version": "3", "plastikern": "9.0"},
            r"must have version 1 to 2; got 3, written by plastikern 9\.0",
        ),
        ({"version": "one"}, "must have version 1 to 2; got one"),
        ({"module": "os.system"}, "does not describe a module of this library: .*os.system"),
        ({"module": None}, "does not describe a module"),
        ({"options": '{"hidden_size": "4"}'}, "does not describe a module"),
        ({"options": "{"}, "does not describe a module"),
        (
            {"options": '{"input_size": 3, "hidden_size": 5}'},
            r"does not describe a module[\s\S]*size mismatch",
        ),
        (
            {"options": '{"input_size": 3, "hidden_size": 4, "backend": "cpu"}'},
            "does not describe a module",
        ),
        ({"plasticity": '{"rule": "hopfield"}'}, "does not describe a module.*rule must be one of"),
        ({"plasticity": '{"codes": [1, 2]}'}, "does not describe a module"),
        ({"plasticity": "[]"}, "does not describe a module"),
    ],
)
def test_a_file_that_is_no_module_is_refused(
    changes: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "module.safetensors"
    plastikern.save(PlasticRNN(3, 4), path)
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=f"^load: .*module.safetensors {message}"):
        plastikern.load(path)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_checkpoint_of_an_experiment_runs_no_code(tmp_path: Path) -> None:
    torch.save({"update": 1, "state": Bomb(tmp_path / "ran")}, tmp_path / "checkpoint.pt")
    with pytest.raises(ExperimentError, match=r"checkpoint\.pt is damaged or not a checkpoint"):
        checkpoint.load(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_a_damaged_file_or_a_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path, ran = tmp_path / "module.safetensors", tmp_path / "ran"
    plastikern.save(PlasticRNN(3, 4), path)
    whole = path.read_bytes()
    torch.save(Bomb(ran), tmp_path / "bomb.pt")
    bad = [
        b"",
        whole[:7],
        whole[: len(whole) // 2],
        whole[:-1],
        whole + b"0",
        b"\xff" * 8 + whole[8:],
    ]
    bad += [pickle.dumps(Bomb(ran)), (tmp_path / "bomb.pt").read_bytes()]
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or not a safetensors file"):
            plastikern.load(path)
    assert not ran.exists()
    with pytest.raises(FileNotFoundError):
        plastikern.load(tmp_path / "nowhere.safetensors")


def test_a_file_that_cannot_be_written_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("safetensors")
    path, first = tmp_path / "module.safetensors", PlasticRNN(3, 4)
    plastikern.save(first, path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        plastikern.save(PlasticRNN(3, 4), path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    same(first, plastikern.load(path))


def test_only_the_librarys_own_modules_are_saved(tmp_path: Path) -> None:
    class Mine(PlasticRNN):
        pass

    for module in (Mine(3, 4), nn.Linear(3, 4), nn.ModuleList([PlasticRNN(3, 4)])):
        with pytest.raises(
            TypeError,
            match=f"save: module must be one of PlasticRNN, .*; got {type(module).__name__}",
        ):
            plastikern.save(module, tmp_path / "module.safetensors")  # type: ignore[arg-type]


def test_without_safetensors_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    for call in (
        lambda: plastikern.save(PlasticRNN(3, 4), tmp_path / "x"),
        lambda: plastikern.load(tmp_path / "x"),
    ):
        with pytest.raises(ImportError, match=r"pip install 'plastikern\[safetensors\]'"):
            call()


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_and_a_state_dict_are_loaded_without_running_code(
    kind: Any, tmp_path: Path
) -> None:
    module = kind(3, 4, plasticity=RULES[2])
    result = module(torch.randn(5, 3))
    torch.save({"module": module.state_dict(), "result": result}, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    kind(3, 4, plasticity=RULES[2]).load_state_dict(loaded["module"])
    assert type(loaded["result"]) is type(result) and type(loaded["result"][1]) is type(result[1])
    assert all(
        torch.equal(left, right)
        for left, right in zip(flat(loaded["result"]), flat(result), strict=True)
    )
