"""The binary pattern task: what its episodes hold, and what its networks do with them."""

from dataclasses import replace

import pytest
import torch

from experiments.common.config import Config, ExperimentError
from experiments.common.experiment import stream
from experiments.common.networks import PlainRNN, RelayLSTM, plastic_rnn
from experiments.patterns import CODE, PAPER, Patterns, PatternsConfig

CPU = torch.device("cpu")
SMALL = {
    "paper": replace(PAPER, bits=14, patterns=4, show_steps=5, gap_steps=2, test_steps=3),
    "code": replace(CODE, bits=14, patterns=4, show_steps=3, gap_steps=1, test_steps=2),
}


def shown_blocks(config: PatternsConfig, drive: torch.Tensor) -> torch.Tensor:
    """Study part of a drive as (cycles, patterns, show + gap, neurons)."""
    steps = config.show_steps + config.gap_steps
    return drive[: config.cycles * config.patterns * steps, 0].view(
        config.cycles, config.patterns, steps, -1
    )


@pytest.mark.parametrize("name", SMALL)
def test_every_cycle_shows_every_pattern_once_with_its_gap(name):
    config = SMALL[name]
    task, generator, orders = Patterns(config, CPU), stream(0, "test"), set()
    for _ in range(20):
        drive, _, _ = task.episode(generator, held_out=False)
        assert drive.shape == (task.presentation.steps, 1, config.bits + 1)
        blocks = shown_blocks(config, drive)[..., : config.bits]
        shown, gaps = blocks[:, :, : config.show_steps], blocks[:, :, config.show_steps :]
        assert (shown == shown[:, :, :1]).all()
        assert (shown.abs() == config.strength).all()
        assert (gaps == 0).all()
        cycles = [[tuple(row) for row in cycle.tolist()] for cycle in shown[:, :, 0]]
        assert all(sorted(cycle) == sorted(cycles[0]) for cycle in cycles)
        first = {row: index for index, row in enumerate(cycles[0])}
        orders.update(tuple(first[row] for row in cycle) for cycle in cycles)
    assert len(orders) > 10, "the order is drawn anew in each cycle"


@pytest.mark.parametrize("name", SMALL)
def test_the_cue_is_one_of_the_patterns_with_half_of_its_bits_erased(name):
    config = SMALL[name]
    task, generator, targets = Patterns(config, CPU), stream(1, "test"), set()
    for _ in range(40):
        drive, _, target = task.episode(generator, held_out=False)
        cue = drive[-config.test_steps :, 0, : config.bits] / config.strength
        assert (cue == cue[0]).all()
        assert (cue[0] == 0).sum() == config.bits // 2
        given = cue[0] != 0
        assert torch.equal(cue[0][given], target[given])
        first_cycle = shown_blocks(config, drive)[0, :, 0, : config.bits] / config.strength
        matches = (first_cycle == target).all(1)
        assert matches.sum() == 1
        targets.add(int(matches.nonzero()))
    assert targets == set(range(config.patterns))


def test_bits_are_fair_coins_or_exactly_balanced():
    generator = stream(2, "test")
    balanced = Patterns(SMALL["code"], CPU)
    assert all(balanced.episode(generator, False).target.sum() == 0 for _ in range(20))
    fair = Patterns(SMALL["paper"], CPU)
    sums = torch.stack([fair.episode(generator, False).target.sum() for _ in range(400)])
    assert sums.unique().numel() > 4
    # The mean of 400 sums of 14 fair +-1 has a standard deviation of 0.19.
    assert sums.mean().abs() < 0.8


def test_clamped_input_fixes_neurons_and_added_input_drives_them():
    for config in SMALL.values():
        task = Patterns(config, CPU, "reference")
        drive, clamp, _ = task.episode(stream(3, "test"), held_out=False)
        assert (drive[..., -1] == config.strength).all(), (
            "the bias neuron has its input at every step"
        )
        torch.manual_seed(0)
        output = task.build("reference")(drive, clamp=clamp)[0]
        if config.clamped:
            assert torch.equal(clamp, drive != 0)
            assert torch.equal(output[clamp], drive[clamp])
        else:
            assert clamp is None
            assert torch.equal(output[drive != 0].sign(), drive[drive != 0].sign())
            assert (output.abs() <= 1).all()


