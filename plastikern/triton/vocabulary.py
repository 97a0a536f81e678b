"""What kernels are given: tensors by name, and the options that a kernel is compiled for."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..network import State
from ..rules.cells import carries, drives, history_of, weights
from . import arithmetic, generated
from .generated import ACTIVITIES, CELLS, CHANGES, READS

# Tensors on the host, pointers in a kernel; None is known at compilation, so that a kernel asks for no flags.
Data = Any


def _digest() -> str:
    """Of the printed functions and of those that they call."""
    files = [Path(arithmetic.__file__), *sorted(Path(generated.__file__).parent.glob("*.py"))]
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


TEXT = _digest()


class Sequence(NamedTuple):
    """A (T, B, N) tensor in either layout, by its distances of steps and of elements; neurons lie side by side.

    A distance of 1 is None. Triton makes a constant of an integer 1, and Triton 3.6 loses the constants of a tuple
    inside a tuple: None arrives. Nor can it compare such a tuple with None: a tensor that is missing is ``ABSENT``.
    """

    data: Data
    step: int | None
    element: int | None


ABSENT = Sequence(None, None, None)


def sequence_of(data: Data, step: int, element: int) -> Sequence:
    """A tensor with these distances."""
    return Sequence(data, *(None if distance == 1 else distance for distance in (step, element)))


class Inputs(NamedTuple):
    """What a sequence is given: ``drive`` (T, B, O), with gates (T, B, 4 O); ``features`` (T, B, I) of a layer."""

    drive: Sequence
    features: Sequence
    clamp: Sequence
    lengths: Data


class Parameters(NamedTuple):
    """Of the connection and of its modulator, as the operators take them."""

    weight: Data
    alpha: Data
    rate: Data
    rate_scale: Data
    eligibility_rate: Data
    modulator_weight: Data
    modulator_bias: Data
    modulated: Data


class Activities(NamedTuple):
    """What a forward pass leaves, step by step: ``history`` has what is kept of a cell (plastikern/rules/cells.py)."""

    output: Sequence
    history: Sequence
    modulators: Sequence


class Gradients(NamedTuple):
    """Of each step: ``output`` comes in, the others go out.

    ``rate`` and ``fading`` are those of the rate in force and of the eligibility's rate: a :class:`Sequence` (T, B, O),
    or, where rates are per connection, sums over the steps (B, O, I), as is ``rate_scale``.
    """

    output: Sequence
    drive: Sequence
    sum: Sequence
    features: Sequence
    modulator: Sequence
    rate: Any
    rate_scale: Data
    fading: Any


class Tile(NamedTuple):
    """Some synapses in a kernel: neurons ``rows`` (R,), inputs ``columns`` (C,), and which exist, ``inside`` (R, C)."""

    rows: Any
    columns: Any
    inside: Any


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a kernel is compiled for, in the words of :class:`~plastikern.Plasticity`.

    ``alpha``, ``rate``, ``rate_scale`` and ``fading`` (of the eligibility) are the numbers of dimensions of those
    parameters: 0 for one of the layer, 1 for one per neuron, 2 for one per connection. ``text`` stands for the printed
    functions: kernels choose them by these options, where Triton does not see that one has changed.
    """

    kind: str
    rule: str
    constraint: str
    nonlinearity: str
    post: str
    retroactive: bool
    half_eligible: bool
    modulated: bool
    modulator_input: str
    modulator_nonlinearity: str
    clip: float
    posts: int
    pres: int
    alpha: int
    rate: int
    rate_scale: int
    fading: int
    dtype: Any
    text: str = TEXT

    @property
    def rates_per_connection(self) -> bool:
        """Whether the rate in force differs between the synapses of a neuron."""
        return self.rate == 2 or self.rate_scale == 2

    @property
    def change_by_synapse(self) -> bool:
        """Whether any coefficient of the change differs between the synapses of a neuron."""
        return self.rates_per_connection or self.fading == 2

    def _change(self, retroactive: bool) -> Any:
        change: Any = CHANGES[self.rule, self.constraint][retroactive]
        return change.by_synapse if self.change_by_synapse else change.by_row

    @property
    def change(self) -> Any:
        """The printed functions of the change."""
        return self._change(self.retroactive)

    @property
    def change_at_once(self) -> Any:
        """Those of neurons without eligibility traces."""
        return self._change(False)

    @property
    def sums_rate(self) -> bool:
        """Whether gradients of a rate by synapse are summed: for M, or for a rate that is not per connection."""
        return self.modulated or not self.rates_per_connection

    @property
    def sums_inside(self) -> bool:
        """Whether the change of a synapse takes sums over its row, so that a tile must have whole rows."""
        at_once = self.half_eligible and self.change_at_once.passes > 0
        return at_once or self.change.passes > 0

    @property
    def rests(self) -> bool:
        """Whether what is computed of a tile where no synapse is stays 0 by itself."""
        return bool(self.change.rests and (not self.half_eligible or self.change_at_once.rests))

    @property
    def change_sums(self) -> int:
        """Sums over the columns that the adjoint of the change takes."""
        count = self.change.sum_count
        if self.half_eligible:
            count += self.change_at_once.sum_count
        if self.change_by_synapse:
            count += self.sums_rate + (self.retroactive and self.fading < 2)
        return count

    @property
    def activity(self) -> Any:
        """The printed functions of the activity; those of a softmax are not printed."""
        return ACTIVITIES[self.nonlinearity]

    @property
    def modulator_activity(self) -> Any:
        """Those of what a modulator makes of its sum."""
        return ACTIVITIES[self.modulator_nonlinearity]

    @property
    def gated(self) -> bool:
        """Whether the neurons have gates."""
        return self.kind in CELLS

    @property
    def carries(self) -> bool:
        """Whether a cell goes on from step to step beside the activities."""
        return carries(self.kind)

    @property
    def drives(self) -> int:
        """Values of the drive per neuron."""
        return drives(self.kind)

    @property
    def weights(self) -> int:
        """Rows of recurrent weights per neuron: with gates, sums of which one is plastic."""
        return weights(self.kind)

    @property
    def cell(self) -> Any:
        """The printed functions of a neuron with gates."""
        return CELLS[self.kind]

    @property
    def read(self) -> Any:
        """The printed functions of what the sums read."""
        reads: Any = READS[self.constraint]
        return reads.by_synapse if self.alpha == 2 else reads.by_row

    @property
    def read_by_synapse(self) -> Any:
        """Those for the gradient of every connection's alpha."""
        reads: Any = READS[self.constraint]
        return reads.by_synapse

    @property
    def matrix(self) -> int:
        """Synapses of one element."""
        return self.posts * self.pres

    @property
    def traces(self) -> int:
        """Kinds of traces that every synapse has."""
        return 2 if self.retroactive else 1

    @property
    def post_in_history(self) -> int:
        """Where the post lies in a row of the history; -1: it is the output."""
        history = history_of(self.kind, self.post)
        return history.index(self.post) * self.posts if self.post in history else -1

    @property
    def recurrent(self) -> bool:
        """Whether the activities before a step are its pre."""
        return self.kind != "linear"

    @property
    def rowwise(self) -> bool:
        """Whether each neuron's traces change by what is known without the step's other activities."""
        waits = self.modulated and self.modulator_input != "previous_hidden"
        return not waits and self.nonlinearity != "softmax"


def dims(tensor: Tensor | None) -> int:
    """Number of dimensions; 0 of a parameter of one number, in whatever shape, and of one that is missing."""
    return 0 if tensor is None or tensor.shape == (1,) else tensor.dim()


def kinds(traces: Tensor) -> State:
    """Traces (kinds, B, O, I) by name."""
    return State(None, None, traces[0], traces[1] if len(traces) > 1 else None)


class Waiting(NamedTuple):
    """What the launches of a backward pass by steps hand to each other; P programs share the rows of an element.

    Of the neurons: gradients of a step's ``sums`` (1, B, O), with gates (3 or 4, B, O), of the ``cell`` (B, O), and of
    the activities ``before`` it (B, O) as far as they do not come through sums. Of the synapses: gradients of pre,
    ``pres`` (P, B, I) and their ``total`` (B, I); those that the ``changes`` of the traces gave, which wait for the
    step to be read (P, B, I); gradients of ``post`` (B, O) and ``modulator`` (P, B).
    """

    sums: Data
    cell: Data
    before: Data
    pres: Data
    total: Data
    changes: Data
    post: Data
    modulator: Data
