"""Plastic neural networks with fused kernels: connections that change by Hebbian rules while the network runs."""

from . import convert, functional
from .backends import build_info, use_backend
from .explanation import explain
from .files import load, save
from .hooks import count_flops
from .network import Modulator
from .nn import (
    PlasticGRU,
    PlasticGRUCell,
    PlasticLinear,
    PlasticLinearCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
    Rollout,
)
from .plasticity import Plasticity
from .rules.checking import check
from .rules.decorator import Rule, rule
from .rules.operations import as_pre, over_post, over_pre
from .rules.sequences import rule_sequence
from .rules.symbols import RuleError
from .rules.uses import Coefficient, Readout, RulePlasticity
from .state import LinearState, LSTMState, RNNState, RuleState
from .version import __version__

__all__ = [
    "Coefficient",
    "LSTMState",
    "LinearState",
    "Modulator",
    "PlasticGRU",
    "PlasticGRUCell",
    "PlasticLSTM",
    "PlasticLSTMCell",
    "PlasticLinear",
    "PlasticLinearCell",
    "PlasticRNN",
    "PlasticRNNCell",
    "Plasticity",
    "RNNState",
    "Readout",
    "Rollout",
    "Rule",
    "RuleError",
    "RulePlasticity",
    "RuleState",
    "__version__",
    "as_pre",
    "build_info",
    "check",
    "convert",
    "explain",
    "functional",
    "load",
    "over_post",
    "over_pre",
    "rule",
    "rule_sequence",
    "save",
    "use_backend",
]

count_flops()
