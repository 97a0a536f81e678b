"""The definition of every network in plain PyTorch: any device, any dtype, any order of derivative.

The fused backends are tested against these functions in double precision. Shapes are those of
:mod:`plastikern.functional`, which checks the arguments before they come here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .episodes import chosen
from .network import Connection, Inputs, Modulator, State, per_connection
from .plasticity import Plasticity
from .program import Program
from .rules import papers
from .rules.cells import ACTIVITIES, CELLS, PLASTIC

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **ACTIVITIES,
    "softmax": lambda z: torch.softmax(z, -1),
}


def read(trace: Tensor, plasticity: Plasticity) -> Tensor:
    """The trace as the forward pass sees it."""
    read_of = papers.READS.get(plasticity.constraint)
    return trace if read_of is None else read_of(trace, plasticity.clip)


def excitation(
    pre: Tensor, trace: Tensor, connection: Connection, plasticity: Plasticity
) -> Tensor:
    """Sum (w + alpha H) x of paper 1, eq. 1: (B, I) to (B, O)."""
    effective = connection.weight + per_connection(connection.alpha) * read(trace, plasticity)
    return torch.matmul(effective, pre.unsqueeze(-1)).squeeze(-1)


def modulator_signal(source: Tensor, modulator: Modulator, nonlinearity: str) -> Tensor:
    """M (...,) from the modulator's input (..., N)."""
    return ACTIVATIONS[nonlinearity](torch.matmul(source, modulator.weight) + modulator.bias)


def rate_in_force(connection: Connection, plasticity: Plasticity, source: Tensor) -> Tensor:
    """The rate, in a shape that broadcasts against (B, O, I); ``source`` (B, N) is the modulator's input."""
    eta = None if connection.eta is None else per_connection(connection.eta)
    modulator = connection.modulator
    if modulator is None:
        assert eta is not None
        return eta
    rate = modulator_signal(source, modulator, plasticity.modulator_nonlinearity)[:, None, None]
    if modulator.fan_out_weight is not None and modulator.fan_out_bias is not None:
        rate = per_connection(modulator.fan_out_weight) * rate + per_connection(
            modulator.fan_out_bias
        )
    if modulator.modulated is None:
        return rate
    assert eta is not None
    return torch.where(per_connection(modulator.modulated), rate, eta)


def update(
    trace: Tensor,
    eligibility: Tensor | None,
    pre: Tensor,
    post: Tensor,
    rate: Tensor,
    connection: Connection,
    plasticity: Plasticity,
) -> tuple[Tensor, Tensor | None]:
    """Next traces (B, O, I) from the activity before the step, ``pre`` (B, I), and the signal after it, ``post``."""
    rule = plasticity.rule, plasticity.constraint
    signals = pre.unsqueeze(-2), post.unsqueeze(-1), rate
    if eligibility is None:
        return papers.simple(*rule)(trace, *signals, plasticity.clip), None
    assert connection.eligibility_eta is not None
    eta = per_connection(connection.eligibility_eta)
    modulated = None if connection.modulator is None else connection.modulator.modulated
    if modulated is None:
        return papers.retroactive(*rule)(trace, eligibility, *signals, eta, plasticity.clip)
    governed = per_connection(modulated)
    return papers.half(*rule)(trace, eligibility, *signals, eta, governed, plasticity.clip)


def plastic_rnn_step(
    inputs: Inputs, state: State, connection: Connection, program: Program
) -> tuple[Tensor, State]:
    """One step: next activities (B, N) and traces (B, N, N)."""
    hidden, _, trace, eligibility = state
    assert hidden is not None and trace is not None
    plasticity = program.plasticity
    active = ACTIVATIONS[program.nonlinearity](
        inputs.drive + excitation(hidden, trace, connection, plasticity)
    )
    if inputs.clamp is not None:
        active = torch.where(inputs.clamp, inputs.drive, active)
    source = {"hidden": active, "previous_hidden": hidden}[plasticity.modulator_input]
    rate = rate_in_force(connection, plasticity, source)
    return active, State(
        active, None, *update(trace, eligibility, hidden, active, rate, connection, plasticity)
    )


