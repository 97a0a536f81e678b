"""A rule of one's own goes where a Plasticity goes."""

from __future__ import annotations

import copy
import pickle
import re
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree

import plastikern
from plastikern import (
    Coefficient,
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
    RulePlasticity,
    rule,
)
from plastikern.rules import cuda, running
from plastikern.rules.compiling import CompilationError

STEPS, BATCH, FEATURES, NEURONS = 6, 3, 4, 5
DOUBLE = {"dtype": torch.float64}
Value = Any


@rule(H="synapse")
def hebb(H: Value, x: Value, y: Value, eta: Value) -> Value:
    return (1 - eta) * H + eta * y * x


@rule(H="synapse", signals={"m": "element"})
def modulated(H: Value, x: Value, y: Value, m: Value) -> Value:
    return torch.clamp(H + m * y * x, -1, 1)


@rule(H="synapse", signals={"m": "post"})
def fanned(H: Value, x: Value, y: Value, m: Value) -> Value:
    return torch.clamp(H + m * y * x, -1, 1)


@rule(H="synapse", theta="post", signals={"reward": "element"}, read=lambda H, x: H * x)
def bcm(H: Value, theta: Value, x: Value, y: Value, eta: Value, tau: Value, reward: Value) -> Value:
    return H + reward * eta * x * y * (y - theta), theta + tau * (y * y - theta)


@rule(H="synapse", fused=False, read=lambda H, x: torch.sin(H) * x)
def of_any_functions(H: Value, x: Value, y: Value) -> Value:
    return torch.atan(H + x * y)


OWN = bcm.use(eta="post", tau=Coefficient(init=0.2, learned=False), initial={"theta": 0.5})


def on_kernels_of_its_own(use: RulePlasticity) -> RulePlasticity:
    """The rule run by what is printed of it, although the library has the same one."""
    vars(use)["twin"] = None
    return use


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), **DOUBLE)


def outcome(module: nn.Module, *args: Any, **kwargs: Any) -> list[Tensor]:
    """What a call returns, and every gradient of its sum of squares."""
    module.zero_grad()
    found = [*_pytree.tree_leaves(module(*args, **kwargs))]
    sum((x**2).sum() for x in found).backward()
    grads = [p.grad for p in module.parameters()]
    return [x.detach() for x in found] + [torch.zeros(()) if x is None else x for x in grads]


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM, PlasticGRU, PlasticLinear])
def test_hebbs_rule_written_by_oneself_is_the_librarys_in_every_network(
    kind: Any, batch_first: bool
) -> None:
    options = {**DOUBLE, "batch_first": batch_first}
    rules = on_kernels_of_its_own(hebb.use()), Plasticity()
    own, ours = (kind(FEATURES, NEURONS, plasticity=p, **options) for p in rules)
    ours.load_state_dict(own.state_dict())
    given = inputs(STEPS, BATCH, FEATURES)
    given = given.transpose(0, 1) if batch_first else given
    for options in ({}, {"lengths": [STEPS, 0, 2]}):
        same(outcome(own, given, **options), outcome(ours, given, **options))


@pytest.mark.parametrize(
    "kind", [PlasticRNNCell, PlasticLSTMCell, PlasticGRUCell, PlasticLinearCell]
)
def test_cells_under_a_rule_take_the_steps_of_the_librarys(kind: Any) -> None:
    rules = on_kernels_of_its_own(hebb.use()), Plasticity()
    own, ours = (kind(FEATURES, NEURONS, plasticity=p, **DOUBLE) for p in rules)
    ours.load_state_dict(own.state_dict())
    for given in (inputs(BATCH, FEATURES), inputs(FEATURES)):
        states = []
        for cell in (own, ours):
            state = None
            for _ in range(3):
                found = cell(given, state)
                state = found[1] if kind is PlasticLinearCell else found
            states.append([*state])
        same(*states)


@rule(H="synapse")
def hebb_in_other_words(H: Value, x: Value, y: Value, rate: Value) -> Value:
    return H + rate * x * y - H * rate


