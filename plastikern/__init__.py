"""Plastic neural networks with fused kernels: connections that change by Hebbian rules while the network runs."""

from . import functional
from .backends import build_info, use_backend
from .nn import PlasticRNN, PlasticRNNCell
from .network import Modulator
from .plasticity import Plasticity
from .state import LinearState, LSTMState, RNNState
from .version import __version__

__all__ = [
    "LSTMState",
    "LinearState",
    "Modulator",
    "PlasticRNN",
    "PlasticRNNCell",
    "Plasticity",
    "RNNState",
    "__version__",
    "build_info",
    "functional",
    "use_backend",
]
