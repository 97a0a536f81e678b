"""Plastic GRUs as modules, in the places of ``torch.nn.GRU`` and ``torch.nn.GRUCell``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..checks import check_choice, check_one_direction, check_positive
from ..plasticity import Plasticity
from ..program import Program, program_of
from ..rules.cells import CELLS
from ..state import RNNState, RuleState
from .base import AnyPlasticity
from .recurrent import RecurrentCell, RecurrentModule, RecurrentNetwork
from .ruled import Signals

POSTS = CELLS["gru"].posts


def _inside(driven: Tensor, inner: Tensor | None) -> Tensor:
    """The drive (..., 4 N) from that of r, z and n (..., 3 N): between them the bias of the recurrent sum."""
    size = driven.shape[-1] // 3
    gates, candidate = driven.split([2 * size, size], -1)
    if inner is None:
        inner = candidate.new_zeros(size)
    return torch.cat([gates, inner.expand_as(candidate), candidate], -1)


def _parts(bias_hh: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The recurrent bias beside that of the input, with zeros where n is; and that of the recurrent sum."""
    if bias_hh is None:
        return None, None
    size = bias_hh.shape[0] // 3
    gates, inner = bias_hh.split([2 * size, size])
    return nn.functional.pad(gates, (0, size)), inner


class _GRU(RecurrentModule):
    """What makes recurrent modules GRUs."""

    State = RNNState
    modulator_inputs = ("hidden", "previous_hidden")
    gates = 3
    kind = "gru"
    _names = (
        ("plastic_gru_step", ("B", "4 N")),
        ("plastic_gru_sequence", ("T", "B", "4 N")),
        ("plastic_gru_sequence", ("B", "T", "4 N")),
    )
    post: str

    def _program(self) -> Program:
        return program_of(type(self).__name__, self.kind, self._built_in, post=self.post)

    @staticmethod
    def _driven(
        input: Tensor,
        clamp: Tensor | None,
        weight: Tensor | None,
        bias_ih: Tensor | None,
        bias_hh: Tensor | None,
    ) -> Tensor:
        outer, inner = _parts(bias_hh)
        return _inside(RecurrentModule._driven(input, clamp, weight, bias_ih, outer), inner)

    @staticmethod
    def _driver(
        weight: Tensor | None, bias_ih: Tensor | None, bias_hh: Tensor | None
    ) -> Callable[[Tensor], Tensor]:
        with torch.inference_mode(False), torch.no_grad():
            outer, inner = _parts(bias_hh)
        drive = RecurrentModule._driver(weight, bias_ih, outer)
        return lambda input: _inside(drive(input), inner)


