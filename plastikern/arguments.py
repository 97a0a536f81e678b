"""Checks of one call: every tensor against what drives the network, and what is there against what the rule needs."""

from __future__ import annotations

from typing import Any

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
from .network import Connection, Inputs, Modulator, State
from .plasticity import Plasticity, granular_shape
from .program import Program, modulator_inputs


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
    program: Program,
    inputs: Inputs,
    state: State,
    connection: Connection,
    layout: tuple[str, ...],
    reset_state: State | None = None,
) -> None:
    """Every tensor against the drive, and what is there against what the plasticity asks for."""
    drive, features, clamp = inputs
    plasticity, gates = program.plasticity, program.gates
    check_floating(name, "drive", drive, layout)
    batch, posts = drive.shape[layout.index("B")], drive.shape[-1]
    if features is None:
        if posts % gates:
            raise ValueError(
                f"{name}: drive must have four values per neuron; got shape {tuple(drive.shape)}"
            )
        pres = posts = posts // gates
        rows = posts * program.weights
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
    _check_connection(name, connection, program, rows, pres, drive, dtypes)
    shapes = {
        "hidden": ((batch, posts), dtypes),
        "cell": ((batch, posts), dtypes),
        "trace": ((batch, posts, pres), dtypes[-1:]),
        "eligibility": ((batch, posts, pres), dtypes[-1:]),
    }
    for prefix, given in (("", state), ("reset_state: ", reset_state)):
        for argument, tensor in () if given is None else given._asdict().items():
            if tensor is not None:
                shape, allowed = shapes[argument]
                check_tensor(name, prefix + argument, tensor, shape, drive, *allowed)
    if state.eligibility is not None and plasticity.modulation != "retroactive":
        raise ValueError(
            f"{name}: eligibility is for retroactive modulation; got modulation {plasticity.modulation!r}"
        )
    if clamp is not None:
        check_tensor(name, "clamp", clamp, tuple(drive.shape), drive, torch.bool)


def reset_state_of(name: str, program: Program, reset: object, given: object) -> State:
    """What a reset gives, by name, from a tuple as the function returns it."""
    if reset is None:
        raise ValueError(f"{name}: reset_state is for calls with reset; got reset=None")
    if isinstance(given, State):
        return given
    fields = {
        "rnn": ("hidden", "trace"),
        "lstm": ("hidden", "cell", "trace"),
        "gru": ("hidden", "trace"),
        "linear": ("trace",),
    }[program.kind]
    fields += ("eligibility",) if program.retroactive else ()
    if not isinstance(given, (tuple, list)) or len(given) != len(fields):
        got = f"{len(given)} of them" if isinstance(given, (tuple, list)) else described(given)
        raise TypeError(
            f"{name}: reset_state must be a tuple of tensors ({', '.join(fields)}), each may be None; got {got}"
        )
    return State(**{**dict.fromkeys(State._fields), **dict(zip(fields, given, strict=True))})


def dtypes_beside(activities: Tensor) -> tuple[torch.dtype, ...]:
    """What the tensors of a call with such activities may have; the last one is that of its traces."""
    return (activities.dtype, torch.float32) if activities.dtype in HALF else (activities.dtype,)


def _check_connection(
    name: str, connection: Connection, program: Program, rows: int, pres: int, like: Tensor,
    dtypes: tuple[torch.dtype, ...],
) -> None:  # fmt: skip
    plasticity, posts = program.plasticity, rows // program.weights
    weight, alpha, eta, eligibility_eta, modulator = connection
    modulated = getattr(modulator, "modulated", None)
    checks: list[tuple[str, Any, str | tuple[int, ...], bool | None]] = [
        ("weight", weight, (rows, pres), None),
        ("alpha", alpha, plasticity.alpha, None),
        ("eta", eta, plasticity.eta, plasticity.modulation == "none" or modulated is not None),
        ("eligibility_eta", eligibility_eta, plasticity.eta, program.retroactive),
    ]
    _check_wanted(name, "modulator", modulator, plasticity.modulation != "none", plasticity)
    if modulator is not None:
        if not isinstance(modulator, Modulator):
            raise TypeError(
                f"{name}: modulator must be a Modulator; got {type(modulator).__name__}"
            )
        inputs = modulator_inputs(program.kind)
        check_choice(name, "modulator_input", plasticity.modulator_input, inputs)
        checks += [
            ("modulator.weight", modulator.weight, (posts,), None),
            ("modulator.bias", modulator.bias, (), None),
        ]
        for part in ("fan_out_weight", "fan_out_bias"):
            fans_out, tensor = plasticity.fan_out != "none", getattr(modulator, part)
            checks.append((f"modulator.{part}", tensor, plasticity.fan_out, fans_out))
    for argument, tensor, shape, wanted in checks:
        if wanted is not None:
            _check_wanted(name, argument, tensor, wanted, plasticity)
        if tensor is not None or wanted is None:
            if isinstance(shape, str):
                shape = granular_shape(shape, posts, pres)
            check_tensor(name, argument, tensor, shape or _of_one(tensor), like, *dtypes)
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
