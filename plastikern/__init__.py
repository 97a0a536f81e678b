"""Plastic neural networks with fused kernels: connections that change by Hebbian rules while the network runs."""

from . import functional
from .backends import build_info, use_backend
from .nn import PlasticRNN, PlasticRNNCell
from .plasticity import Plasticity
from .state import RNNState
from .version import __version__

__all__ = [
    "PlasticRNN",
    "PlasticRNNCell",
    "Plasticity",
    "RNNState",
    "__version__",
    "build_info",
    "functional",
    "use_backend",
]
