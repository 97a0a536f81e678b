"""Checkpoints: whole or not at all, and never silently wrong."""

import re
import zipfile

import pytest
import torch

from experiments.common import checkpoint
from experiments.common.config import ExperimentError
from experiments.common.metrics import MetricsFile, read

STATE = {"weights": torch.arange(1000.0), "episode": 7, "names": ["a", "b"]}


def test_what_was_saved_comes_back(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, STATE)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded.pop("weights"), STATE["weights"])
    assert loaded == {"episode": 7, "names": ["a", "b"]}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["torch.save", "os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_the_former_checkpoint(tmp_path, monkeypatch, step):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, STATE)
    before = path.read_bytes()

    def fail(target, *_):
        raise OSError(28, "No space left on device")

    def write_half(state, file):
        file.write(before[: len(before) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        f"experiments.common.checkpoint.{step}", write_half if step == "torch.save" else fail
    )
    with pytest.raises(ExperimentError, match=r"former checkpoint is kept.*No space left"):
        checkpoint.save(path, {**STATE, "episode": 8})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def damaged(content: bytes, how: str) -> bytes:
    if how == "truncated":
        return content[: len(content) * 2 // 3]
    if how == "empty":
        return b""
    middle = content.index(STATE["weights"].numpy().tobytes()) + 1500
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("how", ["truncated", "empty", "one bit flipped"])
def test_a_damaged_checkpoint_is_refused(tmp_path, how):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, STATE)
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(
        ExperimentError, match=f"{re.escape(str(path))} is damaged or not a checkpoint.*--overwrite"
    ):
        checkpoint.load(path)


class Payload:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_checkpoint_cannot_run_code(tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": Payload()}, path)
    with pytest.raises(ExperimentError, match="damaged or not a checkpoint"):
        checkpoint.load(path)
    assert "code ran" not in capsys.readouterr().out


def test_other_files_are_no_checkpoints(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save([1, 2], path)
    with pytest.raises(ExperimentError, match="damaged or not a checkpoint"):
        checkpoint.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ExperimentError, match="damaged or not a checkpoint"):
        checkpoint.load(path)


def test_metrics_are_cut_back_to_a_position(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.write({"episode": 1})
    position = metrics.sync()
    metrics.write({"episode": 2})
    metrics.close()
    resumed = MetricsFile(path, position)
    resumed.write({"episode": 3})
    resumed.close()
    assert read(path) == [{"episode": 1}, {"episode": 3}]


def test_metrics_shorter_than_their_checkpoint_are_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"episode": 1}\n')
    with pytest.raises(ExperimentError, match="lacks lines"):
        MetricsFile(path, 100)
    assert path.read_bytes() == b'{"episode": 1}\n'


def test_an_unfinished_last_line_is_dropped_and_a_broken_one_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"episode": 1}\n{"epis')
    assert read(path) == [{"episode": 1}]
    path.write_bytes(b'{"episode": 1}\nnonsense\n')
    with pytest.raises(ExperimentError, match="line 2 is not JSON"):
        read(path)
