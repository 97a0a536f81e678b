"""The committed text of the library's own rules is what the rules print today."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from plastikern.rules import papers
from plastikern.rules.committed import files
from plastikern.rules.updates import update

ROOT = Path(__file__).parents[2]
FILES = files()


@pytest.mark.parametrize("path", FILES)
def test_a_committed_file_equals_a_fresh_one(path: str) -> None:
    assert (ROOT / path).read_text() == FILES[path], "python -m plastikern.rules writes it"


@pytest.mark.parametrize("folder", sorted({str(Path(path).parent) for path in FILES}))
def test_no_file_is_left_of_a_rule_that_is_gone(folder: str) -> None:
    there = {str(path.relative_to(ROOT)) for path in (ROOT / folder).iterdir() if path.is_file()}
    assert there == {path for path in FILES if str(Path(path).parent) == folder}


@pytest.mark.parametrize("retroactive", [False, True])
@pytest.mark.parametrize("rule, constraint", papers.pairs())
def test_where_no_synapse_is_nothing_has_to_be_masked(
    rule: str, constraint: str, retroactive: bool
) -> None:
    assert update(rule, constraint, retroactive, False).rests


CHANGES = [
    path for path in FILES if Path(path).stem.startswith(("hebb", "oja")) and path.endswith(".py")
]


def _functions(path: str, name: str) -> list[ast.FunctionDef]:
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    return [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name]


@pytest.mark.parametrize("path", CHANGES)
def test_no_product_in_the_change_of_a_trace_is_left_for_a_compiler_to_fuse(path: str) -> None:
    """A sum has no product beside it but inside ``tl.fma``: kept and recomputed traces are the same bits."""
    functions = _functions(path, "next")
    assert len(functions) == 4
    for function in functions:
        products = {"row"}
        for node in function.body:
            assert isinstance(node, (ast.Assign, ast.Return))
            for part in ast.walk(node):
                if isinstance(part, ast.BinOp) and isinstance(part.op, (ast.Add, ast.Sub)):
                    for side in (part.left, part.right):
                        is_product = isinstance(side, ast.BinOp) and isinstance(side.op, ast.Mult)
                        assert not is_product, ast.unparse(part)
                        assert ast.unparse(side) not in products, ast.unparse(part)
            if isinstance(node, ast.Assign):
                value, to = node.value, node.targets[0]
                names = {name.id for name in ast.walk(to) if isinstance(name, ast.Name)}
                if isinstance(value, ast.BinOp) or ast.unparse(value) == "row":
                    products |= names
