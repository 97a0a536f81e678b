"""Drop-in plastic modules, in the shape of ``torch.nn``."""

from .base import PlasticModule
from .gru import PlasticGRU, PlasticGRUCell
from .linear import PlasticLinear, PlasticLinearCell
from .lstm import PlasticLSTM, PlasticLSTMCell
from .masks import dropout_mask, zoneout_mask
from .rnn import PlasticRNN, PlasticRNNCell
from .rollout import Rollout

__all__ = [
    "PlasticGRU",
    "PlasticGRUCell",
    "PlasticLSTM",
    "PlasticLSTMCell",
    "PlasticLinear",
    "PlasticLinearCell",
    "PlasticModule",
    "PlasticRNN",
    "PlasticRNNCell",
    "Rollout",
    "dropout_mask",
    "zoneout_mask",
]
