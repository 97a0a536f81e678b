"""Rules of one's own that are the library's: the kernels of those serve them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from ..network import Connection, Modulator
from ..plasticity import Plasticity
from . import papers
from .decorator import Traced, plastic_read
from .symbols import Symbol, leaf, walk
from .variants import is_fixed

if TYPE_CHECKING:
    from .uses import Readout, RulePlasticity

MANY = 100
"""Terms of a product that is multiplied out."""
GRANULARITIES = {"layer": "layer", "post": "neuron", "connection": "connection"}
"""The words of :class:`plastikern.Plasticity`, which has no rate of pre-synaptic neurons."""


def twin_of(use: RulePlasticity) -> Plasticity | None:
    """The library's rule that computes the same from parameters of the same meaning; None: there is none."""
    rule, states = use.rule, [*use.rule.states]
    rates = [*rule.coefficients, *use.readouts]
    plain = {*rule.states.values()} == {"synapse"} and len(states) == len(rates) <= 2
    if (
        not plain
        or not rule.fused
        or rule.read_after
        or use.given_signals
        or any(use.initial.values())
    ):
        return None
    granularities = {
        use.coefficients[n].granularity
        for n in (*rule.coefficients, "alpha")
        if n in use.coefficients
    }
    if "alpha" not in use.coefficients or "pre" in granularities or not is_fixed(rule):
        return None
    # An eligibility trace goes with a modulator, a trace alone with a rate or with a modulator.
    if len(states) == 2 and len(use.readouts) != 1:
        return None
    kinds = {**rule.states, **{name: rule.signals.get(name, "layer") for name in rates}}
    rate = next(iter(use.readouts), rates[0])
    others = [name for name in rates if name != rate]
    traced = rule.traced()
    mine = _canonical(traced)
    for pair, bound in _candidates(traced):
        names = [*states, "x", "y", rate, *others]
        made = papers.retroactive(*pair) if len(states) == 2 else papers.simple(*pair)
        theirs = _traced(made, names, states, kinds, pair[1], bound)
        if _canonical(theirs) == mine:
            return _plasticity(use, *pair, bound, use.readouts.get(rate), rule.signals.get(rate))
    return None


def _candidates(traced: Traced) -> Iterator[tuple[tuple[str, str], float]]:
    """Rules of the library with the bounds that stand in a rule."""
    symbols = walk([*traced.states.values(), traced.summand])
    bounds = sorted({s.payload for s in symbols if s.operation == "constant" and s.payload > 0})
    for pair in papers.pairs():
        for bound in bounds if "clip" in pair[1] and pair[1] != "soft_clip" else [1.0]:
            yield pair, bound


def _traced(
    made: Callable[..., Any], names: list[str], states: list[str], kinds: Mapping[str, str], constraint: str,
    bound: float,
) -> Traced:  # fmt: skip
    kinds = {"x": "pre", "y": "post", "w": "connection", "alpha": "connection", **kinds}
    leaves = {name: leaf(name, kind) for name, kind in kinds.items()}
    found = made(*(leaves[name] for name in names), bound)
    after = found if isinstance(found, tuple) else (found,)
    trace = leaves[states[0]]
    read_of = papers.READS.get(constraint)
    seen = trace if read_of is None else read_of(trace, bound)
    summand = plastic_read(leaves["w"], leaves["alpha"], seen, leaves["x"])
    return Traced(dict(zip(states, after, strict=True)), summand, leaves)


def _canonical(traced: Traced) -> list[Any]:
    """The same for expressions that are equal as polynomials."""
    known: dict[Symbol, Polynomial] = {}
    made = [*traced.states.values(), traced.summand]
    for symbol in walk(made):
        known[symbol] = _polynomial(symbol, known)
    return [_sorted(known[symbol]) for symbol in made]


Polynomial = dict[tuple[Any, ...], float]
"""Coefficients by what they multiply: the atoms, leaves and functions of polynomials, in their order."""


def _polynomial(symbol: Symbol, known: Mapping[Symbol, Polynomial]) -> Polynomial:
    parts = [known[argument] for argument in symbol.arguments]
    found: Polynomial = {}
    if symbol.operation == "constant":
        found[()] = symbol.payload
    elif symbol.operation in ("add", "sub", "neg"):
        for place, part in enumerate(parts):
            sign = (
                -1.0 if symbol.operation == "neg" or (symbol.operation == "sub" and place) else 1.0
            )
            for atoms, factor in part.items():
                found[atoms] = found.get(atoms, 0.0) + sign * factor
    elif symbol.operation == "mul" and len(parts[0]) * len(parts[1]) <= MANY:
        for (left, one), (right, other) in product(parts[0].items(), parts[1].items()):
            atoms = (*sorted((*left, *right)),)
            found[atoms] = found.get(atoms, 0.0) + one * other
    else:
        payload = symbol.payload if symbol.operation == "leaf" else None
        said = (symbol.operation, payload, *map(_sorted, parts))
        found[(repr(said),)] = 1.0
    return {atoms: factor for atoms, factor in found.items() if factor}


def _sorted(polynomial: Polynomial) -> list[Any]:
    return sorted(polynomial.items())


def _plasticity(
    use: RulePlasticity, rule: str, constraint: str, bound: float, readout: Readout | None, kind: str | None
) -> Plasticity:  # fmt: skip
    options: dict[str, Any] = {"alpha": GRANULARITIES[use.coefficients["alpha"].granularity]}
    for name in use.rule.coefficients:
        options["eta"] = GRANULARITIES[use.coefficients[name].granularity]
    if readout is not None:
        options["modulation"] = "simple" if len(use.rule.states) == 1 else "retroactive"
        options["modulator_nonlinearity"] = readout.nonlinearity
        options["fan_out"] = "neuron" if kind == "post" else "none"
    return Plasticity(rule=rule, constraint=constraint, clip=bound, **options)


def connection_of(use: RulePlasticity, tensors: Mapping[str, Any]) -> Connection:
    """The tensors of a layer in the places where the library's kernels look for them."""
    rate = next((tensors[name] for name in use.rule.coefficients), None)
    weight, alpha = tensors["w"], tensors["alpha"]
    if not use.readouts:
        return Connection(weight, alpha, rate, None, None)
    (readout,) = use.readouts
    parts = ("weight", "bias", "fan_out_weight", "fan_out_bias")
    modulator = Modulator(*(tensors.get(f"{readout}_{part}") for part in parts))  # type: ignore[arg-type]
    return Connection(weight, alpha, None, rate, modulator)