@rule(H="synapse")
def oja(H: Value, x: Value, y: Value, rate: Value) -> Value:
    return H + rate * (x - H * y) * y


@rule(H="synapse", read=lambda w, alpha, H, x: (w + alpha * torch.clamp(H, -2, 2)) * x)
def clipped_on_read(H: Value, x: Value, y: Value, rate: Value) -> Value:
    return H + rate * x * y


@rule(H="synapse", E="synapse", signals={"m": "element"})
def retroactive(H: Value, E: Value, x: Value, y: Value, m: Value, rate: Value) -> Value:
    return torch.clamp(H + m * E, -0.5, 0.5), E + rate * (x * y - E)


@rule(H="synapse")
def nearly_hebb(H: Value, x: Value, y: Value, rate: Value) -> Value:
    return H + rate * x * y - 0.5 * H * rate


BOUND = 1.0


@rule(H="synapse")
def of_a_number_from_outside(H: Value, x: Value, y: Value, rate: Value) -> Value:
    return torch.clamp(H + rate * x * y, -BOUND, BOUND)


def increment(x: Value, y: Value) -> Value:
    return x * y


@rule(H="synapse")
def of_a_function_from_outside(H: Value, x: Value, y: Value, rate: Value) -> Value:
    return torch.clamp(H + rate * increment(x, y), -1, 1)


M = {"readouts": {"m": Readout("sigmoid")}}
SIGMOID = {"modulator_nonlinearity": "sigmoid"}


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (hebb.use(), Plasticity()),
        (hebb_in_other_words.use(rate="post"), Plasticity(eta="neuron")),
        (oja.use(rate="connection"), Plasticity("oja", "none", eta="connection")),
        (clipped_on_read.use(alpha="layer"), Plasticity(constraint="clip_on_read", clip=2, alpha="layer")),
        (retroactive.use(**M), Plasticity(clip=0.5, modulation="retroactive", **SIGMOID)),
        (modulated.use(**M), Plasticity(modulation="simple", **SIGMOID)),
        (fanned.use(**M), Plasticity(modulation="simple", fan_out="neuron", **SIGMOID)),
        (hebb.use(eta="pre"), None),
        (hebb.use(initial={"H": 1.0}), None),
        (modulated.use(), None),
        (nearly_hebb.use(), None),
        # They may be others at the next call.
        (of_a_number_from_outside.use(), None),
        (of_a_function_from_outside.use(), None),
        (OWN, None),
    ],
)  # fmt: skip
def test_a_rule_that_is_the_librarys_is_served_by_its_kernels(use: Any, expected: Any) -> None:
    assert use.twin == expected
    if expected is None:
        return
    nets = []
    for plasticity in (use, on_kernels_of_its_own(copy.deepcopy(use))):
        torch.manual_seed(0)
        nets.append(
            PlasticRNN(FEATURES, NEURONS, plasticity=plasticity, backend="reference", **DOUBLE)
        )
    given = inputs(STEPS, BATCH, FEATURES)
    same(outcome(nets[0], given), outcome(nets[1], given))
    rollouts = [net.rollout(STEPS, BATCH) for net in nets]
    for each in rollouts:
        for t in range(STEPS):
            each.step(given[t])
    same([*rollouts[0].finish()[1]], [*rollouts[1].finish()[1]])


