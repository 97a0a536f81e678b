"""What a rule may say, and how it is told what it may not."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from plastikern.rules import papers
from plastikern.rules.adjoint import adjoint, regrouped
from plastikern.rules.operations import over_post, over_pre
from plastikern.rules.printers import computed
from plastikern.rules.schedule import Schedule, Stage
from plastikern.rules.symbols import leaf

H, x, y, r = leaf("H", "synapse"), leaf("x", "pre"), leaf("y", "post"), leaf("r", "neuron")


def _grown(trace: Any) -> Any:
    trace += 1
    return trace


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: H.sum(-1), "a rule has no .sum; over_pre and over_post sum"),
        (lambda: H.shape, "a rule has no .shape: a rule knows no sizes"),
        (lambda: H.item(), "a rule has no .item"),
        (lambda: H.unsqueeze(0), "a rule has no .unsqueeze"),
        (lambda: torch.sum(H), "torch's sum is not among the operations of rules"),
        (lambda: torch.matmul(H, x), "torch's matmul is not among the operations of rules"),
        (lambda: torch.softmax(x, -1), "torch's softmax is not among the operations of rules"),
        (lambda: H @ x, "it has no .* @"),
        (lambda: 1 if H > 0 else 0, "a rule cannot branch on what it is given; use torch.where"),
        (lambda: max(x, y), "a rule cannot branch on what it is given; use torch.where"),
        (lambda: float(H), "a rule cannot make a Python number of what it is given"),
        (lambda: list(H), "what a rule is given has no parts to go through"),
        (lambda: _grown(H), "a rule cannot change what it is given in place; write H = H"),
        (lambda: H * torch.ones(3), "a rule cannot take a tensor from outside"),
        (lambda: H * float("nan"), "a constant in a rule must be finite; got nan"),
        (lambda: torch.clamp(H), "at least one of min and max must be given"),
        (lambda: H if H == 0 else x, "a rule cannot branch on what it is given"),
        (lambda: torch.where(H != 0, H, x), "a rule has no !="),
        (lambda: H + True, "a rule computes with numbers; got bool"),
        (lambda: over_pre(y), "over_pre sums over pre; its argument is the same for all of them"),
        (lambda: over_post(over_post(H)), "over_post sums over post; its argument is the same"),
    ],
)  # fmt: skip
def test_what_no_rule_can_do_is_refused_at_its_line(rule: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message.replace("(", ".").replace(")", ".")) as caught:
        rule()
    lines = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert __file__ in lines


def test_equal_expressions_are_one_object() -> None:
    assert torch.tanh(H * x) is torch.tanh(H * x)
    assert H * x is not x * H
    assert leaf("H", "synapse") is H
    assert leaf("H", "post") is not H


def test_the_digest_is_the_same_in_another_process() -> None:
    text = (
        "from plastikern.rules.symbols import leaf; from plastikern.rules import papers; "
        "H, x, y, r = leaf('H', 'synapse'), leaf('x', 'pre'), leaf('y', 'post'), leaf('r', 'neuron'); "
        "print(papers.simple('oja', 'clip')(H, x, y, r, 1.0).digest.hex())"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == papers.simple("oja", "clip")(H, x, y, r, 1.0).digest.hex()


@pytest.mark.parametrize(
    ("rule", "constraint", "operations", "sums"),
    [
        ("hebb", "decay", 6, 2),
        ("hebb", "none", 3, 1),
        ("hebb", "clip", 9, 1),
        ("oja", "clip", 12, 2),
    ],
)
def test_the_papers_rules_come_out_as_small_as_by_hand(
    rule: str, constraint: str, operations: int, sums: int
) -> None:
    """Operations of a synapse, next trace and adjoint together, and sums over a row."""
    after = papers.simple(rule, constraint)(H, x, y, r, 1.0)
    grads = adjoint([(after, leaf("grad_H", "synapse"))], [H, x, y, r])
    found = regrouped({"H": after} | {f"grad_of_{s.payload}": g for s, g in grads.items()})
    synapse = [stage for stage in Schedule(found).parts if stage.level == "synapse"]
    assert len(synapse) == 1
    assert sum(axis == "pre" for axis in synapse[0].sums.values()) == sums
    assert _operations(synapse[0]) == operations


def _operations(stage: Stage) -> int:
    """Arithmetic instructions; a product that is only added to something is one with the sum."""
    made = {symbol for symbol in computed(stage) if symbol.arguments}
    uses = Counter(argument for symbol in made for argument in symbol.arguments)
    uses.update(stage.outputs.values())
    fused = sum(
        symbol.operation in ("add", "sub")
        and any(a.operation == "mul" and uses[a] == 1 and a in made for a in symbol.arguments)
        for symbol in made
    )
    return len(made) - fused
