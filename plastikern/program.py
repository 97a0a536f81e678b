"""What a call of a plastic network runs, and one list of everything that goes in, comes out and is kept.

Checks, fake implementations, the backends' arguments and their allocations are loops over these tables. Those of the
native library are printed from them, into csrc/generated/program.h.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import check_choice
from .plasticity import (
    CONSTRAINTS,
    LINEAR_NONLINEARITIES,
    MODULATIONS,
    MODULATOR_INPUTS,
    MODULATOR_NONLINEARITIES,
    NONLINEARITIES,
    POSTS,
    RULES,
    Plasticity,
)
from .rules.cells import CELLS, carries, drives, history_of, weights
from .rules.papers import WHERE_NOTHING_IS_CLIPPED, go_together

KINDS = ("rnn", "lstm", "linear", "gru")
"""Kinds of networks."""
WORDS = {
    "kind": KINDS,
    "rule": RULES,
    "constraint": CONSTRAINTS,
    "nonlinearity": LINEAR_NONLINEARITIES,
    "post": POSTS,
    "modulation": MODULATIONS,
    "modulator_input": MODULATOR_INPUTS,
    "modulator_nonlinearity": MODULATOR_NONLINEARITIES,
}
"""What a program's key says, in its order, and by which words."""

FACTS = {
    "rnn": "a simple recurrent network",
    "lstm": "an LSTM",
    "linear": "a linear layer",
    "gru": "a GRU",
    "gated": "a network with gates",
    "recurrent": "a recurrent network",
    "unmodulated": "a network without a modulator",
    "modulated": "a network with a modulator",
    "retroactive": "retroactive modulation",
    "driven": "a pass that computes activities",
    "sequence": "a sequence",
    "last": "a pass to the end",
    "kept": "a pass that keeps what its gradients need",
    "reverses": "a pass whose traces run backwards",
    "apart": "a network whose sums have gradients of their own",
    "never": "nothing",
}
"""What may be true of a program or of a call of it. Tables say by these words when there is a tensor."""


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Computed once for the same arguments; torch.compile, which does not see through a cache, computes it anew."""
    cached = lru_cache(maxsize=1024)(function)

    def found(*arguments: Any) -> Any:
        return (function if torch.compiler.is_compiling() else cached)(*arguments)

    return found


class Operand(NamedTuple):
    """A tensor of a call.

    Attributes:
        shape: letters, as :class:`Sizes` has them; P is a parameter, of one number, (O,) or (O, I); 1 is one number.
        when: what must be true for there to be one.
        needed: what must be true, too, for it not to be missing; by default it always has to be there.
        value: ``number``, of the call's dtype; ``flag``; or ``integer``.
        asked: a gradient that is computed where somebody asks for it.
    """

    name: str
    shape: str
    when: str = ""
    needed: str = ""
    value: str = "number"
    asked: bool = False


OPERANDS = (
    Operand("drive", "TBD", "driven"),
    Operand("features", "TBI", "linear"),
    Operand("hidden", "BO", "recurrent", "never"),
    Operand("cell", "BO", "lstm", "never"),
    Operand("trace", "BOI", needed="never"),
    Operand("eligibility", "BOI", "retroactive", "never"),
    Operand("weight", "GI"),
    Operand("alpha", "P"),
    Operand("rate", "P", needed="unmodulated"),
    Operand("rate_scale", "P", "modulated", "never"),
    Operand("eligibility_rate", "P", "retroactive"),
    Operand("modulator_weight", "O", "modulated"),
    Operand("modulator_bias", "1", "modulated"),
    Operand("modulated", "O", "retroactive", "never", "flag"),
    Operand("clamp", "TBO", "rnn", "never", "flag"),
    Operand("lengths", "B", "sequence", "never", "integer"),
)
"""What operators take. A missing state is zero. The rate in force is ``rate + rate_scale * M``, where a missing rate
is 0 and a missing scale 1."""
PLACE = {operand.name: place for place, operand in enumerate(OPERANDS)}
DIFFERENTIABLE = PLACE["modulated"]
"""So many, the first ones, have gradients."""

RESULTS = (
    Operand("output", "TBO"),
    Operand("hidden", "BO", "recurrent sequence last"),
    Operand("cell", "BO", "lstm last"),
    Operand("trace", "BOI", "last"),
    Operand("eligibility", "BOI", "retroactive last"),
    Operand("history", "TBH", "gated kept"),
    Operand("modulators", "TB", "modulated kept"),
    Operand("checkpoints", "CBKOR", "sequence kept"),
    Operand("lost", "SBO", "sequence kept reverses", value="flag"),
)
"""What a forward pass returns: activities, the last state (of a step, ``output`` is its hidden one), and what its
gradients need."""
KEPT = (
    RESULTS[0],
    *RESULTS[5:8],
    RESULTS[8]._replace(needed="never"),
    Operand("trace_out", "BOI", "reverses"),
    Operand("eligibility_out", "BOI", "retroactive reverses"),
)
"""What a backward pass takes of a forward pass: the last traces are where it runs them backwards from."""
UPSTREAM = tuple(
    Operand(f"grad_{result.name}", result.shape, result.when, "never") for result in RESULTS[:5]
)
"""Gradients that come in; a missing one is zero."""
GRADIENTS = (
    Operand("drive", "TBD"),
    Operand("sum", "TBO", "apart"),
    Operand("features", "TBI", "linear", asked=True),
    Operand("hidden", "BO", "recurrent"),
    Operand("cell", "BO", "lstm"),
    Operand("trace", "BOI", asked=True),
    Operand("eligibility", "BOI", "retroactive", asked=True),
    Operand("alpha", "P", asked=True),
    Operand("rate", "P", asked=True),
    Operand("rate_scale", "P", "modulated", asked=True),
    Operand("eligibility_rate", "P", "retroactive", asked=True),
    Operand("modulator", "TB", "modulated"),
)
"""What a backward pass returns: of operands; of the recurrent ``sum`` where it is not that of the drive; and of what
goes into the modulator's nonlinearity. Those of the weights are products of these with activities."""


