"""The natural image task: its episodes, its networks and its panel."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from experiments.common.config import ExperimentError
from experiments.common.experiment import stream
from experiments.images import CODE, PAPER, PIXELS, SIDE, Images, greyscale

CPU = torch.device("cpu")
SHORT = {"cycles": 2, "show_steps": 2, "evaluation_episodes": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve pictures for training and five for testing, all different."""
    root = tmp_path_factory.mktemp("pictures")
    torch.manual_seed(0)
    for part, count in (("train", 12), ("test", 5)):
        (root / part).mkdir()
        for index in range(count):
            pixels = torch.randint(256, (SIDE, SIDE, 3), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / part / f"{index}.png")
    return root


@pytest.fixture
def task(folder):
    return Images(replace(CODE, **SHORT), CPU, "reference", folder)


def test_schedule_of_the_presets():
    steps = {name: 3 * 3 * (nets["yoked"].show_steps + nets["yoked"].gap_steps) + nets["yoked"].test_steps
             for name, nets in Images.presets.items()}  # fmt: skip
    assert steps == {"quick": 201, "code": 201, "paper": 210}
    assert all(
        set(nets) == {"independent", "yoked", "nonplastic"} for nets in Images.presets.values()
    )
    assert all(
        config.learning_rate == 1e-4 for nets in Images.presets.values() for config in nets.values()
    )


def test_code_pictures_have_zero_mean_and_reach_one():
    grey = greyscale(torch.randint(256, (7, SIDE, SIDE, 3), dtype=torch.uint8), "signed")
    assert grey.shape == (7, PIXELS)
    torch.testing.assert_close(grey.mean(1), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(grey.abs().amax(1), torch.ones(7))


def test_paper_pictures_lie_between_zero_and_one():
    colour = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    colour[1] = 255
    assert torch.equal(greyscale(colour, "unit"), torch.tensor([[0.0], [1.0]]).expand(2, PIXELS))


def test_a_uniform_picture_gives_zeros_instead_of_nan():
    assert (greyscale(torch.full((1, SIDE, SIDE, 3), 77, dtype=torch.uint8), "signed") == 0).all()


def test_the_cue_lacks_the_upper_or_the_lower_half(task):
    generator, erased = stream(0, "test"), []
    for _ in range(60):
        episode = task.episode(generator, held_out=False)
        halves = (episode.cue.view(2, -1) == 0).all(1).tolist()
        assert sum(halves) == 1
        erased.append(halves.index(True))
        kept = episode.cue.view(2, -1)[1 - erased[-1]]
        assert torch.equal(kept, episode.target.view(2, -1)[1 - erased[-1]])
        assert (episode.shown == episode.target).all(1).any()
        assert torch.equal(episode.drive[-1, 0, :PIXELS], episode.cue)
    assert 15 < sum(erased) < 45


def test_pixels_clamp_where_they_are_not_zero_and_the_last_neuron_always(task):
    episode = task.episode(stream(1, "test"), held_out=False)
    assert episode.drive.shape == (2 * 3 * (2 + 2) + 3, 1, PIXELS + 1)
    assert torch.equal(episode.clamp, episode.drive != 0)
    assert (episode.drive[..., -1] == 1).all()
    torch.manual_seed(0)
    output = task.build("reference")(episode.drive, clamp=episode.clamp)[0]
    assert torch.equal(output[episode.clamp], episode.drive[episode.clamp])


def test_training_and_evaluation_never_share_a_picture(task):
    def pictures(held_out):
        generator = stream(2, "test")
        return {
            tuple(row.tolist())
            for _ in range(30)
            for row in task.episode(generator, held_out).shown
        }

    training, testing = pictures(False), pictures(True)
    assert len(training) == 12
    assert len(testing) == 5
    assert not training & testing


@pytest.mark.parametrize(
    ("net", "trained"),
    [("independent", 2 * 1025**2 + 1), ("yoked", 1025**2 + 2), ("nonplastic", 1025**2)],
)
def test_networks_train_what_their_condition_allows(folder, net, trained):
    task = Images(replace(CODE, net=net, **SHORT), CPU, "reference", folder)
    torch.manual_seed(0)
    model = task.build("reference")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    alpha = model.get_parameter("alpha_l0")
    if net != "independent":
        assert alpha.detach().item() == pytest.approx(0.01 if net == "yoked" else 0.0)
    before = alpha.detach().clone()
    task.update(model, task.optimizer(model), task.episode(stream(3, "test"), held_out=False))
    assert torch.equal(alpha, before) == (net == "nonplastic")


def test_evaluation_is_the_same_at_every_call_and_leaves_the_training_data_alone(task):
    torch.manual_seed(0)
    model = task.build("reference")
    generator = stream(4, "test")
    expected = [task.episode(stream(4, "test"), held_out=False).target.clone()]
    first, second = task.evaluate(model), task.evaluate(model)
    assert first == second
    assert torch.equal(task.episode(generator, held_out=False).target, expected[0])


@pytest.mark.parametrize("preset", [PAPER, CODE], ids=["paper", "code"])
def test_panel_shows_held_out_pictures(folder, tmp_path, preset):
    task = Images(replace(preset, **SHORT), CPU, "reference", folder)
    [path] = task.figures(task.build("reference"), tmp_path)
    with Image.open(path) as image:
        assert image.size[0] > 400
        assert len(image.convert("L").getcolors()) > 50


def test_data_description_tells_other_pictures_apart(folder, tmp_path):
    Image.new("RGB", (SIDE, SIDE), "red").save(tmp_path / "a.png")
    Image.new("RGB", (SIDE, SIDE), "blue").save(tmp_path / "b.png")
    config = replace(PAPER, **SHORT)
    one, other = (
        Images(config, CPU, "reference", data).describe_data() for data in (folder, tmp_path)
    )
    assert "12 training and 5 held-out pictures" in one
    assert one.split(",")[-1] != other.split(",")[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grey": "red"}, "grey must be one of"),
        ({"net": "plastic"}, "net must be one of"),
        ({"held_out": 1.0}, "held_out"),
    ],
)
def test_bad_settings_are_refused_by_name(changes, message):
    with pytest.raises(ExperimentError, match=message):
        replace(PAPER, **changes)
