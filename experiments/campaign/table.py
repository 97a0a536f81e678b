"""The table of runs, and the tasks that follow from it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from experiments.common.config import ExperimentError, override, parse_seeds, require, select

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = Path(__file__).with_name("runs.toml")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table; several may share a result folder, and differ in their seeds or go on with the same ones.

    Args:
        experiment, preset, seeds: as on the command line of ``python -m experiments``.
        nets: networks of the preset.
        episodes: how many each run trains; None is the preset's.
        set: further settings, ``key=value``.
        label: part of the result folders' names, for rows that change settings.
    """

    experiment: str
    preset: str
    nets: Sequence[str]
    seeds: str
    episodes: int | None = None
    set: Sequence[str] = field(default_factory=list)
    label: str = ""

    def __post_init__(self) -> None:
        for name in ("experiment", "preset", "seeds", "label"):
            self._require(name, "a string", isinstance(getattr(self, name), str))
        for name in ("nets", "set"):
            value = getattr(self, name)
            strings = isinstance(value, list) and all(isinstance(each, str) for each in value)
            self._require(name, "a list of strings", strings)
        self._require(
            "episodes", "a whole number", self.episodes is None or type(self.episodes) is int
        )

    def _require(self, name: str, expected: str, given: bool) -> None:
        require(given, f"expected {expected} for {name}; got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Task:
    """One run of the table: a net with a seed.

    Attributes:
        name: of the result folder.
        group: of the results that differ in their nets only.
        folder: of the run, ``seed-N`` in the result folder.
        episodes: that it trains.
        arguments: of ``python -m experiments`` for this run; the same command resumes it.
    """

    name: str
    group: str
    seed: int
    folder: Path
    episodes: int
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"


def read(path: Path) -> dict[str, Row]:
    """The rows of a TOML file by name, in their order."""
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{path}: {error}") from None
    known = {each.name for each in fields(Row)}
    rows = {}
    for name, table in tables.items():
        require(isinstance(table, dict), f"{path}: expected tables only; got {name} = {table!r}")
        unknown = ", ".join(table.keys() - known)
        require(
            not unknown,
            f"{path}, [{name}]: no such key: {unknown}; there are: {', '.join(sorted(known))}",
        )
        try:
            rows[name] = Row(**table)
        except TypeError as error:
            raise ExperimentError(f"{path}, [{name}]: {str(error).partition('() ')[2]}") from None
        except ExperimentError as error:
            raise ExperimentError(f"{path}, [{name}]: {error}") from None
    return rows


def chosen(rows: Mapping[str, Row], only: Sequence[str]) -> dict[str, Row]:
    """The rows whose name or experiment is in ``only``; all of them where that is empty."""
    known = {*rows, *(row.experiment for row in rows.values())}
    for name in only:
        require(
            name in known,
            f"--only: no row or experiment {name!r}; there are: {', '.join(sorted(known))}",
        )
    return {
        name: row
        for name, row in rows.items()
        if not only or name in only or row.experiment in only
    }


def tasks(
    rows: Mapping[str, Row],
    experiments: Mapping[str, Any],
    folder: Path,
    seeds: str | None = None,
    data: Mapping[str, Path] | None = None,
) -> list[Task]:
    """All runs of the rows, in the order in which they are wanted: row by row, in a row seed by seed.

    Args:
        experiments: names, and the experiments, or the modules whose ``EXPERIMENT`` they are.
        folder: of all results.
        seeds: only these.
        data: of each experiment that reads some.
    """
    wanted = None if seeds is None else set(parse_seeds(seeds))
    settings: dict[str, Sequence[str]] = {}
    found = []
    for name, row in rows.items():
        try:
            for task in _of_row(row, experiments, folder, (data or {}).get(row.experiment)):
                same = settings.setdefault(task.name, row.set) == row.set
                require(
                    same,
                    f"{task.name} is in the table with other settings, too: give one of them a label",
                )
                if (wanted is None or task.seed in wanted) and task not in found:
                    found.append(task)
        except ExperimentError as error:
            raise ExperimentError(f"[{name}]: {error}") from None
    require(bool(found), "the table has no such runs")
    return found


def _of_row(
    row: Row, experiments: Mapping[str, Any], folder: Path, data: Path | None
) -> list[Task]:
    require(
        row.experiment in experiments,
        f"no experiment {row.experiment!r}; there are: {', '.join(experiments)}",
    )
    kind = experiments[row.experiment]
    kind = importlib.import_module(kind).EXPERIMENT if isinstance(kind, str) else kind
    changes = [*row.set, *([] if row.episodes is None else [f"episodes={row.episodes}"])]
    group = "-".join(part for part in (row.experiment, row.preset, row.label) if part)
    made = []
    for seed in parse_seeds(row.seeds):
        for net in row.nets:
            config = override(select(kind.presets, row.preset, net), changes)
            require(
                config.own_rule is None or bool(row.label),
                f"rule={config.rule}: give the row a label, so that its results are not taken for the papers' nets",
            )
            name = f"{group}-{net}"
            arguments = [row.experiment, "--preset", row.preset, "--net", net, "--seeds", str(seed)]
            arguments += ["--episodes", str(config.episodes), "--threads", "1"]
            arguments += ["--set", *row.set] if row.set else []
            arguments += ["--data", str(data)] if data else []
            arguments += ["--out", str(folder / name), "--resume"]
            run = folder / name / f"seed-{seed}"
            made.append(Task(name, group, seed, run, config.episodes, tuple(arguments)))
    return made