class Program(NamedTuple):
    """What every step of a call computes.

    Attributes:
        kind: one of :data:`KINDS`.
        nonlinearity: of the activities; those of networks with gates are fixed.
        post: the signal that changes the traces of a network with gates, one of its cell's.
        key: all of that, but for the bound and what is seen from the parameters' shapes, in the words of :data:`WORDS`.
    """

    kind: str
    plasticity: Plasticity
    nonlinearity: str = "tanh"
    post: str = "candidate"
    key: str = ""

    @property
    def retroactive(self) -> bool:
        """Whether there are eligibility traces."""
        return self.plasticity.modulation == "retroactive"

    @property
    def gates(self) -> int:
        """Values of the drive per neuron."""
        return drives(self.kind)

    @property
    def weights(self) -> int:
        """Rows of weights per neuron."""
        return weights(self.kind)


def program_of(
    owner: str, kind: str, plasticity: Plasticity, nonlinearity: str = "tanh", post: str = "candidate"
) -> Program:  # fmt: skip
    """The program of these options.

    Raises:
        TypeError, ValueError: an option of the wrong type, or that does not exist.
    """
    if not torch.compiler.is_compiling() and type(nonlinearity) is type(post) is str:
        found = _programs.get((id(plasticity), kind, nonlinearity, post))
        if found is not None:
            return found
    if not isinstance(plasticity, Plasticity):
        raise TypeError(
            f"{owner}: plasticity must be a Plasticity; got {type(plasticity).__name__}"
        )
    allowed = LINEAR_NONLINEARITIES if kind == "linear" else NONLINEARITIES
    check_choice(owner, "nonlinearity", nonlinearity, allowed)
    check_choice(owner, "post", post, CELLS[kind].posts if kind in CELLS else POSTS)
    words = [
        kind,
        plasticity.rule,
        plasticity.constraint,
        nonlinearity,
        post,
        plasticity.modulation,
    ]
    key = " ".join([*words, plasticity.modulator_input, plasticity.modulator_nonlinearity])
    program = Program(kind, plasticity, nonlinearity, post, key)
    if not torch.compiler.is_compiling():
        if len(_programs) == 1024:
            _programs.clear()
        _programs[id(plasticity), kind, nonlinearity, post] = program
    return program


