"""What neurons make of their sums under a user's rule: clamped, a softmax, an LSTM's; on every backend."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.gradcheck import gradcheck

from plastikern import Plasticity, as_pre, reference, rule, rule_sequence
from plastikern.network import Connection, Inputs, State
from plastikern.program import Program as Network
from plastikern.rules import running
from plastikern.rules.calls import CELL, CLAMP, GATES
from plastikern.rules.cells import CELLS, drives, weights
from plastikern.rules.programs import Program
from plastikern.rules.running import PlasticRule, Run, Spec
from plastikern.rules.sequences import How, _by_torch

from .ten import GRANULARITIES, RULES, Value

HERE = Path(__file__).parents[1]
COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
OPTIONS: dict[str, dict[str, Any]] = {
    "rnn": {"activity": "tanh"},
    "rnn-clamp": {"activity": "sigmoid", "clamps": True},
    "linear-clamp": {"kind": "linear", "activity": "relu", "clamps": True},
    "linear-softmax": {"kind": "linear", "activity": "softmax"},
    **{
        f"{kind}-{post}": {"kind": kind, "post": post}
        for kind, cell in CELLS.items()
        for post in cell.posts
    },
}
RECURRENT = {"A5"}
"""They ask for the other role of their neurons."""


@rule(
    activities="synapse", history="post", read=lambda w, alpha, activities, x: (w + alpha * activities) * x
)  # fmt: skip
def bcm(
    activities: Value, history: Value, x: Value, y: Value, z: Value, drive: Value, pre: Value, outputs: Value
) -> Value:  # fmt: skip
    """A threshold slides, and the sum itself has its part; with names that the library uses for other things."""
    activities = activities + drive * x * (y * (y - history) + pre * z)
    return activities, history + outputs * (y * y - history)


RULES_HERE = {**RULES, "bcm": bcm}


class Drawn:
    """Random tensors for a rule of ``ten``, and what is run with them; sizes T, B, O, I."""

    def __init__(
        self, tag: str, sizes: tuple[int, int, int, int], kind: str = "rnn", activity: str = "tanh",
        post: str = "candidate", clamps: bool = False, every: int | None = None, dtype: torch.dtype = torch.float64,
    ) -> None:  # fmt: skip
        steps, batch, posts, pres = sizes
        self.rule = RULES_HERE[tag]
        recurrent = kind != "linear"
        pres = posts if recurrent else pres
        generator = torch.Generator().manual_seed(sum(sizes))

        def leaf(*shape: int, low: float = -0.5, high: float = 0.5) -> Tensor:
            drawn = torch.empty(shape, dtype=torch.float64)
            return drawn.uniform_(low, high, generator=generator).to(dtype).requires_grad_()

        shapes: dict[str, tuple[int, ...]] = {
            "synapse": (batch, posts, pres), "pre": (batch, pres), "post": (batch, posts), "element": (batch,),
        }  # fmt: skip
        of_use: dict[str, tuple[int, ...]] = {
            "layer": (), "pre": (pres,), "post": (posts,), "connection": (posts, pres),
        }  # fmt: skip
        self.of_use = {
            n: GRANULARITIES.get(tag, {}).get(n, "layer") for n in self.rule.coefficients
        }
        given = {name: leaf(*shapes[kind]) for name, kind in self.rule.states.items()}
        given |= {name: leaf(steps, *shapes[kind]) for name, kind in self.rule.signals.items()}
        given |= {name: leaf(*of_use[use], low=0.1) for name, use in self.of_use.items()}
        for name in sorted({"w", "alpha"} & {*self.rule.taken}):
            given[name], self.of_use[name] = leaf(posts, pres, low=0.2), "connection"
        if clamps:
            given[CLAMP] = torch.rand(steps, batch, posts, generator=generator) < 0.4
        if kind in CELLS:
            given[GATES] = leaf(len(CELLS[kind].others) * posts, posts)
        if kind == "lstm":
            given[CELL] = leaf(batch, posts)
        self.given = given
        self.drive = leaf(steps, batch, posts * drives(kind), low=-1, high=1)
        self.pre = leaf(batch, posts) if recurrent else leaf(steps, batch, pres)
        self.spec = Spec(
            Program(self.rule, self.of_use), tuple(given), activity, recurrent, kind=kind, post=post, every=every
        )  # fmt: skip

    def leaves(self) -> dict[str, Tensor]:
        """What has a gradient, by name."""
        tensors = {"drive": self.drive, "pre": self.pre, **self.given}
        return {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}

    def by_torch(self) -> list[Tensor]:
        """Activities and what is last, on the reference."""
        spec = self.spec
        how = How(activity=spec.activity, kind=spec.kind, post=spec.post)
        output, cell, last = _by_torch(
            self.rule, self.drive, self.pre, self.given, self.of_use, how
        )
        return [output, *(() if cell is None else (cell,)), *last.values()]

    def fused(self, sequence: Any = PlasticRule, target: str = "cpu") -> list[Tensor]:
        """The same on kernels."""
        spec = replace(self.spec, target=target)
        found = sequence.apply(spec, self.drive, self.pre, *self.given.values())
        return list(found[: 1 + len(spec.last_names)])

    def with_gradients(self, found: list[Tensor]) -> dict[str, Tensor]:
        """What came out, and every gradient, from upstream gradients of its own for each."""
        generator = torch.Generator().manual_seed(1)
        upstream = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in found]
        leaves = self.leaves()
        grads = torch.autograd.grad(found, [*leaves.values()], upstream, allow_unused=True)
        named = {f"{place} out": tensor for place, tensor in enumerate(found)}
        for (name, like), grad in zip(leaves.items(), grads, strict=True):
            named[f"grad of {name}"] = torch.zeros_like(like) if grad is None else grad
        return named

    def check(self, found: list[Tensor], tolerance: float = 1e-10) -> None:
        """Against the reference."""
        expected = self.with_gradients(self.by_torch())
        for name, tensor in self.with_gradients(found).items():
            torch.testing.assert_close(
                tensor, expected[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
            )  # fmt: skip


def every_pair(*quick: str) -> list[Any]:
    """Rules and options; those of all but some rules are slow."""
    slow = pytest.mark.slow
    return [
        pytest.param(tag, option, marks=() if tag in quick else slow, id=f"{tag}-{option}")
        for tag in ("bcm", "A5", "A9", "A10", "A4")
        for option, said in OPTIONS.items()
        if tag not in RECURRENT or said.get("kind") != "linear"
    ]


@COMPILER
@pytest.mark.parametrize(("tag", "option"), every_pair("bcm", "A5"))
def test_compiled_neurons_equal_the_reference(tag: str, option: str) -> None:
    drawn = Drawn(tag, (6, 3, 11, 19), **OPTIONS[option])
    drawn.check(drawn.fused())


@COMPILER
@pytest.mark.parametrize(("tag", "option"), every_pair("A4"))
def test_neurons_on_emulated_cuda_equal_the_reference(tag: str, option: str) -> None:
    drawn = Drawn(tag, (4, 2, 9, 35), **OPTIONS[option])
    drawn.check(drawn.fused(target=str(HERE / "cuda_emulator")))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="run by test_interpreted.py")
@pytest.mark.parametrize(("tag", "option"), every_pair("A10"))
def test_interpreted_neurons_equal_the_reference(tag: str, option: str) -> None:
    from plastikern.triton.rules import PlasticRule as OnTriton

    drawn = Drawn(tag, (3, 2, 5, 7), **OPTIONS[option])
    drawn.check(drawn.fused(OnTriton))
    with torch.no_grad():
        for alone, right in zip(drawn.fused(OnTriton), drawn.by_torch(), strict=True):
            torch.testing.assert_close(alone, right, rtol=1e-10, atol=1e-10)


@COMPILER
@pytest.mark.parametrize("option", ["rnn-clamp", "lstm-recurrent"])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 1, 33, 33), (9, 20, 17, 17)])
@pytest.mark.parametrize("every", [None, 1, 4, 100])
def test_sizes_and_the_spacing_of_checkpoints_change_nothing(
    sizes: tuple[int, int, int, int], every: int | None, option: str
) -> None:
    drawn = Drawn("A10", sizes, every=every, **OPTIONS[option])
    drawn.check(drawn.fused())


@COMPILER
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("group", [1, 3])
def test_elements_of_an_lstm_are_independent_of_who_takes_them_together(
    threads: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "MAX_GROUP", group)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        drawn = Drawn("A10", (5, 7, 13, 13), **OPTIONS["lstm-candidate"])
        drawn.check(drawn.fused())
    finally:
        torch.set_num_threads(before)


@COMPILER
@pytest.mark.parametrize("option", ["linear-softmax", "lstm-cell"])
def test_single_precision_rounds_and_nothing_else(option: str) -> None:
    drawn = Drawn("A10", (6, 3, 11, 19), dtype=torch.float32, **OPTIONS[option])
    exact = Drawn("A10", (6, 3, 11, 19), **OPTIONS[option])
    expected = exact.with_gradients(exact.by_torch())
    # Upstream gradients of the two are drawn in the precision of each; those of one are taken for both.
    for name, tensor in zip(expected, drawn.fused(), strict=False):
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)


@COMPILER
@pytest.mark.parametrize("option", ["lstm-recurrent", "rnn-clamp"])
def test_compiled_gradients_are_those_of_differences(option: str) -> None:
    drawn = Drawn("A10", (2, 2, 2, 2), **OPTIONS[option])
    leaves = drawn.leaves()

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        named = {**drawn.given, **dict(zip(leaves, tensors, strict=True))}
        drive, pre = named.pop("drive"), named.pop("pre")
        found = PlasticRule.apply(drawn.spec, drive, pre, *(named[name] for name in drawn.given))
        return found[: 1 + len(drawn.spec.last_names)]

    assert gradcheck(run, tuple(leaves.values()))


@rule(H="synapse")
def hebb(H: Value, x: Value, y: Value, eta: Value) -> Value:
    """As the library's own rule of this name."""
    return (1 - eta) * H + eta * y * x


