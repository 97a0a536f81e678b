"""Plastic recurrent networks as modules, in the places of ``torch.nn.RNN`` and ``torch.nn.RNNCell``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import functional
from ..checks import check_positive, check_tensor, described
from ..plasticity import NONLINEARITIES, Plasticity, granular_shape
from ..state import RNNState


class _PlasticRNNBase(nn.Module):
    """Parameters of plastic recurrent layers, under the names of ``torch.nn`` plus ``alpha`` and ``eta``."""

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        nonlinearity: str,
        bias: bool,
        plasticity: Plasticity,
        backend: str | None,
        suffixes: Sequence[str],
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        if input_size is not None:
            check_positive(owner, "input_size", input_size)
        check_positive(owner, "hidden_size", hidden_size)
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(f"{owner}: nonlinearity must be one of {', '.join(NONLINEARITIES)}; got {nonlinearity!r}")
        if not isinstance(plasticity, Plasticity):
            raise TypeError(f"{owner}: plasticity must be a Plasticity; got {type(plasticity).__name__}")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.nonlinearity, self.bias, self.plasticity, self.backend = nonlinearity, bias, plasticity, backend
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, suffix in enumerate(suffixes):
            layer_input = input_size if layer == 0 else hidden_size
            if layer_input is not None:
                shapes["weight_ih" + suffix] = (hidden_size, layer_input)
            shapes["weight_hh" + suffix] = (hidden_size, hidden_size)
            if bias and layer_input is not None:
                shapes["bias_ih" + suffix] = (hidden_size,)
            if bias:
                shapes["bias_hh" + suffix] = (hidden_size,)
            shapes["alpha" + suffix] = granular_shape(plasticity.alpha, hidden_size, hidden_size)
            shapes["eta" + suffix] = granular_shape(plasticity.eta, hidden_size, hidden_size)
        for name, shape in shapes.items():
            tensor = torch.empty(shape, device=device, dtype=dtype)
            if name.startswith("eta") and not plasticity.learn_eta:
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters anew.

        Weights and biases as ``torch.nn.RNN`` does, U(-1/sqrt(N), 1/sqrt(N)); ``alpha`` normal and ``eta`` constant, as
        the :class:`~plastikern.Plasticity` says.
        """
        bound = 1 / math.sqrt(self.hidden_size)
        for name, tensor in [*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)]:
            if name.startswith("alpha"):
                tensor.normal_(0, self.plasticity.alpha_init)
            elif name.startswith("eta"):
                tensor.fill_(self.plasticity.eta_init)
            else:
                tensor.uniform_(-bound, bound)

    def _check_call(self, input: object, dims: tuple[int, ...], clamp: Tensor | None) -> None:
        """Input and clamp of the first layer, before anything is computed from them."""
        owner, first = type(self).__name__, next(self.parameters())
        features = self.hidden_size if self.input_size is None else self.input_size
        if not isinstance(input, Tensor):
            raise TypeError(f"{owner}: input must be a tensor; got {described(input)}")
        if input.dim() not in dims:
            shape = tuple(input.shape)
            raise ValueError(
                f"{owner}: input must have {dims[1]} dimensions, or {dims[0]} for one element; got {shape}"
            )
        if input.shape[-1] != features:
            raise ValueError(f"{owner}: input must have {features} features; got shape {tuple(input.shape)}")
        if input.dtype != first.dtype and not torch.is_autocast_enabled(input.device.type):
            raise TypeError(f"{owner}: input must have dtype {first.dtype}; got {input.dtype}")
        if clamp is not None:
            check_tensor(owner, "clamp", clamp, (*input.shape[:-1], self.hidden_size), input, dtype=torch.bool)

    def _unpacked(self, state: object) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Hidden activities and traces of a state; their shapes are checked where they are used."""
        if state is None:
            return None, None
        if not isinstance(state, (tuple, list)) or len(state) != 2 or not all(isinstance(x, Tensor) for x in state):
            got = type(state).__name__
            raise TypeError(f"{type(self).__name__}: state must be an RNNState (hidden, trace); got {got}")
        return state[0], state[1]

    def _drive(self, input: Tensor, suffix: str, clamp: Tensor | None) -> Tensor:
        """What drives the neurons of a layer; clamped neurons take their input without the recurrent bias."""
        weight = getattr(self, "weight_ih" + suffix, None)
        if weight is not None:
            input = nn.functional.linear(input, weight, getattr(self, "bias_ih" + suffix, None))
        bias = getattr(self, "bias_hh" + suffix, None)
        if bias is not None:
            input = input + bias if clamp is None else torch.where(clamp, input, input + bias)
        # Under autocast the input layer may compute in lower precision; the plastic connection keeps its own.
        return input.to(getattr(self, "weight_hh" + suffix).dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, nonlinearity={self.nonlinearity!r}, bias={self.bias}, "
            f"plasticity={self.plasticity}"
        )


class PlasticRNNCell(_PlasticRNNBase):
    r"""One step of a plastic recurrent network, in the shape of ``torch.nn.RNNCell``.

    :math:`y = \phi(W_{ih} u + b_{ih} + b_{hh} + (w + \alpha \circ H) h)`, then the trace changes by the rule.

    Args:
        input_size: features of the input, or None where the input (B, N) itself drives the neurons.
        hidden_size: N.
        bias: whether the layer has ``bias_ih`` (only with an input layer) and ``bias_hh``.
        nonlinearity: ``"tanh"``, ``"relu"``, ``"sigmoid"`` or ``"identity"``.
        plasticity: the rule.
        backend: a backend by name; by default chosen from the tensors' device.

    Attributes:
        weight_ih: (N, input_size). weight_hh: (N, N), ``[post, pre]``. bias_ih, bias_hh: (N,).
        alpha: (N, N), (N,) or (). eta: (), (N,) or (N, N); a buffer where ``plasticity.learn_eta`` is False.

    Source: Miconi, Stanley, Clune, ICML 2018, eq. 1 to 3.
    """

    weight_hh: Tensor
    alpha: Tensor
    eta: Tensor

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        plasticity: Plasticity = Plasticity(),
        *,
        backend: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, nonlinearity, bias, plasticity, backend, ("",), device, dtype)

    def forward(self, input: Tensor, state: RNNState | None = None, *, clamp: Tensor | None = None) -> RNNState:
        """One step.

        Args:
            input: (B, input_size), or (B, N) without an input layer; or the same without B.
            state: hidden (B, N) and trace (B, N, N), without B likewise; None is zero.
            clamp: bool (B, N); where True the activity is the drive (without ``bias_hh``).

        Returns:
            The next state; its ``hidden`` is the output.
        """
        self._check_call(input, (1, 2), clamp)
        hidden, trace = self._unpacked(state)
        batched = input.dim() == 2
        if not batched:
            input = input.unsqueeze(0)
            hidden, trace, clamp = (None if x is None else x.unsqueeze(0) for x in (hidden, trace, clamp))
        hidden, trace = functional.plastic_rnn_step(
            self._drive(input, "", clamp), hidden, trace, self.weight_hh, self.alpha, self.eta,
            plasticity=self.plasticity, nonlinearity=self.nonlinearity, clamp=clamp, backend=self.backend,
        )  # fmt: skip
        return RNNState(hidden, trace) if batched else RNNState(hidden.squeeze(0), trace.squeeze(0))


class PlasticRNN(_PlasticRNNBase):
    r"""A plastic recurrent network over whole sequences, in the place of ``torch.nn.RNN``.

    Args:
        input_size: features of the input, or None where the input itself drives the neurons of the first layer.
        hidden_size: N.
        num_layers: layers stacked on each other, each with its own traces.
        nonlinearity: ``"tanh"``, ``"relu"``, ``"sigmoid"`` or ``"identity"``.
        bias: whether layers have ``bias_ih`` (only with an input layer) and ``bias_hh``.
        batch_first: input and output are (B, T, features) in place of (T, B, features).
        dropout: probability of dropping an activity between layers while training.
        plasticity: the rule.
        checkpoint_every: spacing of the trace checkpoints that the backward pass keeps; None: chosen by the library
            (:func:`plastikern.functional.plastic_rnn_sequence`).
        backend: a backend by name; by default chosen from the tensors' device.

    Attributes:
        weight_ih_l[k]: (N, input_size), from the second layer on (N, N). weight_hh_l[k]: (N, N), ``[post, pre]``.
        bias_ih_l[k], bias_hh_l[k]: (N,). alpha_l[k]: (N, N), (N,) or (). eta_l[k]: (), (N,) or (N, N); a buffer where
        ``plasticity.learn_eta`` is False.

    Source: Miconi, Stanley, Clune, ICML 2018, eq. 1 to 3.
    """

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        plasticity: Plasticity = Plasticity(),
        *,
        checkpoint_every: int | None = None,
        backend: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_positive("PlasticRNN", "num_layers", num_layers)
        if not 0 <= dropout <= 1:
            raise ValueError(f"PlasticRNN: dropout must lie from 0 to 1; got {dropout!r}")
        if checkpoint_every is not None:
            check_positive("PlasticRNN", "checkpoint_every", checkpoint_every)
        suffixes = [f"_l{layer}" for layer in range(num_layers)]
        super().__init__(input_size, hidden_size, nonlinearity, bias, plasticity, backend, suffixes, device, dtype)
        self.num_layers, self.batch_first, self.dropout = num_layers, batch_first, dropout
        self.checkpoint_every = checkpoint_every

    def forward(
        self,
        input: Tensor,
        state: RNNState | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        clamp: Tensor | None = None,
    ) -> tuple[Tensor, RNNState]:
        """A whole sequence.

        Args:
            input: (T, B, features), or (B, T, features) with ``batch_first``, or (T, features) for one sequence.
            state: hidden (num_layers, B, N) and trace (num_layers, B, N, N), without B for one sequence; None is zero.
            lengths: steps of each element (B,), from 0 to T; one that has ended keeps its state, its outputs are 0.
            clamp: bool of the shape of the first layer's drive; where True the first layer's activity is its drive
                (without ``bias_hh``).

        Returns:
            Activities of the last layer in the layout of ``input``, and the last state.
        """
        self._check_call(input, (2, 3), clamp)
        batched = input.dim() == 3
        batch_first = self.batch_first and batched
        if not batched:
            if lengths is not None:
                raise ValueError("PlasticRNN: lengths are for batched input; got an input of 2 dimensions")
            input, clamp = input.unsqueeze(1), None if clamp is None else clamp.unsqueeze(1)
        hidden, trace = self._layer_states(input.shape[0 if batch_first else 1], state, batched)
        lasts, traces = [], []
        output = input
        for layer in range(self.num_layers):
            suffix = f"_l{layer}"
            if layer and self.dropout:
                output = nn.functional.dropout(output, self.dropout, self.training)
            output, last, changed = functional.plastic_rnn_sequence(
                self._drive(output, suffix, clamp), hidden[layer], trace[layer],
                getattr(self, "weight_hh" + suffix), getattr(self, "alpha" + suffix), getattr(self, "eta" + suffix),
                plasticity=self.plasticity, nonlinearity=self.nonlinearity, clamp=clamp, lengths=lengths,
                batch_first=batch_first, checkpoint_every=self.checkpoint_every, backend=self.backend,
            )  # fmt: skip
            clamp = None
            lasts.append(last)
            traces.append(changed)
        # One layer's traces are not copied: they may be most of the memory.
        stacked = [
            tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors) for tensors in (lasts, traces)
        ]
        if not batched:
            output, stacked = output.squeeze(1), [tensor.squeeze(1) for tensor in stacked]
        return output, RNNState(*stacked)

    def _layer_states(
        self, batch: int, state: RNNState | None, batched: bool
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        hidden, trace = self._unpacked(state)
        if hidden is None or trace is None:
            return [None] * self.num_layers, [None] * self.num_layers
        size = self.hidden_size
        for name, tensor, shape in (("hidden", hidden, (size,)), ("trace", trace, (size, size))):
            expected = (self.num_layers, batch, *shape) if batched else (self.num_layers, *shape)
            if tensor.shape != expected:
                raise ValueError(f"PlasticRNN: state.{name} must have shape {expected}; got {tuple(tensor.shape)}")
        if not batched:
            hidden, trace = hidden.unsqueeze(1), trace.unsqueeze(1)
        return hidden.unbind(0), trace.unbind(0)
