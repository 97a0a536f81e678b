"""The rival ``jax``: one ``lax.scan`` over the steps, compiled ahead of time for the sequence's length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from .programs import Program
from .workloads import FORWARD, Inputs, Workload

UNROLL = 4


class JaxProgram(Program):
    ahead_of_time = True

    def __init__(
        self, workload: Workload, step: Callable[[Any, Any, Any], Any], unroll: int = 1
    ) -> None:
        self._executables: dict[str, Any] = {}

        def sequence(parameters: Any, state: Any, drives: Any) -> Any:
            def advance(carry: Any, step_drives: Any) -> Any:
                output, carry = step(parameters, carry, step_drives)
                return carry, output

            state, drives = workload.begin(parameters, state, drives)
            return jax.lax.scan(advance, state, drives, unroll=unroll)[1]

        def forward(parameters: Any, state: Any, drives: Any, upstream: Any) -> Any:
            return sequence(parameters, state, drives), ()

        def forward_backward(parameters: Any, state: Any, drives: Any, upstream: Any) -> Any:
            output, pull_back = jax.vjp(lambda p, d: sequence(p, state, d), parameters, drives)
            grad_parameters, grad_drives = pull_back(upstream)
            return output, (grad_drives, grad_parameters)

        self._forward, self._forward_backward = forward, forward_backward

    def place(self, inputs: Inputs) -> Any:
        parameters = {
            name: jnp.asarray(tensor.numpy()) for name, tensor in inputs.parameters.items()
        }
        state, drives = (
            tuple(jnp.asarray(tensor.numpy()) for tensor in of)
            for of in (inputs.state, inputs.drives)
        )
        return parameters, state, drives, jnp.asarray(inputs.upstream.numpy())

    def compile(self, placed: Any, which: str) -> None:
        function = self._forward if which == FORWARD else self._forward_backward
        self._executables[which] = jax.jit(function).lower(*placed).compile()

    def run(self, placed: Any, which: str) -> Any:
        output, gradients = jax.block_until_ready(self._executables[which](*placed))
        if which == FORWARD:
            return output, ()
        drives, parameters = gradients
        return output, (*drives, *(parameters[name] for name in placed[0]))

    def to_torch(self, array: Any) -> Tensor:
        return torch.from_numpy(np.array(array))


def jax_programs(workload: Workload) -> dict[str, Program]:
    """Plain, with the intermediates of a step recomputed in backward, and unrolled; empty without a step for JAX."""
    step = workload.jax_step(jnp)
    if step is None:
        return {}
    return {
        "plain": JaxProgram(workload, step),
        "checkpoint": JaxProgram(workload, jax.checkpoint(step)),
        f"unroll {UNROLL}": JaxProgram(workload, step, unroll=UNROLL),
    }
