"""States that plastic networks carry through an episode."""

from __future__ import annotations

import copyreg
from collections.abc import Iterable
from functools import cache
from operator import itemgetter
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree

_State = TypeVar("_State", bound="_Tensors")


class _Tensors(tuple[Tensor, ...]):
    """The tensors of a state, by name and by place: those that a network has, so that none is None.

    What takes a tuple apart and puts it together again, ``tuple(part[:, keep] for part in state)`` or a function that
    detaches a state of ``torch.nn``, works on a plastic one, and every network takes such a plain tuple, too.
    """

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]]
    _dims: ClassVar[tuple[int, ...]]
    """How many dimensions each has besides those of layers and of the batch."""
    _begin: ClassVar[tuple[float, ...]] = ()
    """What they are where a new episode begins; nothing is said: 0."""

    def __getnewargs__(self) -> tuple[Tensor, ...]:
        return tuple(self)

    def _asdict(self) -> dict[str, Tensor]:
        return dict(zip(self._fields, self, strict=False))

    def _replace(self: _State, **changes: Tensor | None) -> _State:
        return type(self)(**{**self._asdict(), **changes})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={tensor!r}' for name, tensor in self._asdict().items())})"

    def detach(self: _State) -> _State:
        """The same state without its history, for truncated back-propagation through time."""
        return type(self)(*[tensor.detach() for tensor in self])

    def to(self: _State, *args: Any, **kwargs: Any) -> _State:
        """Every tensor on another device or in another dtype; arguments as of ``torch.Tensor.to``."""
        return type(self)(*[tensor.to(*args, **kwargs) for tensor in self])

    def select(self: _State, elements: Any) -> _State:
        """The state of some elements of the batch.

        Args:
            elements: as an index of the dimension B: bool (B,), numbers, a list of them or a slice. A single number
                takes B away.

        Raises:
            IndexError: there are no such elements.
        """
        index = (slice(None),) * self._batch_axis() + (elements,)
        return type(self)(*[tensor[index] for tensor in self])

    def reset(self: _State, begins: Tensor) -> _State:
        """The state as it is at first where a new episode begins; elements that go on keep their history. That is zero
        but for states of a rule of one's own with other initial values (:meth:`plastikern.Rule.use`).

        Args:
            begins: bool (B,).

        Raises:
            TypeError, ValueError: it is something else.
        """
        axis = self._batch_axis()
        batch = self[0].shape[axis]
        if not isinstance(begins, Tensor) or begins.dtype != torch.bool:
            got = (
                f"a tensor of {begins.dtype}"
                if isinstance(begins, Tensor)
                else type(begins).__name__
            )
            raise TypeError(f"{type(self).__name__}.reset: begins must be a bool tensor; got {got}")
        if begins.shape != (batch,):
            raise ValueError(
                f"{type(self).__name__}.reset: begins must have shape ({batch},); got {tuple(begins.shape)}"
            )
        begins = begins.to(self[0].device)
        # Chosen, not multiplied: what an episode ended with may be NaN.
        return type(self)(
            *[
                torch.where(begins.view(-1, *(1,) * (x.dim() - axis - 1)), first, x)
                for x, first in zip(self, self._begin or (0,) * len(self), strict=True)
            ]
        )

    def _batch_axis(self) -> int:
        """Behind ``num_layers``, where the state has layers: traces are (B, O, I) or (num_layers, B, O, I)."""
        # Of what a network can be without, as eligibility, nothing is said.
        axis = max(x.dim() - dims for x, dims in zip(self, self._dims, strict=False)) - 1
        if axis < 0:
            raise ValueError(
                f"{type(self).__name__}: the state must have a dimension B; got one of a single element"
            )
        return axis


class RNNState(_Tensors):
    """State of a plastic recurrent network or GRU; every tensor is differentiable, going in and coming out.

    A tuple (hidden, trace), with retroactive modulation (hidden, trace, eligibility).

    Attributes:
        hidden: activities (B, N); with a leading ``num_layers`` in networks of layers.
        trace: Hebbian traces (B, N, N), ``trace[b, post, pre]``; with a leading ``num_layers`` likewise.
        eligibility: eligibility traces in the shape of ``trace``; None without retroactive modulation.
    """

    __slots__ = ()
    _fields = __match_args__ = ("hidden", "trace", "eligibility")
    _dims = (1, 2, 2)

    def __new__(cls, hidden: Tensor, trace: Tensor, eligibility: Tensor | None = None) -> RNNState:
        """From its tensors; None is left out."""
        return tuple.__new__(
            cls, (hidden, trace) if eligibility is None else (hidden, trace, eligibility)
        )

    @property
    def hidden(self) -> Tensor:
        """Activities."""
        return self[0]

    @property
    def trace(self) -> Tensor:
        """Hebbian traces."""
        return self[1]

    @property
    def eligibility(self) -> Tensor | None:
        """Eligibility traces, or None."""
        return self[2] if len(self) > 2 else None


