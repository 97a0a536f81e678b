"""Plasticity rules that a user has written: ``--set rule=MODULE:NAME``."""

from __future__ import annotations

import re

from torch import Tensor, nn

from plastikern import Rule, RulePlasticity
from plastikern.nn import PlasticModule
from plastikern.plasticity import RULES
from plastikern.rules import cuda
from plastikern.rules.beforehand import named

MARK = ":"
"""In the name of a rule of one's own, and in no other rule's."""
LAYER = re.compile(r"_l\d+$")


def is_own(name: str) -> bool:
    """Whether a rule's name is that of a user's."""
    return MARK in name


def label(name: str) -> tuple[str, ...]:
    """What result folders are called after, so that they are not taken for those of the papers' nets."""
    return (name.partition(MARK)[2],) if is_own(name) else ()


def check(name: str) -> None:
    """Refuse the name of a rule that does not exist, or cannot be used here."""
    if is_own(name):
        load(name)
    elif name not in RULES:
        allowed = ", ".join(RULES)
        raise ValueError(
            f"rule must be one of {allowed}, or MODULE:NAME for a rule of your own; got {name!r}"
        )


def load(name: str) -> RulePlasticity:
    """The rule that ``MODULE:NAME`` stands for, as it is used.

    Args:
        name: a module that Python can import, in the current folder or installed, and a name in it: of a rule declared
            by :func:`plastikern.rule`, which is used with its defaults, or of a use of one.

    Raises:
        ValueError: there is no such module or name, it is no rule, or the rule needs signals with every step.
    """
    try:
        found = named(name)
    except ValueError as error:
        raise ValueError(f"rule={error}") from error
    use = found.use() if isinstance(found, Rule) else found
    if not isinstance(use, RulePlasticity):
        raise ValueError(
            f"rule={name}: expected a rule declared by plastikern.rule, or a use of one; got {type(found).__name__}"
        )
    if use.given_signals:
        kinds = ", ".join(f"{each} ({use.rule.signals[each]!r})" for each in use.given_signals)
        raise ValueError(
            f"rule={name}: no experiment gives signals with every step, and the rule takes {kinds}; let the network "
            f"read them out, by NAME.use(readouts={{{use.given_signals[0]!r}: Readout()}})"
        )
    return use


def described(use: RulePlasticity | None) -> dict[str, str]:
    """What a run must have in common with its checkpoint, besides the rule's name."""
    return {} if use is None else {"rule_digest": use.digest[:16], "rule_use": repr(use)}


def backend(use: RulePlasticity | None, selected: str) -> str:
    """The backend that runs the rule, where ``selected`` is the one for the library's own."""
    if use is None or selected == "reference" or use.twin is not None:
        return selected
    if not use.rule.fused:
        return "reference"
    return "triton" if selected == "cuda" and cuda.missing() else selected


def coefficients(model: nn.Module) -> dict[str, Tensor]:
    """Trained coefficients of rules of one's own by name, but for ``alpha``: by the name in the rule where one layer
    has such a rule, else by that in the model."""
    layers = {
        prefix: module
        for prefix, module in model.named_modules()
        if isinstance(module, PlasticModule) and isinstance(module.plasticity, RulePlasticity)
    }
    found: dict[str, Tensor] = {}
    for prefix, module in layers.items():
        for name, value in module.named_parameters(recurse=False):
            own = LAYER.sub("", name)
            if own in module.plasticity.coefficients and own != "alpha" and value.requires_grad:
                short = name.removesuffix("_l0")
                found[short if len(layers) == 1 else f"{prefix}.{short}"] = value
    return found
