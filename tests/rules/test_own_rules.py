"""Rules that a user may well write, and that no paper has."""

import numpy as np
import pytest
import torch

from plastikern import PlasticLinear, as_pre, check, over_post, over_pre, rule, rule_sequence
from plastikern.rules.decorator import REGISTERED
from plastikern.rules.programs import Program
from plastikern.rules.symbols import RuleError

STEPS, BATCH, POSTS, PRES = 4, 2, 5, 9


@rule(
    H="synapse", E="synapse", F="synapse", m="pre", q="post", e="element",
    read=lambda H, E, F, m, b, x: (H + E + F) * x + m + b,
)  # fmt: skip
def overwriting(H, E, F, m, q, e, x, y, eta):
    return x * y + q * over_pre(E), x + e, eta * torch.sign(F), x, e * eta, over_post(q)


def _drawn(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def _of_overwriting():
    torch.manual_seed(0)
    state = {
        "H": _drawn(BATCH, POSTS, PRES), "E": _drawn(BATCH, POSTS, PRES), "F": _drawn(BATCH, POSTS, PRES),
        "m": _drawn(BATCH, PRES), "q": _drawn(BATCH, POSTS), "e": _drawn(BATCH),
    }  # fmt: skip
    return (
        _drawn(STEPS, BATCH, POSTS), _drawn(STEPS, BATCH, PRES), state, {"eta": _drawn(), "b": _drawn(POSTS, PRES)},
    )  # fmt: skip


def test_states_that_their_change_overwrites_or_that_lack_an_axis_have_torchs_gradients():
    drive, pre, state, parameters = _of_overwriting()
    leaves = [drive, pre, *state.values(), *parameters.values()]
    found = {}
    for backend in ("cpu", "reference"):
        output, last = rule_sequence(overwriting, drive, pre, state, parameters, backend=backend)
        values = [output, *last.values()]
        loss = sum((value**2).sum() for value in values)
        found[backend] = [*values, *torch.autograd.grad(loss, leaves)]
    for ours, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_tensor_that_is_negated_on_the_way_or_has_no_memory_is_taken_by_value():
    drive, pre, state, parameters = _of_overwriting()
    negated = torch._neg_view(drive.detach())
    nothing = torch._efficientzerotensor(POSTS, PRES, dtype=torch.float64)
    for given in ((negated, parameters), (drive, {**parameters, "b": nothing})):
        ours, theirs = (
            rule_sequence(overwriting, given[0], pre, state, given[1], backend=backend)[0]
            for backend in ("cpu", "reference")
        )
        torch.testing.assert_close(ours, theirs)


@rule(
    H="synapse", p="pre", q="post", e="element", signals={"s": "element"}, read=lambda w, H, p, x: w * H * x + p * x
)  # fmt: skip
def of_all_kinds(H, p, q, e, x, y, s, eta, a, b):
    p, e = a * p + x, 0.9 * e + s
    return (1 - eta) * H + eta * e * (y - q) * p, p, q + b * (y - q) * s, e


# Nothing but a read and a change; segments that end with the steps, one step before, one after; several.
@pytest.mark.parametrize("steps", [1, 31, 32, 33, 34, 70])
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_that_need_no_other_ones_have_torchs_gradients_however_long_their_segments(
    steps, threads
):
    torch.manual_seed(steps)
    posts, pres = 21, 18
    state = {
        "H": _drawn(BATCH, posts, pres), "p": _drawn(BATCH, pres), "q": _drawn(BATCH, posts), "e": _drawn(BATCH),
    }  # fmt: skip
    parameters = {
        "w": _drawn(posts, pres), "eta": _drawn(), "a": torch.rand(pres, dtype=torch.float64), "b": _drawn(posts),
    }  # fmt: skip
    parameters["eta"] = (0.01 * parameters["eta"].detach()).requires_grad_()
    parameters["a"].requires_grad_()
    drive, pre = _drawn(steps, BATCH, posts), _drawn(steps, BATCH, pres)
    signals = {"s": (0.1 * _drawn(steps, BATCH)).detach().requires_grad_()}
    leaves = [drive, pre, *state.values(), *parameters.values(), *signals.values()]
    before, found = torch.get_num_threads(), {}
    torch.set_num_threads(threads)
    try:
        for backend in ("cpu", "reference"):
            output, last = rule_sequence(
                of_all_kinds, drive, pre, state, parameters, signals, backend=backend
            )
            values = [output, *last.values()]
            loss = sum((value**2).sum() for value in values)
            found[backend] = [*values, *torch.autograd.grad(loss, leaves)]
        with torch.no_grad():
            alone, _ = rule_sequence(of_all_kinds, drive, pre, state, parameters, signals)
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
    assert torch.equal(alone, found["cpu"][0])


@rule(H="synapse", p="pre", read=lambda w, H, p, x: w * (1 + H) * x)
def bounded(H, p, x, y, lam, eta):
    return torch.tanh(lam * H + eta * p * y), 0.5 * p + x


def test_a_gradient_takes_the_state_after_the_change_where_that_spares_more_than_it_costs():
    spared = Program(bounded, dict.fromkeys(("lam", "eta"), "layer") | {"w": "connection"})
    assert spared.seen == ["H"]
    lines = {way: [line for each in getattr(spared, way).values() for line in each.text("part", set())]
             for way in ("forward", "backward")}  # fmt: skip
    assert sum("tanh(" in line for line in lines["forward"]) == 2
    assert not any("tanh(" in line for line in lines["backward"])
    # What costs two operations is computed again.
    assert not Program(
        of_all_kinds, {"eta": "layer", "a": "pre", "b": "post", "w": "connection"}
    ).seen


@pytest.mark.parametrize("steps", [1, 2, 31, 32, 33, 34, 70])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("every", [None, 3])
def test_gradients_that_take_the_state_after_the_change_are_torchs_however_long_the_segments(
    steps, recurrent, every
):
    torch.manual_seed(steps)
    posts = pres = 19
    state = {"H": _drawn(BATCH, posts, pres), "p": _drawn(BATCH, pres)}
    parameters = {"w": _drawn(posts, pres), "lam": _drawn(), "eta": _drawn()}
    # So small that the network forgets: a chaotic one would make differences of rounding.
    parameters["w"] = (0.05 * parameters["w"].detach()).requires_grad_()
    drive = _drawn(steps, BATCH, posts)
    pre = _drawn(BATCH, posts) if recurrent else _drawn(steps, BATCH, pres)
    leaves = [drive, pre, *state.values(), *parameters.values()]
    found = {}
    for backend in ("cpu", "reference"):
        output, last = rule_sequence(
            bounded, drive, pre, state, parameters, backend=backend, checkpoint_every=every
        )
        values = [output, *last.values()]
        loss = sum((value**2).sum() for value in values)
        found[backend] = [*values, *torch.autograd.grad(loss, leaves)]
    for ours, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_gradients_of_what_nobody_has_asked_are_zero():
    drive, pre, state, parameters = _of_overwriting()
    leaves = [drive, pre, *state.values(), *parameters.values()]
    found = {}
    for backend in ("cpu", "reference"):
        _, last = rule_sequence(overwriting, drive, pre, state, parameters, backend=backend)
        found[backend] = torch.autograd.grad(
            (last["H"] ** 2).sum(), leaves, allow_unused=True, materialize_grads=True
        )
    for ours, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "changed",
    [
        lambda H, x: H + (x > 0),
        lambda H, x: H + torch.where(x, H, 0.0),
        lambda H, x: torch.maximum(x < H, x),
        lambda H, x: x < H,
    ],
)
def test_a_comparison_is_refused_but_where_it_chooses(changed):
    def choosing(H, x):
        return changed(H, x)

    with pytest.raises(RuleError, match=r"choosing \(.*torch\.where"):
        rule(H="synapse")(choosing)


