"""The command line: seeds, settings, and one clear error for each mistake."""

import pytest

from experiments.__main__ import EXPERIMENTS
from experiments.common.cli import main
from experiments.common.config import ExperimentError, override, parse_seeds
from experiments.patterns import PAPER


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0", [0]),
        ("0-9", list(range(10))),
        ("0,3,5-7", [0, 3, 5, 6, 7]),
        ("7, 2-3,2", [2, 3, 7]),
        ("4-4", [4]),
    ],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2", "3-1", "0-99999999", "1.5"])
def test_bad_seeds_are_refused(text):
    with pytest.raises(ExperimentError, match="--seeds"):
        parse_seeds(text)


def test_settings_are_read_as_the_type_of_their_field():
    changed = override(
        PAPER, ["bits=20", "learning_rate=1e-2", "clamped=false", "net=rnn", "balanced=Yes"]
    )
    assert (
        changed.bits,
        changed.learning_rate,
        changed.clamped,
        changed.net,
        changed.balanced,
    ) == (
        20,
        0.01,
        False,
        "rnn",
        True,
    )
    assert override(PAPER, []) == PAPER


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("speed=3", "--set speed: no such setting; there are: .*learning_rate"),
        ("bits", "--set bits: expected key=value"),
        ("bits=ten", "--set bits: expected a whole number; got 'ten'"),
        ("learning_rate=fast", "--set learning_rate: expected a number; got 'fast'"),
        ("clamped=maybe", "--set clamped: expected true or false; got 'maybe'"),
        ("bits=-4", "bits must be at least 2; got -4"),
    ],
)
def test_bad_settings_are_refused(assignment, message):
    with pytest.raises(ExperimentError, match=message):
        override(PAPER, [assignment])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "huge"], "no preset 'huge'; there are: quick, paper, code"),
        (["--net", "rnn"], "preset 'quick' has no network 'rnn'; it has: plastic"),
        (["--seeds", "x"], "--seeds: expected seeds such as"),
        (["--set", "speed=3"], "--set speed: no such setting"),
        (["--episodes", "0"], "episodes must be at least 1"),
        (["--backend", "quantum"], "backend must be one of"),
        (["--device", "abacus"], "--device abacus"),
        (["--threads", "0"], "--threads: expected at least 1"),
        (["--data", "."], "--data: the patterns are generated"),
        (["--beside", "nowhere"], "nowhere holds no runs"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, capsys, arguments, message):
    out = tmp_path / "out"
    assert main(EXPERIMENTS, ["patterns", "--out", str(out), *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not out.exists()


def test_unknown_experiments_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(EXPERIMENTS, ["juggling"])
    assert "patterns" in capsys.readouterr().err


def test_resume_and_overwrite_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        main(EXPERIMENTS, ["patterns", "--resume", "--overwrite"])
    assert "not allowed with" in capsys.readouterr().err


def test_interrupt_before_training_leaves_no_traceback(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.common.cli.importlib.import_module", interrupted)
    assert main(EXPERIMENTS, ["patterns"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