@pytest.mark.parametrize("fan_out", ["none", pytest.param("neuron", marks=pytest.mark.slow)])
def test_a_modulator_that_the_network_reads_out_is_backpropamines(fan_out: str) -> None:
    own_rule = modulated if fan_out == "none" else fanned
    use = on_kernels_of_its_own(own_rule.use(readouts={"m": Readout()}))
    own = PlasticRNN(FEATURES, NEURONS, plasticity=use, **DOUBLE)
    plasticity = Plasticity(modulation="simple", fan_out=fan_out)
    ours = PlasticRNN(FEATURES, NEURONS, plasticity=plasticity, **DOUBLE)
    names = {"m_weight": "modulator_weight", "m_bias": "modulator_bias"}
    names |= {f"m_fan_out_{part}": f"fan_out_{part}" for part in ("weight", "bias")}
    ours.load_state_dict(
        {names.get(n.removesuffix("_l0"), n[:-3]) + "_l0": x for n, x in own.state_dict().items()}
    )
    given = inputs(STEPS, BATCH, FEATURES)
    grads = []
    for net in (own, ours):
        found = outcome(net, given)
        grads.append(
            (found[:3], {names.get(n[:-3], n[:-3]): p.grad for n, p in net.named_parameters()})
        )
    same(*[each[0] for each in grads])
    for name, grad in grads[0][1].items():
        same([grad], [grads[1][1][name]])


@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM, PlasticLinear])
def test_rules_with_signals_vectors_and_layers_are_those_of_the_reference(kind: Any) -> None:
    options = {} if kind is PlasticLinear else {"num_layers": 2}
    net = kind(FEATURES, NEURONS, plasticity=OWN, **options, **DOUBLE)
    given = {"signals": {"reward": inputs(STEPS, BATCH)}, "lengths": [STEPS, 0, 2]}
    if kind is PlasticRNN:
        given["clamp"] = inputs(STEPS, BATCH, NEURONS) > 1
    found = []
    for backend in ("cpu", "reference"):
        net.backend = backend
        found.append(outcome(net, inputs(STEPS, BATCH, FEATURES), **given))
    same(*found)


def test_a_sequence_is_its_steps_and_a_rollout() -> None:
    net = PlasticRNN(FEATURES, NEURONS, num_layers=2, plasticity=OWN, **DOUBLE)
    given, reward = inputs(STEPS, BATCH, FEATURES), inputs(STEPS, BATCH)
    whole = net(given, signals={"reward": reward})
    first = net(given[:2], signals={"reward": reward[:2]})
    second = net(given[2:], first[1], signals={"reward": reward[2:]})
    same([torch.cat([first[0], second[0]]), *second[1]], [whole[0], *whole[1]])
    rollout = net.rollout(STEPS, BATCH)
    acted = [rollout.step(given[t], {"reward": reward[t]}) for t in range(STEPS)]
    same([torch.stack(acted)], [whole[0]])
    leaf = reward.clone().requires_grad_()
    output, state = rollout.finish(signals={"reward": leaf})
    same([output, *state], [whole[0], *whole[1]])
    output.sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().sum() > 0
    one = net(given[:, 1], signals={"reward": reward[:, 1]})
    same([one[0], *one[1]], [whole[0][:, 1], *(x[:, 1] for x in whole[1])])


def test_coefficients_are_parameters_of_the_granularity_and_the_values_asked_for() -> None:
    net = PlasticRNN(FEATURES, NEURONS, plasticity=OWN)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert (
        shapes["eta_l0"] == (NEURONS,) and "weight_hh_l0" not in shapes and "alpha_l0" not in shapes
    )
    assert net.get_buffer("tau_l0").tolist() == [pytest.approx(0.2)]
    assert net.get_parameter("eta_l0").tolist() == pytest.approx([0.01] * NEURONS)
    state = net(inputs(1, BATCH, FEATURES).float(), signals={"reward": torch.zeros(1, BATCH)})[1]
    expected = 0.5 + 0.2 * (state.hidden**2 - 0.5)
    torch.testing.assert_close(state.theta, expected)
    drawn = PlasticLinear(
        40, 50, plasticity=hebb.use(alpha=Coefficient("connection", init=2, std=1))
    )
    alpha = drawn.get_parameter("alpha")
    assert abs(alpha.mean().item() - 2) < 0.1 and abs(alpha.std().item() - 1) < 0.1


@rule(H="synapse", signals={"k": "pre", "v": "post"}, read_after=True, read=lambda H, x: H * x)
def of_signals(H: Value, k: Value, v: Value) -> Value:
    return H + v * k


