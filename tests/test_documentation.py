"""What the pages show is true: every Python block runs, every command line is one that its program takes."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import plastikern
import plastikern.__main__
from benchmarks import __main__ as benchmarks
from experiments.__main__ import EXPERIMENTS
from experiments.campaign.command import Campaign
from experiments.common import cli, collection, insight, speed
from experiments.common.config import override, parse_seeds, select
from experiments.common.experiment import Experiment
from plastikern import library, selftest
from plastikern.gpu_check import cli as gpu_check

markdown_it = pytest.importorskip("markdown_it")

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
LANGUAGES = {"python", "bash", "c++", "diff"}
ARGUMENTS = {
    "docs/experiments.md": "--net simple --episodes 60 --set hidden=8 steps=20 burn_in=0 --threads 1"
}
"""Command lines of pages whose blocks read one."""
COMPILED = ("README.md", "docs/tutorial.md", "docs/modules/rule.md", "docs/rules.md")
"""Pages with rules, which a quick test does not wait to be compiled."""
NEEDS_LIBRARY = {"docs/kernels.md", "docs/modules/explain.md"}


class Block(NamedTuple):
    language: str
    line: int
    text: str


def blocks(text: str) -> Iterator[Block]:
    """Fenced blocks, indented ones (of no language) and code in lines (``inline``)."""
    for token in markdown_it.MarkdownIt("commonmark").enable("table").parse(text):
        line = (token.map or (0, 0))[0] + 1
        if token.type == "fence" and not token.info.startswith("{"):
            yield Block(token.info.strip(), line + 1, token.content)
        elif token.type == "code_block":
            yield Block("", line, token.content)
        for child in token.children or ():
            if child.type == "code_inline":
                yield Block("inline", line, child.content)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def run(page: str, text: str) -> None:
    """Executes a page's Python blocks in order, in one namespace; lines of tracebacks are those of the page."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(text):
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), namespace)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text()], ids=name
)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name(page) in NEEDS_LIBRARY and library.MISSING is not None:
        pytest.skip(f"native library {library.MISSING}")
    if name(page) in COMPILED:
        monkeypatch.setenv("PLASTIKERN_BACKEND", "reference")
    run_in(tmp_path, page, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", COMPILED)
def test_python_blocks_with_rules_run_compiled(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in(tmp_path, ROOT / page, monkeypatch)


def run_in(folder: Path, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks, as a script that is started in this folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["example.py", *ARGUMENTS.get(name(page), "").split()])
    torch.manual_seed(0)
    try:
        run(name(page), page.read_text())
    except SystemExit as end:
        assert not end.code
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_block_that_fails_is_found_with_its_line() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run("page.md", "```python\nx = 1\n```\n\ntext\n\n```python\nx\nx / 0\n```\n")
    assert caught.traceback[-1].lineno + 1 == 9


def commands(text: str) -> Iterator[tuple[int, str]]:
    """Lines of shell blocks, and what looks like a whole command of this repository elsewhere."""
    for block in blocks(text):
        for number, line in enumerate(block.text.splitlines()):
            if block.language == "bash" and line.strip() and not line.startswith("#"):
                yield block.line + number, line
            elif block.language in ("inline", "") and line.startswith(("python -m ", "make ")):
                placeholders = re.search(r"\[|\.\.|…|\bNAME\b", line)
                if not placeholders:
                    yield block.line + number, line


def check_settings(kind: type[Experiment[Any]], options: argparse.Namespace, command: str) -> None:
    """In the place of a run: the settings that it would have."""
    parse_seeds(options.seeds)
    config = select(kind.presets, options.preset, options.net)
    override(
        config,
        options.set if options.episodes is None else [*options.set, f"episodes={options.episodes}"],
    )


def check_module(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m module arguments``, through its own parser, up to where its work would begin."""
    with monkeypatch.context() as patch:
        patch.setattr(cli, "_run", check_settings)
        patch.setattr(collection, "write", lambda out, results: None)
        patch.setattr(insight, "tell", lambda folder, results: None)
        patch.setattr(Campaign, "run", lambda campaign, stop: None)
        patch.setattr(speed, "_row", lambda subject, updates: dict.fromkeys(speed.NUMBERS, 1.0))
        patch.setattr(speed, "_put", lambda path, text: None)
        patch.setattr(speed, "backend_in_use", lambda backend, device: "cpu")
        patch.setattr(selftest, "main", lambda device, backend, repeats, networks: 0)
        patch.setattr(gpu_check, "run", lambda parser, chosen: 0)
        patch.setattr(plastikern.__main__, "show", lambda: None)
        if module == "experiments":
            assert cli.main(EXPERIMENTS, arguments) == 0
        elif module == "plastikern":
            assert plastikern.__main__.main(arguments) == 0
        elif module == "benchmarks":
            benchmarks._parser().parse_args(arguments)
        else:
            assert find_spec(module) is not None, f"no module {module}"
            for file in (word for word in arguments if word.startswith(("tests/", "docs/"))):
                assert (ROOT / file).exists(), f"no file {file}"


def check(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line that one of the programs here would take; raises where it would not."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    program, *arguments = words
    if program.endswith(("python", "torchrun")) and "-m" in arguments:
        module, *rest = arguments[arguments.index("-m") + 1 :]
        check_module(module, rest, monkeypatch)
    elif program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in arguments if "=" not in word} <= targets
    elif program == "pip":
        extras = set(
            re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        )
        for wanted in re.findall(r"\.\[(.*)\]", line):
            assert set(wanted.split(",")) <= extras
    elif program.endswith("python"):
        program = ROOT / arguments[0]
        assert program.is_file() or (program / "__main__.py").is_file(), f"no file {arguments[0]}"
    else:
        pytest.fail(f"nobody knows how to check {line!r}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_taken_by_their_programs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, line in commands(page.read_text()):
        try:
            check(line, monkeypatch)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{name(page)}:{number}: {line}: {error}") from error


@pytest.mark.parametrize(
    "line",
    [
        "python -m experiments maze --prest paper2",
        "python -m experiments maze --set no_such_setting=1",
        "python -m experiments report --into x",
        "python -m experiments campaign --only nothing",
        "python -m experiments speed --only nothing",
        "python -m experiments insight --seeds 4",
        "python -m benchmarks --workloads nothing",
        "python -m plastikern selftest --card 3",
        "python -m benchmarks.nothing",
        "python examples/nothing.py",
        "make nothing",
        'pip install ".[nothing]"',
        "unknown program",
    ],
)
def test_a_command_that_its_program_does_not_take_is_found(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((Exception, SystemExit, pytest.fail.Exception)):
        check(line, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_say_their_language(page: Path) -> None:
    fenced = {
        block.language for block in blocks(page.read_text()) if block.language not in ("", "inline")
    }
    assert fenced <= LANGUAGES


def test_the_gallery_shows_all_rules_with_what_its_commands_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT / "docs")
    import pictures
    import rule_tables

    committed = {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
    pictures.main(["--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == committed
    page = (ROOT / "docs" / "gallery.md").read_text()
    for tag in rule_tables.RULES:
        assert f":pyobject: {tag}\n" in page and f"(pictures/{tag}.svg)" in page
    # A page that tells other costs than explain, or other times than the report, is refused.
    assert (rule_tables.FOLDER / "costs.md").read_text() == rule_tables.costs()
    assert (rule_tables.FOLDER / "speed.md").read_text() == rule_tables.table(rule_tables.report())


def test_what_was_not_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    import rule_tables

    row = {"workload": "rule-A3", "variant": rule_tables.OURS, "peak_bytes": 2**20}
    rows = [
        row | {"pass": "forward", "median_ms": 12.34},
        row | {"pass": "forward_backward", "median_ms": 56.78},
    ]
    ratio = row | {"pass": "forward_backward", "over_best_rival": 3.21, "best_rival": "torch"}
    found = rule_tables.table(
        {"rows": rows, "ratios": [ratio], "machine": {"cpu": "C", "threads": 2, "torch": "2"}}
    )
    assert "| [A3](#a3) | 12.3 | 56.8 | 3.2 (torch) | 1 |" in found
    assert found.count("not measured") == 9 * 4 and "On 2 threads of C, torch 2" in found
    assert rule_tables.table({}).count("not measured") == 10 * 4


def test_every_public_name_has_its_place_on_a_page() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "modules").glob("*.md"))
    described = set(re.findall(r"^\.\. auto\w+:: plastikern\.(\w+)", pages, re.MULTILINE))
    assert described >= set(plastikern.__all__) - {"__version__"}


def test_every_test_that_a_promise_names_is_there() -> None:
    page = (ROOT / "docs/promises.md").read_text()
    named = re.findall(r"`(test_\w+\.py)`((?:[:,] `\w+`)*)", page)
    assert len(named) >= 10
    for file, names in named:
        text = (ROOT / "tests" / file).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert f"def {name}(" in text or f"def test_{name}_" in text, (file, name)
