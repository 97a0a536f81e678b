"""The examples run, and what they train learns."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import threads

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def as_started_there(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An example finds its neighbours, and its small networks are not worth a second thread."""
    monkeypatch.syspath_prepend(EXAMPLES)
    with threads(1):
        yield


def example(name: str) -> Any:
    return importlib.import_module(name)


def test_a_plastic_network_in_the_place_of_another_learns_what_that_cannot() -> None:
    found = example("swap").main(["--updates", "250"])
    assert found["PlasticRNN"] > 0.9
    assert found["nn.RNN"] < 0.5


def test_an_agent_finds_the_arm_that_pays() -> None:
    pytest.importorskip("gymnasium")
    reached = example("agent").main(["--updates", "160"])
    assert sum(reached[-20:]) / 20 > 4  # at random: 3


def test_the_environment_is_one_of_gymnasium() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env

    example("agent")
    check_env(gymnasium.make("plastikern/HiddenArm-v0").unwrapped)


def test_a_language_model_learns_along_a_text() -> None:
    bits = example("language_model").main(["--epochs", "2"])
    assert bits[1] < 0.9 * bits[0]


FRAMEWORKS = {"cartpole": "gymnasium", "cartpole_torchrl": "torchrl", "cartpole_sb3": "sb3_contrib"}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_policy_in_a_framework_learns_a_little(name: str) -> None:
    pytest.importorskip(FRAMEWORKS[name])
    few = ["--steps", "2048"] if name == "cartpole_sb3" else ["--updates", "2"]
    (run,) = example(name).main([*few, "--seeds", "1"])
    assert run["before"] < 40 and run["after"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_policy_in_a_framework_balances_a_pole_whose_velocities_it_does_not_see(
    name: str,
) -> None:
    pytest.importorskip(FRAMEWORKS[name])
    for run in example(name).main([]):
        assert run["before"] < 40 and run["after"] > 150


def test_what_is_learned_from_is_what_was_done() -> None:
    pytest.importorskip("gymnasium")
    cartpole = example("cartpole")
    torch.manual_seed(0)
    agent, worlds = cartpole.Agent(), cartpole.Worlds(4, seed=0)
    worlds.act(agent, 30)
    state = worlds.state
    steps, _ = worlds.act(agent, 60)
    assert steps.begins.any() and not steps.begins[0].all()
    policy, value, _ = agent(steps.seen, state, steps.begins)
    torch.testing.assert_close(policy.log_prob(steps.action), steps.log_prob)
    torch.testing.assert_close(value, steps.value, rtol=1e-4, atol=1e-5)


def test_torchrl_learns_from_what_was_done() -> None:
    pytest.importorskip("torchrl")
    from torchrl.collectors import Collector
    from torchrl.modules import set_recurrent_mode

    cartpole = example("cartpole_torchrl")
    agent = cartpole.Agent()
    plastic, begun = agent.plastic, 0
    for batch in Collector(
        cartpole.worlds(4, 0), agent.acting, frames_per_batch=4 * 40, total_frames=3 * 4 * 40
    ):
        with set_recurrent_mode(True), torch.no_grad():
            policy = agent.actor.get_dist(batch.select("observation", "is_init"))
        torch.testing.assert_close(policy.log_prob(batch["action"]), batch["action_log_prob"])
        plastic.before = plastic.now
        begun += int(batch["is_init"].sum())
    assert begun > 4


def test_a_rule_is_learned_by_gradient_descent() -> None:
    found = example("abcd_gradient").main(["--updates", "100", "--seeds", "1"])
    (run,) = found["seeds"]
    assert run["untrained"] < 0.4 < run["trained"]


def test_the_test_of_seeds_is_exact() -> None:
    p_value = example("abcd_gradient").p_value
    assert p_value([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(2 / 252)
    assert p_value([1, 2], [1, 2]) == 1


def test_a_rule_is_evolved(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gymnasium")
    evolution = example("abcd_evolution")
    for layer in evolution.LAYERS:
        monkeypatch.setattr(layer, "backend", "reference")  # no compiler is waited for
    (run,) = evolution.main(["--generations", "16", "--seeds", "1"])["seeds"]
    assert run["unchanged"] < 20
    assert sum(run["population"][-4:]) > 1.5 * sum(run["population"][:4])


@pytest.mark.slow
def test_five_seeds_of_a_learned_rule_beat_what_they_started_from() -> None:
    found = example("abcd_gradient").main([])
    assert found["p"] < 0.01
    assert min(run["trained"] for run in found["seeds"]) > found["hebb"] > found["chance"]


@pytest.mark.slow
def test_an_evolved_rule_balances_the_pole() -> None:
    pytest.importorskip("gymnasium")
    for run in example("abcd_evolution").main([])["seeds"]:
        assert run["evolved"] > 10 * run["unchanged"]


def notebooks() -> list[Path]:
    return sorted(EXAMPLES.glob("*.ipynb"))


@pytest.mark.parametrize("notebook", notebooks(), ids=lambda path: path.name)
def test_notebooks_run(notebook: Path) -> None:
    pytest.importorskip("gymnasium")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(
                compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"),
                namespace,
            )
    from matplotlib import pyplot

    assert pyplot.get_fignums()
    pyplot.close("all")


def test_notebooks_are_kept_without_outputs() -> None:
    for notebook in notebooks():
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs"), f"{notebook.name}: clear its outputs"