def test_a_layer_may_have_nothing_to_learn(tmp_path: Any) -> None:
    options = {"bias": False, "nonlinearity": "identity", "batch_first": True, **DOUBLE}
    net = PlasticLinear(3, 2, plasticity=of_signals, **options)
    x, k, v = inputs(BATCH, STEPS, 3), inputs(BATCH, STEPS, 3), inputs(BATCH, STEPS, 2)
    kept = torch.einsum("bto,bti->btoi", v, k).cumsum(1)
    output, state = net(x, signals={"k": k, "v": v})
    same([output, state.H], [torch.einsum("btoi,bti->bto", kept, x), kept[:, -1]])
    assert not [*net.parameters()] and not net.state_dict()
    assert "K0" in plastikern.explain(net, BATCH)
    with pytest.raises((TypeError, ValueError), match=r"input must have dtype torch\.float64"):
        net(x.float(), signals={"k": k, "v": v})
    single = copy.deepcopy(net).float()
    single.backend = "reference"
    single.load_state_dict(net.state_dict())
    found = single(x.float(), signals={"k": k.float(), "v": v.float()})[0]
    torch.testing.assert_close(found, output.float())
    pytest.importorskip("safetensors")
    plastikern.save(net, tmp_path / "net.safetensors")
    again: Any = plastikern.load(tmp_path / "net.safetensors", rule=of_signals)
    assert torch.equal(again(x, signals={"k": k, "v": v})[0], output)
    # Two coefficients that keep their values are no parameters either.
    fixed = hebb.use(eta=Coefficient(learned=False), alpha=Coefficient(learned=False))
    assert "_like" not in PlasticLinear(3, 2, bias=False, plasticity=fixed)._buffers


def test_states_are_tuples_by_the_names_that_the_rule_declares() -> None:
    net = PlasticRNN(FEATURES, NEURONS, plasticity=OWN)
    state = net(inputs(2, BATCH, FEATURES).float(), signals={"reward": torch.ones(2, BATCH)})[1]
    state = state.detach()
    assert state._fields == ("hidden", "H", "theta") and state.theta is state[2]
    for again in (
        pickle.loads(pickle.dumps(state)),
        copy.deepcopy(state),
        state._replace(H=state.H),
    ):
        assert type(again) is type(state) and torch.equal(again.H, state.H)
    assert _pytree.tree_map(torch.zeros_like, state).theta.abs().sum() == 0
    assert state.select([0, 2]).theta.shape == (1, 2, NEURONS)
    begun = state.reset(torch.tensor([True, False, False]))
    assert begun.theta[0, 0].tolist() == [0.5] * NEURONS and begun.H[0, 0].abs().sum() == 0
    assert torch.equal(begun.theta[0, 1:], state.theta[0, 1:])
    assert type(pickle.loads(pickle.dumps(net))(torch.zeros(0, BATCH, FEATURES), signals={
        "reward": torch.ones(0, BATCH)})[1]) is type(state)  # fmt: skip


def test_half_precision_and_autocast_compute_in_single() -> None:
    net = PlasticRNN(FEATURES, NEURONS, plasticity=on_kernels_of_its_own(hebb.use()))
    given = inputs(STEPS, BATCH, FEATURES).float()
    single = net(given)[0]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(given)[0].float(), single, rtol=0, atol=0.02)
    output, state = copy.deepcopy(net).half()(given.half())
    assert output.dtype == torch.float16 and state.H.dtype == torch.float32
    torch.testing.assert_close(output.float(), single, rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLSTM, PlasticLinear])
def test_compiled_code_has_the_same_values_and_gradients_without_a_break(kind: Any) -> None:
    plasticity = on_kernels_of_its_own(modulated.use(readouts={"m": Readout()}))
    net = kind(FEATURES, NEURONS, plasticity=plasticity, **DOUBLE)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    given = inputs(STEPS, BATCH, FEATURES)
    for lengths in (None, torch.tensor([STEPS, 0, 2])):
        same(outcome(compiled, given, lengths=lengths), outcome(net, given, lengths=lengths))
    with torch.no_grad():
        same([compiled(given)[0]], [net(given)[0]])


