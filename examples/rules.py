"""A plasticity rule of one's own for the experiments.

    python -m experiments cue_reward --preset ours --net plastic --set rule=examples.rules:modulated

The rule is that of retroactive neuromodulation (Backpropamine, ICLR 2019, eq. 4 and 5): connections keep what their
neurons have done in an eligibility trace E, and a modulator m makes it a change of the trace H, later. What another
rule does differently is to be written into ``retroactive``; kernels are made of it when it is first used.
"""

from __future__ import annotations

from typing import Any

import torch

from plastikern import Coefficient, Readout, rule

Value = Any


@rule(H="synapse", E="synapse", signals={"m": "element"})
def retroactive(H: Value, E: Value, x: Value, y: Value, m: Value, eta: Value) -> Value:
    """Trace and eligibility trace of a synapse after a step, from those before it and the neurons' activities."""
    return torch.clamp(H + m * E, -1, 1), (1 - eta) * E + eta * x * y


modulated = retroactive.use(eta=Coefficient("layer", init=0.1), readouts={"m": Readout()})
"""The rule with a modulator that the network reads out of its own activities, and one learned rate."""
