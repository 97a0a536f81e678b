"""Plastic linear layers as modules, in the place of ``torch.nn.Linear`` and what follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import functional
from ..checks import check_choice, check_flag, check_positive, check_tensor
from ..functional import Over
from ..network import Inputs, State
from ..plasticity import LINEAR_NONLINEARITIES, Plasticity
from ..program import Program, program_of
from ..rules.sequences import Masks
from ..state import LinearState, RuleState
from .base import AnyPlasticity, PlasticModule
from .ruled import Signals, check_signals, run_rule, with_eligibility


class _Linear(PlasticModule):
    """Parameters of a plastic layer, under the names of ``torch.nn.Linear``."""

    State = LinearState
    kind = "linear"
    weight: Tensor
    bias: Tensor | None
    batch_first: bool = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        plasticity: AnyPlasticity,
        nonlinearity: str,
        *,
        modulated: Tensor | None,
        backend: str | None,
        device: Any,
        dtype: Any,
    ) -> None:
        owner = type(self).__name__
        check_positive(owner, "in_features", in_features)
        check_positive(owner, "out_features", out_features)
        check_flag(owner, "bias", bias)
        check_choice(owner, "nonlinearity", nonlinearity, LINEAR_NONLINEARITIES)
        shapes = {"weight": (out_features, in_features), "bias": (out_features,) if bias else None}
        super().__init__(
            out_features,
            in_features,
            {"": shapes},
            plasticity,
            modulated=modulated,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.in_features, self.out_features, self.nonlinearity = (
            in_features,
            out_features,
            nonlinearity,
        )

    def _run(
        self, input: Tensor, state: Any, drive: Tensor | None, signals: Signals, frozen: Tensor | None,
        over: Over | None = None,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """A step or a sequence, of a batch of one where there is none."""
        dims = (1, 2) if over is None else (2, 3)
        self._check_input(input, dims, self.in_features)
        self._check_frozen(input, frozen)
        batched = input.dim() == dims[1]
        if over is not None:
            self._check_lengths(over.lengths, batched)
        shape = (*input.shape[:-1], self.out_features)
        if drive is not None:
            check_tensor(type(self).__name__, "drive", drive, shape, input, *self._dtypes(input))
        if signals is not None or self._rule is not None:
            check_signals(self, signals, input.shape[:-1], input)
        if self.bias is not None:
            drive = self.bias.expand(shape) if drive is None else drive + self.bias
        batch = 1 if over is not None and not self.batch_first else 0
        first = self._entering(state, (), input.shape[batch] if batched else None)
        if not batched:
            input, drive = input.unsqueeze(batch), None if drive is None else drive.unsqueeze(batch)
            signals = {name: tensor.unsqueeze(batch) for name, tensor in (signals or {}).items()}
            frozen = None if frozen is None else frozen.unsqueeze(batch)
        if over is not None and not over.reset is over.reset_state is None:
            name, given = "plastic_linear_sequence", over.reset_state
            over, fresh = self._resetting(name, over, given, (), input, batched)
            over = over._replace(reset_state=None if given is None else fresh)
        connection = self._connection(0, frozen is None)
        if frozen is not None or (self._rule is not None and self._rule.twin is None):
            drive = (
                input.new_zeros(*input.shape[:-1], self.out_features) if drive is None else drive
            )
            found = run_rule(
                self, Inputs(drive, input), first, connection, signals, over, Masks(frozen)
            )
        else:
            if self._rule is not None:
                first = with_eligibility(self, first)
            if over is not None and over.reset_state is not None:
                fresh = with_eligibility(self, over.reset_state) if self._rule else over.reset_state
                over = over._replace(reset_state=State(None, None, *fresh))
            options = {
                **connection._asdict(), **dict(zip(LinearState._fields, first, strict=True)),
                "drive": drive, "nonlinearity": self.nonlinearity, "plasticity": self._built_in,
                "backend": self.backend,
            }  # fmt: skip
            if over is None:
                found = [*functional.plastic_linear_step(input, **options)]
            else:
                found = [*functional.plastic_linear_sequence(input, **options, **over._asdict())]
        output, *changed = found
        return output if batched else output.squeeze(batch), self._leaving(changed, (), batched)

    def _program(self) -> Program:
        return program_of(type(self).__name__, self.kind, self._built_in, self.nonlinearity)

    def extra_repr(self) -> str:
        """Sizes and options."""
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, "
            f"nonlinearity={self.nonlinearity!r}, plasticity={self.plasticity}"
        )


class PlasticLinearCell(_Linear):
    r"""One step of a plastic layer: :math:`y = \phi(u + b + (w + \alpha \circ H) x)`, then the trace changes.

    Its parameters are those of :class:`PlasticLinear`; the state dict of one loads into the other.

    Args:
        in_features: I.
        out_features: O.
        bias: whether the layer has a ``bias``.
        plasticity: the rule: a :class:`~plastikern.Plasticity`, or a rule of one's own.
        nonlinearity: :math:`\phi`: ``"softmax"`` over the O outputs, ``"tanh"``, ``"relu"``, ``"sigmoid"`` or
            ``"identity"``.
        modulated: bool (O,), only with modulation: the outputs that the modulator governs, the others have ``eta``;
            None is all.
        backend: a backend by name; by default chosen from the tensors' device.

    Attributes:
        weight: (O, I), ``[post, pre]``. bias: (O,) or None.
        alpha, eta, eligibility_eta, modulator_weight, modulator_bias, fan_out_weight, fan_out_bias, modulated: of the
            plastic connection, as in :class:`~plastikern.nn.PlasticModule`; the modulator's input is the output.

    Source: Miconi, Stanley, Clune, ICML 2018, section 4.4.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        plasticity: AnyPlasticity = Plasticity(),
        nonlinearity: str = "softmax",
        modulated: Tensor | None = None,
        backend: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_features, out_features, bias, plasticity, nonlinearity,
            modulated=modulated, backend=backend, device=device, dtype=dtype,
        )  # fmt: skip

    def forward(
        self, input: Tensor, state: LinearState | RuleState | None = None, *, drive: Tensor | None = None,
        frozen: Tensor | None = None, signals: Signals = None,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """One step.

        Args:
            input: :math:`x` (B, I), or (I,).
            state: trace (B, O, I) and, with retroactive modulation, eligibility (B, O, I), without B likewise; None is
                zero.
            drive: :math:`u` (B, O), added before the nonlinearity, such as a label times 1,000 that forces the output;
                None is zero.
            frozen: bool (B,), without B likewise (): where True, the trace stays exactly as it is.
            signals: what a rule of one's own takes with every step, by name: (B, O), (B, I) or (B,) by its kind,
                without B likewise.

        Returns:
            Output (B, O), and the next state.
        """
        return self._run(input, state, drive, signals, frozen)


class PlasticLinear(_Linear):
    r"""A plastic layer over whole sequences: :math:`y = \phi(u + b + (w + \alpha \circ H) x)` at every step.

    Args:
        in_features: I.
        out_features: O.
        bias: whether the layer has a ``bias``.
        plasticity: the rule: a :class:`~plastikern.Plasticity`, or a rule of one's own.
        nonlinearity: :math:`\phi`: ``"softmax"`` over the O outputs, ``"tanh"``, ``"relu"``, ``"sigmoid"`` or
            ``"identity"``.
        batch_first: input, drive and output are (B, T, features) in place of (T, B, features).
        modulated: bool (O,), only with modulation: the outputs that the modulator governs, the others have ``eta``;
            None is all.
        checkpoint_every: spacing of the trace checkpoints that the backward pass keeps; None: chosen by the library
            (:func:`plastikern.functional.plastic_rnn_sequence`).
        backend: a backend by name; by default chosen from the tensors' device.

    Attributes:
        weight, bias, and those of the plastic connection: as in :class:`PlasticLinearCell`.

    Source: Miconi, Stanley, Clune, ICML 2018, section 4.4.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        plasticity: AnyPlasticity = Plasticity(),
        nonlinearity: str = "softmax",
        batch_first: bool = False,
        modulated: Tensor | None = None,
        checkpoint_every: int | None = None,
        backend: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_flag("PlasticLinear", "batch_first", batch_first)
        if checkpoint_every is not None:
            check_positive("PlasticLinear", "checkpoint_every", checkpoint_every)
        super().__init__(
            in_features, out_features, bias, plasticity, nonlinearity,
            modulated=modulated, backend=backend, device=device, dtype=dtype,
        )  # fmt: skip
        self.batch_first, self.checkpoint_every = batch_first, checkpoint_every

    def forward(
        self,
        input: Tensor,
        state: LinearState | RuleState | None = None,
        *,
        drive: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        reset_state: LinearState | RuleState | None = None,
        frozen: Tensor | None = None,
        signals: Signals = None,
    ) -> tuple[Tensor, Any]:
        """A whole sequence.

        Args:
            input: :math:`x` (T, B, I), or (B, T, I) with ``batch_first``, or (T, I) for one sequence.
            state: trace (B, O, I) and, with retroactive modulation, eligibility (B, O, I), without B for one sequence;
                None is zero.
            drive: :math:`u` in the layout of ``input`` with O features, added before the nonlinearity, such as labels
                times 1,000 that force the output; None is zero.
            lengths: steps of each element (B,), from 0 to T; one that has ended keeps its state, its outputs are 0.
            reset: bool (T, B), or (B, T) with ``batch_first``, or (T,) for one sequence: an episode begins at these
                steps, so that the state before them is ``reset_state``, and nothing of the steps before
                reaches it, forward or backward; see :func:`plastikern.functional.plastic_rnn_sequence`.
            reset_state: what a reset gives, as ``state``; None is zero. For the first state itself it is given twice.
            frozen: bool (T, B), or (B, T) with ``batch_first``, or (T,) for one sequence: steps at which traces stay
                exactly as they are while the network runs on. Kernels of rules of one's own serve such a call.
            signals: what a rule of one's own takes with every step, by name: in the layout of ``input`` with O or I
                features by its kind, or without features for one number of each element.

        Returns:
            Outputs in the layout of ``input``, with O features, and the last state.
        """
        over = Over(lengths, self.batch_first, self.checkpoint_every, reset, reset_state)
        return self._run(input, state, drive, signals, frozen, over)
