"""Rules of a user's own in every experiment: named on the command line, trained, resumed, refused."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_image_episodes import folder  # noqa: F401, a fixture
from test_language_runs import text  # noqa: F401, a fixture
from test_omniglot import archives  # noqa: F401, a fixture

from experiments.__main__ import EXPERIMENTS
from experiments.campaign import table
from experiments.common import collection, drawing, own_rules
from experiments.common.cli import main
from experiments.common.config import ExperimentError, override, select
from experiments.common.experiment import Experiment, stream
from experiments.common.metrics import read
from experiments.common.run import Run
from experiments.cue_reward import CueReward
from experiments.maze import Maze
from experiments.patterns import Patterns

RESULTS = Path(__file__).parents[2] / "docs" / "results"
CPU = torch.device("cpu")
EVERY = ["log_every=1", "window=2", "checkpoint_every=2", "evaluation_episodes=4"]
AGENT = ["steps=12", "hidden=6", "burn_in=0", "batch=4", "evaluate_every=4", *EVERY]
TINY = {
    "patterns": ["--net", "plastic", "--episodes", "8", "--set", "bits=8", "patterns=2", "cycles=1", "show_steps=2",
                 "gap_steps=1", "test_steps=2", *EVERY],
    "images": ["--net", "independent", "--episodes", "4", "--set", "pictures=1", "cycles=1", "show_steps=1",
               "gap_steps=1", "test_steps=1", *EVERY],
    "omniglot": ["--net", "free", "--episodes", "32", "--set", "features=4", "test_classes=6", "batch=4", *EVERY],
    "maze": ["--net", "plastic", "--episodes", "32", "--set", "size=3", *AGENT],
    "cue_reward": ["--net", "plastic", "--episodes", "32", "--set", *AGENT],
    "language": ["--net", "plastic", "--preset", "small", "--episodes", "1", "--set", "embedding=6", "hidden=6",
                 "bptt=12", "batch=4", "evaluation_batch=2", "vocabulary=30", *EVERY],
}  # fmt: skip
VARYING = ("seconds", "seconds_per_episode", "update_share", "command")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """Threads, and the modules that can be imported."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(archives, folder, text) -> dict[str, list[str]]:  # noqa: F811
    found = {"omniglot": archives, "images": folder, "language": text}
    return {name: ["--data", str(path)] for name, path in found.items()}


def run(name: str, out: Path, rule: str, *more: str) -> int:
    settings = [*TINY[name], f"rule={rule}"]
    return main(EXPERIMENTS, [name, *settings, "--threads", "1", "--out", str(out), *more])


def numbers(out: Path) -> list[dict[str, Any]]:
    lines = read(out / "seed-0" / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in VARYING} for line in lines]


def experiment(name: str, data: dict[str, list[str]], *changes: str) -> Experiment[Any]:
    """With the settings of ``TINY``; the next random numbers are always the same."""
    kind = importlib.import_module(EXPERIMENTS[name]).EXPERIMENT
    settings = TINY[name][TINY[name].index("--set") + 1 :]
    preset = "small" if name == "language" else "quick"
    config = override(select(kind.presets, preset, TINY[name][1]), [*settings, *changes])
    torch.manual_seed(0)
    return kind(config, CPU, None, Path(data[name][1]) if name in data else None)


