"""The Omniglot characters: official archives, downloaded or given, as small pictures of ink."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy
import torch
from PIL import Image
from torch import Tensor

from experiments.common.config import ExperimentError, require
from experiments.common.pictures import UNREADABLE, cache_folder, members

ARCHIVES = ("images_background", "images_evaluation")
DRAWINGS = 20
FOLDER = "omniglot-py"


def load(data: Path | None, side: int) -> tuple[list[str], Tensor]:
    """All characters of both archives, sorted by name.

    Args:
        data: a folder with ``images_background`` and ``images_evaluation``, as zip files or unpacked; None downloads
            them once, by torchvision.
        side: height and width that the drawings, of 105, are brought to.

    Returns:
        Names, and uint8 (characters, 20, side, side): 0 for paper, 255 for ink.
    """
    folder = _downloaded() if data is None else data
    require(
        folder.is_dir(),
        f"--data {folder}: expected a folder with {' and '.join(f'{a}.zip' for a in ARCHIVES)}",
    )
    characters: dict[str, list[Tensor]] = {}
    for archive in ARCHIVES:
        for name, content in sorted(_members(folder, archive)):
            character = str(PurePosixPath(name).parent)
            characters.setdefault(character, []).append(_ink(f"{folder}: {name}", content, side))
    for name, drawings in characters.items():
        require(
            len(drawings) == DRAWINGS,
            f"{folder}: {name} has {len(drawings)} drawings, expected {DRAWINGS}",
        )
    names = sorted(characters)
    return names, torch.stack([torch.stack(characters[name]) for name in names])


def _downloaded() -> Path:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ExperimentError(
            f"Omniglot is downloaded by torchvision ({error}): pip install torchvision, or use --data DIR"
        ) from None
    folder = cache_folder()
    try:
        for background in (True, False):
            datasets.Omniglot(str(folder), background=background, download=True)
    except (OSError, RuntimeError) as error:
        raise ExperimentError(f"Omniglot could not be had: {error}") from error
    return folder / FOLDER


def _members(folder: Path, archive: str) -> Iterator[tuple[str, bytes]]:
    """Names, from the archive's own on, and contents of its drawings."""
    path = folder / f"{archive}.zip"
    if path.exists():
        try:
            with zipfile.ZipFile(path) as packed:
                for name in members(path, packed):
                    if name.startswith(archive) and name.endswith(".png"):
                        yield name, packed.read(name)
        except UNREADABLE as error:
            raise ExperimentError(f"{path} is damaged or not a zip file: {error}") from error
        return
    require(
        (folder / archive).is_dir(), f"{folder}: has neither {archive}.zip nor a folder {archive}"
    )
    for file in (folder / archive).rglob("*.png"):
        yield file.relative_to(folder).as_posix(), file.read_bytes()


def _ink(label: str, content: bytes, side: int) -> Tensor:
    """A 1-bit drawing, ink 0 on paper 1, as 255 for ink and grey where a smaller pixel covers both."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            drawing = image.convert("L").resize((side, side), Image.Resampling.BILINEAR)
    except UNREADABLE as error:
        raise ExperimentError(f"{label}: cannot be read as a picture: {error}") from error
    return 255 - torch.from_numpy(numpy.array(drawing))
