"""Layers under rules of one's own: ten published ones, and the paper's own rule written as a user would."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

import plastikern.functional as PF
from plastikern import Plasticity, rule, rule_sequence
from plastikern.nn.base import PlasticModule
from plastikern.rules.decorator import GIVEN, Rule
from tests.rules.ten import ACTIVITIES, GRANULARITIES, RULES

from ..floor import Traffic, connection_traffic
from .base import Drives, Inputs, Normal, Parameters, State, Step, Workload
from .formulations import Formulation

Made = Callable[[Normal, tuple[int, ...]], Tensor]
FUNCTIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "identity": lambda z: z}
WEIGHTS = ("w", "alpha")


def normal(scale: float, mean: float = 0.0) -> Made:
    """Values of that deviation."""
    return lambda of, size: mean + scale * of(*size)


def between(low: float, high: float) -> Made:
    """Values that lie evenly."""
    return lambda of, size: low + (high - low) * torch.sigmoid(of(*size))


def by_root(scale: float) -> Made:
    """Values whose squares add up to about a square over the last axis."""
    return lambda of, size: scale / math.sqrt(size[-1]) * of(*size)


def signed(low: float, high: float) -> Made:
    """Values of both signs, whose sizes lie evenly."""
    sizes = between(low, high)
    return lambda of, size: torch.sign(of(*size)) * sizes(of, size)


def either(one: Made, other: Made) -> Made:
    """Values of one kind or of the other, by chance."""
    return lambda of, size: torch.where(of(*size) > 0, one(of, size), other(of, size))


USUAL = {"w": by_root(0.3), "alpha": normal(0.01)}
# Of everything that a rule takes beside x and w: values at which activities live on and nothing grows, and at which
# rounding does not decide whether a synapse is clipped: a gradient passes or it does not. Names of A1 to A10 stand for
# their rules; the sizes of what is missing are those of USUAL, and states start at zero.
VALUES: dict[str, dict[str, Made]] = {
    "A1": {"eta": normal(0.002), **dict.fromkeys("ABCD", normal(1.0))},
    "A2": {"lam": between(0.8, 0.99), "eta": normal(0.05)},
    "A3": {"eta": normal(0.01), "tau": normal(0.0, 0.05)},
    # Half of the synapses are clipped at every step, at 0 or at the top, which is far below a change;
    # the others never are.
    "A4": {
        "x": either(normal(0.0, 1.0), normal(0.0)), "drive": between(-1.0, 1.0), "H": between(7.0, 8.0),
        **dict.fromkeys(("p1", "p2"), between(1.0, 3.0)), **dict.fromkeys(("q1", "q2"), between(3.0, 5.0)),
        "a1": normal(0.0, 0.9), "a2": normal(0.0, 0.95), "b1": normal(0.0, 0.9), "b2": normal(0.0, 0.95),
        "A2p": normal(0.0, 2e-4), "A3p": normal(0.0, 4e-5), "A2m": normal(0.0, 2e-3), "A3m": normal(0.0, 4e-4),
        "top": either(between(1e-6, 2e-6), between(11.0, 12.0)),
    },
    # Activities are near 0.76 and -0.76, so that E is near -1, 0 or 1: far within or far beyond the bounds of H, which
    # are near 0.25 and -0.25.
    "A5": {
        "drive": signed(0.98, 1.02), "w": by_root(1.4e-4), "alpha": between(0.0018, 0.0022), "r": between(0.95, 0.97),
        "s": between(0.95, 0.97), "m": signed(0.98, 1.02), "tau": normal(0.0, 0.5), "c": normal(0.0, 5e-4),
    },
    "A6": {
        "L": normal(1.0), "a": normal(0.0, 0.9), "beta": between(0.0, 0.2), "rho": between(0.8, 0.95),
        "kappa": normal(0.0, 0.8), "eta": normal(0.0, 0.002),
    },
    "A7": {"eta": normal(0.02), "g": normal(0.0, 0.1), "n": normal(0.0, 2.0)},
    "A8": {"k": by_root(1.0), "v": normal(1.0), "g": between(-0.2, 0.0), "b": between(0.0, 1.0)},
    "A9": {"k": normal(1.0), "v": by_root(1.0), "g": between(-0.2, 0.0), "b": between(0.0, 1.0)},
    "A10": {"H": normal(0.1), "lam": between(0.8, 1.0), "gamma": normal(0.1)},
    "hebb": {"eta": normal(0.0, 0.01)},
}  # fmt: skip


@rule(H="synapse")
def hebb(H: Any, x: Any, y: Any, eta: Any) -> Any:
    """The first paper's rule (Miconi et al., 2018, eq. 2)."""
    return (1 - eta) * H + eta * y * x


