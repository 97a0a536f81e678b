"""The rules of cue-reward association, read off whole episodes in plain Python."""

import json
import math
import statistics
from collections import Counter
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image

from experiments.common import drawing, insight
from experiments.common.cli import main
from experiments.common.config import ExperimentError
from experiments.common.experiment import stream
from experiments.common.worlds import act
from experiments.cue_reward import CueReward, draw_trials

CPU = torch.device("cpu")
PRESETS = {
    preset: CueReward.presets[preset]["retroactive"]
    for preset in ("paper", "code", "control", "ours")
}


def small(preset: str, **changes) -> CueReward:
    return CueReward(replace(PRESETS[preset], batch=12, hidden=8, **changes), CPU)


def trials_of(shown, answers):
    """The trials of one episode: each the steps between its blank first step and its blank last one."""
    trials, start = [], 0
    while True:
        go = next((t for t in range(start, len(shown)) if answers[t] >= 0), None)
        if go is None:
            return trials, start
        trials.append((start, shown[start : go + 1], answers[go]))
        start = go + 2


def test_trials_follow_one_another_by_the_rules():
    shown, answers = (
        tensor.t().tolist() for tensor in draw_trials(120, 400, 4, 3, stream(0, "test"))
    )
    pauses, targets, pairs, places = Counter(), Counter(), Counter(), Counter()
    for episode, responses in zip(shown, answers, strict=True):
        trials, rest = trials_of(episode, responses)
        assert len(episode) == 120
        assert rest > 120 - 8, "only the last trial may be cut off"
        for _, steps, answer in trials:
            assert steps[0] == steps[-1] == -1, (
                "a trial starts blank, and no cue is there with the signal"
            )
            cues = [cue for cue in steps if cue >= 0]
            assert len(cues) == len(set(cues)) == 2
            assert answer == int(0 in cues), "cue 0 is the target"
            pauses[len(steps) - 4] += 1
            targets[answer] += 1
            pairs[tuple(cues)] += 1
            places[len(steps), steps.index(cues[0]), steps.index(cues[1])] += 1
    total = sum(pauses.values())
    assert total / 400 == pytest.approx(120 / 6.5, rel=0.05)
    assert set(pauses) == {0, 1, 2, 3}
    for counts, kinds in ((targets, 2), (pairs, 12)):
        assert len(counts) == kinds
        assert all(
            abs(count - total / kinds) < 5 * math.sqrt(total / kinds) for count in counts.values()
        )
    # Cues and pauses are in random order: every pair of places is there for every length.
    assert len(places) == sum(math.comb(2 + pause, 2) for pause in range(4))


@pytest.mark.parametrize("preset", PRESETS)
def test_inputs_and_rewards_are_those_of_the_rules(preset):
    task = small(preset)
    config = task.config
    episode = task.episode(stream(1, "test"), held_out=False)
    rollout = act(task.build("reference"), *episode)
    answers = episode.world.answers
    for b in range(config.batch):
        action, reward, shown = None, 0.0, set()
        for t in range(config.steps):
            given = rollout.inputs[t, b].tolist()
            bits, time, seen, responses = (
                given[: config.bits],
                *given[config.bits : config.bits + 2],
                given[config.bits + 2 : config.bits + 4],
            )
            further = given[config.bits + 4 :]
            assert time == pytest.approx(t / config.steps)
            assert seen == reward
            assert responses == [float(action == number) for number in range(2)]
            answer = int(answers[t, b])
            if answer >= 0:
                assert bits == [0.0 if config.go_input else 1.0] * config.bits
            elif any(bits):
                shown.add(tuple(bits))
            assert (
                further
                == [float(answer >= 0)] * config.go_input
                + [1.0] * config.see_bias
                + [0.0] * config.unused
            )
            action = int(rollout.actions[t, b])
            reward = 0.0 if answer < 0 else 1.0 if action == answer else -1.0
            assert float(rollout.rewards[t, b]) == reward
        assert len(shown) == config.cues
        allowed = {0.0, 1.0} if config.fixed_cues else {-1.0, 1.0}
        assert {bit for cue in shown for bit in cue} == allowed


