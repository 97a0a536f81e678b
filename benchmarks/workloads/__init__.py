"""What is measured."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from tests.rules.ten import RULES

from .base import (
    FORWARD,
    FORWARD_BACKWARD,
    PASSES,
    Drives,
    Inputs,
    Parameters,
    State,
    Step,
    Workload,
)
from .gru import PlasticGRUWorkload
from .linear import PlasticLinearWorkload
from .lstm import PlasticLSTMWorkload
from .rnn import ActingRNNWorkload, ModulatedRNNWorkload, PlasticRNNWorkload, RetroactiveRNNWorkload
from .rules import HebbRuleWorkload, RuleWorkload

__all__ = [
    "FORWARD",
    "FORWARD_BACKWARD",
    "NETWORKS",
    "PASSES",
    "WORKLOADS",
    "Drives",
    "Inputs",
    "Parameters",
    "State",
    "Step",
    "Workload",
    "small",
    "workload_named",
]

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        PlasticRNNWorkload("patterns", batch=1, steps=106, neurons=1001),
        PlasticRNNWorkload("images", batch=1, steps=201, neurons=1025),
        PlasticRNNWorkload("images-b8", batch=8, steps=60, neurons=1025),
        ModulatedRNNWorkload("maze", batch=30, steps=200, neurons=100, clip=2.0),
        ActingRNNWorkload("maze-act", batch=30, steps=200, neurons=100, clip=2.0),
        RetroactiveRNNWorkload("cue-reward", batch=30, steps=120, neurons=200, clip=1.0),
        PlasticLSTMWorkload("lm-small", batch=20, steps=20, neurons=200, clip=1.0),
        PlasticLSTMWorkload("lm-large", batch=6, steps=70, neurons=1149, clip=2.0, features=400),
        PlasticGRUWorkload("gru", batch=20, steps=20, neurons=200, clip=1.0),
        PlasticLinearWorkload("omniglot-head", batch=32, steps=6, features=64, classes=5),
        HebbRuleWorkload("rule-hebb", batch=30, steps=120, neurons=200),
        *(RuleWorkload(f"rule-{tag}", batch=30, steps=120, neurons=200) for tag in RULES),
        # Nothing that is measured on it means anything: it shows in seconds that a rival or the harness works.
        PlasticRNNWorkload("tiny", batch=2, steps=9, neurons=17),
    )
}
NETWORKS = [workload for workload in WORKLOADS.values() if not isinstance(workload, RuleWorkload)]
"""Those of the library's own rules, whose calls have plans."""

# Every network that is measured, in sizes that take no time; bounds are such that traces meet them.
SMALL: dict[str, dict[str, Any]] = {
    **{
        name: {"batch": 2, "steps": 9, "neurons": 17}
        for name in ("patterns", "images", "images-b8")
    },
    "maze": {"batch": 3, "steps": 9, "neurons": 7, "clip": 0.03},
    "maze-act": {"batch": 3, "steps": 9, "neurons": 7, "clip": 0.03},
    "cue-reward": {"batch": 3, "steps": 9, "neurons": 7, "clip": 0.004},
    "lm-small": {"batch": 3, "steps": 9, "neurons": 7, "clip": 0.006},
    "lm-large": {"batch": 2, "steps": 9, "neurons": 6, "clip": 0.006, "features": 5},
    "gru": {"batch": 3, "steps": 9, "neurons": 7, "clip": 0.006},
    "omniglot-head": {"batch": 3, "features": 8},
    **{f"rule-{tag}": {"batch": 3, "steps": 9, "neurons": 7} for tag in ("hebb", *RULES)},
}


def small(workload: Workload) -> Workload:
    """A workload's network in a size that takes no time."""
    return dataclasses.replace(workload, **SMALL.get(workload.name, {}))


# A plastic RNN of any size: elements, neurons, steps.
SIZED = re.compile(r"rnn-B([1-9]\d*)-N([1-9]\d*)-T([1-9]\d*)")


def workload_named(name: str) -> Workload:
    """A workload by its name in the table, or a plastic RNN of a size of one's own: ``rnn-B8-N200-T50``.

    Raises:
        ValueError: there is no such workload.
    """
    if sizes := SIZED.fullmatch(name):
        batch, neurons, steps = map(int, sizes.groups())
        return PlasticRNNWorkload(name, batch=batch, steps=steps, neurons=neurons)
    if name not in WORKLOADS:
        known = ", ".join((*WORKLOADS, "rnn-B8-N200-T50 (any size)"))
        raise ValueError(f"workload must be one of {known}; got {name!r}")
    return WORKLOADS[name]
