"""Archives from elsewhere: whatever is in them, they are read or refused in one line, and nothing is written."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from experiments.common import characters, pictures
from experiments.common.config import ExperimentError

ESCAPING = (
    "../evil.png",
    "images_background/../../evil.png",
    "/etc/evil.png",
    "a\\..\\..\\evil.png",
    "C:/evil.png",
)


def png(value: int, mode: str = "RGB", size: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (size, size), value).save(buffer, "PNG")
    return buffer.getvalue()


def packed(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def omniglot(folder: Path, **more: bytes) -> Path:
    """Both archives with one character each, and further members of the first."""
    for archive in characters.ARCHIVES:
        files = {
            f"{archive}/script/one/{copy:02}.png": png(copy % 2, "1", 105) for copy in range(20)
        }
        packed(
            folder / f"{archive}.zip",
            {**files, **(more if archive == characters.ARCHIVES[0] else {})},
        )
    return folder


def test_the_archives_of_these_tests_are_good_ones(tmp_path: Path) -> None:
    names, drawings = characters.load(omniglot(tmp_path), 28)
    assert len(names) == 2 and drawings.shape == (2, 20, 28, 28)


@pytest.mark.parametrize("name", ESCAPING)
def test_an_archive_of_characters_that_leaves_its_folder_is_refused(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    omniglot(folder, **{name: png(1, "1")})
    with pytest.raises(
        ExperimentError, match=r"refused, its member .* escapes the archive's folder"
    ):
        characters.load(folder, 28)
    assert [path.name for path in tmp_path.iterdir()] == ["data"] and len([*folder.iterdir()]) == 2


def test_a_huge_drawing_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 1000)
    omniglot(tmp_path, **{"images_background/script/one/bomb.png": bytes(10_000_000)})
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(ExperimentError, match=r"bomb\.png' is larger than 1000 bytes"):
        characters.load(tmp_path, 28)


def test_a_member_that_is_larger_than_it_declares_is_not_unpacked_further(tmp_path: Path) -> None:
    path = packed(tmp_path / "pictures.zip", {"1.png": png(1), "2.png": bytes(5_000_000)})
    content = bytearray(path.read_bytes())
    size = (5_000_000).to_bytes(4, "little")
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, (100).to_bytes(4, "little")))
    with pytest.raises(ExperimentError, match=r"2\.png: cannot be read as a picture"):
        pictures.load(path, 32, 0.5)


def test_a_link_in_an_archive_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(9))
    link = zipfile.ZipInfo("2.png")
    link.external_attr = 0o120777 << 16
    path = packed(tmp_path / "pictures.zip", {"1.png": png(1)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, str(tmp_path / "secret.png"))
    with pytest.raises(ExperimentError, match=r"2\.png: cannot be read as a picture"):
        pictures.load(path, 32, 0.5)


def test_an_archive_that_is_compressed_in_another_way_is_one_line(tmp_path: Path) -> None:
    path = packed(tmp_path / "pictures.zip", {"1.png": png(1), "2.png": png(2)})
    content = path.read_bytes()
    deflated, directory = (
        b"PK\x03\x04\x14\x00\x00\x00\x08",
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x08",
    )
    assert content.count(deflated) == content.count(directory) == 2
    path.write_bytes(
        content.replace(deflated, deflated[:-1] + b"\x63").replace(
            directory, directory[:-1] + b"\x63"
        )
    )
    with pytest.raises(
        ExperimentError, match=r"\d\.png: cannot be read as a picture: That compression method"
    ):
        pictures.load(path, 32, 0.5)


@pytest.mark.parametrize("kind", ["pictures", "characters"])
def test_an_archive_with_any_damage_is_read_or_refused_in_one_line(
    tmp_path: Path, kind: str
) -> None:
    if kind == "pictures":
        path = packed(
            tmp_path / "pictures.zip",
            {f"{part}/{i}.png": png(i) for part in ("train", "test") for i in (1, 2)},
        )
        load = lambda: pictures.load(path, 32, 0.5)  # noqa: E731
    else:
        path = omniglot(tmp_path) / "images_evaluation.zip"
        load = lambda: characters.load(tmp_path, 28)  # noqa: E731
    whole, where, refused = path.read_bytes(), random.Random(0), 0
    for trial in range(150 if kind == "pictures" else 40):
        position = where.randrange(len(whole))
        # Half of the damage where the names and sizes are.
        position = position if trial % 2 else len(whole) - 1 - position // 4
        if trial % 5 == 0:
            path.write_bytes(whole[:position])
        else:
            path.write_bytes(
                whole[:position] + bytes([whole[position] ^ 1 << trial % 8]) + whole[position + 1 :]
            )
        try:
            load()
        except ExperimentError as error:
            refused += 1
            assert "\n" not in str(error), str(error)
            assert str(path.parent) in str(error)
    assert refused > (50 if kind == "pictures" else 12)


def test_downloads_are_checked_by_hash() -> None:
    """By torchvision, which knows those of the official files."""
    datasets = pytest.importorskip("torchvision.datasets")
    assert set(datasets.Omniglot.zips_md5) == set(characters.ARCHIVES)
    assert all(
        len(digest) == 32
        for digest in (*datasets.Omniglot.zips_md5.values(), datasets.CIFAR10.tgz_md5)
    )
    assert datasets.CIFAR10.base_folder == pictures.CIFAR10_FOLDER
