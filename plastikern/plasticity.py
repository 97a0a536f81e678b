"""What one plastic connection does: the options of the rule, in one frozen record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

RULES = ("hebb", "oja")
CONSTRAINTS = ("decay", "clip", "soft_clip", "clip_on_read", "none")
GRANULARITIES = ("connection", "neuron", "layer")
NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")


@dataclass(frozen=True)
class Plasticity:
    r"""The learning rule of a plastic connection.

    A plastic connection from ``pre`` :math:`x` (B, I) to ``post`` neurons (B, O) has a baseline ``weight``
    :math:`w` (O, I), a plasticity coefficient ``alpha`` :math:`\alpha` and a Hebbian ``trace`` :math:`H` (B, O, I).
    It reads :math:`z_j = u_j + \sum_i (w_{ji} + \alpha_{ji} H_{ji}) x_i`, then changes its trace at the rate
    :math:`\eta`.

    Args:
        rule: the increment :math:`d_{ji}`, from the activity :math:`y_j` after the step and :math:`x_i` before it.
            ``"hebb"``: :math:`y_j x_i`. ``"oja"``: :math:`y_j (x_i - y_j H_{ji})`.
        constraint: how the trace stays bounded.

            ================ ====================================================================
            ``decay``        :math:`(1 - \eta) H + \eta d`
            ``clip``         :math:`\mathrm{clip}(H + \eta d, \pm c)`
            ``soft_clip``    :math:`\mathrm{clip}(H + \max(\eta d, 0)(1 - H) + \min(\eta d, 0)(1 + H), \pm 1)`
            ``clip_on_read`` :math:`H + \eta d`, and :math:`z` reads :math:`\mathrm{clip}(H, \pm c)`
            ``none``         :math:`H + \eta d`
            ================ ====================================================================

            ``"oja"`` decays by itself and is not combined with ``"decay"``.
        clip: the bound :math:`c > 0` of ``clip`` and ``clip_on_read``.
        alpha: one coefficient per ``"connection"`` (O, I), per post-synaptic ``"neuron"`` (O,), or per ``"layer"`` ().
        eta: one rate per ``"layer"`` (), per ``"neuron"`` (O,) or per ``"connection"`` (O, I).
        learn_eta: whether modules register ``eta`` as a trained parameter (else as a buffer).
        alpha_init: standard deviation of the normal initialisation of ``alpha``.
        eta_init: initial value of ``eta``.

    Raises:
        ValueError: an option that does not exist, a number that is not finite, or ``oja`` with ``decay``.

    Sources:
        Miconi, Stanley, Clune, *Differentiable plasticity*, ICML 2018 (arXiv 1804.02464): eq. 1 (read), eq. 2
        (``hebb`` with ``decay``), eq. 3 (``oja`` with ``none``). Miconi, Rawal, Clune, Stanley, *Backpropamine*,
        ICLR 2019 (arXiv 2002.10585): eq. 2 (``hebb`` with ``clip``).
    """

    rule: str = "hebb"
    constraint: str = "decay"
    clip: float = 1.0
    alpha: str = "connection"
    eta: str = "layer"
    learn_eta: bool = True
    alpha_init: float = 0.01
    eta_init: float = 0.01

    def __post_init__(self) -> None:
        for name, allowed in (
            ("rule", RULES),
            ("constraint", CONSTRAINTS),
            ("alpha", GRANULARITIES),
            ("eta", GRANULARITIES),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"Plasticity: {name} must be one of {', '.join(allowed)}; got {value!r}")
        for name in ("clip", "alpha_init", "eta_init"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise ValueError(f"Plasticity: {name} must be a finite number; got {value!r}")
        if self.clip <= 0:
            raise ValueError(f"Plasticity: clip must be positive; got {self.clip!r}")
        if self.alpha_init < 0:
            raise ValueError(f"Plasticity: alpha_init is a standard deviation, not negative; got {self.alpha_init!r}")
        if self.rule == "oja" and self.constraint == "decay":
            raise ValueError(
                "Plasticity: rule 'oja' decays by itself; combine it with 'none' or a clip, not with 'decay'"
            )


def granular_shape(granularity: str, rows: int, columns: int) -> tuple[int, ...]:
    """Shape of an ``alpha`` or ``eta`` of that granularity for a (rows, columns) connection."""
    return {"connection": (rows, columns), "neuron": (rows,), "layer": ()}[granularity]