@pytest.mark.parametrize("name", TINY)
def test_every_experiment_trains_a_users_rule_and_resumes_it(name, data, tmp_path, monkeypatch):
    options = data.get(name, [])
    assert run(name, tmp_path / "whole", "their_rules:modulated", *options) == 0
    whole = numbers(tmp_path / "whole")
    kind = importlib.import_module(EXPERIMENTS[name]).EXPERIMENT
    update, calls = kind.update, []

    def crash(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError
        return update(self, *arguments)

    monkeypatch.setattr(kind, "update", crash)
    with pytest.raises(MemoryError):
        run(name, tmp_path / "broken", "their_rules:modulated", *options)
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert run(name, tmp_path / "broken", "their_rules:modulated", "--resume", *options) == 0
    assert numbers(tmp_path / "broken") == whole

    header, lines = whole[0], [line for line in whole if line["kind"] == "train"]
    assert header["config"]["rule"] == "their_rules:modulated"
    assert header["rule_use"].startswith("their_rules:sliding.use(tau=Coefficient(")
    assert len(header["rule_digest"]) == 16
    seen = [key for key in lines[0] if key.startswith("rule_")]
    layers = ["layers.0.", "layers.1."] if name == "language" else [""]
    assert seen == [f"rule_{layer}tau" for layer in layers]
    assert all(lines[0][key] == pytest.approx(0.25, abs=0.05) for key in seen)
    assert all(lines[-1][key] != 0.25 for key in seen), "the coefficient is learned"


@pytest.mark.parametrize("name", TINY)
def test_weights_start_as_the_experiment_says_and_coefficients_as_the_rule_does(name, data):
    def layers(rule: str) -> dict[str, dict[str, torch.Tensor]]:
        return {
            prefix: {key.removesuffix("_l0"): value.detach() for key, value in module.named_parameters(recurse=False)}
            for prefix, module in experiment(name, data, f"rule={rule}").build(None).named_modules()
            if hasattr(module, "plasticity")
        }  # fmt: skip

    built_in = layers("oja" if name == "omniglot" else "hebb")
    for prefix, found in layers("their_rules:fading").items():
        weight = "weight" if name == "omniglot" else "weight_hh"
        assert found[weight].std() == pytest.approx(float(built_in[prefix][weight].std()), rel=0.4)
        assert found["rate"].tolist() == [pytest.approx(0.01)]
        assert found["alpha"].std() == pytest.approx(0.01, rel=0.4)
    for found in layers("their_rules:modulated").values():
        assert torch.equal(found["tau"], torch.full_like(found["tau"], 0.25))
        assert "alpha" not in found


SAME = {
    "patterns": ("their_rules:fading", ()),
    "images": ("their_rules:fading", ()),
    "omniglot": ("their_rules:oja", ()),
    "maze": ("examples.rules:modulated", ("clip=1", "fan_out=none")),
    "cue_reward": ("examples.rules:modulated", ()),
    "language": ("their_rules:clipped", ("eta=layer",)),
}
"""Rules that the library has, too, and the settings under which its own is the same one."""
RENAMED = {"modulator_": "m_", "eligibility_eta": "eta"}


@pytest.mark.parametrize("name", SAME)
def test_a_rule_that_the_library_has_too_gives_the_same_loss_and_gradients(name, data):
    rule, changes = SAME[name]
    renamed = RENAMED if rule.startswith("examples") else {"eta": "rate"}
    other = ("net=retroactive",) if rule.startswith("examples") else ()
    found = []
    for settings in ((f"rule={rule}",), (*changes, *other)):
        task = experiment(name, data, *settings)
        model = task.build(None)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-0.5, 0.5)
        if found:  # the values of the first one
            values = found[0][0]
            model.load_state_dict(
                {key: values[_renamed(key, renamed)] for key in model.state_dict()}
            )
        loss = task.loss(model, task.episode(stream(0, "same"), held_out=False))["loss"]
        loss.backward()
        gradients = {key: value.grad for key, value in model.named_parameters()}
        found.append((model.state_dict(), float(loss.detach()), gradients))
    (_, ours, mine), (_, theirs, expected) = found
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    assert len(mine) == len(expected)
    for key, gradient in expected.items():
        torch.testing.assert_close(mine[_renamed(key, renamed)], gradient, rtol=1e-4, atol=1e-5)