def test_a_rule_of_any_functions_runs_on_the_reference_alone() -> None:
    net = PlasticRNN(FEATURES, NEURONS, plasticity=of_any_functions, **DOUBLE)
    assert net(inputs(STEPS, BATCH, FEATURES))[0].shape == (STEPS, BATCH, NEURONS)
    assert "reference" in plastikern.explain(net, 1)
    net.backend = "cpu"
    with pytest.raises(plastikern.RuleError, match="fused=False"):
        net(inputs(STEPS, BATCH, FEATURES))


FACTOR = 0.5


def factored(value: Value) -> Value:
    return FACTOR * torch.atan(value)


@rule(H="synapse", fused=False)
def of_a_number_from_outside(H: Value, x: Value, y: Value) -> Value:
    return factored(H + x * y)


def test_a_rule_that_is_not_traced_is_another_one_with_other_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use = of_a_number_from_outside.use()
    before = use.digest
    assert use.digest == before
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 0.25)
    assert use.digest != before
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 0.5)
    assert use.digest == before


def test_what_explain_says_of_a_rule_is_read_off_its_schedules() -> None:
    use = on_kernels_of_its_own(hebb.use())
    said = plastikern.explain(PlasticRNN(FEATURES, NEURONS, plasticity=use), BATCH, STEPS)
    assert "class K0" in said and "reads 3 and writes 1 matrices, 16 bytes a synapse" in said
    assert "accumulators: alpha" in said and "served by: cpu" in said
    assert "class K2" in plastikern.explain(PlasticRNN(FEATURES, NEURONS, plasticity=OWN), BATCH)


def test_explain_tells_registers_of_the_card_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    net, asked = PlasticRNN(FEATURES, NEURONS, plasticity=OWN, dtype=torch.float64), []

    def used(text: str, scalar: str, architecture: str) -> dict[str, cuda.Usage]:
        asked.append((scalar, architecture))
        return {"forward": cuda.Usage(105, 0), "backward": cuda.Usage(255, 16)}

    monkeypatch.setattr(cuda, "nvrtc", lambda: ("13.0", (80, 90)))
    monkeypatch.setattr(cuda, "used", used)
    line = plastikern.explain(net, BATCH, STEPS, "H100").splitlines()[-1]
    assert line == (
        "registers on H100, by cuda, a thread: forward 105, nothing spilled; backward 255, 16 bytes of stack "
        "(NVRTC 13.0 for sm_90)"
    )  # fmt: skip
    assert asked == [("double", "sm_90")]
    monkeypatch.setattr(cuda, "used", lambda *_: {})
    line = plastikern.explain(net, BATCH, STEPS, "B200").splitlines()[-1]
    assert line == "registers on B200, by cuda: its driver chooses them, of compute_90"
    with pytest.raises(ValueError, match="device must be one of"):
        plastikern.explain(net, BATCH, STEPS, "H1000")


def test_explain_says_why_it_cannot_tell_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise CompilationError("NVRTC is not to be had")

    monkeypatch.setattr(cuda, "nvrtc", missing)
    net = PlasticRNN(FEATURES, NEURONS, plasticity=OWN)
    line = plastikern.explain(net, BATCH, STEPS, "H100").splitlines()[-1]
    assert line == "registers on H100, by cuda: not to be told here: NVRTC is not to be had"


