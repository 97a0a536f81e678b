"""Drop-in plastic modules, in the shape of ``torch.nn``."""

from .rnn import PlasticRNN, PlasticRNNCell

__all__ = ["PlasticRNN", "PlasticRNNCell"]
