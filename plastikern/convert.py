"""Weights from elsewhere: the released code of the two papers, and ``torch.nn``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

import torch
from torch import Tensor, nn

from .checks import check_choice, described
from .hooks import held, run_forward_pre_hooks
from .nn import (
    PlasticGRU,
    PlasticGRUCell,
    PlasticLinear,
    PlasticLinearCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
)
from .nn.base import PlasticModule
from .plasticity import GRANULARITIES, Plasticity

ORIENTATIONS = ("columns", "rows")
MODULATORS = ("h2mod", "h2DA")

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
def from_authors(
    parameters: Mapping[str, Tensor], module: nn.Module, *, orientation: str, layer: int = 0
) -> list[str]:
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
            one has another shape, or is computed by the module, being parametrized or pruned; the orientation or the
            layer does not exist.
    """
    check_choice("from_authors", "orientation", orientation, ORIENTATIONS)
    names, suffix = _layout(module, layer, "from_authors")
    if not isinstance(parameters, Mapping) or not all(isinstance(name, str) for name in parameters):
        raise TypeError(
            f"from_authors: parameters must be a mapping from names to tensors; got {described(parameters)}"
        )
    given: dict[str, str] = {}
    for original in parameters:
        twin = given.setdefault(_ALIASES.get(original, original), original)
        if twin != original:
            raise ValueError(
                f"from_authors: parameters must have one of {twin!r} and {original!r}; got both"
            )
    values: list[tuple[Tensor, Tensor]] = []
    taken: set[str | None] = set()
    for ours, sources in names.items():
        target = held("from_authors", module, ours + suffix)
        if target is None:
            present = [given[name] for name in sources if name in given]
            if present and ours != "eta":
                raise ValueError(
                    f"from_authors: {present} have no place: the {type(module).__name__} has no {ours}"
                )
            continue
        parts = []
        for name, part in zip(
            sources, target.chunk(len(sources)) if target.dim() else [target], strict=True
        ):
            if name is None:
                parts.append(torch.zeros_like(part))
            elif name in given:
                parts.append(_fitted(name, parameters[given[name]], part, orientation))
            else:
                raise ValueError(
                    f"from_authors: parameters must have {name!r}, for {ours}; got {sorted(parameters)}"
                )
        values.append((target, parts[0] if len(parts) == 1 else torch.cat(parts)))
        taken.update(sources)
    for target, value in values:
        target.copy_(value)
    return sorted(original for name, original in given.items() if name not in taken)


@torch.no_grad()
def to_authors(
    module: nn.Module, *, orientation: str, layer: int = 0, modulator: str = "h2mod"
) -> dict[str, Tensor]:
    """Parameters of one layer of a plastic module under the names and in the shapes of the authors' released code.

    The other way round from :func:`from_authors`. Where they have one bias and ``torch.nn`` two, theirs is the sum.

    Args:
        module: a plastic RNN, LSTM or linear layer or its cell.
        orientation: of their matrices, ``"columns"`` or ``"rows"``, as in :func:`from_authors`.
        layer: which layer of ``module``.
        modulator: what their network calls the modulator's layer, ``"h2mod"`` or ``"h2DA"``.

    Returns:
        Copies, for ``load_state_dict(..., strict=False)`` of their network: its readouts are not part of a module.

    Raises:
        TypeError: the module is none of the library's.
        ValueError: the layer, the orientation or the name does not exist; or the module has what their code lacks: a
            fan-out to connections, or a bias other than zero without a bias of theirs to add it to.
    """
    check_choice("to_authors", "orientation", orientation, ORIENTATIONS)
    check_choice("to_authors", "modulator", modulator, MODULATORS)
    names, suffix = _layout(module, layer, "to_authors")
    assert isinstance(module, PlasticModule)
    if module.plasticity.fan_out == "connection":
        raise ValueError(
            "to_authors: module must have a fan-out to neurons or none; got fan_out 'connection'"
        )
    run_forward_pre_hooks("to_authors", module)
    found: dict[str, Tensor] = {}
    for ours, sources in names.items():
        value = getattr(module, ours + suffix, None)
        if value is None:
            continue
        for place, part in enumerate(value.chunk(len(sources)) if value.dim() else [value]):
            name = sources[place]
            if name is not None:
                found[name] = _original(name, part, orientation, ours + suffix in module._single)
            elif (other := names.get("bias_ih", (None,) * 4)[place]) in found:
                found[other] += part
            elif part.any():
                raise ValueError(
                    f"to_authors: {ours + suffix} must be zero: their network has no bias to add it to"
                )
    return {name.replace("h2mod", modulator): value for name, value in found.items()}


