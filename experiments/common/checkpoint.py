"""Checkpoints that are there whole or not at all."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from experiments.common.config import ExperimentError


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` beside ``path``, force it to the disk, put it in place; on failure the former file stays."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        # In memory first: where the disk is full, torch says "unexpected pos" and the system says why.
        content = io.BytesIO()
        torch.save(state, content)
        with open(temporary, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise ExperimentError(
            f"{path} could not be written, the former checkpoint is kept: {error}"
        ) from error
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Force the new name to the disk too, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; tensors and plain values only, so that a file from elsewhere cannot run code."""
    try:
        # torch.load does not compare check sums: a flipped bit would go on as a slightly different network.
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong check sum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"holds {type(state).__name__}")
    except FileNotFoundError:
        raise
    except Exception as error:
        first_line = str(error).strip().split("\n")[0]
        raise ExperimentError(
            f"{path} is damaged or not a checkpoint ({first_line}); start anew with --overwrite or another --out"
        ) from error
    return state