@pytest.mark.parametrize("option", OPTIONS)
def test_the_definition_is_that_of_the_librarys_own_networks(option: str) -> None:
    said = {"kind": "rnn", "activity": "tanh", "post": "candidate", **OPTIONS[option]}
    kind, steps, batch, posts = said["kind"], 5, 2, 4
    pres = 6 if kind == "linear" else posts
    torch.manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    if kind == "linear" and said.get("clamps"):
        pytest.skip("no linear layer of the library's own is clamped")
    clamp = torch.rand(steps, batch, posts) < 0.5 if said.get("clamps") else None
    drive = normal(steps, batch, posts * drives(kind))
    trace = normal(batch, posts, pres)
    features, hidden = normal(steps, batch, pres), normal(batch, posts)
    cell = normal(batch, posts) if kind == "lstm" else None
    weight, alpha, eta = normal(posts * weights(kind), pres), normal(posts, pres), normal()
    given = {"H": trace, "w": weight, "alpha": alpha, "eta": eta}
    if kind in CELLS:
        blocks = weight.view(-1, posts, posts)
        given |= {"w": blocks[2], GATES: blocks[CELLS[kind].others].flatten(0, 1)}
    if cell is not None:
        given[CELL] = cell
    if clamp is not None:
        given[CLAMP] = clamp
    output, last_cell, last = _by_torch(
        hebb, drive, features if kind == "linear" else hidden, given,
        {"eta": "layer", "w": "connection", "alpha": "connection"}, How(said["activity"], kind, said["post"]),
    )  # fmt: skip
    program = Network(kind, Plasticity(), said["activity"], said["post"])
    inputs = Inputs(drive, features if kind == "linear" else None, clamp)
    state = State(None if kind == "linear" else hidden, cell, trace, None)
    right, after = reference.sequence(
        inputs, state, Connection(weight, alpha, eta, None, None), program, None
    )
    torch.testing.assert_close(output, right)
    torch.testing.assert_close(last["H"], after.trace)
    if cell is not None:
        torch.testing.assert_close(last_cell, after.cell)


