"""Checks of one call: every tensor against what drives the network, and what is there against what the rule needs."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import (
    DTYPES,
    HALF,
    check_choice,
    check_dense,
    check_dtype,
    check_flag,
    check_tensor,
    described,
)
from .network import Connection, Inputs, Modulator, Network, State
from .plasticity import LINEAR_NONLINEARITIES, NONLINEARITIES, POSTS, Plasticity, granular_shape


def activities_of(inputs: Inputs) -> Tensor:
    """Whose dtype is that of the results."""
    return inputs.drive if inputs.features is None else inputs.features


def layout_of(name: str, batch_first: object, last: str) -> tuple[str, ...]:
    """Dimensions of a sequence, the last of them of that name."""
    check_flag(name, "batch_first", batch_first)
    return ("B", "T", last) if batch_first else ("T", "B", last)


def check_floating(name: str, argument: str, tensor: object, layout: tuple[str, ...]) -> None:
    """A dense floating-point tensor of as many dimensions as the layout, with at least one neuron."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise TypeError(
            f"{name}: {argument} must be a floating-point tensor; got {described(tensor)}"
        )
    check_dense(name, argument, tensor)
    check_dtype(name, argument, tensor, DTYPES)
    if tensor.dim() != len(layout):
        raise ValueError(
            f"{name}: {argument} must have shape ({', '.join(layout)}); got {tuple(tensor.shape)}"
        )
    if tensor.shape[-1] == 0:
        raise ValueError(
            f"{name}: {argument} must have at least one neuron; got shape {tuple(tensor.shape)}"
        )


def check_call(
    name: str,
    network: Network,
    inputs: Inputs,
    state: State,
    connection: Connection,
    layout: tuple[str, ...],
) -> None:
    """Every tensor against the drive, and what is there against what the plasticity asks for."""
    drive, features, clamp = inputs
    plasticity, kind = network.plasticity, network.kind
    if not isinstance(plasticity, Plasticity):
        raise TypeError(f"{name}: plasticity must be a Plasticity; got {type(plasticity).__name__}")
    check_choice(
        name,
        "nonlinearity",
        network.nonlinearity,
        LINEAR_NONLINEARITIES if kind == "linear" else NONLINEARITIES,
    )
    if kind == "lstm":
        check_choice(name, "post", network.post, POSTS)
    check_floating(name, "drive", drive, layout)
    batch, posts = drive.shape[layout.index("B")], drive.shape[-1]
    if features is None:
        if posts % (4 if kind == "lstm" else 1):
            raise ValueError(
                f"{name}: drive must have four values per neuron; got shape {tuple(drive.shape)}"
            )
        rows, posts = posts, posts // (4 if kind == "lstm" else 1)
        pres = posts
    else:
        rows, posts, pres = (
            connection.weight.shape[0],
            connection.weight.shape[0],
            features.shape[-1],
        )
        check_tensor(
            name, "drive", drive, (*features.shape[:-1], posts), features, *dtypes_beside(features)
        )
    dtypes = dtypes_beside(activities_of(inputs))
    _check_connection(name, connection, plasticity, kind, rows, posts, pres, drive, dtypes)
    for argument, tensor, shape, allowed in (
        ("hidden", state.hidden, (batch, posts), dtypes),
        ("cell", state.cell, (batch, posts), dtypes),
        ("trace", state.trace, (batch, posts, pres), dtypes[-1:]),
        ("eligibility", state.eligibility, (batch, posts, pres), dtypes[-1:]),
    ):
        if tensor is not None:
            check_tensor(name, argument, tensor, shape, drive, *allowed)
    if state.eligibility is not None and plasticity.modulation != "retroactive":
        raise ValueError(
            f"{name}: eligibility is for retroactive modulation; got modulation {plasticity.modulation!r}"
        )
    if clamp is not None:
        check_tensor(name, "clamp", clamp, tuple(drive.shape), drive, torch.bool)


def dtypes_beside(activities: Tensor) -> tuple[torch.dtype, ...]:
    """What the tensors of a call with such activities may have; the last one is that of its traces."""
    return (activities.dtype, torch.float32) if activities.dtype in HALF else (activities.dtype,)


def _check_connection(
    name: str, connection: Connection, plasticity: Plasticity, kind: str, rows: int, posts: int, pres: int,
    like: Tensor, dtypes: tuple[torch.dtype, ...],
) -> None:  # fmt: skip
    weight, alpha, eta, eligibility_eta, modulator = connection
    check_tensor(name, "weight", weight, (rows, pres), like, *dtypes)
    alpha_shape = granular_shape(plasticity.alpha, posts, pres) or _of_one(alpha)
    check_tensor(name, "alpha", alpha, alpha_shape, like, *dtypes)
    _check_wanted(name, "modulator", modulator, plasticity.modulation != "none", plasticity)
    if modulator is not None and not isinstance(modulator, Modulator):
        raise TypeError(f"{name}: modulator must be a Modulator; got {type(modulator).__name__}")
    modulated = None if modulator is None else modulator.modulated
    _check_wanted(
        name, "eta", eta, plasticity.modulation == "none" or modulated is not None, plasticity
    )
    _check_wanted(
        name, "eligibility_eta", eligibility_eta, plasticity.modulation == "retroactive", plasticity
    )
    rate_shape = granular_shape(plasticity.eta, posts, pres)
    if eta is not None:
        check_tensor(name, "eta", eta, rate_shape or _of_one(eta), like, *dtypes)
    if eligibility_eta is not None:
        shape = rate_shape or _of_one(eligibility_eta)
        check_tensor(name, "eligibility_eta", eligibility_eta, shape, like, *dtypes)
    if modulator is None:
        return
    possible = {"rnn": ("hidden", "previous_hidden"), "lstm": ("hidden", "previous_hidden", "cell")}
    check_choice(
        name, "modulator_input", plasticity.modulator_input, possible.get(kind, ("hidden",))
    )
    check_tensor(name, "modulator.weight", modulator.weight, (posts,), like, *dtypes)
    check_tensor(name, "modulator.bias", modulator.bias, _of_one(modulator.bias), like, *dtypes)
    for argument in ("fan_out_weight", "fan_out_bias"):
        tensor = getattr(modulator, argument)
        _check_wanted(
            name, f"modulator.{argument}", tensor, plasticity.fan_out != "none", plasticity
        )
        if tensor is not None:
            shape = granular_shape(plasticity.fan_out, posts, pres)
            check_tensor(name, f"modulator.{argument}", tensor, shape, like, *dtypes)
    if modulated is not None:
        check_tensor(name, "modulator.modulated", modulated, (posts,), like, torch.bool)


def _of_one(tensor: object) -> tuple[int, ...]:
    """The shape of one number: (1,) where that is what is given."""
    return (1,) if isinstance(tensor, Tensor) and tensor.shape == (1,) else ()


def _check_wanted(
    name: str, argument: str, value: object, wanted: bool, plasticity: Plasticity
) -> None:
    """What the plasticity needs is there, and nothing that it would ignore."""
    if (value is not None) == wanted:
        return
    options = f"modulation {plasticity.modulation!r} and fan_out {plasticity.fan_out!r}"
    if not wanted:
        hint = " where a modulator governs every neuron" if argument == "eta" else ""
        raise ValueError(f"{name}: {argument} must be None{hint} with {options}")
    raise TypeError(
        f"{name}: {argument} must be {'a Modulator' if argument == 'modulator' else 'a tensor'}; got None"
    )