def _original(name: str, part: Tensor, orientation: str, single: bool) -> Tensor:
    """Ours in the shape of the authors' tensor; ``single``: one number of a layer, not of its only neuron."""
    columns = name in _ORIENTED and orientation == "columns"
    if single:
        part = part.reshape(1)
    elif part.dim() == 1 and (name in _ORIENTED or name == "modfanout.weight"):
        part = part.view(1, 1, -1) if columns else part.unsqueeze(-1)
    elif name == "h2mod.weight":
        part = part.unsqueeze(0)
    elif columns:
        part = part.mT
    return part.clone(memory_format=torch.contiguous_format)


@overload
def from_torch(module: nn.RNN, plasticity: Plasticity = ..., **options: Any) -> PlasticRNN: ...
@overload
def from_torch(module: nn.LSTM, plasticity: Plasticity = ..., **options: Any) -> PlasticLSTM: ...
@overload
def from_torch(
    module: nn.RNNCell, plasticity: Plasticity = ..., **options: Any
) -> PlasticRNNCell: ...
@overload
def from_torch(
    module: nn.LSTMCell, plasticity: Plasticity = ..., **options: Any
) -> PlasticLSTMCell: ...
@overload
def from_torch(module: nn.GRU, plasticity: Plasticity = ..., **options: Any) -> PlasticGRU: ...
@overload
def from_torch(
    module: nn.GRUCell, plasticity: Plasticity = ..., **options: Any
) -> PlasticGRUCell: ...
def from_torch(
    module: nn.Module, plasticity: Plasticity = Plasticity(), **options: Any
) -> nn.Module:
    """A plastic network with the weights of a ``torch.nn.RNN``, ``LSTM`` or ``GRU``, or a cell with those of one of
    their cells.

    Args:
        module: one direction, without a projection.
        plasticity: the rule of the new network; its parameters start as always. With ``alpha_init=0`` the network
            computes what ``module`` does until it is trained.
        options: further options of the plastic module, such as ``post`` or ``backend``.

    Returns:
        A :class:`~plastikern.PlasticRNN`, :class:`~plastikern.PlasticLSTM` or :class:`~plastikern.PlasticGRU`, or the
        cell; its tensors are copies of those that a call of ``module`` now computes with, where they are pruned or
        parametrized, too.

    Raises:
        TypeError: any other module.
        ValueError: a bidirectional one, or one with ``proj_size``.
    """
    kind = next((ours for theirs, ours in _TWINS.items() if isinstance(module, theirs)), None)
    if kind is None:
        expected = ", ".join(theirs.__name__ for theirs in _TWINS)
        raise TypeError(
            f"from_torch: module must be one of torch.nn's {expected}; got {type(module).__name__}"
        )
    for name in ("bidirectional", "proj_size"):
        if getattr(module, name, None):
            raise ValueError(f"from_torch: module must have no {name}; got {getattr(module, name)}")
    if isinstance(module, (nn.RNN, nn.RNNCell)):
        options["nonlinearity"] = module.nonlinearity
    return _transferred("from_torch", module, kind, plasticity=plasticity, **options)


