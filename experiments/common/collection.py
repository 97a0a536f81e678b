"""All runs below a folder on one page: ``python -m experiments report``."""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy

from experiments.common.config import require
from experiments.common.metrics import METRICS, Line, read_runs
from experiments.common.plots import compare_results, new_figure
from experiments.common.report import PICTURES, TIMES, show_value

PAGE, TABLE = "report.html", "report.md"
VERDICTS = "verdicts.md"
COLUMNS = (
    "experiment",
    "result",
    "published",
    "ours",
    "seeds",
    "episodes",
    "wall time",
    "state",
    "command",
)
CURVE_POINTS = 100
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

    @property
    def group(self) -> str:
        """Name of the results that differ in their nets only."""
        return self.name.removesuffix(f"-{self.header['config']['net']}")

    def last(self, kind: str) -> list[Line]:
        """The last line of a kind of each run that has one."""
        return [
            lines[-1]
            for run in self.runs
            if (lines := [line for line in run if line["kind"] == kind])
        ]

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
            if self.finished or name.startswith(("test_", "eta", "rule_")) or "_last_" in name
        }


def write(out: Path, results: Path | None) -> None:
    """Write ``report.html`` and ``report.md`` into ``out``, and a JSON file of each result into ``results``, with the
    verdicts that follow from all files there; where ``out`` holds no runs, only these verdicts."""
    found = list(_results(out))
    kept = list(results.glob("*.json")) if results is not None else []
    require(bool(found or kept), f"{out} holds no runs")
    summaries = {result.name: summary(result) for result in found}
    written = _report(out, found, summaries) if found else []
    if results is not None:
        results.mkdir(parents=True, exist_ok=True)
        for name, content in summaries.items():
            _put(results / f"{name}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
            written.append(results / f"{name}.json")
        if table := verdicts_of(results):
            _put(results / VERDICTS, table)
            written.append(results / VERDICTS)
    print("written: " + ", ".join(str(path) for path in written))


def _report(out: Path, found: Sequence[Result], summaries: Mapping[str, Any]) -> list[Path]:
    tables = {"": markdown(COLUMNS, [row for result in found for row in _rows(result)])}
    if table := _verdicts(summaries, {result.group for result in found}):
        tables["Verdicts"] = table
    _put(
        out / TABLE,
        "\n".join(f"## {title}\n\n{table}" if title else table for title, table in tables.items()),
    )
    _put(out / PAGE, _page(found, summaries, tables))
    return [out / PAGE, out / TABLE]


def verdicts_of(results: Path) -> str:
    """The table of verdicts on all claims from the results files of a folder; empty without scipy."""
    return _verdicts(
        {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in results.glob("*.json")}
    )


def _verdicts(summaries: Mapping[str, Any], groups: Collection[str] | None = None) -> str:
    """A table of the verdicts; empty where none of the claims is about these groups."""
    if importlib.util.find_spec("scipy") is None:
        print("note: no verdicts, for scipy is missing: pip install scipy", file=sys.stderr)
        return ""
    from experiments.common import claims

    # What nets do under somebody's own rule says nothing about the papers.
    of_papers = {name: each for name, each in summaries.items() if "rule_use" not in each}
    rows = claims.rows(of_papers, groups)
    return markdown(claims.COLUMNS, rows) if rows else ""


def _put(path: Path, text: str) -> None:
    """Write a file as a whole: several machines may report on one folder."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


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
        spread = (
            f" ({show_value(name, min(values))} to {show_value(name, max(values))})"
            if len(values) > 1
            else ""
        )
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
    return (
        f"{minutes // 60} h {minutes % 60:02} min"
        if minutes >= 60
        else f"{minutes} min {rest:02} s"
    )


def markdown(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """A table of the rows."""
    lines = [
        columns,
        ("---",) * len(columns),
        *(tuple(row.get(column, "") for column in columns) for row in rows),
    ]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _page(
    results: Sequence[Result], summaries: Mapping[str, Any], tables: Mapping[str, str]
) -> str:
    """One page that needs no other file: the tables, the nets of each experiment beside each other, their pictures."""
    shown = "".join(
        f"<h2>{title}</h2>\n{_html_table(table)}" for title, table in reversed(list(tables.items()))
    )
    for group in dict.fromkeys(result.group for result in results):
        members = [result for result in results if result.group == group]
        figure, _ = new_figure(8.0, 5.0)
        compare_results(
            figure, {result.header["config"]["net"]: summaries[result.name] for result in members}
        )
        content = io.BytesIO()
        figure.savefig(content, dpi=110)
        shown += f"<h2>{html.escape(group)}</h2>\n{_embedded(f'{group}.png', content.getvalue())}"
        for result in members:
            first = sorted(result.folder.glob("seed-*"))[0]
            pictures = [path for path in sorted(first.iterdir()) if path.suffix in PICTURES]
            shown += "".join(
                _embedded(f"{result.name} {path.name}", path.read_bytes()) for path in pictures
            )
    style = (
        "body { font-family: sans-serif; margin: 2em } table { border-collapse: collapse } img { max-width: 100% }"
        " td, th { border: 1px solid #ccc; padding: 0.3em 0.6em; text-align: left; vertical-align: top }"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>Experiments</title>'
        f"<style>{style}</style></head>\n<body>\n<h1>Experiments</h1>\n{shown}</body>\n</html>\n"
    )


def _html_table(table: str) -> str:
    """A Markdown table in HTML."""
    head, _, *rows = (line[2:-2].split(" | ") for line in table.replace("`", "").splitlines())
    lines = [("th", head), *(("td", row) for row in rows)]
    body = "".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"
        for tag, cells in lines
    )
    return f"<table>\n{body}</table>\n"


def _embedded(name: str, content: bytes) -> str:
    data = f"data:image/{Path(name).suffix[1:]};base64,{base64.b64encode(content).decode()}"
    return f'<p><img alt="{html.escape(name)}" src="{data}"></p>\n'


def summary(result: Result) -> dict[str, Any]:
    """What of a result is worth keeping: settings, surroundings, published values, and thinned curves of each seed."""
    header = {name: value for name, value in result.header.items() if name not in ("kind", "seed")}
    seeds = {}
    for run in result.runs:
        lines = _thinned([line for line in run if line["kind"] == "train"])
        names = [
            name
            for name in (lines[0] if lines else {})
            if "_last_" in name or name in ("episode", "seconds")
        ]
        seeds[str(run[0]["seed"])] = {
            "curve": {name: [_short(line[name]) for line in lines] for name in names},
            "tests": [
                {name: _short(number) for name, number in line.items()}
                for line in _thinned([line for line in run if line["kind"] == "test"])
            ],
            "result": next((line for line in run if line["kind"] == "result"), None),
        }
    return {**header, "finished": result.finished, "episodes": result.episodes, "seeds": seeds}


def _short(value: Any) -> Any:
    """A number to six digits: a curve needs no more."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _thinned(lines: list[Line]) -> list[Line]:
    chosen: Any = numpy.linspace(0, len(lines) - 1, CURVE_POINTS).round().astype(int)
    return [lines[index] for index in numpy.unique(chosen)] if lines else []
