"""Pictures for experiments: CIFAR-10, or any tree of image files in a folder or a zip."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from experiments.common.config import ExperimentError, require

SUFFIXES = (".jpg", ".jpeg", ".png")
UNREADABLE = (
    OSError, ValueError, SyntaxError, RuntimeError, zlib.error, zipfile.BadZipFile, Image.DecompressionBombError
)  # fmt: skip
"""What Pillow and zipfile raise for a damaged, encrypted or oversized file."""
MAX_FILE_BYTES = 64 * 2**20
CIFAR10 = "CIFAR-10"
CIFAR10_FOLDER = "cifar-10-batches-py"


@dataclass(frozen=True)
class Pictures:
    """Training and held-out pictures, uint8 (count, side, side, 3), and where they come from."""

    train: Tensor
    test: Tensor
    source: str


def load(data: Path | None, side: int, held_out: float) -> Pictures:
    """Pictures from ``data``, or CIFAR-10, downloaded once, where ``data`` is None.

    A folder or zip whose top level has both ``train`` and ``test`` is split so; any other is split by a fixed shuffle
    of the sorted names, with the share ``held_out`` for testing.
    """
    if data is None:
        return cifar10(cache_folder() / "cifar10", download=True)
    if (data / CIFAR10_FOLDER).is_dir():
        return cifar10(data, download=False)
    if data.is_dir():
        names, read = _folder(data)
        return _split(data, names, read, side, held_out)
    require(zipfile.is_zipfile(data), f"--data {data}: not a folder and not a zip file")
    try:
        packed = zipfile.ZipFile(data)
    except UNREADABLE as error:
        raise ExperimentError(f"--data {data}: is damaged: {error}") from error
    with packed as archive:
        return _split(data, members(data, archive), archive.read, side, held_out)


def cache_folder() -> Path:
    """Where downloads are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plastikern"


def cifar10(folder: Path, download: bool) -> Pictures:
    """The official CIFAR-10 sets, in the official order; torchvision downloads them and checks their hashes."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ExperimentError(
            f"CIFAR-10 is read through torchvision ({error}): pip install torchvision, or use --data DIR"
        ) from None
    try:
        train, test = (
            torch.from_numpy(datasets.CIFAR10(folder, train=training, download=download).data)
            for training in (True, False)
        )
    except (OSError, RuntimeError) as error:
        raise ExperimentError(f"CIFAR-10 could not be had from {folder}: {error}") from error
    return Pictures(train, test, CIFAR10)


Reader = Callable[[str], bytes]


def _folder(folder: Path) -> tuple[list[str], Reader]:
    names = []
    for parent, _, files in os.walk(folder):
        names += [(Path(parent) / file).relative_to(folder).as_posix() for file in files]

    def read(name: str) -> bytes:
        path = folder / name
        require(
            path.stat().st_size <= MAX_FILE_BYTES, f"{path}: larger than {MAX_FILE_BYTES} bytes"
        )
        return path.read_bytes()

    return names, read


def members(path: Path, archive: zipfile.ZipFile) -> list[str]:
    """Names of an archive's files, checked before any is unpacked.

    They are read in memory, yet an archive that tries to leave its folder is not to be trusted at all.
    """
    for info in archive.infolist():
        name = info.filename
        escapes = (
            name.startswith(("/", "\\"))
            or ":" in name
            or ".." in name.replace("\\", "/").split("/")
        )
        require(not escapes, f"{path}: refused, its member {name!r} escapes the archive's folder")
        require(
            info.file_size <= MAX_FILE_BYTES,
            f"{path}: {name!r} is larger than {MAX_FILE_BYTES} bytes",
        )
    return [info.filename for info in archive.infolist() if not info.is_dir()]


def _split(data: Path, names: list[str], read: Reader, side: int, held_out: float) -> Pictures:
    names = sorted(name for name in names if _is_picture(PurePosixPath(name)))
    require(bool(names), f"--data {data}: no pictures ({', '.join(SUFFIXES)}) in it")
    depth = _wrapping_folders(names)
    groups = {
        part: [name for name in names if name.split("/")[depth] == part]
        for part in ("train", "test")
    }
    if not all(groups.values()):
        require(
            len(names) >= 2,
            f"--data {data}: needs at least two pictures, one of them to be held out",
        )
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
        count = min(max(1, round(held_out * len(names))), len(names) - 1)
        groups = {
            "test": [names[i] for i in order[:count]],
            "train": [names[i] for i in order[count:]],
        }

    def stack(part: str) -> Tensor:
        return torch.stack([_decode(f"{data}: {name}", read, name, side) for name in groups[part]])

    return Pictures(stack("train"), stack("test"), data.name)


def _is_picture(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _wrapping_folders(names: list[str]) -> int:
    """Number of folders that wrap everything, as the one folder at the top of many zips."""
    folders = [name.split("/")[:-1] for name in names]
    depth = 0
    while all(
        parts[: depth + 1] == folders[0][: depth + 1] and len(parts) > depth for parts in folders
    ):
        depth += 1
    return depth


def _decode(label: str, read: Reader, name: str, side: int) -> Tensor:
    try:
        with Image.open(io.BytesIO(read(name))) as image:
            picture = image.convert("RGB")
    except UNREADABLE as error:
        raise ExperimentError(f"{label}: cannot be read as a picture: {error}") from error
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(side, side, 3)