@pytest.mark.parametrize("kind", [PlasticRNN, PlasticLinear])
def test_explain_counts_the_checkpoints_that_a_call_keeps(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, steps, kept = 16, 70, []  # of whole cache lines
    forward = running.Run.forward

    def spied(run: running.Run, keep: bool) -> None:
        forward(run, keep)
        kept.append((run.every, run.kept["H:checkpoints"].nbytes))

    monkeypatch.setattr(running.Run, "forward", spied)
    net = kind(size, size, plasticity=OWN)
    net(torch.zeros(steps, BATCH, size), signals={"reward": torch.ones(steps, BATCH)})
    said = plastikern.explain(net, BATCH, steps).replace(",", "")
    found = re.findall(r"checkpoints every (\d+) steps|(\d+) bytes of checkpoints", said)
    assert [tuple(int("".join(each)) for each in found)] == kept


def test_a_file_names_its_rule_and_loads_under_no_other(tmp_path: Any) -> None:
    pytest.importorskip("safetensors")
    net, path = PlasticRNN(FEATURES, NEURONS, plasticity=OWN), tmp_path / "net.safetensors"
    plastikern.save(net, path)
    loaded = plastikern.load(path, rule=bcm)
    assert repr(loaded) == repr(net) and loaded.plasticity.digest == OWN.digest
    given = {"signals": {"reward": torch.ones(STEPS, BATCH)}}
    x = inputs(STEPS, BATCH, FEATURES).float()
    assert torch.equal(loaded(x, **given)[0], net(x, **given)[0])
    with pytest.raises(
        ValueError, match=r"saved under the rule .*test_modules:bcm: give that as rule="
    ):
        plastikern.load(path)
    for other in (hebb, changed):
        with pytest.raises(ValueError, match="computes something else, or has been changed since"):
            plastikern.load(path, rule=other)
    plastikern.save(PlasticRNN(FEATURES, NEURONS), path)
    with pytest.raises(ValueError, match="rule must be None"):
        plastikern.load(path, rule=bcm)


@rule(H="synapse", theta="post", signals={"reward": "element"}, read=lambda H, x: H * x)
def changed(
    H: Value, theta: Value, x: Value, y: Value, eta: Value, tau: Value, reward: Value
) -> Value:
    return H + reward * eta * x * y * (y - 2 * theta), theta + tau * (y * y - theta)


@rule(hidden="synapse", read=lambda hidden, x: hidden * x)
def named_like_the_activities(hidden: Value, x: Value, y: Value) -> Value:
    return hidden + x * y


@rule(count="synapse", read=lambda count, x: count * x)
def named_like_a_method(count: Value, x: Value, y: Value) -> Value:
    return count + x * y


@rule(H="synapse", read=lambda H, x: H * x)
def with_the_coefficient_bias(H: Value, x: Value, y: Value, bias: Value) -> Value:
    return H + bias * x * y


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hebb.use(rho="post"), "there is no coefficient rho; it has alpha, eta"),
        (lambda: hebb.use(eta="row"), "must be one of layer, pre, post, connection; got 'row'"),
        (lambda: bcm.use(tau="connection"), "state theta is declared 'post', but after a step it depends on pre"),
        (lambda: bcm.use(tau="pre"), "state theta is declared 'post', but after a step it depends on pre"),
        (
            lambda: hebb.use(eta=0.1),
            r"eta must be a granularity or a Coefficient, such as Coefficient\(init=0\.1\); got 0\.1",
        ),
        (lambda: hebb.use(eta=Coefficient(init=float("nan"))), "init must be a finite number"),
        (lambda: hebb.use(eta=Coefficient(std=-1)), "std must not be negative"),
        (lambda: hebb.use(initial={"E": 1.0}), "there is no state E; it has H"),
        (lambda: hebb.use(readouts={"m": Readout()}), "must be a signal of kind 'element' or 'post'"),
        (lambda: modulated.use(readouts={"m": "tanh"}), r"m must be a Readout, such as Readout\('tanh'\); got 'tanh'"),
        (lambda: modulated.use(readouts={"m": Readout("relu")}), "must be one of tanh, sigmoid, linear"),
        (lambda: PlasticRNN(2, 3, plasticity=modulated)(torch.zeros(1, 1, 2)), "signals must be m, as the rule says"),
        (
            lambda: PlasticRNN(2, 3, plasticity=modulated)(torch.zeros(1, 1, 2), signals={"m": torch.zeros(2, 1)}),
            r"signals\['m'\] must have shape \(1, 1\); got \(2, 1\)",
        ),
        (
            lambda: PlasticRNN(2, 3)(torch.zeros(1, 1, 2), signals={"m": torch.zeros(1, 1)}),
            "signals must be None, as the rule says; got m",
        ),
        (lambda: PlasticRNN(2, 3, plasticity=hebb, modulated=torch.ones(3).bool()), "modulated needs a plasticity"),
        (lambda: PlasticRNN(2, 3, plasticity=named_like_the_activities), "hidden has the name of something else"),
        (lambda: PlasticRNN(2, 3, plasticity=named_like_a_method), "count has the name of something else"),
        (lambda: PlasticLinear(2, 3, plasticity=with_the_coefficient_bias), "coefficient bias .* rename it"),
        (lambda: PlasticRNNCell(2, 3, plasticity=with_the_coefficient_bias), "coefficient bias .* rename it"),
        (
            lambda: PlasticRNN(2, 3, plasticity=hebb)(torch.zeros(1, 1, 2), (torch.zeros(1, 1, 3),)),
            r"RuleState \(hidden, H\)",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_explain_names_the_librarys_rule_that_serves() -> None:
    if plastikern.library.MISSING is not None:
        pytest.skip("no native library")
    ours, own = (
        plastikern.explain(PlasticRNN(FEATURES, NEURONS, plasticity=p), BATCH, STEPS, "A100")
        for p in (Plasticity(), hebb)
    )
    own_lines = own.splitlines()
    assert "which is the library's Plasticity(rule='hebb', constraint='decay'" in own_lines[1]
    assert [own_lines[0], *own_lines[2:]] == ours.splitlines()


def test_the_signal_that_a_network_reads_out_can_be_looked_at() -> None:
    net = PlasticRNN(
        FEATURES, NEURONS, plasticity=modulated.use(readouts={"m": Readout("sigmoid")})
    )
    hidden = torch.randn(STEPS, BATCH, NEURONS)
    weight, bias = net.get_parameter("m_weight_l0"), net.get_parameter("m_bias_l0")
    torch.testing.assert_close(net.modulator_signal(hidden), torch.sigmoid(hidden @ weight + bias))
    with pytest.raises(ValueError, match="name must be one of m; got 'n'"):
        net.modulator_signal(hidden, name="n")


def test_conversions_keep_weights_or_say_why_they_cannot() -> None:
    plain = nn.RNN(FEATURES, NEURONS)
    net = plastikern.convert.from_torch(plain, hebb)
    assert torch.equal(net.get_parameter("weight_hh_l0"), plain.weight_hh_l0)
    assert torch.equal(plastikern.convert.to_torch(net).weight_hh_l0, plain.weight_hh_l0)
    with pytest.raises(ValueError, match="reads no weights w"):
        plastikern.convert.from_torch(plain, OWN)
    with pytest.raises(ValueError, match="reads no weights w"):
        plastikern.convert.to_torch(PlasticRNN(FEATURES, NEURONS, plasticity=OWN))
    with pytest.raises(TypeError, match="must have a Plasticity"):
        plastikern.convert.to_authors(net, orientation="rows")


@pytest.mark.parametrize("post", ["candidate", "recurrent", "cell", "hidden"])
def test_a_read_out_of_an_lstm_takes_its_activities_whatever_its_post_is(post: str) -> None:
    use = on_kernels_of_its_own(modulated.use(readouts={"m": Readout()}))
    own = PlasticLSTM(FEATURES, NEURONS, plasticity=use, post=post, **DOUBLE)
    plasticity = Plasticity(modulation="simple")
    ours = PlasticLSTM(FEATURES, NEURONS, plasticity=plasticity, post=post, **DOUBLE)
    ours.load_state_dict({n.replace("m_", "modulator_"): x for n, x in own.state_dict().items()})
    given = inputs(STEPS, BATCH, FEATURES)
    same(outcome(own, given), outcome(ours, given))


@rule(H="synapse", signals={"cell": "post"})
def of_words_that_an_lstm_has(H: Value, x: Value, y: Value, cell: Value, gates: Value) -> Value:
    return H + gates * cell * x * y


def test_a_rule_may_call_its_own_what_an_lstm_has_besides() -> None:
    net = PlasticLSTM(FEATURES, NEURONS, plasticity=of_words_that_an_lstm_has, **DOUBLE)
    found = []
    for backend in ("cpu", "reference"):
        net.backend = backend
        signals = {"cell": inputs(STEPS, BATCH, NEURONS)}
        found.append(outcome(net, inputs(STEPS, BATCH, FEATURES), signals=signals))
    same(*found)


@rule(H="synapse", signals={"s": "element"})
def divided(H: Value, x: Value, y: Value, s: Value, eta: Value) -> Value:
    return (1 - eta) * H + eta * torch.log(1 + y * y) * x / s


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("nonlinearity", ["relu", "identity", "tanh"])
def test_elements_that_have_ended_have_the_gradients_of_elements_alone(
    backend: str, nonlinearity: str
) -> None:
    steps, lengths = 400, [2, 0, 3]
    options = {"nonlinearity": nonlinearity, "bias": False, "backend": backend, **DOUBLE}
    net = PlasticRNN(FEATURES, NEURONS, plasticity=divided, **options)
    with torch.no_grad():  # Left alone for so many steps, activities would grow beyond all numbers.
        net.get_parameter("weight_hh_l0").mul_(50)
    given, s = inputs(steps, BATCH, FEATURES), inputs(steps, BATCH).abs() + 0.5
    for element, length in enumerate(lengths):
        given[length:, element], s[length:, element] = 0, 0
    together = outcome(net, given, lengths=lengths, signals={"s": s})[3:]
    net.zero_grad()
    for element, length in enumerate(lengths):
        signals = {"s": s[:length, element : element + 1]}
        found = net(given[:length, element : element + 1], signals=signals)
        sum((x**2).sum() for x in _pytree.tree_leaves(found)).backward()
    for grad, parameter in zip(together, net.parameters(), strict=True):
        assert parameter.grad is not None and grad.isfinite().all()
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-9, atol=1e-9)


