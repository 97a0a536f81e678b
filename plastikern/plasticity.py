"""What one plastic connection does: the options of the rule, in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .checks import check_finite
from .rules import papers
from .rules.cells import POSTS as POSTS

RULES = tuple(papers.INCREMENTS)
CONSTRAINTS = tuple(papers.CONSTRAINTS)
GRANULARITIES = ("connection", "neuron", "layer")
NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")
LINEAR_NONLINEARITIES = (*NONLINEARITIES, "softmax")
MODULATIONS = ("none", "simple", "retroactive")
MODULATOR_INPUTS = ("hidden", "previous_hidden", "cell")
MODULATOR_NONLINEARITIES = ("tanh", "sigmoid", "linear")
FAN_OUTS = ("none", "neuron", "connection")


@dataclass(frozen=True)
class Plasticity:
    r"""The learning rule of a plastic connection.

    A plastic connection from ``pre`` :math:`x` (B, I) to ``post`` neurons (B, O) has a baseline ``weight``
    :math:`w` (O, I), a plasticity coefficient ``alpha`` :math:`\alpha` and a Hebbian ``trace`` :math:`H` (B, O, I).
    It reads :math:`z_j = u_j + \sum_i (w_{ji} + \alpha_{ji} H_{ji}) x_i`, then changes its trace at the rate :math:`r`:
    a parameter :math:`\eta`, or what a neuromodulator :math:`M(t)`, a number that the network computes, makes of it.

    Args:
        rule: the increment :math:`d_{ji}`, from the activity :math:`y_j` after the step and :math:`x_i` before it.
            ``"hebb"``: :math:`y_j x_i`. ``"oja"``: :math:`y_j (x_i - y_j H_{ji})`.
        constraint: how the trace stays bounded; by default ``"decay"``, with modulation ``"clip"``. Under ``decay`` a
            negative rate lets traces grow, and a modulator may be negative (docs/limits.md has what grows).

            ================ ====================================================================
            ``decay``        :math:`(1 - r) H + r d`
            ``clip``         :math:`\mathrm{clip}(H + r d, \pm c)`
            ``soft_clip``    :math:`\mathrm{clip}(H + \max(r d, 0)(1 - H) + \min(r d, 0)(1 + H), \pm 1)`
            ``clip_on_read`` :math:`H + r d`, and :math:`z` reads :math:`\mathrm{clip}(H, \pm c)`
            ``none``         :math:`H + r d`
            ================ ====================================================================

            ``"oja"`` decays by itself and is not combined with ``"decay"``.
        clip: the bound :math:`c > 0` of ``clip`` and ``clip_on_read``.
        alpha: one coefficient per ``"connection"`` (O, I), per post-synaptic ``"neuron"`` (O,), or per ``"layer"`` ()
            or (1,).
        eta: one rate per ``"layer"`` () or (1,), per ``"neuron"`` (O,) or per ``"connection"`` (O, I).
        learn_eta: whether modules register the rates as trained parameters (else as buffers).
        alpha_init: standard deviation of the normal initialisation of ``alpha``.
        eta_init: initial value of ``eta`` and of the eligibility trace's rate.
        modulation: what a neuromodulator :math:`M(t)` does.

            =============== ==========================================================================================
            ``none``        there is none: :math:`r = \eta`
            ``simple``      :math:`r = M(t)`
            ``retroactive`` :math:`r d` above is :math:`M(t) E` with an eligibility trace :math:`E` (B, O, I), and then
                            :math:`E' = (1 - \eta_E) E + \eta_E d`, where :math:`d` is that of :math:`H` before the step
            =============== ==========================================================================================

            In half-modulated networks a mask excepts some neurons, which change at once, at the rate :math:`\eta`
            (:class:`~plastikern.Modulator`).
        modulator_input: what the modulator is computed from: the ``"hidden"`` activities after the step, those before
            it, ``"previous_hidden"``, or the ``"cell"`` of an LSTM after the step.
        modulator_nonlinearity: ``"tanh"``, ``"sigmoid"`` or ``"linear"``.
        fan_out: how the modulator reaches the connections: as it is (``"none"``), or by a trained weight f and bias g
            per post-synaptic ``"neuron"`` (O,) or per ``"connection"`` (O, I), as :math:`f M + g`.

    Raises:
        ValueError: an option that does not exist, a number that is not finite, ``oja`` with ``decay``, or options of
            the modulator without modulation.

    Sources:
        Miconi, Stanley, Clune, *Differentiable plasticity*, ICML 2018 (arXiv 1804.02464): eq. 1 (read), eq. 2
        (``hebb`` with ``decay``), eq. 3 (``oja`` with ``none``). Miconi, Rawal, Clune, Stanley, *Backpropamine*,
        ICLR 2019 (arXiv 2002.10585): eq. 2 (``hebb`` with ``clip``), eq. 3 (``simple``), eq. 4 and 5 (``retroactive``).
    """

    rule: str = "hebb"
    constraint: str = None  # type: ignore[assignment]  # chosen below
    clip: float = 1.0
    alpha: str = "connection"
    eta: str = "layer"
    learn_eta: bool = True
    alpha_init: float = 0.01
    eta_init: float = 0.01
    modulation: str = "none"
    modulator_input: str = "hidden"
    modulator_nonlinearity: str = "tanh"
    fan_out: str = "none"

    def __post_init__(self) -> None:
        if self.constraint is None:
            object.__setattr__(self, "constraint", "decay" if self.modulation == "none" else "clip")
        for name, allowed in (
            ("rule", RULES),
            ("constraint", CONSTRAINTS),
            ("alpha", GRANULARITIES),
            ("eta", GRANULARITIES),
            ("modulation", MODULATIONS),
            ("modulator_input", MODULATOR_INPUTS),
            ("modulator_nonlinearity", MODULATOR_NONLINEARITIES),
            ("fan_out", FAN_OUTS),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(
                    f"Plasticity: {name} must be one of {', '.join(allowed)}; got {value!r}"
                )
        for name in ("clip", "alpha_init", "eta_init"):
            object.__setattr__(self, name, check_finite("Plasticity", name, getattr(self, name)))
        if self.clip <= 0:
            raise ValueError(f"Plasticity: clip must be positive; got {self.clip!r}")
        if self.alpha_init < 0:
            raise ValueError(
                f"Plasticity: alpha_init is a standard deviation, not negative; got {self.alpha_init!r}"
            )
        if not papers.go_together(self.rule, self.constraint):
            raise ValueError(
                f"Plasticity: rule {self.rule!r} decays by itself; combine it with 'none' or a clip, "
                f"not with {self.constraint!r}"
            )
        if self.modulation == "none":
            for name in ("modulator_input", "modulator_nonlinearity", "fan_out"):
                value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
                if value != default:
                    raise ValueError(
                        f"Plasticity: {name} {value!r} needs modulation 'simple' or 'retroactive'"
                    )

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Earlier versions kept what they made of the options among them.
        vars(self).update({name: value for name, value in state.items() if name != "codes"})


def one_number(tensor: object) -> bool:
    """Whether it is a tensor of one number, () or, as modules have them, (1,)."""
    return isinstance(tensor, Tensor) and tensor.shape in ((), (1,))


def granular_shape(granularity: str, rows: int, columns: int) -> tuple[int, ...]:
    """Shape of an ``alpha`` or ``eta`` of that granularity for a (rows, columns) connection."""
    return {"connection": (rows, columns), "neuron": (rows,), "layer": ()}[granularity]
