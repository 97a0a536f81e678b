"""torch.func: parameters from outside on any backend; vmap and its kind on the reference, refused by name elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import BACKENDS, close, needs_native
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap

from plastikern import (
    Plasticity,
    PlasticLinear,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
)

RULE = Plasticity(constraint="clip", modulation="simple", fan_out="neuron", alpha_init=0.3)
SEQUENCES = (PlasticRNN, PlasticLSTM, PlasticLinear)


def made(kind: Any, backend: str | None) -> Any:
    return kind(3, 4, plasticity=RULE, backend=backend, dtype=torch.float64)


def values(module: Any) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in module.named_parameters()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", SEQUENCES)
def test_functional_call_takes_parameters_from_outside(kind: Any, backend: str) -> None:
    module, other = made(kind, backend), made(kind, backend)
    input = torch.randn(5, 2, 3, dtype=torch.float64)
    given = {name: value.clone().requires_grad_() for name, value in values(other).items()}
    found, expected = functional_call(module, given, (input,)), other(input)
    close((found[0], *found[1]), (expected[0], *expected[1]))
    found[0].square().sum().backward()
    expected[0].square().sum().backward()
    close([value.grad for value in given.values()], [value.grad for value in other.parameters()])
    assert all(value.grad is None for value in module.parameters())


@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize("backend", ["reference", None])
def test_an_ensemble_runs_under_vmap(kind: Any, backend: str | None) -> None:
    members = [made(kind, backend) for _ in range(3)]
    stacked, _ = stack_module_state(members)
    input = torch.randn(5, 2, 3, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], given: Tensor) -> Tensor:
        output, state = functional_call(members[0], parameters, (given,))
        return output.square().sum() + state.trace.sum()

    gradients, losses = vmap(torch.func.grad_and_value(loss), (0, None))(stacked, input)
    for number, member in enumerate(members):
        output, state = member(input)
        value = output.square().sum() + state.trace.sum()
        close(losses[number], value)
        expected = torch.autograd.grad(value, list(member.parameters()))
        close([gradients[name][number] for name, _ in member.named_parameters()], expected)


def test_gradients_of_every_sample_alone() -> None:
    cell = made(PlasticRNNCell, None)
    input, state = (
        torch.randn(6, 3, dtype=torch.float64),
        cell(torch.randn(6, 3, dtype=torch.float64)),
    )
    state = state.detach()

    def loss(parameters: dict[str, Tensor], x: Tensor, hidden: Tensor, trace: Tensor) -> Tensor:
        return functional_call(cell, parameters, (x, (hidden, trace))).trace.square().sum()

    found = vmap(grad(loss), (None, 0, 0, 0))(values(cell), input, state.hidden, state.trace)
    for number in range(6):
        alone = (
            cell(input[number], (state.hidden[number], state.trace[number])).trace.square().sum()
        )
        expected = torch.autograd.grad(alone, list(cell.parameters()), allow_unused=True)
        for (name, parameter), right in zip(cell.named_parameters(), expected, strict=True):
            close(found[name][number], torch.zeros_like(parameter) if right is None else right)


def test_derivatives_of_higher_order_and_forward_mode() -> None:
    cell, input = made(PlasticLSTMCell, None), torch.randn(2, 3, dtype=torch.float64)
    start = torch.randn(2, 4, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        state = cell(x, (start, start, start.unsqueeze(-1) * start.unsqueeze(-2)))
        return state.hidden.square().sum() + state.trace.sum()

    second = hessian(loss)(input).reshape(6, 6)
    close(second, second.mT.contiguous())
    assert second.abs().max() > 1e-6
    tangent = torch.randn_like(input)
    close(jvp(loss, (input,), (tangent,))[1], (grad(loss)(input) * tangent).sum())
    close(jacrev(loss)(input), grad(loss)(input))


@needs_native
@pytest.mark.parametrize("kind", SEQUENCES)
def test_a_fused_backend_refuses_transforms_by_name(kind: Any) -> None:
    module, input = made(kind, "cpu"), torch.randn(5, 2, 3, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return module(x)[0].square().sum()

    for call in (vmap(loss, 1), grad(loss), jacrev(loss)):
        with pytest.raises(
            RuntimeError, match=r"backend 'cpu' cannot serve this call: .*vmap.*backend='reference'"
        ):
            call(input)
    output, _ = module(input)
    batch = torch.stack([torch.ones_like(output), torch.zeros_like(output)])
    with pytest.raises(RuntimeError, match=r"vmap.*backend='reference' has"):
        torch.autograd.grad(output, list(module.parameters()), batch, is_grads_batched=True)


@pytest.mark.parametrize(
    "kind", [PlasticRNN, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SEQUENCES[1:])]
)
def test_transforms_are_compiled_with_what_they_transform(kind: Any) -> None:
    member, input = made(kind, None), torch.randn(2, 2, 2, 3, dtype=torch.float64)
    for transformed in (
        vmap(lambda given: member(given)[0]),
        grad(lambda given: member(given[0])[0].sum()),
    ):
        torch.compiler.reset()
        close(
            torch.compile(transformed, fullgraph=True, backend="aot_eager")(input),
            transformed(input),
        )


class Agent(torch.nn.Module):
    """A network that acts: its forward pass is a rollout."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        rollout = self.network.rollout(len(inputs), inputs.shape[1])
        for row in inputs:
            rollout.step(row)
        return rollout.finish(inputs)[0]


@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM])
def test_a_rollout_under_transforms(kind: Any) -> None:
    agent, inputs = Agent(made(kind, None)), torch.randn(5, 2, 3, dtype=torch.float64)
    given = values(agent)
    found = grad(lambda given: functional_call(agent, given, (inputs,)).sum())(given)
    output = agent.network(inputs)[0].sum()
    close(
        list(found.values()),
        torch.autograd.grad(output, list(agent.parameters()), allow_unused=True),
    )
    with pytest.raises(RuntimeError, match=r"rollout: it has no rule for torch.func.vmap"):
        vmap(agent)(inputs.unsqueeze(0))
    with pytest.raises(RuntimeError, match=r"rollout: torch.export takes the network itself"):
        torch.export.export(agent, (inputs,))


@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM])
def test_a_rollout_is_left_out_of_compiled_code_and_learns_all_the_same(kind: Any) -> None:
    agent, inputs = Agent(made(kind, None)), torch.randn(3, 2, 3, dtype=torch.float64)
    torch.compiler.reset()
    output, expected = torch.compile(agent, backend="aot_eager")(inputs), agent.network(inputs)[0]
    close(output, expected)
    parameters = list(agent.parameters())
    found, right = (
        torch.autograd.grad(x.square().sum(), parameters, allow_unused=True)
        for x in (output, expected)
    )
    close(found, right)
    torch.compiler.reset()
    with pytest.raises(
        torch._dynamo.exc.Unsupported, match="a rollout's steps are no single graph"
    ):
        torch.compile(agent, fullgraph=True, backend="aot_eager")(inputs)