@COMPILER
@pytest.mark.parametrize("option", ["rnn", "lstm-candidate", "lstm-hidden"])
def test_nothing_is_kept_where_no_gradient_is_asked_for(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn("A10", (6, 3, 11, 11), **OPTIONS[option])
    tensors = (drawn.drive, drawn.pre, *drawn.given.values())
    asked = []
    forward = Run.forward

    def watched(run: Run, keep: bool) -> None:
        asked.append(keep)
        forward(run, keep)

    monkeypatch.setattr(Run, "forward", watched)
    with_it = PlasticRule.apply(drawn.spec, *tensors)
    with torch.no_grad():
        disabled = PlasticRule.apply(drawn.spec, *tensors)
    detached = PlasticRule.apply(drawn.spec, *(tensor.detach() for tensor in tensors))
    assert asked == [True, False, False]
    for found in (disabled, detached):
        assert len(found) == 1 + len(drawn.spec.last_names) < len(with_it)
        for mine, kept in zip(found, with_it, strict=False):
            assert torch.equal(mine, kept) and not mine.requires_grad


@COMPILER
def test_forward_mode_is_refused_where_no_gradient_is_asked_for_either() -> None:
    drawn = Drawn("A10", (2, 2, 3, 3), **OPTIONS["rnn"])
    drive, pre, *given = (t.detach() for t in (drawn.drive, drawn.pre, *drawn.given.values()))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(drive, torch.ones_like(drive))
        with pytest.raises((RuntimeError, NotImplementedError), match="jvp"):
            PlasticRule.apply(drawn.spec, dual, pre, *given)


def test_options_that_do_not_go_together_are_refused() -> None:
    program, names = Program(hebb, {}), ("H", "w", "alpha", "eta")
    given = (*names, GATES, CELL)
    for wrong, message in (
        ({"kind": "qrnn"}, "kind must be one of rnn, linear, lstm, gru; got 'qrnn'"),
        ({"kind": "gru", "post": "cell"}, "post must be one of candidate, recurrent, hidden; got 'cell'"),
        ({"kind": "gru"}, "a network of kind 'gru' is recurrent, and is given gates$"),
        ({"kind": "lstm", "post": "gate", "names": given}, "post must be one of candidate, .*; got 'gate'"),
        ({"activity": "elu"}, "activity must be one of tanh, .*, softmax; got 'elu'"),
        ({"every": 0}, "every must be at least one step; got 0"),
        ({"kind": "lstm"}, "a network of kind 'lstm' is recurrent, and is given gates and cell"),
        ({"kind": "lstm", "names": given, "recurrent": False}, "a network of kind 'lstm' is recurrent"),
        ({"names": (*given, CLAMP), "kind": "lstm"}, "clamp is for neurons"),
        ({"names": (*names, CLAMP), "activity": "softmax"}, "clamp is for neurons"),
        ({"names": (*names, CLAMP, CLAMP)}, "clamp stands twice"),
    ):  # fmt: skip
        said: dict[str, Any] = {"names": names, "activity": "tanh", "recurrent": True, **wrong}
        with pytest.raises(ValueError, match=message):
            Spec(program, **said)


@rule(H="synapse", signals={"s": "post"})
def of_other_roles(H: Value, x: Value, y: Value, z: Value, s: Value) -> Value:
    return H + as_pre(s) * s * y + as_pre(z) * z


@rule(H="synapse", q="post", signals={"s": "post"}, read_after=True, read=lambda H, x: H * x)
def of_other_roles_read_after(H: Value, q: Value, x: Value, s: Value) -> Value:
    return H + as_pre(q) * s * x, q + s


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="by test_interpreted.py")
@pytest.mark.parametrize("own", [of_other_roles, of_other_roles_read_after])
def test_other_roles_interpreted_are_the_references(own: Any) -> None:
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    shapes = {"synapse": (2, 4, 4), "post": (2, 4)}
    state = {name: leaf(*shapes[kind]) for name, kind in own.states.items()}
    parameters = {name: leaf(4, 4) for name in ("w", "alpha") if name in own.taken}
    drive, pre, signals = leaf(3, 2, 4), leaf(2, 4), {"s": leaf(3, 2, 4)}
    leaves = [drive, pre, *state.values(), *parameters.values(), *signals.values()]
    found = []
    for backend in ("triton", "reference"):
        output, last = rule_sequence(own, drive, pre, state, parameters, signals, backend=backend)
        values = [output, *last.values()]
        loss = sum((value**2).sum() for value in values)
        found.append([*values, *torch.autograd.grad(loss, leaves)])  # type: ignore[arg-type]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