# To hash all options takes longer than to look at one program: it holds its options, whose identity stays theirs.
_programs: dict[tuple[int, str, str, str], Program] = {}


class Sizes(NamedTuple):
    """Of a call, by the letters of its operands' shapes."""

    T: int  # steps
    B: int  # elements of the batch
    O: int  # post-synaptic neurons  # noqa: E741
    I: int  # pre-synaptic neurons  # noqa: E741
    D: int  # values of the drive
    G: int  # rows of weights
    H: int  # values per step that a network with gates keeps
    K: int  # kinds of traces
    C: int  # checkpoints
    S: int  # segments between them
    R: int  # length of a checkpoint's rows
    step: bool = False  # one, and no tensor has a dimension for it
    batch_first: bool = False

    def shape(self, letters: str) -> tuple[int, ...]:
        """Of a tensor."""
        if self.step:
            letters = letters.replace("T", "")
        elif self.batch_first and letters[0] == "T":
            letters = "BT" + letters[2:]
        return tuple(getattr(self, letter) for letter in letters)


class Facts(NamedTuple):
    """What a key says, and what is true of its program."""

    words: dict[str, str]
    true: frozenset[str]


def read(key: str) -> Facts:
    """A program's key.

    Raises:
        RuntimeError: it is none.
    """
    words = dict(zip(WORDS, key.split(), strict=False))
    require(len(key.split()) == len(WORDS), f"program must have {len(WORDS)} words; got {key!r}")
    for name, word in words.items():
        allowed = WORDS[name]
        require(word in allowed, f"{name} must be one of {', '.join(allowed)}; got {word!r}")
    modulation, kind, source = words["modulation"], words["kind"], words["modulator_input"]
    pair = words["rule"], words["constraint"]
    require(go_together(*pair), "rule {} and constraint {} do not go together".format(*pair))
    require(kind == "linear" or words["nonlinearity"] != "softmax", "softmax is for a linear layer")
    require(
        source in modulator_inputs(kind), "the modulator's input does not exist in this network"
    )
    gated = kind in CELLS
    require(
        not gated or words["post"] in CELLS[kind].posts, "the post does not exist in this network"
    )
    true = {kind, "unmodulated" if modulation == "none" else "modulated"}
    if kind != "linear":
        true.add("recurrent")
    if gated:
        true.add("gated")
    if modulation == "retroactive":
        true.add("retroactive")
    return Facts(words, frozenset(true))


def modulator_inputs(kind: str) -> tuple[str, ...]:
    """What a modulator may be computed from in a network of that kind."""
    if kind == "linear":
        return MODULATOR_INPUTS[:1]
    return MODULATOR_INPUTS if carries(kind) else MODULATOR_INPUTS[:2]


def among(table: Iterable[Operand], true: frozenset[str]) -> list[Operand]:
    """What there is of a table where all of that is true."""
    return [operand for operand in table if true.issuperset(operand.when.split())]


Named = Mapping[str, Tensor]
"""Tensors of a call by their names; what is missing is not there."""


def given(tensors: Sequence[Tensor | None]) -> tuple[list[Tensor], str]:
    """As operators take tensors, which are in the order of :data:`OPERANDS`: those that there are, and their names."""
    there = [tensor for tensor in tensors if tensor is not None]
    if torch.compiler.is_compiling():
        return there, _spoken([tensor is not None for tensor in tensors])
    kinds = tuple(map(type, tensors))  # the quickest way to tell what there is
    if (words := _words.get(kinds)) is None:
        if len(_words) >= 1024:
            _words.clear()
        words = _words[kinds] = _spoken([kind is not type(None) for kind in kinds])
    return there, words


_words: dict[tuple[type, ...], str] = {}


