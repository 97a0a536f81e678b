"""Omniglot episodes: what may be shown, what is held out, and what damaged archives lead to."""

import io
import zipfile
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw

from experiments.common import characters
from experiments.common.config import ExperimentError
from experiments.common.experiment import stream
from experiments.omniglot import Omniglot, OmniglotConfig

CPU = torch.device("cpu")
PER_ARCHIVE = 12
TINY = OmniglotConfig(batch=8, ways=4, shots=2, features=4, test_classes=6)


def drawing(archive, character, copy):
    """A 1-bit picture that no other character and no other copy of it has."""
    image = Image.new("1", (105, 105), 1)
    number = (archive * PER_ARCHIVE + character) * 20 + copy
    for bit in range(9):
        if number >> bit & 1:
            left, top = 35 * (bit % 3), 35 * (bit // 3)
            ImageDraw.Draw(image).rectangle((left, top, left + 33, top + 33), fill=0)
    # What tells which way is up.
    ImageDraw.Draw(image).rectangle((0, 0, 104, 5), fill=0)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def members():
    for number, archive in enumerate(characters.ARCHIVES):
        for character in range(PER_ARCHIVE):
            for copy in range(20):
                name = f"{archive}/Script{character % 3}/character{character:02}/{character:04}_{copy:02}.png"
                yield archive, name, drawing(number, character, copy)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("omniglot")
    for wanted in characters.ARCHIVES:
        with zipfile.ZipFile(folder / f"{wanted}.zip", "w") as archive:
            for name, content in (
                (name, content) for part, name, content in members() if part == wanted
            ):
                archive.writestr(name, content)
    return folder


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    for _, name, content in members():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def task(archives, **changes):
    return Omniglot(replace(TINY, **changes), CPU, None, archives)


def test_archives_and_folders_hold_the_same_characters(archives, unpacked):
    names, drawings = characters.load(archives, 31)
    again, same = characters.load(unpacked, 31)
    assert names == again == sorted(names)
    assert len(names) == 2 * PER_ARCHIVE
    assert torch.equal(drawings, same)
    assert drawings.shape == (24, 20, 31, 31)
    # Ink is large: the line at the top of every drawing.
    assert int(drawings[:, :, 0].min()) > 200
    assert int(drawings[0, 0, 4:].max()) == 0, (
        "the first drawing of the first character is otherwise empty"
    )


def looked_up(experiment):
    """Character, rotation and copy of every picture."""
    found = {}
    for character, turned in enumerate(experiment.drawings):
        for rotation, copies in enumerate(turned):
            for copy, picture in enumerate(copies):
                found[picture.float().div(255).numpy().tobytes()] = (character, rotation, copy)
    assert len(found) == experiment.drawings.shape[:3].numel(), "all pictures of the test differ"
    return found


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("same_drawing", [True, False])
def test_episodes_follow_the_protocol(archives, held_out, same_drawing):
    experiment = task(archives, same_drawing=same_drawing)
    known, generator = looked_up(experiment), stream(0, "test")
    allowed = set((experiment.test if held_out else experiment.train).tolist())
    repeated, seen, rotations, first_labels = 0, set(), set(), []
    for _ in range(15):
        episode = experiment.episode(generator, held_out)
        assert episode.pictures.shape == (9, 8, 31, 31)
        for b in range(8):
            what = [known[picture.numpy().tobytes()] for picture in episode.pictures[:, b]]
            support, query = (
                list(zip(what[:-1], episode.labels[:, b].tolist(), strict=True)),
                what[-1],
            )
            classes = {label: {(character, turn) for (character, turn, _), of in support if of == label}
                       for label in range(4)}  # fmt: skip
            assert all(len(one) == 1 for one in classes.values()), (
                "a class has one character and one rotation"
            )
            assert len({character for (character, _, _), _ in support}) == 4
            assert len(set(what[:-1])) == 8, "no drawing is shown twice"
            assert {query[:2]} == classes[int(episode.target[b])]
            repeated += query in what[:-1]
            seen |= {character for character, _, _ in what}
            rotations |= {turn for _, turn, _ in what}
            first_labels.append(support[0][1])
    assert (repeated > 0) == same_drawing
    assert seen <= allowed
    assert len(seen) == len(allowed)
    assert rotations == {0, 1, 2, 3}
    assert set(first_labels) == {0, 1, 2, 3}, "the order of showing is not the order of the labels"


def test_no_seed_trains_on_what_it_is_tested_on(archives):
    experiment = task(archives)
    splits = []
    for seed in (0, 1, 2):
        experiment.prepare(seed)
        splits.append((experiment.train.tolist(), experiment.test.tolist()))
        assert not set(splits[-1][0]) & set(splits[-1][1])
        assert len(splits[-1][0]) + len(splits[-1][1]) == 24
        assert "trained on" not in experiment.describe_data()
    assert splits[0] == splits[1] == splits[2]


def test_the_leaky_split_leaks_and_says_so(archives):
    experiment = task(archives, split="leaky")
    honest = task(archives).test.tolist()
    experiment.prepare(0)
    assert not set(experiment.train.tolist()) & set(experiment.test.tolist())
    experiment.prepare(1)
    leaked = len(set(experiment.train.tolist()) & set(experiment.test.tolist()))
    assert leaked > 0
    assert experiment.test.tolist() == honest, (
        "all seeds are tested on the classes that seed 0 holds out"
    )
    assert f"{leaked} of them trained on" in experiment.describe_data()


def test_dark_ink_is_the_same_the_other_way_round(archives):
    light, dark = (
        task(archives, ink=ink).episode(stream(0, "test"), False).pictures
        for ink in ("one", "dark")
    )
    torch.testing.assert_close(light, 1 - dark)


@pytest.mark.parametrize(
    ("preset", "net", "parameters"), [("code", "free", 112_065), ("paper", "yoked", 111_746)]
)
def test_networks_have_as_many_parameters_as_the_authors(archives, preset, net, parameters):
    experiment = Omniglot(
        replace(Omniglot.presets[preset][net], test_classes=6), CPU, None, archives
    )
    model = experiment.build("reference")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    with torch.no_grad():
        model.head.weight.zero_()
        loss = experiment.loss(model, experiment.episode(stream(0, "test"), False))["loss"]
    assert float(loss) == pytest.approx(0.5004, abs=1e-4), "chance: so soon the traces hardly count"


class RandomFeatures(torch.nn.Module):
    """Features that differ much between pictures, as trained convolutions have them."""

    def forward(self, pictures):
        generator = torch.Generator().manual_seed(0)
        differences = pictures.flatten(1) - pictures.flatten(1).mean(0)
        return torch.tanh(differences @ torch.randn(31 * 31, 64, generator=generator) / 10)


def test_what_was_shown_is_remembered_only_with_plasticity(archives):
    right = {}
    for net in ("free", "yoked", "nonplastic"):
        experiment = task(
            archives, net=net, shots=1, batch=64, features=64, alpha_scale=1.0, eta_init=0.5
        )
        torch.manual_seed(0)
        model = experiment.build(None)
        model.features = RandomFeatures()
        episode = experiment.episode(stream(0, "test"), False)
        # The drawing that is asked for is one that was shown.
        shown = (episode.labels == episode.target).long().argmax(0)
        episode.pictures[-1] = episode.pictures[shown, torch.arange(64)]
        right[net] = float(experiment.loss(model, episode)["accuracy"])
    assert min(right["free"], right["yoked"]) > 0.9
    assert right["nonplastic"] < 0.5


def test_mistakes_with_the_archives_are_explained(tmp_path, archives):
    def message(folder):
        with pytest.raises(ExperimentError) as caught:
            characters.load(folder, 31)
        return str(caught.value)

    assert "expected a folder with images_background.zip and images_evaluation.zip" in message(
        tmp_path / "nowhere"
    )
    assert "has neither images_background.zip nor a folder images_background" in message(tmp_path)
    background, evaluation = (archives / f"{name}.zip" for name in characters.ARCHIVES)
    for name in (background, evaluation):
        (tmp_path / name.name).write_bytes(name.read_bytes())
    (tmp_path / evaluation.name).write_bytes(evaluation.read_bytes()[:5_000])
    assert "images_evaluation.zip is damaged or not a zip file" in message(tmp_path)
    content = bytearray(evaluation.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 255
    (tmp_path / evaluation.name).write_bytes(bytes(content))
    assert "images_evaluation.zip is damaged or not a zip file: Bad CRC-32" in message(tmp_path)
    with zipfile.ZipFile(tmp_path / evaluation.name, "w") as archive:
        archive.writestr("images_evaluation/Script0/character00/0000_00.png", drawing(1, 0, 0))
    assert "images_evaluation/Script0/character00 has 1 drawings, expected 20" in message(tmp_path)
    with zipfile.ZipFile(tmp_path / evaluation.name, "w") as archive:
        archive.writestr("images_evaluation/Script0/character00/0000_00.png", b"no picture")
    assert "0000_00.png: cannot be read as a picture" in message(tmp_path)


def test_settings_that_cannot_be_are_refused(archives):
    with pytest.raises(ExperimentError, match="test_classes leaves 2 of 24 characters to train on"):
        task(archives, test_classes=22)
    with pytest.raises(ExperimentError, match="shots must be less than 20; got 20"):
        replace(TINY, shots=20)
    with pytest.raises(ExperimentError, match="split must be one of fixed, leaky; got 'random'"):
        replace(TINY, split="random")