def test_loss_is_the_squared_error_of_the_last_step_and_error_counts_signs():
    task = Patterns(SMALL["paper"], CPU, "reference")
    episode = task.episode(stream(4, "test"), held_out=False)
    torch.manual_seed(0)
    model = task.build("reference")
    last = model(episode.drive, clamp=episode.clamp)[0][-1, 0, :14].tolist()
    values = task.loss(model, episode)
    assert values["loss"].item() == pytest.approx(
        sum((a - b) ** 2 for a, b in zip(last, episode.target.tolist(), strict=True))
    )
    wrong = sum(a * b <= 0 for a, b in zip(last, episode.target.tolist(), strict=True))
    assert values["error"].item() == pytest.approx(wrong / 14)


@pytest.mark.parametrize(
    ("preset", "net", "steps", "neurons"),
    [
        ("paper", "plastic", 205, 1001),
        ("code", "plastic", 106, 1001),
        ("bits50-paper", "plastic", 11, 51),
        ("bits50-paper", "rnn", 11, 2050),
        ("bits50-paper", "lstm", 11, 2050),
        ("bits50-code", "plastic", 11, 51),
        ("bits50-code", "rnn", 11, 2051),
        ("bits50-code", "lstm", 11, 2000),
    ],
)
def test_presets_have_the_published_sizes(preset, net, steps, neurons):
    config = Patterns.presets[preset][net]
    assert Patterns(config, CPU).presentation.steps == steps
    assert config.neurons == neurons


def test_quick_preset_is_the_paper_network():
    assert (
        Patterns.presets["quick"]["plastic"].neurons
        == Patterns.presets["paper"]["plastic"].neurons
        == 1001
    )


def test_plastic_network_has_the_published_parameters():
    torch.manual_seed(0)
    model = Patterns(PAPER, CPU).build(None)
    assert sum(p.numel() for p in model.parameters()) == 2 * 1001**2 + 1
    for name in ("weight_hh_l0", "alpha_l0"):
        parameter = model.get_parameter(name)
        assert parameter.std().item() == pytest.approx(0.01, rel=0.01)
        assert abs(parameter.mean().item()) < 1e-4
    assert model.get_parameter("eta_l0").item() == pytest.approx(0.01)


def test_code_preset_starts_without_plastic_self_connections():
    model = Patterns(SMALL["code"], CPU).build(None)
    alpha = model.get_parameter("alpha_l0")
    assert (alpha.diagonal() == 0).all()
    assert (alpha != 0).sum() == alpha.numel() - len(alpha)


def test_plain_network_is_a_plastic_one_without_plasticity():
    config = SMALL["paper"]
    drive, clamp, _ = Patterns(config, CPU).episode(stream(5, "test"), held_out=False)
    torch.manual_seed(0)
    plastic = plastic_rnn(config, config.neurons, "zero", "reference", CPU)
    plain = PlainRNN(config.neurons, CPU)
    plain.load_state_dict({"weight": plastic.get_parameter("weight_hh_l0")})
    torch.testing.assert_close(plain(drive, clamp=clamp)[0], plastic(drive, clamp=clamp)[0])