def _renamed(key: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        key = key.replace(old, new)
    return key


def test_signals_that_the_network_reads_out_are_drawn_as_the_rule_has_them():
    """After one step from zero, E is 0 and H too; after the second, H is the modulator times E."""
    task = experiment("cue_reward", {}, "rule=examples.rules:modulated", "scale=0.5")
    agent = task.build("reference")
    steps, drive = agent.begin(2, 3), torch.randn(2, 3, 6)
    steps.step(drive[0])
    before = [part.squeeze(0) for part in steps.state()]
    steps.step(drive[1])
    after = tuple(part.squeeze(0) for part in steps.state())
    with torch.no_grad():
        seen = drawing.signals(agent, after)
    assert list(seen) == ["norm of H", "norm of E", "m"]
    changed = seen["m"].view(-1, 1, 1) * before[2]
    torch.testing.assert_close(after[1], changed)
    torch.testing.assert_close(seen["norm of H"], changed.flatten(1).norm(dim=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rule=their_rules:sliding"], "no experiment gives signals with every step, and the rule takes m ('element')"),
        (["rule=their_rules:sliding"], "NAME.use(readouts={'m': Readout()})"),
        (["rule=their_rules:gone"], "rule=their_rules:gone: expected MODULE:NAME, a module that can be imported"),
        (["rule=no_such_module:x"], "No module named 'no_such_module'"),
        (["rule=:x"], "expected MODULE:NAME"),
        (["rule=their_rules:"], "expected MODULE:NAME"),
        (["rule=their_rules:number"], "expected a rule declared by plastikern.rule, or a use of one; got int"),
        (["rule=their_rules:fading", "net=rnn"], "net must be plastic with rule=their_rules:fading"),
        (["rule=their_rules:unfit"], "rule=their_rules:unfit: RuleState: the state count has the name of something"),
        (["rule=bcm"], "rule must be one of hebb, oja, or MODULE:NAME for a rule of your own; got 'bcm'"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_used_is_refused_in_one_line(tmp_path, capsys, arguments, message):
    given = ["patterns", *TINY["patterns"], *arguments, "--out", str(tmp_path / "out")]
    assert main(EXPERIMENTS, given) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


@pytest.mark.parametrize("name", ["images", "omniglot", "language", "maze", "cue_reward"])
def test_a_rule_of_ones_own_is_for_the_plastic_net(name):
    kind = importlib.import_module(EXPERIMENTS[name]).EXPERIMENT
    allowed = {"images": "independent", "omniglot": "free"}.get(name, "plastic")
    for nets in kind.presets.values():
        for net, config in nets.items():
            if net == allowed:
                assert replace(config, rule="their_rules:fading").own_rule is not None
            else:
                with pytest.raises(ExperimentError, match=f"net must be {allowed} with rule="):
                    replace(config, rule="their_rules:fading")


RULE = """
from plastikern import rule


@rule(H="synapse")
def changing(H, x, y, rate):
    return H + rate * ({increment})


used = changing.use(rate={granularity!r})
"""


def test_a_run_under_a_rule_that_has_been_changed_is_not_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "a_rule_that_changes.py"

    def write(increment: str, granularity: str) -> None:
        file.write_text(RULE.format(increment=increment, granularity=granularity))
        sys.modules.pop(file.stem, None)

    def refusal(*more: str) -> str:
        capsys.readouterr()
        given = ["--resume", "--backend", "reference", *more]
        assert run("patterns", tmp_path / "out", f"{file.stem}:used", *given) == 2
        return capsys.readouterr().err

    write("x * y", "layer")
    assert run("patterns", tmp_path / "out", f"{file.stem}:used", "--backend", "reference") == 0
    write("x\n    * y", "layer")  # the same, written otherwise
    again = ["--resume", "--episodes", "10", "--backend", "reference"]
    assert run("patterns", tmp_path / "out", f"{file.stem}:used", *again) == 0
    write("x * x * y", "layer")
    assert "holds a run with rule_digest" in refusal()
    (tmp_path / "out" / "seed-0" / "metrics.jsonl").write_text("")
    assert "checkpoint.pt belongs to a run with rule_digest" in refusal()
    write("x * y", "post")
    assert "rule_use" in refusal()
    sys.modules.pop(file.stem, None)


def test_a_checkpoint_from_before_there_was_a_setting_belongs_to_its_default(tmp_path):
    config = replace(Patterns.presets["quick"]["plastic"], bits=8)
    state = {**Run(Patterns(config, CPU), 0).state(), "position": 0}
    del state["identity"]["rule"]
    Run(Patterns(config, CPU), 0).restore(state, tmp_path)
    other = Run(Patterns(replace(config, rule="oja"), CPU), 0)
    with pytest.raises(ExperimentError, match=r"a run with rule hebb \(now oja\)"):
        other.restore(state, tmp_path)


def test_the_librarys_own_rules_are_named_like_others(tmp_path):
    config = replace(Patterns.presets["quick"]["plastic"], bits=8)
    for rule, constraint in (("hebb", "decay"), ("oja", "none")):
        plasticity = Patterns(replace(config, rule=rule), CPU).build(None).plasticity
        assert (plasticity.rule, plasticity.constraint) == (rule, constraint)


@pytest.mark.parametrize(("kind", "preset"), [(Maze, "paper1"), (CueReward, "code")])
def test_a_coefficient_for_all_connections_starts_at_the_scale(
    kind: type[Experiment[Any]], preset: str
) -> None:
    config = replace(kind.presets[preset]["homogeneous"], scale=0.5)
    alpha = kind(config, CPU).build(None).core.alpha_l0
    assert alpha.tolist() == [0.5]


def test_the_backend_that_is_named_is_the_one_that_runs_the_rule():
    use = own_rules.load("their_rules:modulated")
    assert own_rules.backend(None, "cuda") == "cuda"
    assert own_rules.backend(use, "cuda") == "triton"
    assert own_rules.backend(use, "cpu") == "cpu"
    unfused = replace(use, rule=replace(use.rule, fused=False))
    assert own_rules.backend(unfused, "cpu") == "reference"


def test_a_campaign_takes_a_rule_as_any_setting(tmp_path):
    row = {
        "experiment": "cue_reward",
        "preset": "ours",
        "nets": ["plastic"],
        "seeds": "0",
        "label": "mine",
    }
    good = table.Row(**row, set=["rule=their_rules:modulated"])
    (task,) = table.tasks({"mine": good}, EXPERIMENTS, tmp_path)
    assert task.name == "cue_reward-ours-mine-plastic"
    assert "rule=their_rules:modulated" in task.arguments
    for changes, message in (
        ({"set": ["rule=their_rules:gone"]}, "rule=their_rules:gone: expected MODULE:NAME"),
        ({"label": ""}, "rule=their_rules:modulated: give the row a label"),
    ):
        with pytest.raises(ExperimentError, match=rf"\[mine\]: {message}"):
            table.tasks({"mine": replace(good, **changes)}, EXPERIMENTS, tmp_path)


def test_results_under_a_rule_of_ones_own_are_not_those_of_the_papers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = [
        "patterns",
        *TINY["patterns"],
        "rule=their_rules:fading",
        "--preset",
        "paper",
        "--backend",
        "reference",
    ]
    assert main(EXPERIMENTS, mine) == 0
    assert [path.name for path in Path("runs").iterdir()] == ["patterns-paper-fading-plastic"]
    # Nor are they in folders of their name.
    pytest.importorskip("scipy")
    kept = json.loads((RESULTS / "patterns-paper-plastic.json").read_text())
    verdicts = []
    for more in ({}, {"rule_use": "their_rules:fading.use()"}):
        Path("results").mkdir(exist_ok=True)
        Path("results/patterns-paper-plastic.json").write_text(json.dumps({**kept, **more}))
        lines = collection.verdicts_of(Path("results")).splitlines()
        verdicts.append(
            [line.split(" | ")[2] for line in lines if "within about 200 episodes" in line]
        )
    assert verdicts == [["reproduced"], ["undecided"]]