def _spoken(present: Sequence[bool]) -> str:
    return " ".join(each.name for each, there in zip(OPERANDS, present, strict=True) if there)


def by_name(tensors: Sequence[Tensor], names: str, *tables: Iterable[Operand]) -> dict[str, Tensor]:
    """The other way round."""
    words, known = names.split(), {operand.name for table in tables for operand in table}
    require(len(words) == len(tensors), f"there must be a tensor for each name; got {names}")
    require(known.issuperset(words), f"tensors must be some of {', '.join(known)}; got {names}")
    return dict(zip(words, tensors, strict=True))


def sizes_of(
    words: dict[str, str], named: Named, batch_first: bool = False, checkpoint_every: int = 0
) -> Sizes:
    """Of a call with these tensors, an output or else a drive; of a step or a sequence."""
    driven = "output" not in named
    activities, alpha = named.get("drive" if driven else "output"), named.get("alpha")
    require(activities is not None and alpha is not None, "drive or alpha is missing")
    assert activities is not None and alpha is not None
    kind = words["kind"]
    gates = drives(kind)
    posts = activities.shape[-1] // (gates if driven else 1)
    pres = named["features"].shape[-1] if "features" in named else posts
    step = activities.dim() == 2
    time, batch = (1, 0) if batch_first or step else (0, 1)
    steps, every = 1 if step else activities.shape[time], checkpoint_every
    line = 64 // alpha.element_size()
    return Sizes(
        T=steps, B=activities.shape[batch], O=posts, I=pres, D=posts * gates, G=posts * weights(kind),
        H=posts * len(history_of(kind, words["post"])), K=2 if words["modulation"] == "retroactive" else 1,
        C=(steps - 1) // every if every and steps else 0, S=(steps + every - 1) // every if every else 0,
        R=(pres + line - 1) // line * line, step=step, batch_first=batch_first,
    )  # fmt: skip


def forward_facts(facts: Facts, step: bool, kept: bool, reversible: bool = False) -> frozenset[str]:
    """What is true of a forward pass: whether it keeps what gradients need, and may be run backwards."""
    true = {"driven", "last"}
    if not step:
        true.add("sequence")
    if kept:
        true.add("kept")
    if reversible and facts.words["constraint"] in WHERE_NOTHING_IS_CLIPPED:
        true.add("reverses")
    return facts.true | true


def results_of(facts: Facts, step: bool, kept: bool, reversible: bool = False) -> list[Operand]:
    """What a forward pass returns."""
    return among(RESULTS, forward_facts(facts, step, kept, reversible))


def gradients_of(facts: Facts, clamped: bool, wanted: str) -> list[Operand]:
    """What a backward pass returns, of a call with a clamp or without; ``wanted``: names of operands."""
    words, asked = facts.words, wanted.split()
    true = facts.true
    if clamped or (words["kind"] == "lstm" and words["post"] == "recurrent"):
        true = true | {"apart"}
    return [grad for grad in among(GRADIENTS, true) if not grad.asked or grad.name in asked]


def _names(table: Callable[..., list[Operand]], key: str, *options: Any) -> tuple[str, ...]:
    return tuple(operand.name for operand in table(read(key), *options))


names = remembered(_names)
"""Names of the tensors of :func:`results_of` or :func:`gradients_of` a program, in order."""


REFUSED = "plastikern: "
"""The first word of an error by which an operator refuses its arguments; others have other reasons."""
NO_MEMORY = f"{REFUSED}out of memory"


def spacing(steps: int) -> int:
    """Steps from one checkpoint to the next: about the root of their number keeps the least."""
    return math.isqrt(max(steps - 1, 0)) + 1


def require(condition: bool, message: str) -> None:
    """Or refuse the call of an operator."""
    if not condition:
        raise RuntimeError(REFUSED + message)


def refused(error: RuntimeError) -> bool:
    """Whether an operator has refused its arguments, or torch has none for such tensors."""
    text = str(error)
    return isinstance(error, NotImplementedError) or (
        text.startswith(REFUSED) and not text.startswith(NO_MEMORY)
    )
