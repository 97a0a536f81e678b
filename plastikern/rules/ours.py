"""The library's rules written as rules of one's own, for what kernels of those do and the library's do not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

from ..network import Connection, rate_terms
from ..plasticity import Plasticity
from . import papers
from .cells import ACTIVITIES
from .decorator import Rule, Value, plastic_read
from .firing import HIDDEN
from .operations import over_post, over_pre

GRANULARITIES = {"layer": "layer", "neuron": "post", "connection": "connection"}
"""Words of a :class:`plastikern.Plasticity` in those of rules."""


class Use(NamedTuple):
    """A rule of the library's where a layer uses it, as :class:`~plastikern.rules.uses.RulePlasticity` has one."""

    rule: Rule
    granularities: Mapping[str, str]
    initial: Mapping[str, float]

    @property
    def inner(self) -> Rule:
        """What is run."""
        return self.rule


def used(
    owner: str, plasticity: Plasticity, connection: Connection, post: str
) -> tuple[Use, dict[str, Tensor]]:
    """The rule of a layer with its tensors by name. ``post``: of an LSTM, else ``"hidden"``.

    Raises:
        ValueError: the modulator's input is the cell, and the rule is given another signal.
    """
    modulator, source = connection.modulator, plasticity.modulator_input
    if modulator is not None and source == "cell" and post != "cell":
        raise ValueError(
            f"{owner}: masks with plasticity.modulator_input 'cell' need post='cell'; got post={post!r}"
        )
    rate, scale = rate_terms(connection)
    half = modulator is not None and modulator.modulated is not None
    found: dict[str, Tensor | None] = {
        "w": connection.weight, "alpha": connection.alpha, "rate": rate, "rate_scale": scale,
        "eligibility_rate": connection.eligibility_eta,
    }  # fmt: skip
    kinds = {"alpha": GRANULARITIES[plasticity.alpha], "w": "connection"}
    if modulator is not None:
        found |= {"modulator_weight": modulator.weight, "modulator_bias": modulator.bias}
        kinds["modulator_weight"] = "pre" if source == "previous_hidden" else "post"
        if half and plasticity.modulation == "retroactive":
            assert modulator.modulated is not None
            found["governed"] = modulator.modulated.to(modulator.weight.dtype)
            kinds["governed"] = "post"
    tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
    kinds |= {name: _kind(tensor) for name, tensor in tensors.items() if name not in kinds}
    names = tuple(name for name in tensors if name not in ("w", "alpha"))
    return Use(_rule(plasticity, names), kinds, {}), tensors


def _kind(tensor: Tensor) -> str:
    return "connection" if tensor.dim() == 2 else "layer" if tensor.numel() == 1 else "post"


@cache
def _rule(plasticity: Plasticity, names: tuple[str, ...]) -> Rule:
    pair, bound = (plasticity.rule, plasticity.constraint), plasticity.clip
    retroactive = plasticity.modulation == "retroactive"
    read_of = papers.READS.get(plasticity.constraint)

    def following(**known: Value) -> Value:
        trace, x, y, rate = known["trace"], known["x"], known["y"], _rate(plasticity, known)
        if not retroactive:
            return papers.simple(*pair)(trace, x, y, rate, bound)
        given = trace, known["eligibility"], x, y, rate, known["eligibility_rate"]
        if "governed" in known:
            return papers.half(*pair)(*given, known["governed"] > 0, bound)
        return papers.retroactive(*pair)(*given, bound)

    def read(w: Value, alpha: Value, trace: Value, x: Value) -> Value:
        return plastic_read(w, alpha, trace if read_of is None else read_of(trace, bound), x)

    states = {"trace": "synapse", **({"eligibility": "synapse"} if retroactive else {})}
    source = (
        [HIDDEN] if "modulator_weight" in names and plasticity.modulator_input == "hidden" else []
    )
    _takes(following, [*states, "x", "y", *source, *names])
    following.__name__ = following.__qualname__ = "_".join(pair)
    return Rule(following, states, {}, names, read, read_after=False, fused=True).prepare()


def _rate(plasticity: Plasticity, known: Mapping[str, Value]) -> Value:
    """The rate in force, ``rate + rate_scale * M``."""
    if "modulator_weight" not in known:
        return known["rate"]
    weight = known["modulator_weight"]
    drive = {
        "hidden": lambda: over_post(weight * known[HIDDEN]),
        "previous_hidden": lambda: over_pre(weight * known["x"]),
        "cell": lambda: over_post(weight * known["y"]),
    }[plasticity.modulator_input]()
    signal = ACTIVITIES[plasticity.modulator_nonlinearity](drive + known["modulator_bias"])
    if "rate_scale" in known:
        signal = known["rate_scale"] * signal
    return signal + known["rate"] if "rate" in known else signal


def _takes(function: Callable[..., Any], names: list[str]) -> None:
    """Says which names a function takes."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, keyword) for name in names]
    )
