"""The file of results: JSON lines, each of them on the disk as soon as a thing is known.

``run`` begins the records of a run, ``begin`` and ``end`` stand around the ``fact``s of a stage, ``summary`` is last.
docs/gpu-check.md describes them.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]
NAME = "results.jsonl"
SCHEMA = 1
OUTCOMES = ("passed", "failed", "crashed", "hung", "skipped")
"""Of a stage: its programs said that all is well, or not, were killed, were stopped at their limit, or did not run."""
_REQUIRED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "run": {"schema": int, "started": str, "dry_run": bool, "budget": (int, float), "version": str},
    "begin": {"stage": str, "limit": (int, float)},
    "fact": {"stage": str},
    "end": {"stage": str, "outcome": str, "took": (int, float), "reason": str},
    "summary": {"outcomes": dict, "status": int},
}


class Malformed(Exception):
    """What is wrong with a file, and in which line."""


class Results:
    """Adds records to a file.

    Attributes:
        path: of the file.
        lost: lines that could not be written; the run goes on without them.
        error: why the last of them could not.

    Raises:
        OSError: the folder or the file cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.lost: list[str] = []
        self.error = ""
        self._torn = self.path.stat().st_size > 0 and not self.path.read_bytes().endswith(b"\n")

    def write(self, record: Record) -> bool:
        """One line, whole and on the disk when this returns True."""
        line = json.dumps(record, allow_nan=False)
        # What an earlier run left unfinished must not take the next line with it.
        data = (b"\n" if self._torn else b"") + line.encode() + b"\n"
        try:
            before = os.fstat(self._file).st_size
            written = os.write(self._file, data)
            if written != len(data):
                os.ftruncate(self._file, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._torn = False
            os.fsync(self._file)
        except OSError as error:
            self.error = f"{self.path}: {error.strerror}"
            self.lost.append(line)
            return False
        return True

    def close(self) -> None:
        """No more records come."""
        os.close(self._file)


def parse(text: str) -> Record | None:
    """A line of a program's output as a fact; None where it is something else."""
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and finite(found) else None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def finite(value: Any) -> bool:
    """Whether there is no infinity in it, such as 1e999 becomes."""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def read(path: Path) -> list[list[Record]]:
    """The runs of a file, each as its records.

    A line that a killed run left unfinished is passed over where nothing of that run follows it.

    Raises:
        OSError: it cannot be read.
        Malformed: it is not what gpu-check writes; the message names line and field.
    """
    runs: list[list[Record]] = []
    torn = 0
    for number, line in enumerate(path.read_bytes().decode(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        record = parse(line)
        if record is None:
            if torn:
                raise Malformed(f"{path}: line {torn} is no JSON object")
            torn = number
            continue
        if torn and record.get("record") != "run":
            raise Malformed(f"{path}: line {torn} is no JSON object")
        torn = 0
        _check(record, f"{path}: line {number}")
        if record["record"] == "run":
            runs.append([])
        elif not runs:
            raise Malformed(f"{path}: line {number}: a record {record['record']!r} before any run")
        runs[-1].append(record)
    if not runs:
        raise Malformed(f"{path}: no run in it")
    for records in runs:
        for problem in _disorder(records):
            raise Malformed(f"{path}: {problem}")
    return runs


def _check(record: Record, place: str) -> None:
    kind = record.get("record")
    if not isinstance(kind, str) or kind not in _REQUIRED:
        raise Malformed(f"{place}: record must be one of {', '.join(_REQUIRED)}; got {kind!r}")
    for name, types in {**_REQUIRED[kind], "at": (int, float)}.items():
        value = record.get(name)
        if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
            expected = types.__name__ if isinstance(types, type) else "a number"
            raise Malformed(f"{place}: {kind} needs {name} ({expected}); got {value!r}")
    if kind == "run" and record["schema"] != SCHEMA:
        raise Malformed(f"{place}: schema {record['schema']}, and this version reads {SCHEMA}")
    if kind == "end" and record["outcome"] not in OUTCOMES:
        raise Malformed(
            f"{place}: outcome must be one of {', '.join(OUTCOMES)}; got {record['outcome']!r}"
        )


def _disorder(records: list[Record]) -> Iterator[str]:
    current = None
    for record in records[1:]:
        kind, stage = record["record"], record.get("stage")
        if kind == "begin":
            if current is not None:
                yield f"stage {stage} begins before {current} has ended"
            current = stage
        elif kind in ("fact", "end") and stage != current:
            yield f"a record {kind!r} of stage {stage} outside of it"
        if kind == "end":
            current = None
    if any(record["record"] == "summary" for record in records[:-1]):
        yield "records follow a summary"
