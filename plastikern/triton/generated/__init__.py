# Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
from . import neurons
from .hebb_clip import hebb_clip, hebb_clip_retroactive
from .hebb_decay import hebb_decay, hebb_decay_retroactive
from .hebb_none import hebb_none, hebb_none_retroactive
from .hebb_soft_clip import hebb_soft_clip, hebb_soft_clip_retroactive
from .oja_clip import oja_clip, oja_clip_retroactive
from .oja_none import oja_none, oja_none_retroactive
from .oja_soft_clip import oja_soft_clip, oja_soft_clip_retroactive
from .reads import read_clipped, read_trace

# By rule and constraint: the change of traces at once, and that by eligibility traces.
CHANGES = {
    ("hebb", "decay"): (hebb_decay, hebb_decay_retroactive),
    ("hebb", "clip"): (hebb_clip, hebb_clip_retroactive),
    ("hebb", "soft_clip"): (hebb_soft_clip, hebb_soft_clip_retroactive),
    ("hebb", "clip_on_read"): (hebb_none, hebb_none_retroactive),
    ("hebb", "none"): (hebb_none, hebb_none_retroactive),
    ("oja", "clip"): (oja_clip, oja_clip_retroactive),
    ("oja", "soft_clip"): (oja_soft_clip, oja_soft_clip_retroactive),
    ("oja", "clip_on_read"): (oja_none, oja_none_retroactive),
    ("oja", "none"): (oja_none, oja_none_retroactive),
}

# What the sums read, by constraint.
READS = {
    "decay": read_trace,
    "clip": read_trace,
    "soft_clip": read_trace,
    "clip_on_read": read_clipped,
    "none": read_trace,
}

# Activities by name.
ACTIVITIES = {
    "tanh": neurons.activity_tanh,
    "relu": neurons.activity_relu,
    "sigmoid": neurons.activity_sigmoid,
    "identity": neurons.activity_identity,
    "linear": neurons.activity_identity,
}

# Cells by the kind of their network.
CELLS = {
    "lstm": neurons.lstm,
    "gru": neurons.gru,
}
