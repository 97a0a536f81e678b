"""Weights from elsewhere: the released code of the two papers, and ``torch.nn``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

import torch
from torch import Tensor, nn

from .checks import check_choice, described
from .nn import PlasticLinear, PlasticLinearCell, PlasticLSTM, PlasticLSTMCell, PlasticRNN, PlasticRNNCell
from .nn.base import PlasticModule
from .plasticity import GRANULARITIES, Plasticity

ORIENTATIONS = ("columns", "rows")

# Ours, with the authors' parts from which it is put together along the first dimension; None: they have zero there.
_CONNECTION: dict[str, tuple[str | None, ...]] = {
    "alpha": ("alpha",),
    "eta": ("eta",),
    "eligibility_eta": ("etaet",),
    "modulator_weight": ("h2mod.weight",),
    "modulator_bias": ("h2mod.bias",),
    "fan_out_weight": ("modfanout.weight",),
    "fan_out_bias": ("modfanout.bias",),
}
_RNN: dict[str, tuple[str | None, ...]] = {
    "weight_ih": ("i2h.weight",),
    "weight_hh": ("w",),
    "bias_ih": ("i2h.bias",),
    "bias_hh": (None,),
}
_LSTM: dict[str, tuple[str | None, ...]] = {
    "weight_ih": ("x2i.weight", "x2f.weight", "x2c.weight", "x2opt.weight"),
    "weight_hh": ("h2i.weight", "h2f.weight", "w", "h2opt.weight"),
    "bias_ih": ("x2i.bias", "x2f.bias", "x2c.bias", "x2opt.bias"),
    "bias_hh": ("h2i.bias", "h2f.bias", None, "h2opt.bias"),
}
_LINEAR: dict[str, tuple[str | None, ...]] = {"weight": ("w",), "bias": (None,)}

_NAMES: tuple[tuple[tuple[type[PlasticModule], ...], dict[str, tuple[str | None, ...]]], ...] = (
    ((PlasticRNN, PlasticRNNCell), _RNN | _CONNECTION),
    ((PlasticLSTM, PlasticLSTMCell), _LSTM | _CONNECTION),
    ((PlasticLinear, PlasticLinearCell), _LINEAR | _CONNECTION),
)
_ALIASES = {"h2DA.weight": "h2mod.weight", "h2DA.bias": "h2mod.bias"}
_ORIENTED = ("w", "alpha", "eta", "etaet")


@torch.no_grad()
def from_authors(parameters: Mapping[str, Tensor], module: nn.Module, *, orientation: str, layer: int = 0) -> list[str]:
    """Load the parameters of a network of the authors' released code into one layer of a plastic module.

    The names are those of their modules' ``state_dict()``: ``w``, ``alpha``, ``eta``, ``etaet``, ``i2h``, ``h2DA`` or
    ``h2mod``, ``modfanout``, and for an LSTM ``x2i``, ``x2f``, ``x2c``, ``x2opt``, ``h2i``, ``h2f``, ``h2opt``. They
    have one bias where ``torch.nn`` has two: ours that they lack become zero. Values are cast to the module's dtype and
    copied to its device; the module is changed only if everything fits.

    Args:
        parameters: theirs, by name.
        module: a plastic RNN, LSTM or linear layer or its cell, made with the options of their network
            (``docs/options.md``).
        orientation: what their matrices ``w`` and ``alpha`` hold for one neuron's incoming connections. A square matrix
            does not tell. ``"columns"``, ``[pre, post]``: everything but the two files named next. ``"rows"``,
            ``[post, pre]``: Backpropamine's ``maze/batch.py`` and ``sr/modul.py``.
        layer: which layer of ``module`` takes them.

    Returns:
        Names that ``module`` has no part in, sorted: readouts such as ``h2o`` and ``h2v``, and ``eta`` where a
        modulator governs every neuron, since their modulated networks have it even when it is not used.

    Raises:
        TypeError: the module is none of the library's, the parameters are no mapping, or one is no tensor.
        ValueError: a parameter that the module needs is not there; one is there, but the module was made without it;
            one has another shape; the orientation or the layer does not exist.
    """
    check_choice("from_authors", "orientation", orientation, ORIENTATIONS)
    names, suffix = _layout(module, layer)
    if not isinstance(parameters, Mapping) or not all(isinstance(name, str) for name in parameters):
        raise TypeError(
            f"from_authors: parameters must be a mapping from names to tensors; got {described(parameters)}"
        )
    given: dict[str, str] = {}
    for original in parameters:
        twin = given.setdefault(_ALIASES.get(original, original), original)
        if twin != original:
            raise ValueError(f"from_authors: parameters must have one of {twin!r} and {original!r}; got both")
    values: list[tuple[Tensor, Tensor]] = []
    taken: set[str | None] = set()
    for ours, sources in names.items():
        target = getattr(module, ours + suffix, None)
        if target is None:
            present = [given[name] for name in sources if name in given]
            if present and ours != "eta":
                raise ValueError(f"from_authors: {present} have no place: the {type(module).__name__} has no {ours}")
            continue
        parts = []
        for name, part in zip(sources, target.chunk(len(sources)) if target.dim() else [target], strict=True):
            if name is None:
                parts.append(torch.zeros_like(part))
            elif name in given:
                parts.append(_fitted(name, parameters[given[name]], part, orientation))
            else:
                raise ValueError(f"from_authors: parameters must have {name!r}, for {ours}; got {sorted(parameters)}")
        values.append((target, parts[0] if len(parts) == 1 else torch.cat(parts)))
        taken.update(sources)
    for target, value in values:
        target.copy_(value)
    return sorted(original for name, original in given.items() if name not in taken)


@overload
def from_torch(module: nn.RNN, plasticity: Plasticity = ..., **options: Any) -> PlasticRNN: ...
@overload
def from_torch(module: nn.LSTM, plasticity: Plasticity = ..., **options: Any) -> PlasticLSTM: ...
def from_torch(
    module: nn.RNN | nn.LSTM, plasticity: Plasticity = Plasticity(), **options: Any
) -> PlasticRNN | PlasticLSTM:
    """A plastic network with the weights of a ``torch.nn.RNN`` or ``torch.nn.LSTM``.

    Args:
        module: one direction, without a projection.
        plasticity: the rule of the new network; its parameters start as always. With ``alpha_init=0`` the network
            computes what ``module`` does until it is trained.
        options: further options of the plastic module, such as ``post`` or ``backend``.

    Returns:
        A :class:`~plastikern.PlasticRNN` or :class:`~plastikern.PlasticLSTM`; its tensors are copies.

    Raises:
        TypeError: any other module.
        ValueError: a bidirectional one, or one with ``proj_size``.
    """
    if not isinstance(module, (nn.RNN, nn.LSTM)):
        raise TypeError(f"from_torch: module must be a torch.nn.RNN or torch.nn.LSTM; got {type(module).__name__}")
    for name in ("bidirectional", "proj_size"):
        if getattr(module, name):
            raise ValueError(f"from_torch: module must have no {name}; got {getattr(module, name)}")
    if isinstance(module, nn.RNN):
        options["nonlinearity"] = module.nonlinearity
    kind = PlasticRNN if isinstance(module, nn.RNN) else PlasticLSTM
    return _transferred(module, kind, plasticity=plasticity, **options)


@overload
def to_torch(module: PlasticRNN) -> nn.RNN: ...
@overload
def to_torch(module: PlasticLSTM) -> nn.LSTM: ...
def to_torch(module: PlasticRNN | PlasticLSTM) -> nn.RNN | nn.LSTM:
    """The baseline weights of a plastic network as a ``torch.nn.RNN`` or ``torch.nn.LSTM``, without what is plastic.

    Raises:
        TypeError: any other module.
        ValueError: a network without input layer, or with a nonlinearity that ``torch.nn.RNN`` does not have.
    """
    if not isinstance(module, (PlasticRNN, PlasticLSTM)):
        raise TypeError(f"to_torch: module must be a PlasticRNN or PlasticLSTM; got {type(module).__name__}")
    if module.input_size is None:
        raise ValueError("to_torch: module must have an input layer; got input_size None")
    if isinstance(module, PlasticLSTM):
        return _transferred(module, nn.LSTM)
    if module.nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"to_torch: nonlinearity must be one of tanh, relu; got {module.nonlinearity!r}")
    return _transferred(module, nn.RNN, nonlinearity=module.nonlinearity)


def _transferred(module: Any, kind: type[nn.Module], **options: Any) -> Any:
    """A module of that kind with the sizes, the mode and the weights of another."""
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout")
    first = next(module.parameters())
    sizes = {name: getattr(module, name) for name in names}
    twin = kind(**sizes, **options, device=first.device, dtype=first.dtype).train(module.training)
    weights = {name: value for name, value in module.state_dict().items() if name.startswith(("weight", "bias"))}
    twin.load_state_dict({**twin.state_dict(), **weights})
    return twin


def _layout(module: nn.Module, layer: int) -> tuple[dict[str, tuple[str | None, ...]], str]:
    """Names of a module's parameters in the authors' code, and the suffix of the layer."""
    for kinds, names in _NAMES:
        if isinstance(module, kinds):
            count = module.num_layers if isinstance(module, (PlasticRNN, PlasticLSTM)) else 1
            if not isinstance(layer, int) or not 0 <= layer < count:
                raise ValueError(f"from_authors: layer must lie from 0 to {count - 1}; got {layer!r}")
            return names, f"_l{layer}" if isinstance(module, (PlasticRNN, PlasticLSTM)) else ""
    raise TypeError(f"from_authors: module must be a plastic RNN, LSTM or linear layer; got {type(module).__name__}")


def _fitted(name: str, value: object, part: Tensor, orientation: str) -> Tensor:
    """The authors' tensor in the shape of ours: they write a scalar as (1,), a value per neuron as (1, 1, N)."""
    if not isinstance(value, Tensor):
        raise TypeError(f"from_authors: {name} must be a tensor; got {type(value).__name__}")
    turned = name in _ORIENTED and orientation == "columns" and part.dim() == 2
    expected = part.mT.shape if turned else part.shape
    if part.dim() < 2 and max(value.shape, default=1) == value.numel() == part.numel():
        value = value.reshape(part.shape)
    if value.shape != expected:
        hint = ""
        if name in _ORIENTED[1:]:
            made = GRANULARITIES[::-1][min(2, sum(size > 1 for size in value.shape))]
            hint = f", which is one coefficient per {made}" if made != GRANULARITIES[::-1][part.dim()] else ""
        got = tuple(value.shape)
        raise ValueError(f"from_authors: {name} must have shape {tuple(expected)} for this module; got {got}{hint}")
    return (value.mT if turned else value).to(part)
