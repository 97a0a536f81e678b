"""Language models: sizes, carried states, what an update does, dropout, averaging."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from experiments.common import softmax
from experiments.common.config import ExperimentError
from experiments.common.experiment import stream
from experiments.common.language_model import LanguageModel, locked
from experiments.common.softmax import SoftmaxLayer
from experiments.language import LARGE, MODULATION, SMALL, Language

CPU = torch.device("cpu")
TINY = replace(
    SMALL, vocabulary=30, batch=4, bptt=5, embedding=6, hidden=6, evaluation_batch=3, test_batch=1
)
TINY_LARGE = replace(
    LARGE,
    net="simple",
    vocabulary=30,
    batch=4,
    bptt=12,
    embedding=6,
    hidden=8,
    evaluation_batch=3,
    learning_rate=3.0,
)


def write_corpus(folder, vocabulary, lines):
    """Lines of words, all words of the vocabulary among them; every line ends with the one word more, <eos>."""
    generator = torch.Generator().manual_seed(1)
    for name, count in (
        ("train", lines),
        ("valid", max(lines // 4, 8)),
        ("test", max(lines // 4, 8)),
    ):
        words = torch.randint(vocabulary - 1, (count, 9), generator=generator)
        if name == "train":
            words.view(-1)[: vocabulary - 1] = torch.arange(vocabulary - 1)
        text = "".join(f" {' '.join(f'w{word}' for word in line)} \n" for line in words.tolist())
        (folder / f"ptb.{name}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def small_text(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text"), 30, 40)


@pytest.fixture(scope="module")
def wide_text(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("wide"), 10_000, 1_200)


def task(text, config=TINY, **changes):
    return Language(replace(config, **changes), CPU, None, text)


def built(experiment, backend="reference"):
    torch.manual_seed(0)
    model = experiment.build(backend)
    return model, experiment.optimizer(model)


def trained(experiment, updates, backend="reference"):
    model, optimizer = built(experiment, backend)
    generator, losses = stream(0, "test"), []
    for _ in range(updates):
        losses.append(
            float(
                experiment.update(model, optimizer, experiment.episode(generator, False))[
                    "loss"
                ].detach()
            )
        )
    return model, losses


@pytest.mark.parametrize(
    ("preset", "net", "parameters"),
    [
        ("large", "lstm", 24_221_600),
        ("large", "simple", 24_198_893),
        ("small", "lstm", 4_812_272),
        ("small", "plastic", 4_812_800),
        ("small", "simple", 4_813_202),
        ("small", "retroactive", 4_813_204),
    ],
)
def test_the_models_have_the_parameters_of_the_paper(wide_text, preset, net, parameters):
    experiment = Language(Language.presets[preset][net], torch.device("meta"), None, wide_text)
    model = experiment.build("reference")
    assert (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        == parameters
    )


@pytest.mark.parametrize("scale", [1, 1e4], ids=["usual", "probabilities that are 0"])
@pytest.mark.parametrize("rows", [3, 100])
def test_the_fused_loss_is_the_plain_one(monkeypatch, rows, scale):
    monkeypatch.setattr(softmax, "ROWS", rows)
    torch.manual_seed(0)
    layer = SoftmaxLayer(5, 11).double()
    hidden, target = (
        (scale * torch.randn(7, 5, dtype=torch.float64)).requires_grad_(),
        torch.randint(11, (7,)),
    )
    leaves = (hidden, layer.weight, layer.bias)
    plain = nn.functional.cross_entropy(layer(hidden), target)
    expected = torch.autograd.grad(3 * plain, leaves)
    for _ in range(2):  # the second time in used memory
        found = layer.loss(hidden, target)
        torch.testing.assert_close(found, plain, rtol=1e-13, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(3 * found, leaves), expected, rtol=1e-12, atol=1e-15
        )
    with torch.no_grad():
        torch.testing.assert_close(layer.loss(hidden, target), plain, rtol=1e-13, atol=0)


@pytest.mark.parametrize("net", list(MODULATION))
def test_states_go_on_through_the_text_and_start_anew_with_an_epoch(small_text, net):
    experiment = task(small_text, net=net, learning_rate=1e-30, l2=0.0, weight_scale=0.5)
    columns, losses = experiment.columns, []
    assert columns.shape == (100, 4)
    assert torch.equal(columns.t().flatten(), experiment.corpus.train[:400])
    model, optimizer = built(experiment)
    whole = model(columns[:-1])
    expected = model.loss(whole, columns[1:]).item()
    for epoch in (0, 1):
        while experiment.epoch == epoch:
            segment = experiment.episode(stream(0, "test"), False)
            assert len(segment.words) == (5 if experiment.step < 95 else 4), (
                "99 words to predict in each column"
            )
            losses.append(
                len(segment.words) * experiment.update(model, optimizer, segment)["loss"].item()
            )
            if experiment.step == 95:
                states = experiment.states
        assert sum(losses) / 99 == pytest.approx(expected, rel=1e-5)
        assert experiment.states is None
        losses.clear()
    found = [tensor for state in states for tensor in state]
    assert not any(tensor.requires_grad for tensor in found)
    wanted = [tensor for state in model(columns[:95]).states for tensor in state]
    assert len(found) == {"lstm": 4, "plastic": 6, "simple": 6, "retroactive": 8}[net]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    if net != "lstm":
        assert float(found[2].abs().max()) > 1e-3, "traces have grown"


def test_evaluation_carries_states_whatever_its_segments(small_text):
    experiment = task(small_text, net="simple", weight_scale=0.5)
    model, _ = built(experiment)
    text = experiment.corpus.valid
    columns = text[: len(text) // 3 * 3].view(3, -1).t()
    expected = model.loss(model(columns[:-1]), columns[1:]).item()
    for bptt in (1, 5, 1000):
        experiment = task(small_text, net="simple", bptt=bptt)
        found = experiment.evaluate(model)
        assert found["validation_loss"] == pytest.approx(expected, rel=1e-5)
        assert found["validation_perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)


@pytest.mark.parametrize("clip", [0.7, 0.0])
@pytest.mark.parametrize("net", list(MODULATION))
def test_an_update_is_clipped_gradient_descent_on_the_sum_over_the_steps(small_text, net, clip):
    experiment = task(small_text, net=net, l2=0.01, clip_gradient=clip, learning_rate=0.5)
    model, optimizer = built(experiment)
    segment = experiment.episode(stream(0, "test"), False)
    before = copy.deepcopy(model)
    old = [parameter for parameter in before.parameters() if parameter.requires_grad]
    loss = nn.functional.cross_entropy(
        before.output(before(segment.words).raw).flatten(0, 1),
        segment.following.flatten(),
        reduction="sum",
    )
    gradients = torch.autograd.grad(loss / 4, old)
    values = experiment.update(model, optimizer, segment)
    assert float(values["loss"].detach()) == pytest.approx(float(loss.detach()) / 20, rel=1e-5)
    norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
    factor = min(1.0, clip / norm) if clip else 1.0
    assert (factor < 1) == bool(clip), "there is something to clip"
    new = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wanted = [
        each - 0.5 * (factor * gradient + 0.01 * each)
        for each, gradient in zip(old, gradients, strict=True)
    ]
    torch.testing.assert_close(new, wanted, rtol=1e-4, atol=1e-6)


def test_rates_of_eligibility_traces_stay_where_the_traces_fade(small_text):
    experiment = task(small_text, net="retroactive", learning_rate=1e-6, layers=3)
    model, optimizer = built(experiment)
    rates = [layer.get_parameter("eligibility_eta_l0") for layer in model.layers]
    for rate, start in zip(rates, (-0.1, 0.5, 1.1), strict=True):
        nn.init.constant_(rate, start)
    experiment.update(model, optimizer, experiment.episode(stream(0, "test"), False))
    assert [float(rate.detach()) for rate in rates] == [0, pytest.approx(0.5, abs=1e-3), 1]


@pytest.mark.parametrize("net", ["plastic", "simple", "retroactive"])
def test_a_plastic_layer_without_plasticity_is_an_lstm(net):
    torch.manual_seed(0)
    config = replace(TINY, net=net, weight_scale=0.5)
    sizes = {"vocabulary": 30, "embedding": 5, "hidden": [6, 6], "tied": False}
    model = LanguageModel(
        **sizes, plasticity=config.plasticity(), fan_out_bias=False, backend="reference"
    )
    plain = LanguageModel(**sizes, plasticity=None)
    weights = {
        name.replace("parametrizations.", ""): tensor for name, tensor in model.state_dict().items()
    }
    for number, layer in enumerate(model.layers):
        nn.init.zeros_(layer.get_parameter("alpha_l0"))
        weights[f"layers.{number}.bias_hh_l0"] = layer.bias_hh_l0
        assert not layer.bias_hh_l0[12:18].any(), "the candidate has one bias"
        assert layer.bias_hh_l0[:12].all()
        assert layer.bias_hh_l0[18:].all()
        if net != "plastic":
            assert not layer.fan_out_bias_l0.any()
    assert not plain.load_state_dict(weights, strict=False).missing_keys
    words = torch.randint(30, (7, 3))
    torch.testing.assert_close(model(words).raw, plain(words).raw)


def test_the_rate_falls_after_the_epochs_at_full_rate(small_text):
    experiment = task(small_text, full_rate_epochs=4, learning_rate_factor=0.25)
    assert [experiment.learning_rate(epoch) for epoch in (0, 3, 3.99, 4, 5.5)] == [
        1,
        1,
        1,
        0.25,
        0.0625,
    ]
    model, optimizer = built(experiment)
    experiment.epoch = 5
    experiment.update(model, optimizer, experiment.episode(stream(0, "test"), False))
    assert optimizer.param_groups[0]["lr"] == 0.0625


def test_segments_vary_in_length_and_the_rate_with_them(small_text):
    experiment = task(small_text, TINY_LARGE, bptt=70)
    generator = stream(0, "test")
    lengths = [experiment._length(generator) for _ in range(4_000)]
    assert min(lengths) >= 5
    assert max(lengths) == 80
    assert sum(lengths) / 4_000 == pytest.approx(0.95 * 69.5 + 0.05 * 34.5, abs=0.5)
    assert 0.03 < sum(length < 50 for length in lengths) / 4_000 < 0.07
    model, optimizer = built(experiment)
    segment = experiment.episode(generator, False)
    experiment.update(model, optimizer, segment)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(3 * len(segment.words) / 70)


def test_dropout_keeps_its_units_through_a_segment(small_text):
    torch.manual_seed(0)
    ones = torch.ones(6, 8, 40)
    dropped = locked(ones, 0.25)
    assert torch.equal(dropped, dropped[:1].expand(6, 8, 40))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert 0.15 < float((dropped[0] == 0).float().mean()) < 0.35
    experiment = task(small_text, TINY_LARGE)
    model, _ = built(experiment)
    words = experiment.columns[:9]
    training, again = model(words).raw, model(words).raw
    assert not torch.allclose(training, again)
    model.eval()
    assert torch.equal(model(words).raw, model(words).raw)
    assert torch.equal(model(words).raw, model(words).dropped)


def test_dropped_words_are_dropped_everywhere(small_text):
    experiment = task(small_text, TINY_LARGE, drop_words=0.5, drop_input=0.0)
    model, _ = built(experiment)
    inputs = []
    model.layers[0].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    words = experiment.columns[:20]
    model(words)
    gone = inputs[0].abs().sum(-1) == 0
    assert 0.2 < float(gone.float().mean()) < 0.8
    assert not set(words[gone].tolist()) & set(words[~gone].tolist())
    torch.testing.assert_close(inputs[0][~gone], 2 * model.embedding(words)[~gone])


def test_the_gradient_of_alpha_is_divided(small_text):
    changes = []
    for divided in (True, False):
        experiment = task(
            small_text, TINY_LARGE, divide_alpha_gradient=divided, clip_gradient=0.0, l2=0.0
        )
        model, optimizer = built(experiment)
        nn.init.constant_(model.layers[0].alpha_l0, 0.5)
        before = copy.deepcopy(model.state_dict())
        torch.manual_seed(1)
        experiment.update(model, optimizer, experiment.episode(stream(0, "test"), False))
        changes.append({name: tensor - before[name] for name, tensor in model.state_dict().items()})
    for name in changes[0]:
        factor = 8 if name.endswith("alpha_l0") else 1
        torch.testing.assert_close(
            changes[0][name] * factor, changes[1][name], rtol=1e-3, atol=1e-6
        )
    assert float(changes[1]["layers.0.alpha_l0"].abs().max()) > 1e-5


def test_activities_and_their_changes_are_penalised(small_text):
    plain = {
        "drop_words": 0.0,
        "drop_input": 0.0,
        "drop_hidden": 0.0,
        "drop_output": 0.0,
        "clip_gradient": 0.0,
    }
    experiment = task(
        small_text, TINY_LARGE, **plain, l2=0.0, learning_rate=0.1, divide_alpha_gradient=False
    )
    model, optimizer = built(experiment)
    segment = experiment.episode(stream(0, "test"), False)
    before, rate = copy.deepcopy(model), 0.1 * len(segment.words) / 12
    found = before(segment.words)
    penalty = 2 * found.raw.square().mean() + (found.raw[1:] - found.raw[:-1]).square().mean()
    (before.loss(found, segment.following) + penalty).backward()
    loss = experiment.update(model, optimizer, segment)["loss"]
    assert float(loss.detach()) == pytest.approx(
        float(before.loss(found, segment.following).detach()), rel=1e-6
    )
    for old, new in zip(before.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(new, old - rate * old.grad, rtol=1e-4, atol=1e-7)


def test_weights_are_averaged_after_the_switch_and_the_best_are_tested(small_text):
    experiment = task(small_text, TINY_LARGE, average_from=1)
    model, optimizer = built(experiment)
    generator, later, losses = stream(0, "test"), [], []
    while experiment.epoch < 3:
        epoch = experiment.epoch
        experiment.update(model, optimizer, experiment.episode(generator, False))
        if epoch >= 1:
            later.append(copy.deepcopy(model.state_dict()))
        if experiment.due(0):
            losses.append(experiment.evaluate(model)["validation_loss"])
    assert (experiment.average is None) == (not later)
    for name, tensor in experiment.average.module.state_dict().items():
        torch.testing.assert_close(
            tensor, torch.stack([weights[name] for weights in later]).mean(0)
        )
    found = experiment.final_metrics(model)
    assert found["validation_loss"] == min(losses)
    model.load_state_dict(experiment.best)
    fresh = task(small_text, TINY_LARGE)
    assert fresh.evaluate(model)["validation_loss"] == pytest.approx(min(losses), rel=1e-6)
    assert found["test_loss"] == pytest.approx(
        fresh._mean_loss(model, fresh.corpus.test, 1), rel=1e-6
    )


@pytest.mark.parametrize("net", ["plastic", "simple", "retroactive"])
@pytest.mark.parametrize("config", [TINY, TINY_LARGE], ids=["small", "large"])
def test_both_paths_learn_the_same(small_text, config, net):
    losses = [
        trained(task(small_text, config, net=net), 20, backend)[1]
        for backend in ("cpu", "reference")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_settings_that_cannot_be_are_refused(small_text):
    for changes, message in (
        ({"net": "gru"}, "net must be one of lstm, plastic, simple, retroactive; got 'gru'"),
        ({"drop_words": 1.0}, "drop_words must be at least 0 and less than 1; got 1.0"),
        (
            {"net": "simple", "fan_out": "all"},
            "fan_out must be one of none, neuron, connection; got 'all'",
        ),
        ({"burn_in": 1}, "burn_in must be 0 in language; got 1"),
        ({"bptt": 0}, "bptt must be at least 1; got 0"),
    ):
        with pytest.raises(ExperimentError, match=message):
            replace(TINY, **changes)
    with pytest.raises(
        ExperimentError, match="the training text has 7 words, too few for 4 columns"
    ):
        task(small_text, train_words=7)


def test_only_the_treebank_stands_beside_published_numbers(small_text):
    assert not task(small_text).published()
    experiment = task(small_text)
    experiment.corpus = replace(experiment.corpus, source="Penn Treebank")
    assert {level.metric: level.value for level in experiment.published()} == {
        "perplexity": 104.26, "loss": math.log(104.26)
    }  # fmt: skip
