"""What plastic recurrent modules share, whatever their neurons: the input layer, one step, a stack over a sequence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..checks import (
    check_flag,
    check_positive,
    check_tensor,
    checked_lengths,
    running_steps,
    under_autocast,
)
from ..functional import Over, run
from ..network import Inputs, by_name
from ..rules.sequences import NO_MASKS, Masks
from .base import AnyPlasticity, PlasticModule
from .masks import Given, by_layer
from .packed import packed_as, unpacked
from .rollout import Rollout
from .ruled import Signals, check_signals, run_rule, with_eligibility


class RecurrentModule(PlasticModule):
    """Plastic recurrent layers of N neurons with ``gates`` rows of weights each, under the names of ``torch.nn``.

    A kind of network names its ``State``, its ``gates`` and, in ``_names``, its functions with the layouts of their
    drives: of a step, and of a sequence with T and with B first.
    """

    gates: ClassVar[int]
    _names: ClassVar[tuple[tuple[str, tuple[str, ...]], ...]]
    _weight = "weight_hh"

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        bias: bool,
        plasticity: AnyPlasticity,
        suffixes: Sequence[str],
        *,
        modulated: Tensor | None,
        backend: str | None,
        device: Any,
        dtype: Any,
    ) -> None:
        owner = type(self).__name__
        if input_size is not None:
            check_positive(owner, "input_size", input_size)
        check_positive(owner, "hidden_size", hidden_size)
        check_flag(owner, "bias", bias)
        rows = self.gates * hidden_size
        weights: dict[str, dict[str, tuple[int, ...] | None]] = {}
        for layer, suffix in enumerate(suffixes):
            shapes = weights[suffix] = {}
            layer_input = input_size if layer == 0 else hidden_size
            if layer_input is not None:
                shapes["weight_ih"] = (rows, layer_input)
            shapes["weight_hh"] = (rows, hidden_size)
            if bias and layer_input is not None:
                shapes["bias_ih"] = (rows,)
            if bias:
                shapes["bias_hh"] = (rows,)
        super().__init__(
            hidden_size,
            hidden_size,
            weights,
            plasticity,
            modulated=modulated,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias

    def _check_call(self, input: Tensor, dims: tuple[int, int], clamp: Tensor | None) -> None:
        self._check_input(
            input, dims, self.hidden_size if self.input_size is None else self.input_size
        )
        if clamp is not None:
            shape = (*input.shape[:-1], self.hidden_size)
            check_tensor(type(self).__name__, "clamp", clamp, shape, input, torch.bool)

    def _input_layer(self, layer: int) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """``weight_ih``, ``bias_ih`` and ``bias_hh`` of a layer; None is what it lacks."""
        # No default: an attribute error inside a parametrization would pass for a parameter that is not there.
        suffix, bias = self._suffixes[layer], self.bias
        bias_hh = self._tensor("bias_hh" + suffix) if bias else None
        if self.input_size is None and layer == 0:
            return None, None, bias_hh
        return (
            self._tensor("weight_ih" + suffix),
            self._tensor("bias_ih" + suffix) if bias else None,
            bias_hh,
        )

    @staticmethod
    def _driven(
        input: Tensor,
        clamp: Tensor | None,
        weight: Tensor | None,
        bias_ih: Tensor | None,
        bias_hh: Tensor | None,
    ) -> Tensor:
        """What drives a layer's neurons; clamped ones take their input without the recurrent bias."""
        if weight is not None:
            both = bias_ih is not None and bias_hh is not None and clamp is None
            # Added up before, biases cost nothing per step; autocast would round them to half precision there.
            if both and (input.dtype == torch.float64 or not under_autocast(input)):
                bias_ih, bias_hh = bias_ih + bias_hh, None  # type: ignore[operator]
            input = nn.functional.linear(input, weight, bias_ih)
        if bias_hh is not None:
            input = input + bias_hh if clamp is None else torch.where(clamp, input, input + bias_hh)
        return input

    @staticmethod
    def _driver(
        weight: Tensor | None, bias_ih: Tensor | None, bias_hh: Tensor | None
    ) -> Callable[[Tensor], Tensor]:
        """The same for many steps without gradients, with the biases added up before: a step is little work."""
        with torch.inference_mode(False), torch.no_grad():
            given = [bias.detach() for bias in (bias_ih, bias_hh) if bias is not None]
            bias = sum(given[1:], given[0]) if given else None
        if weight is not None:
            # Under autocast it comes in half precision; the plastic connection keeps its own.
            return lambda input: nn.functional.linear(input, weight, bias).to(weight.dtype)
        return (lambda input: input) if bias is None else (lambda input: input + bias)

    def _run(
        self, inputs: Inputs, first: Sequence[Tensor | None], connection: Any, over: Over | None = None,
        signals: Signals = None, masks: Masks = NO_MASKS,
    ) -> Sequence[Tensor]:  # fmt: skip
        """A step or a sequence of a layer, whose tensors are those of the functions of this kind of network."""
        if masks is not NO_MASKS:
            return run_rule(self, inputs, first, connection, signals, over, masks)
        if self._rule is not None:
            if self._rule.twin is None:
                return run_rule(self, inputs, first, connection, signals, over)
            first = with_eligibility(self, first)
            if over is not None and over.reset_state is not None:
                over = over._replace(reset_state=with_eligibility(self, over.reset_state))
        name, layout = self._names[0 if over is None else 2 if over.batch_first else 1]
        state = by_name(first)
        if over is not None and over.reset_state is not None:
            over = over._replace(reset_state=by_name(over.reset_state))
        return run(name, layout, self._program(), inputs, state, connection, self.backend, over)

    def extra_repr(self) -> str:
        """Sizes and options."""
        option = "nonlinearity" if self.gates == 1 else "post"
        shown = {option: getattr(self, option), "bias": self.bias, "plasticity": self.plasticity}
        return ", ".join(
            [f"{self.input_size}, {self.hidden_size}", *(f"{k}={v!r}" for k, v in shown.items())]
        )