@dataclass(frozen=True)
class RuleWorkload(Workload):
    """A layer as wide as its input, whose pre-synaptic activities are given; A5 and ``hebb`` are recurrent.

    Rivals run the function itself, and read as it says or, since all these reads are linear in x, by one product of
    matrices.
    """

    neurons: int
    eager: ClassVar[Mapping[str, Any]] = {}
    compiled: ClassVar[Mapping[str, Any]] = {}
    without: ClassVar[Mapping[str, str]] = {"jax": "the function is one of torch"}

    @property
    def tag(self) -> str:
        """Of the rule."""
        return self.name.removeprefix("rule-")

    @property
    def rule(self) -> Rule:
        """The rule."""
        return RULES.get(self.tag, hebb)

    @property
    def recurrent(self) -> bool:
        """Whether its own activities before a step are its pre."""
        return self.tag in ("A5", "hebb")

    @property
    def activity(self) -> str:
        """Of a sum."""
        return ACTIVITIES.get(self.tag, "tanh")

    @property
    def granularities(self) -> dict[str, str]:
        """Of what the rule takes of a layer."""
        given = [*self.rule.coefficients, *(name for name in WEIGHTS if name in self.rule.taken)]
        return {
            name: GRANULARITIES.get(self.tag, {}).get(
                name, "connection" if name in WEIGHTS else "layer"
            )
            for name in given
        }

    def inputs(self) -> Inputs:
        """See base."""
        of, size, rule = Normal(), self.neurons, self.rule
        values = {**USUAL, **VALUES[self.tag]}
        parameters = {
            name: values[name](of, {"layer": (), "connection": (size, size)}.get(kind, (size,)))
            for name, kind in self.granularities.items()
        }
        shapes = {"synapse": (size, size), "element": ()}
        state = tuple(
            values.get(name, normal(0.0))(of, (self.batch, *shapes.get(kind, (size,))))
            for name, kind in rule.states.items()
        )
        steps = (self.steps, self.batch)
        drives = [values.get("drive", normal(1.0))(of, (*steps, size))]
        if self.recurrent:
            state = (torch.zeros(self.batch, size), *state)
        else:
            drives.append(values.get("x", normal(1.0))(of, (*steps, size)))
        drives += [
            values[name](of, (*steps, *shapes.get(kind, (size,))))
            for name, kind in rule.signals.items()
        ]
        return Inputs(parameters, state, tuple(drives), of(*steps, size))

    def eager_steps(self) -> dict[str, Step]:
        """See base."""
        return {"as written": self._step(self.rule.step), "by products": self._step(self._product)}

    compiled_steps = eager_steps

    def step(self, formulation: Formulation) -> Step:
        """There are no others than those above."""
        raise NotImplementedError

    def _step(self, of_rule: Callable[..., tuple[Tensor, dict[str, Tensor]]]) -> Step:
        names, signals, kinds = [*self.rule.states], [*self.rule.signals], self.granularities

        def step(parameters: Parameters, state: State, drives: Drives) -> tuple[Tensor, State]:
            x, states = (state[0], state[1:]) if self.recurrent else (drives[1], state)
            given = {
                name: tensor.unsqueeze(-1) if kinds[name] == "post" else tensor
                for name, tensor in parameters.items()
            }
            given |= dict(zip(signals, drives[len(drives) - len(signals) :], strict=True))
            active, after = of_rule(
                drives[0], dict(zip(names, states, strict=True)), {"x": x, **given}, FUNCTIONS[self.activity],
            )  # fmt: skip
            return active, (*([active] if self.recurrent else []), *after.values())

        return step

    def _product(
        self, drive: Tensor, states: Mapping[str, Tensor], given: Mapping[str, Tensor],
        activity: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """As ``Rule.step``, with a read by one product of matrices."""
        rule, x = self.rule, given["x"]
        kinds = {**GIVEN, **rule.states, **rule.signals}
        known = {
            name: tensor[_PLACES.get(kinds.get(name, ""), ...)]
            for name, tensor in {**given, **states}.items()
        }

        def excited(known: Mapping[str, Tensor]) -> Tensor:
            matrix = rule.read(**{**_taken(rule.read, known), "x": 1.0})
            matrix = matrix.expand(*drive.shape, x.shape[-1])
            return torch.baddbmm(drive.unsqueeze(-1), matrix, x.unsqueeze(-1))

        def changed(known: Mapping[str, Tensor]) -> dict[str, Tensor]:
            made = rule.function(**_taken(rule.function, known))
            return dict(zip(rule.states, made if isinstance(made, tuple) else (made,), strict=True))

        if rule.read_after:
            after = changed(known)
            active = activity(excited({**known, **after}))
        else:
            known["z"] = excited(known)
            active = known["y"] = activity(known["z"])
            after = changed(known)
        return active.squeeze(-1), {
            name: value.reshape(states[name].shape) for name, value in after.items()
        }

    def library(
        self, parameters: Parameters, state: State, drives: Drives, backend: str
    ) -> tuple[Tensor, State]:
        """See base."""
        pre, states = (state[0], state[1:]) if self.recurrent else (drives[1], state)
        signals = [*self.rule.signals]
        output, last = rule_sequence(
            self.rule, drives[0], pre, dict(zip(self.rule.states, states, strict=True)), parameters,
            dict(zip(signals, drives[len(drives) - len(signals) :], strict=True)),
            granularities=self.granularities, activity=self.activity, backend=backend,
        )  # fmt: skip
        return output, (*([output[-1]] if self.recurrent else []), *last.values())

    def module(self) -> PlasticModule:
        """There is none: a rule of one's own is a function."""
        raise NotImplementedError(f"{self.name} has no module")

    def traffic(self, kernel: str) -> Traffic:
        """See base; what sums inside the change add is not in it."""
        kinds = self.granularities.values()
        return connection_traffic(
            kernel, self.steps, self.batch, self.neurons**2, matrices=[*kinds].count("connection"),
            traces=[*self.rule.states.values()].count("synapse"), element_per_thread=True,
        )  # fmt: skip


_PLACES: dict[str, Any] = {
    "post": (..., None), "pre": (..., None, slice(None)), "element": (..., None, None),
}  # fmt: skip


def _taken(function: Callable[..., Any], known: Mapping[str, Any]) -> dict[str, Any]:
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return {name: known.get(name) for name in names}


BUILT_IN = {"built-in": None, "built-in-again": 11}
"""Backends of :class:`HebbRuleWorkload` beside those of rules, with the spacing of their checkpoints.

The built-in kernel, which runs traces backwards, and the same made to compute them again from checkpoints, as the
kernels of a user's rule do: these two move the same bytes.
"""


@dataclass(frozen=True)
class HebbRuleWorkload(RuleWorkload):
    """``plastikern-built-in`` and ``plastikern-built-in-again`` are variants that run the same by built-in kernels."""

    def library(
        self, parameters: Parameters, state: State, drives: Drives, backend: str
    ) -> tuple[Tensor, State]:
        """See base."""
        if backend not in BUILT_IN:
            return super().library(parameters, state, drives, backend)
        output, *last = PF.plastic_rnn_sequence(
            drives[0], *state, *(parameters[name] for name in ("w", "alpha", "eta")), backend="cpu",
            plasticity=Plasticity(rule="hebb", constraint="decay"), checkpoint_every=BUILT_IN[backend],
        )  # fmt: skip
        return output, tuple(last)
