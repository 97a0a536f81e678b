"""In-tree build backend (PEP 517 and 660): the one of setuptools, which asks for torch only where a build needs it.

A native build needs torch's headers. Under build isolation they are taken from the torch that is already installed
beside the package (see `toolchain.find_torch`): nothing is downloaded twice, and they are those of the user's torch.
"""

from __future__ import annotations

from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from build_backend import toolchain

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What pip installs before `build_wheel`."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_torch_requirement()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """What pip installs before `build_editable`."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_torch_requirement()]


def _torch_requirement() -> list[str]:
    if toolchain.requested_build() == "none" or toolchain.find_torch() is not None:
        return []
    try:
        toolchain.find_compiler()
    except toolchain.BuildError:
        return []  # nothing could be built with it: the build itself says so
    return [toolchain.TORCH_REQUIREMENT]
