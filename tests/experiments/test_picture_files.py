"""Reading pictures from folders, zips and CIFAR-10."""

import io
import sys
import types
import zipfile

import numpy
import pytest
import torch
from PIL import Image

from experiments.common import pictures
from experiments.common.config import ExperimentError
from experiments.images import CODE, PAPER, Images


def png(value: int, size: int = 32, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (size, size), (value,) * 3 if mode == "RGB" else value).save(buffer, "PNG")
    return buffer.getvalue()


def write(root, files, packed):
    """The files as a zip or as a folder."""
    if packed:
        path = root / "pictures.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    for name, content in files.items():
        path = root / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root / "pictures"


def values(stack: torch.Tensor) -> list[int]:
    """One number for each picture of one colour."""
    assert (stack == stack[:, :1, :1, :1]).all()
    return stack[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("packed", [True, False], ids=["zip", "folder"])
@pytest.mark.parametrize("wrapper", ["", "cifar/", "a/b/"])
def test_train_and_test_folders_are_the_split(tmp_path, packed, wrapper):
    files = {f"{wrapper}train/cat/{i}.png": png(i) for i in range(5)}
    files |= {f"{wrapper}test/{i}.PNG": png(100 + i) for i in range(2)}
    files |= {"README.txt" if not wrapper else f"{wrapper}README.txt": b"no picture"}
    found = pictures.load(write(tmp_path, files, packed), 32, 0.1)
    assert values(found.train) == [0, 1, 2, 3, 4]
    assert values(found.test) == [100, 101]


@pytest.mark.parametrize("packed", [True, False], ids=["zip", "folder"])
def test_other_trees_get_a_fixed_disjoint_split(tmp_path, packed):
    files = {f"class{i % 3}/{i:02}.png": png(i) for i in range(40)}
    path = write(tmp_path, files, packed)
    found, again = pictures.load(path, 32, 0.25), pictures.load(path, 32, 0.25)
    train, test = values(found.train), values(found.test)
    assert len(test) == 10
    assert sorted(train + test) == list(range(40))
    assert test != sorted(test)[:10]
    assert (train, test) == (values(again.train), values(again.test))


def test_a_lone_train_folder_is_split_too(tmp_path):
    found = pictures.load(
        write(tmp_path, {f"train/{i}.png": png(i) for i in range(10)}, False), 32, 0.1
    )
    assert (len(found.train), len(found.test)) == (9, 1)


def test_files_of_archivers_and_hidden_files_are_no_pictures(tmp_path):
    files = {"1.png": png(1), "2.png": png(2), "__MACOSX/._1.png": b"junk", ".thumb/3.png": b"junk"}
    found = pictures.load(write(tmp_path, files, True), 32, 0.5)
    assert sorted(values(found.train) + values(found.test)) == [1, 2]


def test_pictures_are_resized_and_brought_to_eight_bit_colour(tmp_path):
    files = {"train/1.png": png(1, size=80, mode="1"), "test/1.png": png(7, size=8, mode="L")}
    found = pictures.load(write(tmp_path, files, False), 32, 0.1)
    assert found.train.shape == found.test.shape == (1, 32, 32, 3)
    assert found.train.dtype == torch.uint8
    assert values(found.train) == [255], "ink of a 1-bit picture is full scale"
    assert values(found.test) == [7]


@pytest.mark.parametrize(
    "name",
    ["../evil.png", "a/../../evil.png", "/etc/evil.png", "a\\..\\..\\evil.png", "C:/evil.png"],
)
def test_a_zip_that_leaves_its_folder_is_refused(tmp_path, name):
    path = write(tmp_path, {"good.png": png(1), "other.png": png(2), name: png(3)}, True)
    with pytest.raises(ExperimentError, match="escapes"):
        pictures.load(path, 32, 0.1)
    assert {entry.name for entry in tmp_path.iterdir()} == {"pictures.zip"}


def test_a_huge_member_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ExperimentError, match=r"bomb\.png.*larger than 1000 bytes"):
        pictures.load(write(tmp_path, {"bomb.png": bytes(1001)}, True), 32, 0.1)


@pytest.mark.parametrize("packed", [True, False], ids=["zip", "folder"])
def test_a_damaged_picture_is_named(tmp_path, packed):
    files = {"train/1.png": png(1), "test/broken.png": png(2)[:40]}
    with pytest.raises(ExperimentError, match=r"test/broken\.png: cannot be read as a picture"):
        pictures.load(write(tmp_path, files, packed), 32, 0.1)


def test_places_without_pictures_are_refused(tmp_path):
    with pytest.raises(ExperimentError, match="no pictures"):
        pictures.load(tmp_path, 32, 0.1)
    with pytest.raises(ExperimentError, match="not a folder and not a zip"):
        pictures.load(tmp_path / "nowhere", 32, 0.1)
    (tmp_path / "one.png").write_bytes(png(1))
    with pytest.raises(ExperimentError, match="at least two pictures"):
        pictures.load(tmp_path, 32, 0.1)


@pytest.fixture
def fake_torchvision(monkeypatch):
    """A stand-in for torchvision's CIFAR-10 with 10 training and 3 test pictures, whose values count up."""
    calls = []

    class CIFAR10:
        def __init__(self, root, train, download):
            calls.append((root, download))
            first, count = (0, 10) if train else (100, 3)
            self.data = numpy.stack(
                [numpy.full((32, 32, 3), first + i, dtype=numpy.uint8) for i in range(count)]
            )

    torchvision, datasets = (
        types.ModuleType("torchvision"),
        types.ModuleType("torchvision.datasets"),
    )
    datasets.CIFAR10 = CIFAR10
    torchvision.datasets = datasets
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    return calls


def test_cifar10_is_split_as_the_preset_says(fake_torchvision, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    counts = {}
    for name, config in (("paper", PAPER), ("code", CODE)):
        task = Images(config, torch.device("cpu"))
        counts[name] = (len(task.train), len(task.test))
    assert counts == {"paper": (10, 3), "code": (8, 2)}
    assert all(root.is_relative_to(tmp_path) and download for root, download in fake_torchvision)


def test_cifar10_that_is_there_is_not_downloaded(fake_torchvision, tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert pictures.load(tmp_path, 32, 0.1).source == "CIFAR-10"
    assert {download for _, download in fake_torchvision} == {False}


def test_a_missing_torchvision_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ExperimentError, match="pip install torchvision, or use --data"):
        pictures.load(None, 32, 0.1)
