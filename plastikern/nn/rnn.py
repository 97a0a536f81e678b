"""Plastic recurrent networks as modules, in the places of ``torch.nn.RNN`` and ``torch.nn.RNNCell``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..checks import check_choice, check_one_direction
from ..plasticity import NONLINEARITIES, Plasticity
from ..program import Program, program_of
from ..state import RNNState, RuleState
from .base import AnyPlasticity
from .recurrent import RecurrentCell, RecurrentModule, RecurrentNetwork
from .ruled import Signals


class _RNN(RecurrentModule):
    """What makes recurrent modules simple recurrent networks."""

    State = RNNState
    modulator_inputs = ("hidden", "previous_hidden")
    kind = "rnn"
    _names = (
        ("plastic_rnn_step", ("B", "N")),
        ("plastic_rnn_sequence", ("T", "B", "N")),
        ("plastic_rnn_sequence", ("B", "T", "N")),
    )
    nonlinearity: str

    def _program(self) -> Program:
        return program_of(type(self).__name__, self.kind, self._built_in, self.nonlinearity)


class PlasticRNNCell(_RNN, RecurrentCell):
    r"""One step of a plastic recurrent network, in the shape of ``torch.nn.RNNCell``.

    :math:`y = \phi(W_{ih} u + b_{ih} + b_{hh} + (w + \alpha \circ H) h)`, then the trace changes by the rule.

    Args:
        input_size: features of the input, or None where the input (B, N) itself drives the neurons.
        hidden_size: N.
        bias: whether the layer has ``bias_ih`` (only with an input layer) and ``bias_hh``.
        nonlinearity: ``"tanh"``, ``"relu"``, ``"sigmoid"`` or ``"identity"``.
        plasticity: the rule: a :class:`~plastikern.Plasticity`, or a rule of one's own.
        modulated: bool (N,), only with modulation: the neurons that the modulator governs, the others have ``eta``;
            None is all.
        backend: a backend by name; by default chosen from the tensors' device.

    Attributes:
        weight_ih: (N, input_size). weight_hh: (N, N), ``[post, pre]``. bias_ih, bias_hh: (N,).
        alpha, eta, eligibility_eta, modulator_weight, modulator_bias, fan_out_weight, fan_out_bias, modulated: of the
            plastic connection, as in :class:`~plastikern.nn.PlasticModule`.

    Source: Miconi, Stanley, Clune, ICML 2018, eq. 1 to 3; modulation: Miconi, Rawal, Clune, Stanley, ICLR 2019, eq. 3
    to 5.
    """

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        plasticity: AnyPlasticity = Plasticity(),
        modulated: Tensor | None = None,
        backend: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_choice("PlasticRNNCell", "nonlinearity", nonlinearity, NONLINEARITIES)
        super().__init__(
            input_size,
            hidden_size,
            bias,
            plasticity,
            ("",),
            modulated=modulated,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.nonlinearity = nonlinearity

    def forward(
        self, input: Tensor, state: RNNState | RuleState | Tensor | None = None, *, clamp: Tensor | None = None,
        frozen: Tensor | None = None, signals: Signals = None,
    ) -> Any:  # fmt: skip
        """One step.

        Args:
            input: (B, input_size), or (B, N) without an input layer; or the same without B.
            state: hidden (B, N), trace (B, N, N) and, with retroactive modulation, eligibility (B, N, N), without B
                likewise; or as of ``torch.nn.RNNCell`` hidden alone, with a trace of zero; None is zero.
            clamp: bool (B, N); where True the activity is the drive (without ``bias_hh``).
            frozen: bool (B,), without B likewise (): where True, the trace stays exactly as it is.
            signals: what a rule of one's own takes with every step, by name: (B, O), (B, I) or (B,) by its kind,
                without B likewise.

        Returns:
            The next state; its ``hidden`` is the output.
        """
        return self._step(input, state, clamp, signals, frozen)


class PlasticRNN(_RNN, RecurrentNetwork):
    r"""A plastic recurrent network over whole sequences, in the place of ``torch.nn.RNN``.

    Args:
        input_size: features of the input, or None where the input itself drives the neurons of the first layer.
        hidden_size: N.
        num_layers: layers stacked on each other, each with its own traces.
        nonlinearity: ``"tanh"``, ``"relu"``, ``"sigmoid"`` or ``"identity"``.
        bias: whether layers have ``bias_ih`` (only with an input layer) and ``bias_hh``.
        batch_first: input and output are (B, T, features) in place of (T, B, features).
        dropout: probability of dropping an activity between layers while training.
        bidirectional: as in ``torch.nn``, False only.
        plasticity: the rule: a :class:`~plastikern.Plasticity`, or a rule of one's own.
        proj_size: as in ``torch.nn``, 0 only.
        modulated: bool (N,), only with modulation: the neurons of every layer that the modulator governs, the others
            have ``eta``; None is all.
        checkpoint_every: spacing of the trace checkpoints that the backward pass keeps; None: chosen by the library
            (:func:`plastikern.functional.plastic_rnn_sequence`).
        backend: a backend by name; by default chosen from the tensors' device.

    Attributes:
        weight_ih_l[k]: (N, input_size), from the second layer on (N, N). weight_hh_l[k]: (N, N), ``[post, pre]``.
        bias_ih_l[k], bias_hh_l[k]: (N,).
        alpha_l[k], eta_l[k], eligibility_eta_l[k], modulator_weight_l[k], modulator_bias_l[k], fan_out_weight_l[k],
            fan_out_bias_l[k], modulated: of the plastic connections, as in :class:`~plastikern.nn.PlasticModule`.

    Source: Miconi, Stanley, Clune, ICML 2018, eq. 1 to 3; modulation: Miconi, Rawal, Clune, Stanley, ICLR 2019, eq. 3
    to 5.
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
        bidirectional: bool = False,
        *,
        plasticity: AnyPlasticity = Plasticity(),
        proj_size: int = 0,
        modulated: Tensor | None = None,
        checkpoint_every: int | None = None,
        backend: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_one_direction("PlasticRNN", bidirectional, proj_size)
        check_choice("PlasticRNN", "nonlinearity", nonlinearity, NONLINEARITIES)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, plasticity,
            modulated=modulated, checkpoint_every=checkpoint_every, backend=backend, device=device, dtype=dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: RNNState | RuleState | Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        reset_state: RNNState | RuleState | None = None,
        clamp: Tensor | None = None,
        frozen: Tensor | None = None,
        recurrent_dropout: Tensor | None = None,
        zoneout: Tensor | None = None,
        signals: Signals = None,
    ) -> tuple[Any, Any]:
        """A whole sequence.

        Args:
            input: (T, B, features), or (B, T, features) with ``batch_first``, or (T, features) for one sequence; or a
                ``PackedSequence``, whose elements stand in the caller's order everywhere else.
            state: hidden (num_layers, B, N), trace (num_layers, B, N, N) and, with retroactive modulation, eligibility
                (num_layers, B, N, N), without B for one sequence; or
                as of ``torch.nn.RNN`` hidden alone, with traces of zero; None is zero.
            lengths: steps of each element (B,), from 0 to T; one that has ended keeps its state, its outputs are 0.
                None with a packed input.
            reset: bool (T, B), or (B, T) with ``batch_first``, or (T,) for one sequence: an episode begins at these
                steps, so that the state before them is ``reset_state`` in every layer, and nothing of the steps before
                reaches it, forward or backward; see :func:`plastikern.functional.plastic_rnn_sequence`.
            reset_state: what a reset gives, as ``state``; None is zero. For the first state itself it is given twice.
            clamp: bool of the shape of the first layer's drive; where True the first layer's activity is its drive
                (without ``bias_hh``).
            frozen: bool (T, B), or (B, T) with ``batch_first``, or (T,) for one sequence: steps at which traces stay
                exactly as they are while the network runs on. Kernels of rules of one's own serve such a call.
            recurrent_dropout: (num_layers, B, N), by which activities before a step are multiplied wherever they go,
                the same for all steps: see :func:`~plastikern.nn.dropout_mask`.
            zoneout: (num_layers, T, B, N), bool or a share from 0 to 1, of the activities before a step that stay: see
                :func:`~plastikern.nn.zoneout_mask`.
            signals: what a rule of one's own takes with every step, by name, the same for every layer: in the layout of
                ``input`` with N features, or without features for one number of each element.

        Returns:
            Activities of the last layer in the layout of ``input``, packed if that is, and the last state.
        """
        masks = frozen, recurrent_dropout, zoneout
        return self._sequence(input, state, lengths, clamp, signals, reset, reset_state, masks)
