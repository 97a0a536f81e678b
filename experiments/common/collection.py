"""All runs below a folder on one page: ``python -m experiments report``."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy

from experiments.common.config import require
from experiments.common.metrics import METRICS, Line, read_runs
from experiments.common.report import CURVES, PICTURES, TIMES, show_value

PAGE, TABLE = "report.html", "report.md"
COLUMNS = ("experiment", "result", "published", "ours", "seeds", "episodes", "wall time", "state", "command")
CURVE_POINTS = 50
"""Points of a learning curve in a results file."""


class Result(NamedTuple):
    """The runs of one result folder, which have the same settings and differ in their seeds.

    Attributes:
        name: where the folder is below that of all results.
    """

    name: str
    folder: Path
    runs: list[list[Line]]

    @property
    def header(self) -> Line:
        return self.runs[0][0]

    def last(self, kind: str) -> list[Line]:
        """The last line of a kind of each run that has one."""
        return [lines[-1] for run in self.runs if (lines := [line for line in run if line["kind"] == kind])]

    @property
    def episodes(self) -> int:
        """Episodes that every seed has."""
        return min((max(line.get("episode", 0) for line in run) for run in self.runs), default=0)

    @property
    def seconds(self) -> float:
        """Of the training of all seeds."""
        return float(sum(line["seconds"] for line in self.last("train")))

    @property
    def finished(self) -> bool:
        return len(self.last("result")) == len(self.runs)

    def values(self) -> dict[str, list[float]]:
        """Final metrics by name, one value a seed; of runs that are not finished, their running means."""
        lines = self.last("result") if self.finished else self.last("train")
        skipped = ("kind", "episode", "seconds", *TIMES)
        names = [name for name in (lines[0] if lines else {}) if name not in skipped]
        return {
            name: [line[name] for line in lines if name in line]
            for name in names
            if self.finished or name.startswith(("test_", "eta")) or "_last_" in name
        }


def write(out: Path, results: Path | None) -> None:
    """Write ``report.html`` and ``report.md`` into ``out``, and a JSON file of each result into ``results``."""
    found = list(_results(out))
    require(bool(found), f"{out} holds no runs")
    rows = [row for result in found for row in _rows(result)]
    (out / TABLE).write_text(markdown(rows), encoding="utf-8")
    (out / PAGE).write_text(_page(found, rows), encoding="utf-8")
    written = [out / PAGE, out / TABLE]
    if results is not None:
        results.mkdir(parents=True, exist_ok=True)
        for result in found:
            path = results / f"{result.name}.json"
            path.write_text(json.dumps(summary(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")
            written.append(path)
    print("written: " + ", ".join(str(path) for path in written))


def _results(out: Path) -> Iterator[Result]:
    folders = sorted({path.parent.parent for path in out.rglob(f"seed-*/{METRICS}")})
    for folder in folders:
        runs = [run for run in read_runs(folder) if run and run[0]["kind"] == "run"]
        if runs:
            yield Result("-".join(folder.relative_to(out).parts) or out.name, folder, runs)


def _rows(result: Result) -> list[dict[str, str]]:
    """A row a metric; what belongs to the result as a whole stands in the first."""
    header, seeds = result.header, len(result.runs)
    commands = dict.fromkeys(f"`{run[0].get('command', '')}`" for run in result.runs)
    rows = []
    for name, values in result.values().items():
        middle = show_value(name, median(values))
        spread = f" ({show_value(name, min(values))} to {show_value(name, max(values))})" if len(values) > 1 else ""
        ours, theirs = middle + spread, _published(header, name, result.episodes)
        rows.append({"result": name.replace("_", " "), "published": theirs, "ours": ours})
    first = {
        "experiment": f"{header['experiment']}, {header['config']['net']} ({result.name})",
        "seeds": str(seeds), "episodes": f"{result.episodes:,}", "wall time": duration(result.seconds),
        "state": "finished" if result.finished else "not finished", "command": "; ".join(commands),
    }  # fmt: skip
    rows = rows or [{}]
    rows[0] = {**rows[0], **first}
    return rows


def _published(header: Line, name: str, episodes: int) -> str:
    """Published numbers that a metric stands beside: curves at the same number of episodes, as far as they go."""
    metric = name.removeprefix("test_").split("_last_")[0]
    texts = []
    for number in header.get("published", []):
        if number["metric"] != metric:
            continue
        value, place = number.get("value"), ""
        if value is None:
            at = min(max(episodes, number["episodes"][0]), number["episodes"][-1])
            value = float(numpy.interp(at, number["episodes"], number["values"]))
            place = f" at {at:,}"
        texts.append(f"{show_value(metric, value)}{place}: {number['label']}")
    return "; ".join(texts)


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """A table of the rows."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(tuple(row.get(column, "") for column in COLUMNS) for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _page(results: Sequence[Result], rows: Sequence[dict[str, str]]) -> str:
    """One page that needs no other file: the table, then every result's figures."""
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(row.get(column, '').replace('`', ''))}</td>" for column in COLUMNS)
        + "</tr>\n"
        for row in rows
    )
    figures = ""
    for result in results:
        pictures = [result.folder / CURVES, *sorted(result.folder.glob("seed-*/*"))]
        shown = "".join(_embedded(path) for path in pictures if path.suffix in PICTURES and path.exists())
        if shown:
            figures += f"<h2>{html.escape(result.name)}</h2>\n{shown}\n"
    style = (
        "body { font-family: sans-serif; margin: 2em } table { border-collapse: collapse } img { max-width: 100% }"
        " td, th { border: 1px solid #ccc; padding: 0.3em 0.6em; text-align: left; vertical-align: top }"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>Experiments</title>'
        f"<style>{style}</style></head>\n<body>\n<h1>Experiments</h1>\n<table>\n<tr>{head}</tr>\n{body}</table>\n"
        f"{figures}</body>\n</html>\n"
    )


def _embedded(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{html.escape(path.name)}" src="data:image/{path.suffix[1:]};base64,{content}"></p>\n'


def summary(result: Result) -> dict[str, Any]:
    """What of a result is worth keeping: settings, surroundings, published values, and thinned curves of each seed."""
    header = {name: value for name, value in result.header.items() if name not in ("kind", "seed")}
    seeds = {}
    for run in result.runs:
        lines = _thinned([line for line in run if line["kind"] == "train"])
        names = [name for name in (lines[0] if lines else {}) if "_last_" in name or name in ("episode", "seconds")]
        seeds[str(run[0]["seed"])] = {
            "curve": {name: [line[name] for line in lines] for name in names},
            "tests": _thinned([line for line in run if line["kind"] == "test"]),
            "result": next((line for line in run if line["kind"] == "result"), None),
        }
    return {**header, "finished": result.finished, "episodes": result.episodes, "seeds": seeds}


def _thinned(lines: list[Line]) -> list[Line]:
    chosen: Any = numpy.linspace(0, len(lines) - 1, CURVE_POINTS).round().astype(int)
    return [lines[index] for index in numpy.unique(chosen)] if lines else []
