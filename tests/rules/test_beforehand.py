"""``python -m plastikern compile`` makes what a call then finds, and says in one line what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from plastikern import rule_sequence
from plastikern.__main__ import main
from plastikern.rules import compiling

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
RULE = """
from plastikern import rule

@rule(H="synapse")
def hebb(H, x, y, eta, tau):
    return H + tau * eta * x * y

@rule(H="synapse", fused=False)
def slow(H, x, y):
    return H + x * y
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module beside which the command is called; a cache of the test."""
    name = f"rules_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(RULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    monkeypatch.setenv(compiling.CACHE, str(tmp_path / "cache"))
    return name


def test_what_was_compiled_beforehand_is_what_a_call_finds(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["compile", f"{module}:hebb", "--granularity", "eta=post", "alpha=layer"]) == 0
    libraries = {str(path) for path in (tmp_path / "cache").rglob("rule.so")}
    of_use = f"{module}:hebb float32 (eta post, tau layer, w connection, alpha layer; "
    lines = capsys.readouterr().out.splitlines()
    for said, where in zip(lines, ("pre given", "recurrent or softmax"), strict=True):
        assert said.startswith(f"{of_use}{where}): compiled in ")
        libraries.remove(said.split("s: ")[-1])
    assert not libraries
    compiling.found_or_made.cache_clear()
    monkeypatch.setattr(compiling, "_compile", None)
    own = __import__(module).hebb
    parameters = {
        "tau": torch.ones(()), "alpha": torch.ones(()), "w": torch.ones(3, 4), "eta": torch.ones(3),
    }  # fmt: skip
    given = torch.zeros(5, 2, 3), torch.ones(5, 2, 4), {"H": torch.zeros(2, 3, 4)}, parameters
    output, _ = rule_sequence(own, *given, backend="cpu")
    torch.testing.assert_close(output, rule_sequence(own, *given, backend="reference")[0])
    compiling.found_or_made.cache_clear()
    assert main(["compile", f"{module}:hebb", "--granularity", "eta=post", "alpha=layer"]) == 0
    assert "was there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_module:hebb"], "expected MODULE:NAME, a module that can be imported; got ModuleNotFoundError"),
        (["MODULE:none"], "expected MODULE:NAME, a module that can be imported; got AttributeError"),
        (["MODULE:rule"], "is no rule declared by @rule; got function"),
        (["MODULE:slow"], "is declared with fused=False, and has no kernels"),
        (["MODULE"], "expected MODULE:NAME"),
        ([":hebb"], ":hebb: expected MODULE:NAME"),
        (["MODULE:hebb", "--granularity", "mu=post"], "has no coefficient mu; it has eta, tau, w, alpha"),
        (["MODULE:hebb", "--granularity", "eta=neuron"], "eta must be one of layer, pre, post, connection"),
        (["MODULE:hebb", "--granularity", "eta"], "eta must be one of layer, pre, post, connection; got ''"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_one_line(
    arguments: list[str], message: str, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", *(each.replace("MODULE", module) for each in arguments)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("FAIL: ") and message in said and said.count("\n") == 1


def test_without_a_compiler_the_command_fails(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["compile", f"{module}:hebb"]) == 1
    assert capsys.readouterr().err.startswith("FAIL: CXX names 'no-such-compiler'")