BOUND = 1.0


@rule(H="synapse")
def bounded_from_outside(H: Value, x: Value, y: Value) -> Value:
    return torch.clamp(H + x * y, -BOUND, BOUND)


def test_a_file_names_the_rule_as_it_is_when_the_file_is_written(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("safetensors")
    net, path = PlasticRNN(FEATURES, NEURONS, plasticity=bounded_from_outside), tmp_path / "net"
    before = net.plasticity.digest
    monkeypatch.setitem(globals(), "BOUND", 0.5)
    assert net.plasticity.digest != before
    plastikern.save(net, path)
    plastikern.load(path, rule=bounded_from_outside)
    monkeypatch.setitem(globals(), "BOUND", 1.0)
    with pytest.raises(ValueError, match="has been changed since"):
        plastikern.load(path, rule=bounded_from_outside)


SCALE = 1.0


@rule(H="synapse")
def scaled(H: Value, x: Value, y: Value, eta: Value) -> Value:
    return torch.tanh(H + SCALE * eta * y * x)


def test_compiled_code_goes_back_through_the_rule_as_it_was_when_it_went_forward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = PlasticRNN(FEATURES, NEURONS, plasticity=scaled, **DOUBLE)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    given, grads = inputs(STEPS, BATCH, FEATURES), []
    for each in (net, compiled):
        net.zero_grad()
        monkeypatch.setitem(globals(), "SCALE", 1.0)
        loss = each(given)[0].square().sum()
        monkeypatch.setitem(globals(), "SCALE", 3.0)
        loss.backward()
        grads.append([parameter.grad for parameter in net.parameters()])
    same(*grads)
