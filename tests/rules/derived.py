"""What is derived of a rule, and what torch's autograd finds for the same function."""

from __future__ import annotations

import torch
from torch import Tensor

from plastikern.rules.adjoint import adjoint, regrouped
from plastikern.rules.symbols import AXES, KINDS, Symbol, leaf

from .random_rules import SIZES, RandomRule


def derived(rule: RandomRule) -> dict[str, Symbol]:
    """Next states, and the gradient ``grad_of_NAME`` of every leaf from those of the next states."""
    leaves = {name: leaf(name, kind) for name, kind in rule.kinds.items()}
    after = rule.function(leaves)
    given = [(after[name], leaf(f"grad_{name}", "synapse")) for name in rule.states]
    grads = adjoint(given, leaves.values())
    found = {f"next_{name}": value for name, value in after.items()}
    found |= {f"grad_of_{symbol.payload}": grad for symbol, grad in grads.items()}
    return regrouped(found)


def given_to(rule: RandomRule, seed: int) -> dict[str, Tensor]:
    """Leaves, and gradients of the next states."""
    generator = torch.Generator().manual_seed(seed)
    leaves = rule.leaves(generator)
    shape = tuple(SIZES.values())
    for name in rule.states:
        leaves[f"grad_{name}"] = torch.randn(shape, generator=generator, dtype=torch.float64)
    sizes = {axis: torch.tensor(float(size), dtype=torch.float64) for axis, size in SIZES.items()}
    return leaves | {"pre_count": sizes["pre"], "post_count": sizes["post"]}


def by_autograd(rule: RandomRule, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same as :func:`derived`, of each element of the batch, by torch."""
    shape = tuple(SIZES.values())
    own = {}
    for name, kind in rule.kinds.items():
        # A coefficient has one value here for each element, so that its gradients stay apart.
        value = values[name]
        if "batch" not in KINDS[kind]:
            value = value.expand(SIZES["batch"], *value.shape[1:]).clone()
        own[name] = value.clone().requires_grad_()
    after = {name: value.expand(shape) for name, value in rule.function(own).items()}
    grads = torch.autograd.grad(
        [after[name] for name in rule.states], [*own.values()],
        [values[f"grad_{name}"] for name in rule.states], allow_unused=True,
    )  # fmt: skip
    found = {f"next_{name}": value.detach() for name, value in after.items()}
    for name, grad in zip(own, grads, strict=True):
        found[f"grad_of_{name}"] = torch.zeros_like(own[name]) if grad is None else grad
    assert tuple(SIZES) == AXES
    return found