@overload
def to_torch(module: PlasticRNN) -> nn.RNN: ...
@overload
def to_torch(module: PlasticLSTM) -> nn.LSTM: ...
@overload
def to_torch(module: PlasticRNNCell) -> nn.RNNCell: ...
@overload
def to_torch(module: PlasticLSTMCell) -> nn.LSTMCell: ...
@overload
def to_torch(module: PlasticGRU) -> nn.GRU: ...
@overload
def to_torch(module: PlasticGRUCell) -> nn.GRUCell: ...
def to_torch(module: nn.Module) -> nn.Module:
    """The baseline weights of a plastic network as a ``torch.nn.RNN``, ``LSTM`` or ``GRU``, or of a cell as theirs.

    What is plastic is left out. Weights that are pruned or parametrized are those that a call now computes with.

    Raises:
        TypeError: any other module.
        ValueError: a network without input layer, or with a nonlinearity that ``torch.nn.RNN`` does not have.
    """
    kind = next((theirs for theirs, ours in _TWINS.items() if isinstance(module, ours)), None)
    if kind is None:
        expected = ", ".join(ours.__name__ for ours in _TWINS.values())
        raise TypeError(f"to_torch: module must be one of {expected}; got {type(module).__name__}")
    if module.input_size is None:
        raise ValueError("to_torch: module must have an input layer; got input_size None")
    if not isinstance(module, (PlasticRNN, PlasticRNNCell)):
        return _transferred("to_torch", module, kind)
    check_choice("to_torch", "nonlinearity", module.nonlinearity, ("tanh", "relu"))
    return _transferred("to_torch", module, kind, nonlinearity=module.nonlinearity)


_TWINS: dict[type[nn.Module], type[PlasticModule]] = {
    nn.RNN: PlasticRNN,
    nn.LSTM: PlasticLSTM,
    nn.RNNCell: PlasticRNNCell,
    nn.LSTMCell: PlasticLSTMCell,
    nn.GRU: PlasticGRU,
    nn.GRUCell: PlasticGRUCell,
}


@torch.no_grad()
def _transferred(owner: str, module: Any, kind: type[nn.Module], **options: Any) -> Any:
    """A module of that kind with the sizes, the mode and the weights of another, as a call of it computes them."""
    run_forward_pre_hooks(owner, module)
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout")
    first = next(module.parameters())
    sizes = {name: getattr(module, name) for name in names if hasattr(module, name)}
    twin = kind(**sizes, **options, device=first.device, dtype=first.dtype).train(module.training)
    for each in (module, twin):
        rule = getattr(each, "_rule", None)
        if rule is not None and "w" not in rule.rule.taken:
            raise ValueError(
                f"{owner}: the rule {rule.rule.name} reads no weights w, so that recurrent ones have no place"
            )
    weights = {
        name: getattr(module, name)
        for name in twin.state_dict()
        if name.startswith(("weight", "bias"))
    }
    twin.load_state_dict({**twin.state_dict(), **weights})
    return twin


def _layout(module: Any, layer: int, owner: str) -> tuple[dict[str, tuple[str | None, ...]], str]:
    """Names of a module's parameters in the authors' code, and the suffix of the layer."""
    if isinstance(module, PlasticModule) and module._rule is not None:
        raise TypeError(
            f"{owner}: module must have a Plasticity, as the authors' code has; got the rule "
            f"{module._rule.rule.name}"
        )
    for kinds, names in _NAMES:
        if isinstance(module, kinds):
            count = module.num_layers if isinstance(module, (PlasticRNN, PlasticLSTM)) else 1
            if not isinstance(layer, int) or not 0 <= layer < count:
                raise ValueError(f"{owner}: layer must lie from 0 to {count - 1}; got {layer!r}")
            return names, f"_l{layer}" if isinstance(module, (PlasticRNN, PlasticLSTM)) else ""
    raise TypeError(
        f"{owner}: module must be a plastic RNN, LSTM or linear layer; got {type(module).__name__}"
    )


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
            hint = (
                f", which is one coefficient per {made}"
                if made != GRANULARITIES[::-1][0 if part.shape == (1,) else part.dim()]
                else ""
            )
        got = tuple(value.shape)
        raise ValueError(
            f"from_authors: {name} must have shape {tuple(expected)} for this module; got {got}{hint}"
        )
    return (value.mT if turned else value).to(part)