def test_inputs_and_parameters_are_as_many_as_published():
    assert (small("paper").inputs, small("code").inputs) == (24, 27)
    counts = {
        net: sum(parameter.numel() for parameter in CueReward(config, CPU).build(None).parameters())
        for net, config in CueReward.presets["code"].items()
    }
    # The authors count one more in the modulated networks: a plasticity rate that nothing uses there.
    published = {"rnn": 46_203, "plastic": 86_204, "simple": 86_405 - 1, "retroactive": 86_406 - 1}
    assert counts == {**published, "homogeneous": 46_205}


def test_the_target_cannot_be_told_from_one_trial_but_from_some():
    """Of the four cues exactly one explains all the right answers of an episode, and more than one the first."""
    task = small("code")
    world = task.world(stream(2, "test"), 12, slice(0, 12))
    for b in range(12):
        bits = [tuple(row) for row in world.shown[:, b, :20].tolist()]
        trials, _ = trials_of(
            [-1 if not any(row) else row for row in bits], world.answers[:, b].tolist()
        )
        cues = {row for row in bits if any(row)}

        def explaining(trials, cues=cues):
            return [
                cue for cue in cues if all((cue in steps) == answer for _, steps, answer in trials)
            ]

        assert len(explaining(trials[:1])) == 2
        assert len(explaining(trials)) == 1


def test_cues_of_an_episode_differ_even_where_there_are_few():
    task = small("code", bits=2)
    for cues in task._cues(200, stream(0, "test")).tolist():
        assert len({tuple(cue) for cue in cues}) == 4
    with pytest.raises(ExperimentError, match="bits must allow for 4 different cues; got 1"):
        small("code", bits=1)
    with pytest.raises(ExperimentError, match="bits must be at least cues"):
        small("control", bits=3)


def test_fixed_cues_have_another_target_in_every_episode_unless_it_is_fixed_too():
    targets = {int(cues[0].argmax()) for cues in small("control")._cues(60, stream(0, "test"))}
    assert targets == {0, 1, 2, 3}
    fixed = small("control", fixed_target=True)._cues(60, stream(0, "test"))
    assert torch.equal(fixed, torch.eye(4).expand(60, 4, 4))
    with pytest.raises(ExperimentError, match="fixed_target needs fixed_cues"):
        small("code", fixed_target=True)


@pytest.mark.parametrize("net", ["rnn", "retroactive"])
def test_signals_around_rewards_are_drawn(tmp_path, net):
    task = small("code", net=net)
    (figure,) = task.figures(task.build(None), tmp_path)
    with Image.open(figure) as image:
        image.verify()
        assert image.size[0] > (500 if net == "rnn" else 1_000)


@pytest.mark.parametrize("reward", [0.5, 16.0])
def test_the_rise_of_the_reward_is_drawn_around_its_episodes(tmp_path, reward):
    rise = [0.0] * 400 + [reward * step / 20 for step in range(21)] + [reward] * 579
    lines = [
        {
            "kind": "train",
            "episode": 30 * n,
            "reward": value,
            "reward_last_250": value,
            "gradient": 0.1,
        }
        for n, value in enumerate(rise)
    ]
    lines[1:1] = [{"kind": "test", "episode": 0, "trace_norm": 1.0, "modulator_after_right": 0.3}]
    with Image.open(drawing.insight(tmp_path / "insight.png", lines, "network")) as image:
        image.verify()
    shown = drawing._rise([line["episode"] for line in lines if line["kind"] == "train"], rise)
    if reward == 16.0:
        assert shown[0] < 400 * 30 < 420 * 30 < shown[1] and shown[1] - shown[0] < 4000
    else:
        assert shown == (0, 30 * 999), "nothing has been learned: all of it is shown"


def test_evaluations_tell_of_weights_traces_modulator_and_gradients():
    modulator = {
        "modulator_mean", "modulator_spread", "modulator_after_right", "modulator_after_wrong"
    }  # fmt: skip
    for net, keys, groups in (
        ("rnn", set(), {"weight"}),
        ("plastic", {"trace_norm", "plastic_norm"}, {"weight", "alpha"}),
        (
            "simple",
            {"trace_norm", "plastic_norm", *modulator},
            {"weight", "alpha", "modulator"},
        ),
    ):
        task = small("ours", net=net)
        model = task.build(None)
        assert set(task.final_metrics(model)) == {"test_loss", "test_reward"}
        keys = {"test_loss", "test_reward", "weight_norm", *keys}
        assert set(task.evaluate(model)) == keys, "before the first update there is no gradient"
        task.update(model, task.optimizer(model), task.episode(stream(0, "test"), held_out=False))
        found = task.evaluate(model)
        gradients = {f"gradient_{group}" for group in groups}
        assert set(found) == keys | gradients
        # The rest of the gradient is that of the other layers and of the plasticity rate.
        whole = float(task.gradient)
        assert 0 < sum(found[name] ** 2 for name in gradients) <= whole**2 * (1 + 1e-5)