def test_a_rule_is_copied_and_pickled_by_its_name():
    import copy
    import pickle

    assert copy.deepcopy(overwriting) is overwriting
    assert pickle.loads(pickle.dumps(overwriting)) is overwriting


def test_what_no_backend_can_do_is_said():
    drive, pre, state, parameters = _of_overwriting()
    with pytest.raises(ValueError, match="must be on a CUDA device"):
        rule_sequence(overwriting, drive, pre, state, parameters, backend="triton")
    with pytest.raises(TypeError, match="state must be tensors by name; got list"):
        rule_sequence(overwriting, drive, pre, [*state], parameters)
    with pytest.raises(TypeError, match="parameter eta must be a tensor; got float"):
        rule_sequence(
            overwriting,
            drive,
            pre,
            state,
            {**parameters, "eta": 0.1},
            granularities={"eta": "layer"},
        )


@pytest.mark.parametrize("name", [
    "sum", "pre_count", "grad_sum", "next_H", "seen_H", "back_H", "made_1", "x_read", "e_as_pre", "readouts",
    "initial", "_running",
])  # fmt: skip
def test_a_name_that_is_derived_of_a_rule_is_refused(name):
    source = f"def made(H, x, y, {name}): return H + {name} * x * y"
    with pytest.raises(RuleError, match=f"{name} is a name of the library's; rename it"):
        rule(H="synapse")(_defined(source))
    with pytest.raises(RuleError, match=f"{name} is a name of the library's; rename it"):
        rule(H="synapse", signals={name: "post"})(_defined(source))


def _defined(source):
    found = {}
    exec(source, found)  # names are arguments, which no def can be given otherwise
    return found["made"]


