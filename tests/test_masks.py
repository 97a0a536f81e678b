"""Frozen steps, recurrent dropout and zoneout: by masks, the same forward and backward."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from conftest import BACKENDS, close, needs_native, random
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import plastikern
from plastikern import (
    PlasticGRU,
    PlasticGRUCell,
    Plasticity,
    PlasticLinear,
    PlasticLinearCell,
    PlasticLSTM,
    PlasticLSTMCell,
    PlasticRNN,
    PlasticRNNCell,
    Readout,
)
from plastikern.nn import dropout_mask, zoneout_mask

T, B, FEATURES, N = 7, 3, 2, 5
DOUBLE: dict[str, Any] = {"dtype": torch.float64}
CLIP = Plasticity(constraint="clip", clip=0.4, alpha_init=0.7, eta_init=0.4)
FROZEN = torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.5
Value = Any


@plastikern.rule(H="synapse", theta="post", signals={"m": "element"})
def sliding(H: Value, theta: Value, x: Value, y: Value, eta: Value, m: Value) -> Value:
    return H + m * eta * x * y * (y - theta), theta + 0.3 * (y * y - theta)


def written_out(
    module: Any, input: Tensor, frozen: Tensor, dropout: Tensor, zoneout: Any
) -> tuple[Tensor, ...]:
    """One layer with the constraint clip, in plain PyTorch."""
    lstm = isinstance(module, PlasticLSTM)
    h, c, H = (input.new_zeros(shape) for shape in ((B, N), (B, N), (B, N, N)))
    outputs = []
    for t in range(T):
        x = h * dropout
        driven, recurrent = input[t] @ module.weight_ih_l0.T + module.bias_ih_l0, module.bias_hh_l0
        sums = driven + recurrent
        plastic = torch.einsum("boi,bi->bo", module.alpha_l0 * H, x)
        if lstm:
            gates = (sums + x @ module.weight_hh_l0.T).chunk(4, 1)
            y = torch.tanh(gates[2] + plastic)
            after = torch.sigmoid(gates[1]) * c + torch.sigmoid(gates[0]) * y
            new = torch.sigmoid(gates[3]) * torch.tanh(after)
            kept = [mask[t].double() for mask in zoneout]
            h, c = kept[0] * h + (1 - kept[0]) * new, kept[1] * c + (1 - kept[1]) * after
        elif isinstance(module, PlasticGRU):
            (r, z, n), (hr, hz, hn) = (
                each.chunk(3, 1) for each in (driven, x @ module.weight_hh_l0.T + recurrent)
            )
            y = torch.tanh(n + torch.sigmoid(r + hr) * (hn + plastic))
            z = torch.sigmoid(z + hz)
            kept = [zoneout[t].double()]
            h = kept[0] * h + (1 - kept[0]) * ((1 - z) * y + z * h)
        else:
            kept = [zoneout[t].double()]
            h = kept[0] * h + (1 - kept[0]) * torch.tanh(sums + x @ module.weight_hh_l0.T + plastic)
            y = h
        changed = (H + module.eta_l0 * y.unsqueeze(2) * x.unsqueeze(1)).clamp(-0.4, 0.4)
        H = torch.where(frozen[t].view(-1, 1, 1), H, changed)
        outputs.append(h)
    return torch.stack(outputs), h, *([c] if lstm else []), H


def gradients(found: Any, module: nn.Module, *leaves: Tensor) -> list[Tensor]:
    """Of a sum of the tensors, each weighted by its place."""
    loss = sum((x * torch.arange(x.numel()).view(x.shape).cos()).sum() for x in found)
    return [*torch.autograd.grad(loss, [*module.parameters(), *leaves])]


def masks(kind: Any, share: bool = False) -> tuple[Tensor, Any]:
    generator = torch.Generator().manual_seed(5)
    dropout = dropout_mask(0.4, (1, B, N), generator=generator, **DOUBLE)
    pair = [zoneout_mask(0.3, (1, T, B, N), generator=generator) for _ in range(2)]
    if share:
        pair = [torch.full((1, T, B, N), p, **DOUBLE) for p in (0.3, 0.1)]
    return dropout, (tuple(pair) if kind is PlasticLSTM else pair[0])


def of_layer(zoneout: Any) -> Any:
    return zoneout[0] if isinstance(zoneout, Tensor) else [mask[0] for mask in zoneout]


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM, PlasticGRU])
def test_all_masks_together_are_what_the_papers_say(kind: Any, share: bool) -> None:
    module = kind(FEATURES, N, plasticity=CLIP, **DOUBLE)
    input = random(T, B, FEATURES).requires_grad_()
    dropout, zoneout = masks(kind, share)
    output, state = module(input, frozen=FROZEN, recurrent_dropout=dropout, zoneout=zoneout)
    expected = written_out(module, input, FROZEN, dropout[0], of_layer(zoneout))
    found = (output, *(tensor[0] for tensor in state))
    close(found, expected)
    close(gradients(found, module, input), gradients(expected, module, input))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM, PlasticGRU])
def test_frozen_steps_are_what_they_are_on_every_backend(kind: Any, backend: str) -> None:
    module = kind(FEATURES, N, plasticity=CLIP, backend=backend, **DOUBLE)
    input = random(T, B, FEATURES).requires_grad_()
    output, state = module(input, frozen=FROZEN)
    nothing = torch.zeros(T, B, N)
    kept = [nothing, nothing] if kind is PlasticLSTM else nothing
    expected = written_out(module, input, FROZEN, torch.ones(B, N), kept)
    found = (output, *(tensor[0] for tensor in state))
    close(found, expected)
    close(gradients(found, module, input), gradients(expected, module, input))


@pytest.mark.parametrize(
    "backend", ["reference", pytest.param("cpu", marks=[needs_native, pytest.mark.slow])]
)
def test_recurrent_dropout_of_a_simple_network_is_what_it_is_on_every_backend(backend: str) -> None:
    module = PlasticRNN(FEATURES, N, plasticity=CLIP, backend=backend, **DOUBLE)
    input = random(T, B, FEATURES).requires_grad_()
    dropout, _ = masks(PlasticRNN)
    output, state = module(input, recurrent_dropout=dropout)
    never, nothing = torch.zeros_like(FROZEN), torch.zeros(T, B, N)
    expected = written_out(module, input, never, dropout[0], nothing)
    found = (output, *(tensor[0] for tensor in state))
    close(found, expected)
    close(gradients(found, module, input), gradients(expected, module, input))


def by_steps(cell: Any, input: Tensor, frozen: Tensor, begins: Tensor, ends: Tensor) -> Any:
    """The same by single steps of a cell, whose traces are put back where they are frozen."""
    state, outputs = None, []
    for t in range(len(input)):
        if state is not None:
            state = state.reset(begins[t])
        before = state
        output = cell(input[t], state)
        if not isinstance(cell, PlasticLinearCell):
            output = output.hidden, output
        output, state = output
        if before is None:
            before = type(state)(*(torch.zeros_like(tensor) for tensor in state))
        kept = [
            torch.where(
                (ends[t] | (frozen[t] & (name not in ("hidden", "cell")))).view(-1, *(1,) * (new.dim() - 1)), old, new
            )
            for name, old, new in zip(state._asdict(), before, state, strict=True)
        ]  # fmt: skip
        state = type(state)(*kept)
        outputs.append(torch.where(ends[t].unsqueeze(1), 0, output))
    return torch.stack(outputs), state


OPTIONS = [
    {"rule": rule, "constraint": constraint, "modulation": modulation, "fan_out": fan_out, "modulator_input": source}
    for (rule, constraint), (modulation, fan_out, source) in product(
        [("hebb", "decay"), ("hebb", "clip"), ("hebb", "soft_clip"), ("hebb", "clip_on_read"), ("oja", "none")],
        [("none", "none", "hidden"), ("simple", "none", "previous_hidden"), ("simple", "neuron", "hidden"),
         ("retroactive", "connection", "hidden")],
    )
]  # fmt: skip


def same_by_steps(kind: Any, cell: Any, options: dict[str, Any], half: bool, backend: str) -> None:
    if kind is PlasticLinear and options["modulator_input"] != "hidden":
        options = {**options, "modulator_input": "hidden"}
    rule = Plasticity(
        **options,
        alpha="neuron",
        eta="connection" if half else "layer",
        eta_init=0.3,
        alpha_init=0.5,
    )
    half = half and options["modulation"] != "none"
    governed = torch.arange(N) % 2 == 0 if half else None
    torch.manual_seed(0)
    made = {"plasticity": rule, "modulated": governed, **DOUBLE}
    one, module = (
        cell(FEATURES, N, backend="reference", **made),
        kind(FEATURES, N, backend=backend, **made),
    )
    suffix = "" if kind is PlasticLinear else "_l0"
    for name, parameter in one.named_parameters():
        module.get_parameter(name + suffix).data.copy_(parameter.data)
    input, begins = random(T, B, FEATURES), torch.zeros(T, B, dtype=torch.bool)
    begins[3, 1] = begins[5, 2] = True
    lengths = torch.tensor([T, 6, 4])
    ends = torch.arange(T).unsqueeze(1) >= lengths
    begins &= ~ends
    leaf = input.clone().requires_grad_()
    output, state = module(leaf, lengths=lengths, reset=begins, frozen=FROZEN)
    other = input.clone().requires_grad_()
    expected, last = by_steps(one, other, FROZEN, begins, ends)
    state = state if kind is PlasticLinear else [tensor[0] for tensor in state]
    found, wanted = (output, *state), (expected, *last)
    close(found, wanted)
    ours, theirs = gradients(found, module, leaf), gradients(wanted, one, other)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


PAIRS = [
    (PlasticRNN, PlasticRNNCell),
    (PlasticLSTM, PlasticLSTMCell),
    (PlasticGRU, PlasticGRUCell),
    (PlasticLinear, PlasticLinearCell),
]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))
@pytest.mark.parametrize("kind, cell", PAIRS)
def test_frozen_steps_lengths_and_resets_go_together_under_every_rule(
    kind: Any, cell: Any, options: dict[str, Any], half: bool
) -> None:
    same_by_steps(kind, cell, options, half, "reference")


@pytest.mark.slow
@needs_native
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))
@pytest.mark.parametrize("kind, cell", PAIRS)
def test_frozen_steps_are_the_same_on_kernels_under_every_rule(
    kind: Any, cell: Any, options: dict[str, Any]
) -> None:
    same_by_steps(kind, cell, options, True, "cpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frozen_trace_keeps_its_bits_also_beyond_its_bound(backend: str) -> None:
    module = PlasticRNN(FEATURES, N, plasticity=CLIP, backend=backend, **DOUBLE)
    _, first = module(random(T, B, FEATURES))
    first = first._replace(trace=3 * random(1, B, N, N))
    output, last = module(random(T, B, FEATURES), first, frozen=torch.ones(T, B, dtype=torch.bool))
    assert torch.equal(last.trace, first.trace)
    assert not torch.equal(last.hidden, first.hidden) and output.any()


def test_rules_of_ones_own_are_frozen_with_all_their_states() -> None:
    use = sliding.use(readouts={"m": Readout()}, initial={"theta": 0.5})
    module = PlasticRNN(FEATURES, N, 2, plasticity=use, backend="reference", **DOUBLE)
    input = random(T, B, FEATURES)
    _, middle = module(input[:4])
    _, frozen = module(input, frozen=torch.arange(T).unsqueeze(1).expand(T, B) >= 4)
    assert torch.equal(frozen.H[0], middle.H[0]) and torch.equal(frozen.theta, middle.theta)
    assert not torch.equal(frozen.hidden, middle.hidden)


def test_layouts_packed_sequences_and_cells_take_masks() -> None:
    module = PlasticRNN(FEATURES, N, 2, plasticity=CLIP, backend="reference", **DOUBLE)
    first = PlasticRNN(
        FEATURES, N, 2, batch_first=True, plasticity=CLIP, backend="reference", **DOUBLE
    )
    first.load_state_dict(module.state_dict())
    input, dropout = random(T, B, FEATURES), dropout_mask(0.5, (2, B, N), **DOUBLE)
    zoneout = zoneout_mask(0.5, (2, T, B, N))
    lengths = torch.tensor([T, 2, 5])
    given: dict[str, Any] = {"recurrent_dropout": dropout, "zoneout": zoneout, "frozen": FROZEN}
    output, state = module(input, lengths=lengths, **given)
    turned = given | {"zoneout": zoneout.transpose(1, 2), "frozen": FROZEN.T}
    close(first(input.transpose(0, 1), lengths=lengths, **turned)[0].transpose(0, 1), output)
    packed, last = module(pack_padded_sequence(input, lengths, enforce_sorted=False), **given)
    close(nn.utils.rnn.pad_packed_sequence(packed)[0], output)
    close(last, state)
    alone = {
        "recurrent_dropout": dropout[:, 1],
        "zoneout": zoneout[:, :2, 1],
        "frozen": FROZEN[:2, 1],
    }
    close(module(input[:2, 1], **alone)[0], output[:2, 1])
    cell = PlasticRNNCell(FEATURES, N, plasticity=CLIP, backend="reference", **DOUBLE)
    before = cell(input[0])
    after = cell(input[1], before, frozen=torch.tensor([True, False, True]))
    changed = (after.trace != before.trace).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]


def test_masks_follow_from_a_seed() -> None:
    drawn = [
        dropout_mask(0.25, (2, 50, 40), generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    assert torch.equal(*drawn)
    torch.testing.assert_close(drawn[0].unique(), torch.tensor([0, 4 / 3]))
    assert abs(float((drawn[0] == 0).float().mean()) - 0.25) < 0.02
    drawn = [
        zoneout_mask(0.25, (2, 50, 40), generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    assert torch.equal(*drawn) and abs(float(drawn[0].float().mean()) - 0.25) < 0.02
    for make, p in ((dropout_mask, 1.0), (zoneout_mask, -0.1)):
        with pytest.raises(ValueError, match=f"^{make.__name__}: p must be from 0 to"):
            make(p, (2, 3))


@needs_native
def test_what_kernels_do_not_have_is_refused_by_name_and_else_served_by_the_reference() -> None:
    input, state = torch.randn(T, B, FEATURES), torch.zeros(1, T, B, N, dtype=torch.bool)
    dropout = torch.ones(1, B, N)
    for module, given, what in (
        (PlasticRNN(FEATURES, N, backend="cpu"), {"zoneout": state}, "zoneout"),
        (PlasticLSTM(FEATURES, N, backend="cpu"), {"zoneout": (state, None)}, "zoneout"),
        (PlasticLSTM(FEATURES, N, backend="cpu"), {"recurrent_dropout": dropout}, "recurrent_dropout of an LSTM"),
    ):  # fmt: skip
        with pytest.raises(
            RuntimeError,
            match=f"backend 'cpu' cannot serve this call: it has no kernels for {what}",
        ):
            module(input, **given)
        module.backend = None
        torch.testing.assert_close(module(input, **given)[0], module(input)[0])


def test_masks_that_do_not_fit_are_refused_in_one_line() -> None:
    rnn, lstm, input = (
        PlasticRNN(FEATURES, N),
        PlasticLSTM(FEATURES, N),
        torch.randn(T, B, FEATURES),
    )
    by_cell = Plasticity(modulation="simple", modulator_input="cell")
    of_candidate = PlasticLSTM(FEATURES, N, plasticity=by_cell)
    for module, given, error, message in (
        (rnn, {"frozen": FROZEN.float()}, TypeError, r"frozen must have dtype torch\.bool"),
        (rnn, {"frozen": FROZEN.T}, ValueError, r"frozen must have shape \(7, 3\); got \(3, 7\)"),
        (rnn, {"frozen": True}, TypeError, "frozen must be a tensor; got bool"),
        (rnn, {"recurrent_dropout": torch.ones(B, N)}, ValueError, r"recurrent_dropout must have shape \(1, 3, 5\)"),
        (rnn, {"zoneout": torch.ones(T, B, N)}, ValueError, r"zoneout must have shape \(1, 7, 3, 5\)"),
        (lstm, {"zoneout": torch.ones(1, T, B, N)}, TypeError, r"zoneout must be masks of activities and cells"),
        (lstm, {"zoneout": (None, torch.ones(T, B, N))}, ValueError, r"zoneout\[1\] must have shape \(1, 7, 3, 5\)"),
        (rnn, {"zoneout": torch.full((1, T, B, N), 1.5)}, ValueError, "zoneout must be from 0 to 1; got another"),
        (rnn, {"zoneout": torch.full((1, T, B, N), torch.nan)}, ValueError, "zoneout must be from 0 to 1; got another"),
        (rnn, {"recurrent_dropout": torch.ones(1, B, N).double()}, TypeError, "recurrent_dropout must have dtype"),
        (of_candidate, {"frozen": FROZEN}, ValueError, "masks with .* need post='cell'; got"),
        (PlasticLinear(FEATURES, N), {"frozen": FROZEN.T}, ValueError, r"frozen must have shape \(7, 3\)"),
    ):  # fmt: skip
        with pytest.raises(error, match=f"^{type(module).__name__}: {message}") as found:
            module(input, **given)
        assert "\n" not in str(found.value)
    whole = PlasticLSTM(FEATURES, N, plasticity=by_cell, post="cell", backend="reference")
    never = torch.zeros_like(FROZEN)
    torch.testing.assert_close(whole(input, frozen=never)[0], whole(input)[0])


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_native)])
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM, PlasticGRU])
def test_a_bound_on_what_is_read_is_served_with_frozen_steps(kind: Any, backend: str) -> None:
    rule = Plasticity(constraint="clip_on_read", alpha_init=0.5, eta_init=0.4, clip=0.3)
    module = kind(FEATURES, N, plasticity=rule, backend=backend, **DOUBLE)
    input = random(T, B, FEATURES).requires_grad_()
    (output, state), (expected_output, last) = (
        module(input, frozen=frozen) for frozen in (torch.zeros_like(FROZEN), None)
    )
    found, expected = (output, *state), (expected_output, *last)
    close(found, expected)
    close(gradients(found, module, input), gradients(expected, module, input))


def test_who_changes_the_output_in_place_means_no_state() -> None:
    module = PlasticGRU(FEATURES, N, **DOUBLE)
    output, state = module(random(T, B, FEATURES), frozen=torch.zeros_like(FROZEN))
    before = state.hidden.clone()
    output.detach().zero_()
    assert torch.equal(state.hidden, before)