class PlasticGRUCell(_GRU, RecurrentCell):
    r"""One step of a GRU whose candidate has a plastic recurrent connection, in the shape of ``torch.nn.GRUCell``.

    :math:`r, z = \sigma(W_{ih} u + b_{ih} + W_{hh} h + b_{hh})`, :math:`s = (W_{hn} + \alpha \circ H) h + b_{hn}`,
    :math:`n = \tanh(W_{in} u + b_{in} + r s)`, :math:`h' = (1 - z) n + z h`; then the trace changes by the rule, with
    :math:`h` as pre. Where :math:`\alpha` is zero, that is ``torch.nn.GRUCell``.

    Args:
        input_size: features of the input.
        hidden_size: N.
        bias: whether the layer has ``bias_ih`` and ``bias_hh``.
        plasticity: the rule: a :class:`~plastikern.Plasticity`, or a rule of one's own.
        post: the post-synaptic signal of the trace: ``"candidate"`` :math:`n`, ``"recurrent"`` :math:`s` or
            ``"hidden"`` :math:`h'`.
        modulated: bool (N,), only with modulation: the neurons that the modulator governs, the others have ``eta``;
            None is all.
        backend: a backend by name; by default chosen from the tensors' device.

    Attributes:
        weight_ih: (3 N, input_size). weight_hh: (3 N, N). bias_ih, bias_hh: (3 N,). Gates in the order r, z, n, so
            that the weights of a ``torch.nn.GRUCell`` load, and the other way round.
        alpha, eta, eligibility_eta, modulator_weight, modulator_bias, fan_out_weight, fan_out_bias, modulated: of the
            plastic connection, as in :class:`~plastikern.nn.PlasticModule`.

    Source: the GRU of Cho et al. (EMNLP 2014) as torch has it, plastic where the LSTM of Miconi, Rawal, Clune, Stanley,
    ICLR 2019, section 4.3 is.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        plasticity: AnyPlasticity = Plasticity(),
        post: str = "candidate",
        modulated: Tensor | None = None,
        backend: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_positive("PlasticGRUCell", "input_size", input_size)
        check_choice("PlasticGRUCell", "post", post, POSTS)
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
        self.post = post

    def forward(
        self,
        input: Tensor,
        state: RNNState | RuleState | Tensor | None = None,
        *,
        frozen: Tensor | None = None,
        signals: Signals = None,
    ) -> Any:
        """One step.

        Args:
            input: (B, input_size), or (input_size,).
            state: hidden (B, N), trace (B, N, N) and, with retroactive modulation, eligibility (B, N, N),
                without B likewise; or as of ``torch.nn.GRUCell`` hidden alone, with a trace of zero; None is zero.
            frozen: bool (B,), without B likewise (): where True, the trace stays exactly as it is.
            signals: what a rule of one's own takes with every step, by name: (B, O), (B, I) or (B,) by its kind,
                without B likewise.

        Returns:
            The next state; its ``hidden`` is the output.
        """
        return self._step(input, state, None, signals, frozen)


class PlasticGRU(_GRU, RecurrentNetwork):
    r"""A GRU with plastic recurrent connections over whole sequences, in the place of ``torch.nn.GRU``.

    In every layer the candidate's recurrent connection is plastic (:class:`PlasticGRUCell` has the equations).

    Args:
        input_size: features of the input.
        hidden_size: N.
        num_layers: layers stacked on each other, each with its own traces.
        bias: whether layers have ``bias_ih`` and ``bias_hh``.
        batch_first: input and output are (B, T, features) in place of (T, B, features).
        dropout: probability of dropping an activity between layers while training.
        bidirectional, proj_size: as in ``torch.nn``, False and 0 only.
        plasticity: the rule: a :class:`~plastikern.Plasticity`, or a rule of one's own.
        post: the post-synaptic signal of the traces: ``"candidate"``, ``"recurrent"`` or ``"hidden"``.
        modulated: bool (N,), only with modulation: the neurons of every layer that the modulator governs, the others
            have ``eta``; None is all.
        checkpoint_every: spacing of the trace checkpoints that the backward pass keeps; None: chosen by the library
            (:func:`plastikern.functional.plastic_rnn_sequence`).
        backend: a backend by name; by default chosen from the tensors' device.

    Attributes:
        weight_ih_l[k]: (3 N, input_size), from the second layer on (3 N, N). weight_hh_l[k]: (3 N, N). bias_ih_l[k],
            bias_hh_l[k]: (3 N,). Gates in the order r, z, n: the state dict of a ``torch.nn.GRU`` loads with
            ``strict=False``.
        alpha_l[k], eta_l[k], eligibility_eta_l[k], modulator_weight_l[k], modulator_bias_l[k], fan_out_weight_l[k],
            fan_out_bias_l[k], modulated: of the plastic connections, as in :class:`~plastikern.nn.PlasticModule`.

    Source: the GRU of Cho et al. (EMNLP 2014) as torch has it, plastic where the LSTM of Miconi, Rawal, Clune, Stanley,
    ICLR 2019, section 4.3 is.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        plasticity: AnyPlasticity = Plasticity(),
        post: str = "candidate",
        modulated: Tensor | None = None,
        checkpoint_every: int | None = None,
        backend: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_positive("PlasticGRU", "input_size", input_size)
        check_one_direction("PlasticGRU", bidirectional, proj_size)
        check_choice("PlasticGRU", "post", post, POSTS)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, plasticity,
            modulated=modulated, checkpoint_every=checkpoint_every, backend=backend, device=device, dtype=dtype,
        )  # fmt: skip
        self.post = post

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: RNNState | RuleState | Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        reset_state: RNNState | RuleState | None = None,
        frozen: Tensor | None = None,
        recurrent_dropout: Tensor | None = None,
        zoneout: Tensor | None = None,
        signals: Signals = None,
    ) -> tuple[Any, Any]:
        """A whole sequence.

        Args:
            input: (T, B, features), or (B, T, features) with ``batch_first``, or (T, features) for one sequence; or a
                ``PackedSequence``, whose elements stand in the caller's order everywhere else.
            state: hidden (num_layers, B, N), trace (num_layers, B, N, N) and, with retroactive modulation,
                eligibility (num_layers, B, N, N), without B for one sequence; or as of ``torch.nn.GRU`` hidden alone,
                with traces of zero; None is zero.
            lengths: steps of each element (B,), from 0 to T; one that has ended keeps its state, its outputs are 0.
                None with a packed input.
            reset: bool (T, B), or (B, T) with ``batch_first``, or (T,) for one sequence: an episode begins at these
                steps, so that the state before them is ``reset_state`` in every layer, and nothing of the steps before
                reaches it, forward or backward; see :func:`plastikern.functional.plastic_rnn_sequence`.
            reset_state: what a reset gives, as ``state``; None is zero. For the first state itself it is given twice.
            frozen: bool (T, B), or (B, T) with ``batch_first``, or (T,) for one sequence: steps at which traces stay
                exactly as they are while the network runs on. Kernels of rules of one's own serve such a call.
            recurrent_dropout: (num_layers, B, N), by which activities before a step are multiplied on their way to the
                gates and the candidate, the same for all steps: see :func:`~plastikern.nn.dropout_mask`.
            zoneout: (num_layers, T, B, N), bool or a share from 0 to 1, of the activities before a step that stay: see
                :func:`~plastikern.nn.zoneout_mask`.
            signals: what a rule of one's own takes with every step, by name, the same for every layer: in the layout of
                ``input`` with N features, or without features for one number of each element.

        Returns:
            Activities of the last layer in the layout of ``input``, packed if that is, and the last state.
        """
        masks = frozen, recurrent_dropout, zoneout
        return self._sequence(input, state, lengths, None, signals, reset, reset_state, masks)