@rule(
    v3="synapse",
    element="post",
    signals={"row": "pre", "job": "element"},
    read=lambda v3, w, x: (v3 + w) * x,
)
def of_words_that_the_printed_text_has(
    v3, element, row, job, x, y, V, to, const, auto, double, i, made, column
):
    v3 = v3 * const + V * row * y + job * to + auto * element
    return v3, element * double + i * y + made * column


def test_names_that_the_printed_text_has_too_are_a_users_as_well():
    torch.manual_seed(0)
    state = {"v3": _drawn(BATCH, POSTS, PRES), "element": _drawn(BATCH, POSTS)}
    names = of_words_that_the_printed_text_has.coefficients
    parameters = {name: _drawn() for name in names} | {"w": _drawn(POSTS, PRES)}
    signals = {"row": _drawn(STEPS, BATCH, PRES), "job": _drawn(STEPS, BATCH)}
    leaves = [
        _drawn(STEPS, BATCH, POSTS),
        _drawn(STEPS, BATCH, PRES),
        *state.values(),
        *parameters.values(),
    ]
    found = []
    for backend in ("cpu", "reference"):
        output, last = rule_sequence(
            of_words_that_the_printed_text_has,
            *leaves[:2],
            state,
            parameters,
            signals,
            backend=backend,
        )
        values = [output, *last.values()]
        grads = torch.autograd.grad(sum((x**2).sum() for x in values), [*leaves, *signals.values()])
        found.append([*values, *grads])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@rule(H="synapse", signals={"cell": "element", "drive": "element"})
def of_words_that_a_layer_has(H, x, y, cell, drive, gates, clamp):
    return H + (gates * drive + clamp * cell) * x * y


@pytest.mark.slow
def test_a_rule_may_call_its_own_what_neurons_are_given_besides():
    torch.manual_seed(0)
    assert check(of_words_that_a_layer_has, granularities={}).passed
    parameters = {
        "gates": _drawn(),
        "clamp": _drawn(),
        "w": _drawn(POSTS, POSTS),
        "alpha": _drawn(POSTS, POSTS),
    }
    signals = {"cell": _drawn(STEPS, BATCH), "drive": _drawn(STEPS, BATCH)}
    leaves = [
        _drawn(STEPS, BATCH, POSTS),
        _drawn(BATCH, POSTS),
        *parameters.values(),
        *signals.values(),
    ]
    found = []
    for backend in ("cpu", "reference"):
        output, last = rule_sequence(
            of_words_that_a_layer_has, *leaves[:2], {"H": torch.zeros(BATCH, POSTS, POSTS).double()}, parameters,
            signals, clamp=torch.arange(POSTS).expand(STEPS, BATCH, POSTS) == 1, backend=backend,
        )  # fmt: skip
        found.append(
            [output, last["H"], *torch.autograd.grad(output.sum() + last["H"].sum(), leaves)]
        )
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@rule(H="synapse", theta="post", read=lambda H, x: H * x)
def of_the_other_role(H, theta, x, y):
    return H + as_pre(theta) * y, theta + y


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("sizes", [(5, 5), (5, 1), (1, 5), (7, 5)])
def test_the_other_role_is_refused_where_a_layer_is_not_recurrent(backend, sizes):
    posts, pres = sizes
    state = {"H": torch.zeros(BATCH, posts, pres), "theta": torch.zeros(BATCH, posts)}
    with pytest.raises(RuleError, match=r"of_the_other_role .*as_pre is for recurrent layers"):
        rule_sequence(
            of_the_other_role, torch.zeros(STEPS, BATCH, posts), torch.zeros(STEPS, BATCH, pres), state, {},
            backend=backend,
        )  # fmt: skip
    with pytest.raises(RuleError, match="as_pre is for recurrent layers"):
        PlasticLinear(pres, posts, plasticity=of_the_other_role)


def _of_numpy(H, x, y, eta):
    return H + eta * x * np.tanh(y)


def _of_the_number_of_neurons(H, x, y, eta):
    return H + eta * x * y / over_pre(1)


def _of_two_conditions(H, x, y):
    return torch.where((y > 0) & (x > 0), H + x * y, H)


def _of_a_truth(H, x, y):
    return H + x * (y > 0).float()


def _of_a_mean(H, x, y):
    return H + x * y - torch.mean(x * y, -1, keepdim=True)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_of_numpy, r"a rule computes by torch; numpy's tanh is torch\.tanh"),
        (_of_the_number_of_neurons, r"over_pre\(1 \+ 0 \* x\) is the number of pre-synaptic neurons"),
        (_of_two_conditions, r"write one torch\.where inside another one"),
        (_of_a_truth, r"torch\.where\(y > 0, 1\.0, 0\.0\) makes numbers"),
        (_of_a_mean, r"torch's mean is not among .*over_pre\(1 \+ 0 \* x\) is the number"),
    ],
)  # fmt: skip
def test_what_a_newcomer_types_first_is_refused_with_what_to_do_instead(function, message):
    with pytest.raises(RuleError, match=message):
        rule(H="synapse")(function)


