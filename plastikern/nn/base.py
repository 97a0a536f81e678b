"""What all plastic modules share: the parameters of plastic connections, and how states go in and out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import functional, reference
from ..backends import known
from ..checks import (
    HALF,
    check_choice,
    check_dense,
    check_dtype,
    check_tensor,
    checked_lengths,
    described,
    under_autocast,
)
from ..episodes import resets_of
from ..functional import Over
from ..hooks import count_flops, held, run_forward_pre_hooks
from ..network import Connection, Modulator
from ..plasticity import Plasticity, granular_shape
from ..program import Program
from ..rules.decorator import Rule, kind_shape
from ..rules.twins import connection_of
from ..rules.uses import RulePlasticity, used
from ..state import rule_state

AnyPlasticity = Plasticity | RulePlasticity | Rule
"""What modules take as their plasticity."""


class PlasticModule(nn.Module):
    r"""A module whose layers each have one plastic connection, from I pre- to O post-synaptic neurons.

    A recurrent network's I and O are its N hidden neurons. Besides the parameters under the names of ``torch.nn``,
    every layer has (in networks of several layers with the suffix ``_l[k]``):

    ==================================== ================================== =======================================
    ``alpha``                            as ``plasticity.alpha`` says       starts normal, ``plasticity.alpha_init``
    ``eta``                              as ``plasticity.eta`` says         starts at ``plasticity.eta_init``; None
                                                                            where a modulator governs every neuron
    ``eligibility_eta``                  as ``plasticity.eta`` says         likewise; only with retroactive modulation
    ``modulator_weight``                 (O,)                               only with modulation; start as those of
    ``modulator_bias``                   (1,)                               ``torch.nn.Linear(O, 1)``
    ``fan_out_weight``, ``fan_out_bias`` as ``plasticity.fan_out`` says     only with a fan-out; start as those of
                                                                            ``torch.nn.Linear(1, O)``, U(-1, 1)
    ==================================== ================================== =======================================

    Per ``"connection"`` is (O, I), ``[post, pre]``; per ``"neuron"`` (O,); per ``"layer"`` (1,). What a network lacks
    is None. ``eta`` and ``eligibility_eta`` are buffers where ``plasticity.learn_eta`` is False. A half-modulated
    network has the buffer ``modulated``, bool (O,), for all layers: True where the modulator sets the rate of a
    neuron's connections, False where ``eta`` does.
    """

    gates: ClassVar[int] = 1
    """Rows of weights for each neuron."""
    kind: ClassVar[str]
    """Of network: ``"rnn"``, ``"lstm"``, ``"gru"`` or ``"linear"``."""
    _version = 2
    """Of the state dict, the same on every backend: a change that older ones do not fit raises it, and
    ``_load_from_state_dict`` then brings the older ones up to it. One without version, such as a plain dict of tensors,
    may be of any. In version 1 parameters of one number had the shape ()."""
    State: ClassVar[type[Any]]
    modulator_inputs: ClassVar[tuple[str, ...]] = ("hidden",)
    _weight: ClassVar[str] = "weight"
    modulated: Tensor | None

    def __init__(
        self,
        posts: int,
        pres: int,
        weights: Mapping[str, Mapping[str, tuple[int, ...] | None]],
        plasticity: AnyPlasticity,
        *,
        modulated: Tensor | None,
        backend: str | None,
        device: Any,
        dtype: Any,
    ) -> None:
        """``weights``: shapes of every layer's other parameters (or None), by the layer's suffix and their name."""
        super().__init__()
        count_flops()
        owner = type(self).__name__
        self.plasticity: Any = used(plasticity)
        plasticity = self.plasticity
        if not isinstance(plasticity, (Plasticity, RulePlasticity)):
            raise TypeError(
                f"{owner}: plasticity must be a Plasticity or a rule; got {type(plasticity).__name__}"
            )
        self._rule = plasticity if isinstance(plasticity, RulePlasticity) else None
        if isinstance(plasticity, Plasticity):
            source = plasticity.modulator_input
            check_choice(owner, "plasticity.modulator_input", source, self.modulator_inputs)
        else:
            self.State = self._state_of(plasticity)  # type: ignore[misc]
        if modulated is not None:
            if self._rule is not None or self.plasticity.modulation == "none":
                raise ValueError(
                    f"{owner}: modulated needs a plasticity with modulation 'simple' or 'retroactive'"
                )
            anywhere = modulated if isinstance(modulated, Tensor) else torch.empty(0)
            check_tensor(owner, "modulated", modulated, (posts,), anywhere, torch.bool)
        if backend is not None:
            known(backend, f"{owner}: backend")
        self.backend = backend
        self._posts, self._pres, self._suffixes = posts, pres, list(weights)
        if isinstance(plasticity, RulePlasticity):
            connection = self._rule_shapes(plasticity, weights)
            fixed = plasticity.fixed
        else:
            connection = _connection_shapes(plasticity, posts, pres, modulated is not None)
            fixed = [] if plasticity.learn_eta else ["eta", "eligibility_eta"]
        self._single = {
            name + suffix for suffix in weights for name, shape in connection.items() if shape == ()
        }
        for suffix, layer in weights.items():
            for name, shape in {**layer, **connection}.items():
                # One number is (1,), since FSDP2 shards no parameter without dimensions.
                tensor = (
                    None
                    if shape is None
                    else torch.empty(shape or (1,), device=device, dtype=dtype)
                )
                if tensor is not None and name in fixed:
                    self.register_buffer(name + suffix, tensor)
                else:
                    self.register_parameter(
                        name + suffix, None if tensor is None else nn.Parameter(tensor)
                    )
        # Values of the mask while the buffer has none, on the device meta; None where they are not known.
        self._mask = None if modulated is None or modulated.is_meta else modulated.detach().clone()
        if modulated is not None:
            modulated = modulated.detach().to(next(self.parameters()).device, copy=True)
        self.register_buffer("modulated", modulated)
        if next(chain(self.parameters(), self.buffers()), None) is None:
            # A layer whose rule takes nothing but signals: this says its dtype and its device.
            empty = torch.empty(0, device=device, dtype=dtype)
            self.register_buffer("_like", empty, persistent=False)
        self._own = {
            name + suffix: name
            for suffix, layer in weights.items()
            for name in (*layer, *connection)
        }
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters anew.

        Weights and biases as ``torch.nn`` does, U(-1/sqrt(I), 1/sqrt(I)); those of the plastic connection as
        :class:`~plastikern.nn.PlasticModule` says. What pruning has set apart is drawn, and its masks stay; a
        parametrization is assigned what is drawn. Nothing else that the module holds is changed.

        Raises:
            ValueError: a parameter that is computed from others, and cannot be assigned. A half-modulated network's
                mask was on the device meta from the beginning, so that nobody knows it.
        """
        if (
            self.modulated is not None
            and self.modulated.is_meta
            and not next(self.parameters()).is_meta
        ):
            raise ValueError(
                f"{type(self).__name__}: modulated must be a mask with values, to be given or loaded; it was on the "
                "device meta"
            )
        for name in self._own:
            self._reset(name)
        run_forward_pre_hooks(type(self).__name__, self)

    def _reset(self, name: str) -> None:
        pruned = self._parameters.get(name + "_orig")
        tensor = self._buffers.get(name, self._parameters.get(name)) if pruned is None else pruned
        if tensor is not None:
            self._draw(name, tensor)
        elif nn.utils.parametrize.is_parametrized(self, name):
            fresh = torch.empty_like(getattr(self, name))
            self._draw(name, fresh)
            try:
                setattr(self, name, fresh)
            except (RuntimeError, ValueError, NotImplementedError) as error:
                raise ValueError(
                    f"{type(self).__name__}: the parametrization of {name} takes no value: {error}"
                ) from error
        else:
            held(type(self).__name__, self, name)

    def _draw(self, name: str, tensor: Tensor) -> None:
        """Initial values of the parameter of that name, written into the tensor."""
        if self._rule is not None and self._own[name] in self._rule.parameters:
            self._rule.draw(self._own[name], tensor, self._posts)
        elif name.startswith("alpha"):
            tensor.normal_(0, self.plasticity.alpha_init)
        elif name.startswith(("eta", "eligibility_eta")):
            tensor.fill_(self.plasticity.eta_init)
        else:
            fan_in = (
                self._posts
                if name.startswith("modulator")
                else 1
                if name.startswith("fan_out")
                else self._pres
            )
            tensor.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # The mask is no parameter, that somebody would draw after ``to_empty``: it keeps its values, and where nobody
        # knows them it stays on the device meta, so that a call is refused until they are loaded.
        before = self.modulated
        found = super()._apply(fn, recurse)
        if before is not None and self.modulated is not None and self.modulated is not before:
            if not before.is_meta:
                self._mask = before.detach().cpu().clone()
            if self._mask is None:
                self.modulated = before
            elif not self.modulated.is_meta:
                self.modulated.copy_(self._mask)
        return found

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        if (version := local_metadata.get("version") or 1) > self._version:
            error_msgs.append(
                f"{type(self).__name__}: the state dict must have version 1 to {self._version}; got {version}, from a "
                "later plastikern"
            )
            return
        device = self._first().device
        if self.modulated is not None and self.modulated.is_meta and device.type != "meta":
            self.modulated = torch.zeros_like(self.modulated, device=device)
        for name in self._single:
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor) and value.dim() == 0:
                state_dict[prefix + name] = value.reshape(1)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def modulator(self, layer: int = -1) -> Modulator | None:
        """Parameters of a layer's modulator, by default the last layer's; None without modulation."""
        run_forward_pre_hooks(type(self).__name__, self)
        return self._modulator(layer)

    def _modulator(self, layer: int) -> Modulator | None:
        if self._rule is not None or self.plasticity.modulation == "none":
            return None
        suffix = self._suffixes[layer]
        return Modulator(
            weight=self._tensor("modulator_weight" + suffix),
            bias=self._tensor("modulator_bias" + suffix),
            fan_out_weight=self._tensor("fan_out_weight" + suffix),
            fan_out_bias=self._tensor("fan_out_bias" + suffix),
            modulated=self.modulated,
        )

    def modulator_signal(self, source: Tensor, layer: int = -1, name: str | None = None) -> Tensor:
        r"""The neuromodulator :math:`M` of a layer, by default the last, as the network computes it at every step.

        Args:
            source: the modulator's input (..., N): where ``plasticity.modulator_input`` is ``"hidden"``, the layer's
                activities, such as the output of the network.
            layer: its number.
            name: of a rule of one's own, which of the signals that the network reads out; None: the first.

        Returns:
            M (...,), before any fan-out.

        Raises:
            ValueError: the network has no modulator.
        """
        if self._rule is not None and self._rule.readouts:
            return self._read_out(source, layer, name)
        modulator = self.modulator(layer)
        if modulator is None:
            raise ValueError(f"{type(self).__name__}: there is no modulator with modulation 'none'")
        return functional.modulator_signal(source, modulator, self.plasticity)

    def _read_out(self, source: Tensor, layer: int, name: str | None) -> Tensor:
        assert self._rule is not None
        readouts, name = self._rule.readouts, name or next(iter(self._rule.readouts))
        check_choice(type(self).__name__, "name", name, (*readouts,))
        run_forward_pre_hooks(type(self).__name__, self)
        suffix = self._suffixes[layer]
        modulator = Modulator(
            self._tensor(f"{name}_weight{suffix}"), self._tensor(f"{name}_bias{suffix}")
        )
        return reference.modulator_signal(source, modulator, readouts[name].nonlinearity)

    def _tensor(self, name: str) -> Any:
        """A parameter or buffer by name; as an attribute, which takes longer, where it is computed from others."""
        return self._parameters[name] if name in self._parameters else getattr(self, name)

    def _first(self) -> Tensor:
        """A tensor of the module, of whose dtype and on whose device the others are: a parameter, where it has one."""
        for parameter in self._parameters.values():
            if parameter is not None:
                return parameter
        return next(chain(self.parameters(), self.buffers()))

    def _connection(self, layer: int, twin: bool = True) -> Any:
        """What the functions of :mod:`plastikern.functional` are told of a layer's plastic connection; of a rule of
        one's own, its tensors by name. ``twin``: whether the library's kernels may serve such a rule."""
        if self._rule is not None:
            tensors = self._rule_tensors(layer)
            if not twin or self._rule.twin is None:
                return tensors
            return connection_of(self._rule, tensors)
        suffix, tensor = self._suffixes[layer], self._tensor
        modulated = self.plasticity.modulation != "none"
        return Connection(
            tensor(self._weight + suffix), tensor("alpha" + suffix), tensor("eta" + suffix),
            tensor("eligibility_eta" + suffix), self._modulator(layer) if modulated else None,
        )  # fmt: skip

    def _state_of(self, plasticity: RulePlasticity) -> type[Any]:
        """The kind of state: what the network has besides, and the states of the rule."""
        others = self.State._fields[: self.State._fields.index("trace")]
        dims = {"synapse": 2, "pre": 1, "post": 1, "element": 0}
        kinds = plasticity.rule.states
        return rule_state(
            (*others, *kinds), (*(1 for _ in others), *(dims[kind] for kind in kinds.values())),
            (*(0.0 for _ in others), *(plasticity.initial[name] for name in kinds)),
        )  # fmt: skip

    def _rule_shapes(
        self,
        plasticity: RulePlasticity,
        weights: Mapping[str, Mapping[str, tuple[int, ...] | None]],
    ) -> dict[str, tuple[int, ...] | None]:
        """Parameters of a connection under a rule of one's own; without a weight where the rule takes none."""
        rule, owner = plasticity.rule, type(self).__name__
        rule.check_role(self.kind != "linear")
        own = inspect.signature(type(self)).parameters
        found: dict[str, tuple[int, ...] | None] = {**plasticity.shapes(self._posts, self._pres)}
        for suffix, layer in weights.items():
            for name in found:
                if name in layer or name + suffix in own or hasattr(self, name + suffix):
                    raise ValueError(
                        f"{owner}: the coefficient {name} of {rule.name} has the name of something that the module "
                        "has; rename it"
                    )
        if self.gates == 1 and "w" not in rule.taken:
            found[self._weight] = None
        return found

    def _rule_tensors(self, layer: int) -> dict[str, Tensor]:
        """The parameters of a layer's rule by the rule's own names."""
        assert self._rule is not None
        suffix, tensor = self._suffixes[layer], self._tensor
        found = {name: tensor(name + suffix) for name in self._rule.parameters}
        if self.gates > 1 or "w" in self._rule.rule.taken:
            found["w"] = tensor(self._weight + suffix)
        return found

    @property
    def _built_in(self) -> Plasticity:
        """The rule that the library's kernels run."""
        return self.plasticity if self._rule is None else self._rule.twin  # type: ignore[return-value]

    def _program(self) -> Program:
        """What the functions are told of the rule and of the neurons."""
        raise NotImplementedError

    def _check_input(self, input: object, dims: tuple[int, int], features: int) -> None:
        """Input of the first layer, before anything is computed from it; ``dims`` without and with B."""
        owner, own = type(self).__name__, self._first()
        if type(input) is Tensor and input.dtype is own.dtype and input.device == own.device:
            fits = input.dim() in dims and input.shape[-1] == features
            if fits and input.layout is torch.strided and not input.is_nested:
                return
        if not isinstance(input, Tensor):
            raise TypeError(f"{owner}: input must be a tensor; got {described(input)}")
        check_dense(owner, "input", input)
        if input.dim() not in dims:
            shape = tuple(input.shape)
            raise ValueError(
                f"{owner}: input must have {dims[1]} dimensions, or {dims[0]} for one element; got {shape}"
            )
        if input.shape[-1] != features:
            raise ValueError(
                f"{owner}: input must have {features} features; got shape {tuple(input.shape)}"
            )
        check_dtype(owner, "input", input, self._dtypes(input))
        if input.device != own.device:
            raise ValueError(
                f"{owner}: input must be on the module's device {own.device}; got {input.device}"
            )

    def _dtypes(self, input: Tensor) -> tuple[torch.dtype, ...]:
        """What inputs may have: that of the parameters, or, under autocast, another that it casts."""
        own = self._first().dtype
        return (
            (own,) if own == torch.float64 or not under_autocast(input) else (torch.float32, *HALF)
        )

    def _check_frozen(self, input: Tensor, frozen: object) -> None:
        if frozen is not None:
            shape = tuple(input.shape[:-1])
            check_tensor(type(self).__name__, "frozen", frozen, shape, input, torch.bool)

    def _check_lengths(self, lengths: object, batched: bool) -> None:
        if lengths is not None and not batched:
            raise ValueError(
                f"{type(self).__name__}: lengths are for batched input; got an input of 2 dimensions"
            )

    def _entering(
        self, state: object, stacked: tuple[int, ...], batch: int | None, argument: str = "state"
    ) -> list[Tensor | None]:
        """Tensors of a state (*stacked, B, ...), eligibility last; None is zero, as are the traces of a state of
        ``torch.nn``.

        ``batch`` None: the state has no dimension B, and is given one of size 1.
        """
        names = self.State._fields
        if state is None:
            return [None] * len(names)
        if batch is not None and self._fits(state, (*stacked, batch)):
            return [*state, *[None] * (len(names) - len(state))]  # type: ignore[misc, arg-type]
        tensors: list[Any] = [*state] if isinstance(state, (tuple, list)) else []
        plain = [name for name in ("hidden", "cell") if name in names]
        if plain == ["hidden"] and isinstance(state, Tensor):
            tensors = [state]
        if tensors and len(tensors) == len(plain) and (len(plain) > 1 or state is tensors[0]):
            tensors += [None] * (len(names) - len(plain))  # of torch.nn: there is no trace yet
        if self._rule is None and len(tensors) == len(names) - 1:
            tensors.append(None)
        owner, expected = type(self).__name__, self.State.__name__
        if len(tensors) != len(names) or any(
            x is not None and not isinstance(x, Tensor) for x in tensors
        ):
            raise TypeError(
                f"{owner}: {argument} must be None or a tuple of tensors, {expected} ({', '.join(names)})"
                f"{', or as of torch.nn ' + _torch_state(plain) if plain else ''}; got {_parts(state)}"
            )
        leading = stacked if batch is None else (*stacked, batch)
        for name, tensor in zip(names, tensors, strict=True):
            shape = (*leading, *self._state_shape(name))
            if tensor is not None and tensor.shape != shape:
                got = tuple(tensor.shape)
                raise ValueError(f"{owner}: {argument}.{name} must have shape {shape}; got {got}")
        if batch is None:
            tensors = [
                None if tensor is None else tensor.unsqueeze(len(stacked)) for tensor in tensors
            ]
        return tensors

    def _fits(self, state: Any, leading: tuple[int, ...]) -> bool:
        """Whether it is a state as the module itself returns it: what most calls are given, found out quickly."""
        if self._rule is not None or type(state) is not self.State:
            return False
        vector = (*leading, self._posts)
        matrix = (*vector, self._pres)
        for tensor, dims in zip(state, self.State._dims, strict=False):
            if type(tensor) is not Tensor or tensor.shape != (vector if dims == 1 else matrix):
                return False
        return True

    def _resetting(
        self, name: str, over: Over, reset_state: Any, stacked: tuple[int, ...], input: Tensor, batched: bool
    ) -> tuple[Over, list[Tensor | None]]:  # fmt: skip
        """Lengths and resets of a call over ``input``, which has both dimensions; and what a reset gives, by layers."""
        if over.reset is None:
            raise ValueError(
                f"{type(self).__name__}: reset_state is for calls with reset; got reset=None"
            )
        steps, batch = reversed(input.shape[:2]) if over.batch_first else input.shape[:2]
        lengths = checked_lengths(name, over.lengths, steps, batch)
        resets = resets_of(name, over.reset, lengths, input, over.batch_first, batched)
        fresh = self._entering(reset_state, stacked, batch if batched else None, "reset_state")
        return over._replace(lengths=lengths, reset=resets), fresh

    def _state_shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor of the state, for one element of one layer."""
        if self._rule is not None and name in self._rule.rule.states:
            return self._kind_shape(self._rule.rule.states[name])
        return (self._posts, self._pres) if name in ("trace", "eligibility") else (self._posts,)

    def _kind_shape(self, kind: str) -> tuple[int, ...]:
        """Of a state or signal of a rule, for one element."""
        return kind_shape(kind, self._posts, self._pres)

    def _leaving(self, tensors: Sequence[Tensor], stacked: tuple[int, ...], batched: bool) -> Any:
        """The state of these tensors (*stacked, B, ...); without B where the input had none."""
        if not batched:
            tensors = [tensor.squeeze(len(stacked)) for tensor in tensors]
        return self.State(*tensors)


def _connection_shapes(
    plasticity: Plasticity, posts: int, pres: int, half_modulated: bool
) -> dict[str, tuple[int, ...] | None]:
    """Parameters of a plastic connection, in the order of their initialisation; None: the network has none."""
    modulation, fan_out = plasticity.modulation, plasticity.fan_out
    rate = granular_shape(plasticity.eta, posts, pres)
    fanned = None if fan_out == "none" else granular_shape(fan_out, posts, pres)
    return {
        "alpha": granular_shape(plasticity.alpha, posts, pres),
        "eta": rate if modulation == "none" or half_modulated else None,
        "eligibility_eta": rate if modulation == "retroactive" else None,
        "modulator_weight": None if modulation == "none" else (posts,),
        "modulator_bias": None if modulation == "none" else (),
        "fan_out_weight": fanned,
        "fan_out_bias": fanned,
    }


def _torch_state(plain: Sequence[str]) -> str:
    return plain[0] + " alone" if len(plain) == 1 else f"({', '.join(plain)})"


def _parts(state: object) -> str:
    if not isinstance(state, (tuple, list)):
        return type(state).__name__
    return f"{type(state).__name__} of ({', '.join(type(part).__name__ for part in state)})"
