"""Modules in files: one safetensors file holds the tensors and what the module is made with, and nothing that runs."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checks import HALF
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
from .plasticity import Plasticity
from .rules.decorator import Rule
from .rules.uses import Coefficient, Readout, RulePlasticity
from .version import __version__

VERSION = 2
"""Of the files: in those of version 1, parameters of one number had the shape (). What a later version adds to
the options has defaults here, so that older files stay readable."""
KINDS: dict[str, type[PlasticModule]] = {
    kind.__name__: kind
    for kind in (
        PlasticRNN,
        PlasticRNNCell,
        PlasticLSTM,
        PlasticLSTMCell,
        PlasticGRU,
        PlasticGRUCell,
        PlasticLinear,
        PlasticLinearCell,
    )
}
DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64, *HALF)
}
"""Of layers without tensors, by name."""
ELSEWHERE = ("plasticity", "modulated", "backend", "device", "dtype", "bidirectional", "proj_size")
"""Arguments of modules that are not among the saved options: they have their own place, or are the reader's choice."""


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        message = (
            "saved modules need the package safetensors: pip install 'plastikern[safetensors]'"
        )
        raise ImportError(message) from error
    return safetensors


def save(module: PlasticModule, path: str | os.PathLike[str]) -> None:
    """Write a plastic module to a safetensors file, from which :func:`load` makes it anew.

    The tensors are those of ``state_dict()``; the metadata has the kind of module, its arguments and its plasticity
    as JSON. The backend, the device and the mode (training or not) are not saved. The file is put in place as a
    whole: where writing fails, what was there before stays.

    Args:
        module: a module or cell of this library itself, not of a class derived from it, as a parametrized one is.
        path: of the file, conventionally ``*.safetensors``.

    Raises:
        TypeError: any other module; one that holds other tensors, as a pruned one does.
        ImportError: the package safetensors is not installed.
        OSError: the file cannot be written.
    """
    if KINDS.get(type(module).__name__) is not type(module):
        hint = ""
        if isinstance(module, nn.Module) and nn.utils.parametrize.is_parametrized(module):
            hint = "; torch.nn.utils.parametrize.remove_parametrizations makes it one"
        raise TypeError(
            f"save: module must be one of {', '.join(KINDS)}; got {type(module).__name__}{hint}"
        )
    made_with = {
        name: getattr(module, name)
        for name in signature(type(module)).parameters
        if name not in ELSEWHERE
    }
    # A layer's bias is a tensor or None, that of recurrent modules says whether they have some.
    made_with["bias"] = made_with["bias"] is not None and made_with["bias"] is not False
    plasticity = asdict(module.plasticity) if module._rule is None else module._rule.described()
    state = module.state_dict()
    anew: Any = type(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of its arguments the module has been told.
        expected = anew(
            **made_with,
            plasticity=module.plasticity,
            modulated=state.get("modulated"),
            device="meta",
        ).state_dict()
    if others := sorted(expected.keys() ^ state.keys()):
        raise TypeError(
            f"save: module must have the tensors that a {type(module).__name__} is made with; got others: "
            f"{', '.join(others)} (pruning and parametrizations are to be removed before)"
        )
    metadata = {
        "format": "plastikern",
        "version": str(VERSION),
        "plastikern": __version__,
        "module": type(module).__name__,
        "options": json.dumps(made_with),
        "plasticity": json.dumps(plasticity),
    }
    if "_like" in module._buffers:  # There is no tensor that would say it.
        metadata["dtype"] = str(module._like.dtype).removeprefix("torch.")
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    _replace(Path(path), _safetensors().torch.save(tensors, metadata))


def _replace(path: Path, content: bytes) -> None:
    """Put a file in place as a whole, forced to the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _WrongRule(Exception):
    """A file's module needs another rule than the one given."""


def _use_of(described: dict[str, Any], rule: Rule | None) -> RulePlasticity:
    """The rule as the file's module uses it. Its name is shown, never looked up: an import would run what it names."""
    name = described["rule"]
    if not isinstance(rule, Rule):
        raise _WrongRule(f"it was saved under the rule {name}: give that as rule=; got {rule!r}")
    try:
        found = rule.use(
            readouts={n: Readout(**each) for n, each in described["readouts"].items()},
            initial=described["initial"],
            **{n: Coefficient(**each) for n, each in described["coefficients"].items()},
        )
        same = found.digest == described["digest"]
    except (TypeError, ValueError):
        same = False
    if not same:
        raise _WrongRule(
            f"it was saved under the rule {name}, and {rule.name} computes something else, or has been changed since"
        )
    return found


def load(
    path: str | os.PathLike[str],
    *,
    rule: Rule | None = None,
    backend: str | None = None,
    device: Any = None,
) -> PlasticModule:
    """The module that :func:`save` wrote, made anew from the file, in training mode.

    Only tensors and JSON are read: a file from elsewhere brings no code, and only modules of this library are made.

    Args:
        path: of the file.
        rule: of a module under a rule of one's own, that rule, as it was when the file was written.
        backend: a backend by name; by default chosen from the tensors' device.
        device: where the tensors are put; by default the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, it was not written by :func:`save`, or by a later version of the format; ``rule`` is
            missing, or computes something else than the rule that the module was saved with.
        ImportError: the package safetensors is not installed.
    """
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).to(device, copy=True) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"load: {path} is damaged or not a safetensors file: {error}") from error
    if metadata.get("format") != "plastikern":
        raise ValueError(
            f"load: {path} must be a file that plastikern.save wrote; got one without its metadata"
        )
    if metadata.get("version") not in [str(version) for version in range(1, VERSION + 1)]:
        raise ValueError(
            f"load: {path} must have version 1 to {VERSION}; got {metadata.get('version')}, written by plastikern "
            f"{metadata.get('plastikern')}"
        )
    try:
        kind, options = KINDS[metadata["module"]], json.loads(metadata["options"])
        described = json.loads(metadata["plasticity"])
        plasticity = _use_of(described, rule) if "digest" in described else Plasticity(**described)
        if isinstance(plasticity, Plasticity) and rule is not None:
            raise _WrongRule(
                f"its rule is the library's own, so that rule must be None; got {rule!r}"
            )
        # On the device meta nothing is drawn: what follows brings the values, and torch's generator stays as it is.
        module: Any = kind(
            **options,
            plasticity=plasticity,
            modulated=tensors.get("modulated"),
            backend=backend,
            device="meta",
        )
        module.load_state_dict(tensors, assign=True)
        if "_like" in module._buffers:
            module._like = torch.empty(0, device=device, dtype=DTYPES[metadata["dtype"]])
    except _WrongRule as error:
        raise ValueError(f"load: {path}: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"load: {path} does not describe a module of this library: {error}"
        ) from error
    return module