@rule(H="synapse", signals={"m": "post"})
def subtractive(H, x, y, eta, m):
    d = np.float64(0.5) * eta * x * y
    return H + d - over_pre(d) / over_pre(1 + 0 * x) + as_pre(m) * np.float32(0.25)


def test_a_rule_without_states_and_one_with_defaults_are_told_what_to_write():
    with pytest.raises(RuleError, match=r'write @rule\(H="synapse"\) above'):

        @rule
        def bare(H, x, y):
            return H + x * y

    with pytest.raises(RuleError, match=r"got eta=0\.1 .*by Coefficient\(init=\.\.\.\)"):

        @rule(H="synapse")
        def of_a_default(H, x, y, eta=0.1):
            return H + eta * x * y


def test_numpys_numbers_the_number_of_neurons_and_a_signal_in_its_other_role_alone_are_taken():
    torch.manual_seed(0)
    drive, pre, state = (
        _drawn(STEPS, BATCH, POSTS),
        _drawn(BATCH, POSTS),
        {"H": _drawn(BATCH, POSTS, POSTS)},
    )
    parameters = {"w": _drawn(POSTS, POSTS), "alpha": _drawn(POSTS, POSTS), "eta": _drawn()}
    signals = {"m": _drawn(STEPS, BATCH, POSTS)}
    ours, theirs = (
        rule_sequence(subtractive, drive, pre, state, parameters, signals, backend=backend)[1]["H"]
        for backend in ("cpu", "reference")
    )
    torch.testing.assert_close(ours, theirs)
    grads = (torch.autograd.grad(x.sum(), signals["m"])[0] for x in (ours, theirs))
    torch.testing.assert_close(*grads)


def test_a_second_derivative_is_refused_with_the_backend_that_has_it():
    drive, pre, state, parameters = _of_overwriting()
    output = rule_sequence(overwriting, drive, pre, state, parameters, backend="cpu")[0]
    (grad,) = torch.autograd.grad(output.square().sum(), drive, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only; backend='reference' has"):
        grad.sum().backward()


def test_states_of_a_rule_of_any_functions_that_do_not_fit_are_refused_by_name():
    wide = "def wide(H, t, x, y): return H, t + x * y"
    number = "def number(H, t, x, y): return H, 1.0"
    for source, message in (
        (wide, r"wide .*state t is declared 'pre'.*\(2, 5, 9\)"),
        (number, "number .*must be a tensor"),
    ):
        found = {}
        exec(source, found)  # of functions that have no file
        (made,) = (x for n, x in found.items() if n in ("wide", "number"))
        declared = rule(H="synapse", t="pre", fused=False, read=lambda H, x: H * x)(made)
        state = {"H": torch.zeros(BATCH, POSTS, PRES), "t": torch.zeros(BATCH, PRES)}
        with pytest.raises(RuleError, match=message):
            rule_sequence(
                declared,
                torch.zeros(STEPS, BATCH, POSTS),
                torch.ones(STEPS, BATCH, PRES),
                state,
                {},
            )
        with pytest.raises(RuleError, match="there is no file of it"):
            _ = declared.use().digest


def test_no_two_rules_that_live_have_one_token():
    source = "def made(H, x, y): return H + 0.625 * x * y"
    first, second = (rule(H="synapse")(_defined(source)) for _ in range(2))
    del REGISTERED[first.token]  # as when nobody has the rule any more
    third = rule(H="synapse")(_defined(source))
    assert REGISTERED[second.token] is second and REGISTERED[third.token] is third


@rule(H="synapse", signals={"s": "post"})
def of_a_signal_in_its_other_role(H, x, y, s):
    return H + as_pre(s) * y


def test_a_signal_may_be_taken_in_its_other_role_alone():
    torch.manual_seed(0)
    leaves = [_drawn(STEPS, BATCH, POSTS), _drawn(BATCH, POSTS), _drawn(STEPS, BATCH, POSTS)]
    parameters = {"w": _drawn(POSTS, POSTS), "alpha": _drawn(POSTS, POSTS)}
    found = []
    for backend in ("cpu", "reference"):
        output, last = rule_sequence(
            of_a_signal_in_its_other_role, *leaves[:2], {"H": torch.zeros(BATCH, POSTS, POSTS).double()}, parameters,
            {"s": leaves[2]}, backend=backend,
        )  # fmt: skip
        loss = (output**2).sum() + (last["H"] ** 2).sum()
        found.append(
            [output, last["H"], *torch.autograd.grad(loss, [*leaves, *parameters.values()])]
        )
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