class TestRelayLSTM:
    """The trick of the authors' LSTM: its visible cells pass their input on."""

    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        return RelayLSTM(visible=6, hidden=20, relay=True, device=CPU)

    def test_visible_cells_saturate_where_their_gates_are_open(self, model):
        with torch.no_grad():
            # The gates' weights on the input are trained; only their biases are forced.
            model.lstm.get_parameter("weight_ih_l0").zero_()
        drive = 100.0 * torch.randint(2, (4, 1, 6)).mul(2).sub(1)
        output = model(drive)[0][..., :6]
        # The candidate reaches +-1, the forget gate is shut: tanh(1) is the most that a visible cell can give.
        assert torch.equal(output.sign(), drive.sign())
        torch.testing.assert_close(
            output.abs(), torch.full_like(output, 1.0).tanh(), rtol=1e-3, atol=0
        )

    def test_visible_cells_have_no_memory_of_their_own(self, model):
        with torch.no_grad():
            model.lstm.get_parameter("weight_hh_l0").zero_()
        drive = torch.randn(2, 1, 6)
        other = torch.cat([-drive[:1], drive[1:]])
        first, second = model(drive)[0], model(other)[0]
        torch.testing.assert_close(first[1, 0, :6], second[1, 0, :6])
        assert (first[1, 0, 6:] - second[1, 0, 6:]).abs().max() > 1e-3

    def test_relay_holds_while_everything_else_is_trained(self, model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        before = {name: value.clone() for name, value in model.named_parameters()}
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(5, 1, 6))[0][-1].square().sum().backward()
            optimizer.step()
        model(torch.zeros(1, 1, 6))
        bias = model.lstm.get_parameter("bias_ih_l0").view(4, 20)[:, :6]
        assert torch.equal(bias, torch.tensor([10.0, -1000.0, 0.0, 10.0]).view(4, 1).expand(4, 6))
        candidate = model.lstm.get_parameter("weight_ih_l0").view(4, 20, 6)[2, :6]
        assert torch.equal(candidate, 10 * torch.eye(6))
        assert (model.lstm.get_parameter("bias_hh_l0") == 0).all()
        recurrent = model.lstm.get_parameter("weight_hh_l0").view(4, 20, 20)
        assert (recurrent[:, :6] != before["lstm.weight_hh_l0"].view(4, 20, 20)[:, :6]).any()

    def test_without_the_trick_nothing_is_forced(self):
        model = RelayLSTM(visible=6, hidden=20, relay=False, device=CPU)
        before = {name: value.clone() for name, value in model.named_parameters()}
        model(torch.randn(5, 1, 6))
        assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


@pytest.mark.parametrize("net", ["plastic", "rnn", "lstm"])
def test_every_network_of_the_comparison_trains(net):
    config = replace(
        Patterns.presets["bits50-code"][net], bits=10, hidden=0 if net == "plastic" else 12
    )
    task, generator = Patterns(config, CPU, "reference"), stream(6, "test")
    torch.manual_seed(0)
    model = task.build("reference")
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = task.optimizer(model)
    for _ in range(2):
        values = task.update(model, optimizer, task.episode(generator, held_out=False))
    assert torch.isfinite(values["loss"])
    assert any(
        not torch.equal(parameter, old)
        for parameter, old in zip(model.parameters(), before, strict=True)
    )


def test_a_small_plastic_network_learns_to_complete_patterns():
    config = replace(
        SMALL["paper"], bits=40, patterns=2, cycles=1, learning_rate=3e-3, evaluation_episodes=50
    )
    task, generator = Patterns(config, CPU, "reference"), stream(7, "test")
    torch.manual_seed(0)
    model = task.build("reference")
    optimizer = task.optimizer(model)
    assert task.evaluate(model)["test_error"] == pytest.approx(0.25, abs=0.03), (
        "chance: half of the erased half"
    )
    for _ in range(300):
        task.update(model, optimizer, task.episode(generator, held_out=False))
    assert task.evaluate(model)["test_error"] < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net": "gru"}, "net must be one of plastic, rnn, lstm; got 'gru'"),
        ({"bits": 1}, "bits must be at least 2; got 1"),
        ({"episodes": 0}, "episodes must be at least 1; got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite; got nan"),
        ({"learning_rate": -1.0}, "learning_rate must be positive; got -1.0"),
        ({"net": "lstm"}, "clamped must be false with net=lstm"),
    ],
)
def test_bad_settings_are_refused_by_name(changes, message):
    with pytest.raises(ExperimentError, match=message):
        replace(PAPER, **changes)


def test_settings_are_frozen():
    assert isinstance(PAPER, Config)
    with pytest.raises(AttributeError):
        PAPER.bits = 3  # type: ignore[misc]


def test_data_folder_is_refused_where_nothing_is_read(tmp_path):
    with pytest.raises(ExperimentError, match="--data"):
        Patterns(PAPER, CPU, None, tmp_path)