class RecurrentCell(RecurrentModule):
    """One plastic recurrent layer, a step at a time."""

    def _step(
        self, input: Tensor, state: Any, clamp: Tensor | None = None, signals: Signals = None,
        frozen: Tensor | None = None,
    ) -> Any:  # fmt: skip
        self._check_call(input, (1, 2), clamp)
        self._check_frozen(input, frozen)
        batched = input.dim() == 2
        if signals is not None or self._rule is not None:
            check_signals(self, signals, input.shape[:-1], input)
        tensors = self._entering(state, (), input.shape[0] if batched else None)
        if not batched:
            input, clamp = input.unsqueeze(0), None if clamp is None else clamp.unsqueeze(0)
            signals = {name: tensor.unsqueeze(0) for name, tensor in (signals or {}).items()}
            frozen = None if frozen is None else frozen.unsqueeze(0)
        drive = self._driven(input, clamp, *self._input_layer(0))
        connection = self._connection(0, frozen is None)
        masks = NO_MASKS if frozen is None else Masks(frozen)
        found = self._run(Inputs(drive, None, clamp), tensors, connection, None, signals, masks)
        return self._leaving(found, (), batched)


class RecurrentNetwork(RecurrentModule):
    """Plastic recurrent layers stacked on each other, over whole sequences."""

    # What programs ask modules of torch.nn for.
    bidirectional = False
    proj_size = 0

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        plasticity: AnyPlasticity,
        *,
        modulated: Tensor | None,
        checkpoint_every: int | None,
        backend: str | None,
        device: Any,
        dtype: Any,
    ) -> None:
        owner = type(self).__name__
        check_positive(owner, "num_layers", num_layers)
        check_flag(owner, "batch_first", batch_first)
        if (
            isinstance(dropout, bool)
            or not isinstance(dropout, (int, float))
            or not 0 <= dropout <= 1
        ):
            raise ValueError(f"{owner}: dropout must lie from 0 to 1; got {dropout!r}")
        if dropout > 0 and num_layers == 1:
            # The words are those of torch.nn, for who filters them.
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
                stacklevel=3,
            )
        if checkpoint_every is not None:
            check_positive(owner, "checkpoint_every", checkpoint_every)
        suffixes = [f"_l{layer}" for layer in range(num_layers)]
        super().__init__(
            input_size,
            hidden_size,
            bias,
            plasticity,
            suffixes,
            modulated=modulated,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.num_layers, self.batch_first, self.dropout = num_layers, batch_first, dropout
        self.checkpoint_every = checkpoint_every

    def flatten_parameters(self) -> None:
        """Nothing: parameters need not lie side by side. Code that is written for ``torch.nn`` calls it."""

    def _sequence(
        self,
        input: Tensor | PackedSequence,
        state: Any,
        lengths: Tensor | Sequence[int] | None,
        clamp: Tensor | None = None,
        signals: Signals = None,
        reset: Tensor | None = None,
        reset_state: Any = None,
        masks: Given = (None, None, None),
    ) -> tuple[Any, Any]:
        if isinstance(input, PackedSequence):
            owner = type(self).__name__
            if lengths is not None:
                raise ValueError(
                    f"{owner}: lengths must be None with a packed input, which has its own; got both"
                )
            padded, ends = unpacked(owner, input, self.batch_first)
            output, last = self._sequence(
                padded, state, ends, clamp, signals, reset, reset_state, masks
            )
            return packed_as(output, ends, input, self.batch_first), last
        self._check_call(input, (2, 3), clamp)
        batched = input.dim() == 3
        if signals is not None or self._rule is not None:
            check_signals(self, signals, input.shape[:-1], input)
        self._check_lengths(lengths, batched)
        batch, stacked = 0 if self.batch_first else 1, (self.num_layers,)
        tensors = self._entering(state, stacked, input.shape[batch] if batched else None)
        if not batched:
            input, clamp = input.unsqueeze(batch), None if clamp is None else clamp.unsqueeze(batch)
            signals = {name: tensor.unsqueeze(batch) for name, tensor in (signals or {}).items()}
        over = Over(lengths, self.batch_first, self.checkpoint_every, reset)
        lasts, output = [], input
        masked = by_layer(self, masks, input, batched)
        if lengths is not None and self.input_size is not None:
            output = self._without_padding(input, over)
        fresh: list[Any] | None = None
        if reset is not None or reset_state is not None:
            name = self._names[2 if over.batch_first else 1][0]
            over, given = self._resetting(name, over, reset_state, stacked, input, batched)
            fresh = None if reset_state is None else self._by_layer(given)
        for layer, first in enumerate(self._by_layer(tensors)):
            if layer and self.dropout:
                output = nn.functional.dropout(output, self.dropout, self.training)
            drive = self._driven(output, clamp, *self._input_layer(layer))
            if fresh is not None:
                over = over._replace(reset_state=fresh[layer])
            connection = self._connection(layer, masked[layer] is NO_MASKS)
            output, *last = self._run(
                Inputs(drive, None, clamp), first, connection, over, signals, masked[layer]
            )
            clamp = None
            lasts.append(last)
        return output if batched else output.squeeze(batch), self._stacked(lasts, batched)

    def _by_layer(self, tensors: Sequence[Tensor | None]) -> list[tuple[Tensor | None, ...]]:
        """A state (num_layers, B, ...), apart for each layer."""
        absent = [None] * self.num_layers
        return list(
            zip(*(absent if tensor is None else tensor.unbind() for tensor in tensors), strict=True)
        )

    def _without_padding(self, input: Tensor, over: Over) -> Tensor:
        """The input with zeros beyond the ends: NaN there would reach the gradient of the input's weights."""
        time = 1 if over.batch_first else 0
        steps, batch = input.shape[time], input.shape[1 - time]
        name = self._names[2 if over.batch_first else 1][0]
        lengths = checked_lengths(name, over.lengths, steps, batch)
        assert lengths is not None
        running = running_steps(lengths, steps, input.device)
        running = running.mT if over.batch_first else running
        return torch.where(running.unsqueeze(-1), input, 0)

    def _stacked(self, lasts: Sequence[Sequence[Tensor]], batched: bool) -> Any:
        """The state of the whole network, from those of its layers."""
        # One layer's traces are not copied: they may be most of the memory.
        joined = [
            each[0].unsqueeze(0) if len(each) == 1 else torch.stack(each)
            for each in zip(*lasts, strict=True)
        ]
        return self._leaving(joined, (self.num_layers,), batched)

    def rollout(
        self, steps: int, batch_size: int, state: Any = None, *, reset_state: Any = None
    ) -> Rollout:
        """Act step by step without gradients, and learn from all of the steps at once: see :class:`Rollout`.

        Args:
            steps: the most steps that can be taken.
            batch_size: B.
            state: the first state, as a call of the network takes it; None is zero.
            reset_state: what a reset gives, as ``state``; None is zero.
        """
        return Rollout(self, steps, batch_size, state, reset_state)