def test_measures_are_those_of_their_definitions():
    task = small("ours", net="simple")
    model = task.build("reference")
    rewards, signals, (hidden, traces) = task._watched(model)
    signal = signals[drawing.MODULATOR]
    found = insight.measures(model, rewards, signals, (hidden, traces))
    alpha = model.core.alpha_l0.detach().double()
    norms = [float((alpha * trace.double()).square().sum().sqrt()) for trace in traces]
    assert found["plastic_norm"] == pytest.approx(sum(norms) / len(norms))
    after = [float(signal[t + 1, b]) for t, b in (rewards == -1).nonzero() if t + 1 < len(rewards)]
    assert found["modulator_after_wrong"] == pytest.approx(sum(after) / len(after), rel=1e-4)
    assert found["modulator_spread"] == pytest.approx(statistics.stdev(signal.flatten().tolist()))


def test_a_number_is_half_way_where_it_stays_beyond_the_middle():
    def line(n):
        return {
            "kind": "test", "episode": 30 * n, "test_loss": 0.1, "gradient_weight": 0.1 if n < 30 else 0.5,
            "test_reward": 0.0 if n < 40 else 10.0, "trace_norm": 9.0 if n < 25 and n != 10 else 5.0,
        }  # fmt: skip

    rows = insight.moments([line(n) for n in range(60)], 30)
    ways = [(row["number"], row["half way at update"]) for row in rows]
    assert ways == [("trace norm", "25"), ("gradient weight", "30"), ("test reward", "40")]
    assert (rows[0]["at chance"], rows[0]["at the end"]) == ("9", "5")
    assert insight.moments([line(n) for n in range(40)], 30) == [], "nothing has been learned"


def test_a_run_is_told_and_drawn_from_its_metrics(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    experiments = {"cue_reward": CueReward}
    settings = [
        "steps=20",
        "hidden=8",
        "burn_in=2",
        "evaluate_every=2",
        "evaluation_episodes=30",
        "log_every=2",
    ]
    command = ["cue_reward", "--preset", "ours", "--net", "simple", "--episodes", "300"]
    assert main(experiments, [*command, "--set", *settings, "--out", "runs/tiny"]) == 0
    capsys.readouterr()
    tell = ["insight", "runs/tiny/seed-0", "--results", "results"]
    assert main(experiments, tell) == 0
    assert capsys.readouterr().out.startswith("not learned\n")
    result = json.loads((tmp_path / "results/tiny-seed-0.json").read_text())
    tests = result["seeds"]["0"]["tests"]
    assert [line["episode"] for line in tests] == [60, 120, 180, 240, 300]
    assert {"weight_norm", "plastic_norm", "gradient_modulator"} <= tests[-1].keys()
    figure = (tmp_path / "results/tiny-seed-0.svg").read_bytes()
    assert b"gradient modulator" in figure and b"modulator spread" in figure
    assert main(experiments, tell) == 0
    assert (tmp_path / "results/tiny-seed-0.svg").read_bytes() == figure, "the same figure again"
    assert main(experiments, ["insight", "runs/nothing"]) == 2
    assert capsys.readouterr().err == "error: runs/nothing holds no run\n"


def test_the_protocol_of_ours_differs_from_the_codes_in_what_its_page_lists_and_is_the_same_for_all_nets():
    presets = CueReward.presets
    for net, ours in presets["ours"].items():
        code = asdict(presets["code"][net])
        assert {name: value for name, value in asdict(ours).items() if code[name] != value} == {
            "hidden": 64, "learning_rate": 1e-3, "discount": 0.0, "episodes": 1_200_000, "evaluate_every": 250,
        }  # fmt: skip