class LSTMState(_Tensors):
    """State of a plastic LSTM; every tensor is differentiable, going in and coming out.

    A tuple (hidden, cell, trace), with retroactive modulation (hidden, cell, trace, eligibility).

    Attributes:
        hidden, cell: (B, N); with a leading ``num_layers`` in :class:`~plastikern.PlasticLSTM`.
        trace: Hebbian traces of the candidate's recurrent connection (B, N, N), ``trace[b, post, pre]``; likewise.
        eligibility: eligibility traces in the shape of ``trace``; None without retroactive modulation.
    """

    __slots__ = ()
    _fields = __match_args__ = ("hidden", "cell", "trace", "eligibility")
    _dims = (1, 1, 2, 2)

    def __new__(
        cls, hidden: Tensor, cell: Tensor, trace: Tensor, eligibility: Tensor | None = None
    ) -> LSTMState:
        """From its tensors; None is left out."""
        return tuple.__new__(
            cls,
            (hidden, cell, trace) if eligibility is None else (hidden, cell, trace, eligibility),
        )

    @property
    def hidden(self) -> Tensor:
        """Activities."""
        return self[0]

    @property
    def cell(self) -> Tensor:
        """Of an LSTM."""
        return self[1]

    @property
    def trace(self) -> Tensor:
        """Hebbian traces."""
        return self[2]

    @property
    def eligibility(self) -> Tensor | None:
        """Eligibility traces, or None."""
        return self[3] if len(self) > 3 else None


class LinearState(_Tensors):
    """State of a plastic linear layer; every tensor is differentiable, going in and coming out.

    A tuple (trace,), with retroactive modulation (trace, eligibility).

    Attributes:
        trace: Hebbian traces (B, O, I), ``trace[b, post, pre]``.
        eligibility: eligibility traces in the shape of ``trace``; None without retroactive modulation.
    """

    __slots__ = ()
    _fields = __match_args__ = ("trace", "eligibility")
    _dims = (2, 2)

    def __new__(cls, trace: Tensor, eligibility: Tensor | None = None) -> LinearState:
        """From its tensors; None is left out."""
        return tuple.__new__(cls, (trace,) if eligibility is None else (trace, eligibility))

    @property
    def trace(self) -> Tensor:
        """Hebbian traces."""
        return self[0]

    @property
    def eligibility(self) -> Tensor | None:
        """Eligibility traces, or None."""
        return self[1] if len(self) > 1 else None


class _Named(type):
    """The type of kinds of states that are made as rules need them: pickled by their tensors' names."""


class RuleState(_Tensors, metaclass=_Named):
    """State of a network under a rule of one's own; every tensor is differentiable, going in and coming out.

    A tuple of the activities ``hidden`` (B, N) and, of an LSTM, the ``cell`` (B, N), where the network is recurrent,
    and the states that the rule declares, in its order and under its names: of kind ``"synapse"`` (B, O, I), ``"pre"``
    (B, I), ``"post"`` (B, O), ``"element"`` (B,); each with a leading ``num_layers`` in networks of layers.
    """

    __slots__ = ()

    def __new__(cls, *tensors: Tensor, **named: Tensor) -> RuleState:
        """From its tensors, all of them."""
        fields = cls._fields
        if len(tensors) + len(named) != len(fields) or any(n not in fields for n in named):
            got = [*fields[: len(tensors)], *named]
            raise TypeError(f"RuleState: it has {', '.join(fields)}; got {', '.join(got)}")
        whole = [*tensors, *(named[name] for name in fields[len(tensors) :])]
        return tuple.__new__(cls, whole)

    def __reduce__(self) -> Any:
        return _rule_state_of, (self._fields, self._dims, self._begin, tuple(self))


@cache
def rule_state(
    fields: tuple[str, ...], dims: tuple[int, ...], begin: tuple[float, ...]
) -> type[RuleState]:
    """The kind of state that has these tensors.

    Raises:
        ValueError: a name that a state has already.
    """
    for name in fields:
        if hasattr(RuleState, name) or fields.count(name) > 1:
            raise ValueError(
                f"RuleState: the state {name} has the name of something else; rename it"
            )
    members: dict[str, Any] = {
        "__slots__": (),
        "_fields": fields,
        "__match_args__": fields,
        "_dims": dims,
        "_begin": begin,
    }
    members |= {name: property(itemgetter(place)) for place, name in enumerate(fields)}
    kind: type[RuleState] = _Named("RuleState", (RuleState,), members)  # type: ignore[assignment]
    _register(kind, f"plastikern.RuleState({', '.join(map(str, (*fields, *dims, *begin)))})")
    return kind


def _reduced(kind: Any) -> tuple[Any, ...]:
    return rule_state, (kind._fields, kind._dims, kind._begin)


copyreg.pickle(_Named, _reduced)


def _rule_state_of(
    fields: Iterable[str], dims: Iterable[int], begin: Iterable[float], tensors: tuple[Tensor, ...]
) -> RuleState:
    return rule_state(tuple(fields), tuple(dims), tuple(begin))(*tensors)


def _register(kind: type[_Tensors], name: str) -> None:
    # With a name for files, torch.export.save takes programs with such a state.
    _pytree.register_pytree_node(
        kind,
        lambda state: ([*state], None),
        lambda tensors, _: kind(*tensors),
        serialized_type_name=name,
        flatten_with_keys_fn=lambda state: (
            [(_pytree.GetAttrKey(name), tensor) for name, tensor in state._asdict().items()], None
        ),
    )  # fmt: skip


# Tuples of tensors run no code: torch.load(..., weights_only=True) may make them.
torch.serialization.add_safe_globals([RNNState, LSTMState, LinearState, _rule_state_of])
for _kind in (RNNState, LSTMState, LinearState):
    _register(_kind, f"plastikern.{_kind.__name__}")
