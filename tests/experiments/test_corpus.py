"""The text of language models: folders, zips, downloads, and what is wrong with them."""

import hashlib
import io
import os
import urllib.error
import zipfile
from pathlib import Path

import pytest
import torch

from experiments.common import corpus
from experiments.common.config import ExperimentError

TEXTS = {"train": b" a b b \n c a \n", "valid": b" c \n", "test": b"\n b c\n"}


def put(folder, texts=TEXTS):
    folder.mkdir(parents=True, exist_ok=True)
    for part, text in texts.items():
        (folder / f"ptb.{part}.txt").write_bytes(text)
    return folder


def packed(path, texts=TEXTS):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, text in texts.items():
            archive.writestr(f"./simple-examples/data/ptb.{part}.txt", text)
    return path


def message(data, vocabulary=4):
    with pytest.raises(ExperimentError) as caught:
        corpus.load(data, vocabulary)
    return str(caught.value)


def test_folders_and_zips_are_read_the_same(tmp_path):
    for data in (
        put(tmp_path / "flat"),
        put(tmp_path / "deep" / "er").parent,
        packed(tmp_path / "text.zip"),
    ):
        found = corpus.load(data, 4)
        assert found.words == ["a", "b", "<eos>", "c"]
        assert found.train.tolist() == [0, 1, 1, 2, 3, 0, 2]
        assert found.valid.tolist() == [3, 2]
        assert found.test.tolist() == [2, 1, 3, 2], "an empty line is a sentence's end too"
        assert found.source == data.name
    changed = corpus.load(put(tmp_path / "changed", {**TEXTS, "test": b"c c\n"}), 4)
    assert changed.fingerprint != found.fingerprint


def test_mistakes_with_the_text_are_explained(tmp_path):
    assert message(tmp_path / "nowhere").endswith("nowhere: not a folder and not a zip file")
    folder = put(tmp_path / "text")
    assert message(folder, 10_000).endswith(
        "ptb.train.txt: expected a vocabulary of 10,000 words; got 4"
    )
    put(folder, {"valid": b"c z\n"})
    assert message(folder).endswith("ptb.valid.txt: the word 'z' is not in the training text")
    put(folder, {"valid": b"\xff\n"})
    assert "ptb.valid.txt: is not UTF-8 text" in message(folder)
    put(folder, {"valid": b""})
    assert message(folder).endswith("ptb.valid.txt: is empty")
    for part in ("valid", "test"):
        (folder / f"ptb.{part}.txt").unlink()
    assert message(folder).endswith("text: there is no ptb.valid.txt and no ptb.test.txt in it")
    assert "there is no ptb.test.txt in it" in message(
        packed(tmp_path / "part.zip", {"train": b"a\n", "valid": b"a\n"})
    )
    damaged = packed(tmp_path / "damaged.zip")
    content = bytearray(damaged.read_bytes())
    content[content.index(b"ptb.train.txt") + len("ptb.train.txt") + 1] ^= 255
    damaged.write_bytes(bytes(content))
    assert "damaged.zip is damaged or not a zip file" in message(damaged)


def test_a_download_is_checked_and_kept(tmp_path, monkeypatch):
    asked = []

    def answer(url, timeout):
        asked.append(url)
        assert timeout > 0
        return io.BytesIO(TEXTS[url.split(".")[-2]])

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(corpus.urllib.request, "urlopen", answer)
    assert message(None) == (
        f"{corpus.URL}ptb.train.txt: expected the MD5 sum {corpus.MD5['train']}; "
        f"got {hashlib.md5(TEXTS['train']).hexdigest()}"
    )
    assert not list(tmp_path.rglob("*.txt")), "what is wrong is not kept"
    monkeypatch.setattr(
        corpus, "MD5", {part: hashlib.md5(text).hexdigest() for part, text in TEXTS.items()}
    )
    asked.clear()
    for _ in range(2):
        found = corpus.load(None, 4)
        assert found.train.tolist() == [0, 1, 1, 2, 3, 0, 2]
        assert found.source == "Penn Treebank"
    assert asked == [f"{corpus.URL}ptb.{part}.txt" for part in corpus.PARTS], "once"
    assert corpus.load(put(tmp_path / "own"), 4).source == "Penn Treebank", (
        "the same files are the same text"
    )


def test_without_a_net_the_error_says_what_to_do(tmp_path, monkeypatch):
    def answer(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(corpus.urllib.request, "urlopen", answer)
    found = message(None)
    assert "the Penn Treebank could not be downloaded from https://" in found
    assert "no route to host" in found
    assert found.endswith(
        "use --data with a folder or a zip that holds ptb.train.txt, ptb.valid.txt, ptb.test.txt"
    )


@pytest.mark.skipif(
    "PLASTIKERN_PTB" not in os.environ, reason="PLASTIKERN_PTB names no Penn Treebank"
)
def test_the_treebank_has_its_published_size():
    found = corpus.load(Path(os.environ["PLASTIKERN_PTB"]), 10_000)
    assert found.source == "Penn Treebank"
    assert [len(part) for part in (found.train, found.valid, found.test)] == [
        929_589,
        73_760,
        82_430,
    ]
    assert torch.equal(
        torch.cat([found.train, found.valid, found.test]).unique(), torch.arange(10_000)
    )
    assert "<unk>" in found.words