def plastic_gated_step(
    inputs: Inputs, state: State, connection: Connection, program: Program
) -> tuple[Tensor, State]:
    """One step of a network with gates: next activities, and cells of an LSTM, (B, N), and traces (B, N, N). Drive and
    weight hold blocks in the order of the cell's sums."""
    hidden, cell, trace, eligibility = state
    assert hidden is not None and trace is not None
    plasticity, size, of_kind = program.plasticity, hidden.shape[-1], CELLS[program.kind]
    weights = connection.weight.unflatten(0, (of_kind.weights, size))
    sums = [*inputs.drive.unflatten(-1, (len(of_kind.sums), size)).unbind(-2)]
    recurrent = excitation(hidden, trace, connection._replace(weight=weights[PLASTIC]), plasticity)
    for k, weight in enumerate(weights):
        sums[k] = sums[k] + (recurrent if k == PLASTIC else hidden @ weight.mT)
    neuron = of_kind.step(*sums, hidden if cell is None else cell)
    active, cell = neuron["hidden"], neuron.get("cell")
    post = {"recurrent": recurrent, **neuron}[program.post]
    source = {"hidden": active, "previous_hidden": hidden, "cell": cell}[plasticity.modulator_input]
    assert source is not None
    rate = rate_in_force(connection, plasticity, source)
    return active, State(
        active, cell, *update(trace, eligibility, hidden, post, rate, connection, plasticity)
    )


def plastic_linear_step(
    inputs: Inputs, state: State, connection: Connection, program: Program
) -> tuple[Tensor, State]:
    """One step: outputs (B, O) and next traces (B, O, I)."""
    assert inputs.features is not None and state.trace is not None
    plasticity = program.plasticity
    excited = excitation(inputs.features, state.trace, connection, plasticity)
    active = ACTIVATIONS[program.nonlinearity](inputs.drive + excited)
    rate = rate_in_force(connection, plasticity, active)
    traces = update(
        state.trace, state.eligibility, inputs.features, active, rate, connection, plasticity
    )
    return active, State(None, None, *traces)


STEPS = {
    "rnn": plastic_rnn_step, "linear": plastic_linear_step, **dict.fromkeys(CELLS, plastic_gated_step)
}  # fmt: skip


def step(
    inputs: Inputs, state: State, connection: Connection, program: Program
) -> tuple[Tensor, State]:
    """One step of any network: its output and next state."""
    return STEPS[program.kind](inputs, state, connection, program)


def sequence(
    inputs: Inputs, state: State, connection: Connection, program: Program, lengths: Tensor | None,
    begins: Tensor | None = None, fresh: State | None = None,
) -> tuple[Tensor, State]:  # fmt: skip
    """All steps of inputs (T, B, ...): outputs (T, B, N) and last state.

    An element that has ended keeps its state, and its outputs are 0. Where ``begins`` (T, B) says so, the state before
    the step is ``fresh``, or zero.
    """
    outputs = []
    for t in range(inputs.drive.shape[0]):
        if begins is not None:
            others: State = fresh or State(None, None, None, None)
            state = State(*(chosen(begins[t], *of) for of in zip(others, state, strict=True)))
        here = Inputs(*(None if tensor is None else tensor[t] for tensor in inputs))  # type: ignore[arg-type]
        if lengths is None:
            output, state = step(here, state, connection, program)
        else:
            running = t < lengths
            # What lies beyond an element's end, be it NaN, must not reach a gradient.
            here = Inputs(*(_where(running, tensor, 0) for tensor in here))  # type: ignore[arg-type]
            output, following = step(here, state, connection, program)
            output = torch.where(running.unsqueeze(-1), output, 0)
            state = State(
                *(_where(running, new, old) for new, old in zip(following, state, strict=True))
            )
        outputs.append(output)
    if outputs:
        return torch.stack(outputs), state
    neurons = connection.weight.shape[-1 if program.kind != "linear" else 0]
    return inputs.drive[..., :neurons].clone(), state


def _where(running: Tensor, tensor: Tensor | None, other: Tensor | float | None) -> Tensor | None:
    """The tensor (B, ...) for elements that are running, ``other`` for those that have ended."""
    if tensor is None or other is None or tensor.dtype == torch.bool:
        return tensor
    return torch.where(running.view(-1, *(1,) * (tensor.dim() - 1)), tensor, other)
