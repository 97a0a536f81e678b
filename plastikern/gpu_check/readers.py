"""Facts out of the lines of programs that print for people: pytest, selftest, ncu, compute-sanitizer, experiments."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from typing import Any

from .results import parse

Fact = dict[str, Any]
Reader = Callable[[str], Iterator[Fact]]


def json_lines(line: str) -> Iterator[Fact]:
    """Programs that print their facts as JSON."""
    if (found := parse(line)) is not None:
        yield found


_FAILED_TEST = re.compile(r"^(FAILED|ERROR) (\S.*?)(?: - (.*))?$")
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed|deselected)")


def pytest(line: str) -> Iterator[Fact]:
    """Tests that failed, and how many there were."""
    if match := _FAILED_TEST.match(line):
        yield {"test": match[2], "result": match[1].lower(), "why": match[3] or ""}
    elif re.search(r" in \d+\.\d+s", line) and (counts := _COUNT.findall(line)):
        yield {"tests": {name: int(count) for count, name in counts}}


_NETWORKS = re.compile(r"^(pass|FAIL): (\d+) of (\d+) networks, largest error (\S+)$")
_WRONG = re.compile(r"^FAIL (.+): error (\S+), allowed (\S+)$")
_TIME = re.compile(r"^(\w+): (\S+) ms forward and backward")
_BACKEND = re.compile(r"^backend (\w+) on (\S+) \((.*)\), torch (\S+)$")


def selftest(line: str) -> Iterator[Fact]:
    """Networks that are wrong, how many are right, and the times."""
    if match := _NETWORKS.match(line):
        yield {"networks": int(match[3]), "right": int(match[2]), "largest_error": match[4]}
    elif match := _WRONG.match(line):
        yield {"wrong_network": match[1], "error": match[2], "allowed": match[3]}
    elif match := _TIME.match(line):
        yield {"backend": match[1], "forward_backward_ms": float(match[2])}
    elif match := _BACKEND.match(line):
        yield {"backend": match[1], "device": match[2], "card": match[3], "torch": match[4]}


class Ncu:
    """Metrics of kernels, from ``--csv --page raw``: a line of names, a line of units, then a line for each kernel."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._units: list[str] = []

    def __call__(self, line: str) -> Iterator[Fact]:
        """Facts of a line."""
        if "ERR_NVGPUCTRPERM" in line:
            yield {"skip": "no permission for the card's performance counters (ERR_NVGPUCTRPERM)"}
        if not line.startswith('"'):
            return
        cells = next(csv.reader([line]))
        if cells[0] == "ID":
            self._names = cells
        elif cells[0] == "":
            self._units = cells
        elif len(cells) == len(self._names) == len(self._units):
            rows = zip(self._names, cells, self._units, strict=True)
            metrics = {
                name: f"{value} {unit}".strip() for name, value, unit in rows if "__" in name
            }
            kernel = cells[self._names.index("Kernel Name")] if "Kernel Name" in self._names else ""
            yield {"kernel": kernel[:200], "metrics": metrics}


_SANITIZED = re.compile(
    r"^=+ (ERROR SUMMARY: (\d+) errors?.*|RACECHECK SUMMARY: (\d+) hazards?.*)$"
)


def sanitizer(line: str) -> Iterator[Fact]:
    """The summary of compute-sanitizer, the first words of what it found, and what the program itself says."""
    if match := _SANITIZED.match(line):
        yield {"summary": match[1], "errors": int(match[2] or match[3])}
    elif line.startswith("=") and re.search(
        r"(Invalid|Race|Barrier|hazard|Program hit|Unable|Error:)", line
    ):
        yield {"said": line.lstrip("= ")[:300]}
    else:
        yield from json_lines(line)
