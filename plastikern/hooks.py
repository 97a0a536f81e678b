"""A module's parameters as a call of it finds them, where they are read or written outside of one.

Parametrizations compute a parameter whenever it is read; pruning, and norms of the older kind, in forward pre-hooks.
"""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def run_forward_pre_hooks(owner: str, module: nn.Module) -> None:
    """Let a module's forward pre-hooks make its parameters, as a call would do.

    They are given an input of no steps, and no elements: (0, features).

    Raises:
        ValueError: a hook changes the input. Nobody would see what it makes of the inputs that follow.
    """
    if not module._forward_pre_hooks:
        return
    names = ("in_features", "input_size", "hidden_size")
    features = next(size for name in names if (size := getattr(module, name, None)) is not None)
    first = next(chain(module.parameters(), module.buffers()))
    input = torch.empty(0, features, dtype=first.dtype, device=first.device)
    for number, hook in list(module._forward_pre_hooks.items()):
        found: Any = _run(hook, number in module._forward_pre_hooks_with_kwargs, module, (input,))
        if number in module._forward_pre_hooks_with_kwargs and found is not None:
            found = found[0]
        if found is not None and not any(part is input for part in (found, *found)):
            raise ValueError(
                f"{owner}: forward pre-hooks must leave the input as it is; got another from {_name(hook)}"
            )


def run_forward_hooks(owner: str, module: nn.Module, input: Tensor, output: object) -> None:
    """Show a module's forward hooks an input and what the module makes of it.

    Raises:
        ValueError: a hook changes the output.
    """
    for number, hook in list(module._forward_hooks.items()):
        found = _run(hook, number in module._forward_hooks_with_kwargs, module, (input,), output)
        if found is not None and found is not output:
            raise ValueError(
                f"{owner}: forward hooks must leave the output as it is; got another from {_name(hook)}"
            )


def _run(
    hook: Any, with_kwargs: bool, module: nn.Module, arguments: tuple[Tensor], *output: object
) -> Any:
    return hook(module, arguments, *([{}] if with_kwargs else []), *output)


def _name(hook: object) -> str:
    return getattr(hook, "__name__", type(hook).__name__)


def count_flops(namespace: str | None = None) -> None:
    """Says what operators count to torch's counter of operations where that is imported, which imports Triton: those
    that there are from the beginning, and those of a namespace that has been made."""
    if "torch.utils.flop_counter" in sys.modules:
        formulas = import_module("plastikern.flops")
        if namespace is not None:
            formulas.register(namespace)


def held(owner: str, module: nn.Module, name: str) -> Tensor | None:
    """A parameter or buffer that the module itself holds, to be written; None where it has none.

    Raises:
        ValueError: the module computes it from others.
    """
    for tensors in (module._parameters, module._buffers):
        if name in tensors:
            return tensors[name]
    if not hasattr(module, name):
        return None
    raise ValueError(
        f"{owner}: {name} must be a parameter of the module; it is computed by a parametrization or a hook, to be "
        "removed before (torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.prune.remove)"
    )
