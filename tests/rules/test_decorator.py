"""What a declaration of a rule must be, and how it is told what it may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from plastikern import RuleError, as_pre, over_post, over_pre, rule
from plastikern.rules.operations import evaluate
from plastikern.rules.symbols import leaf

V = Any


def error_of(declare: Callable[[], Any]) -> str:
    """What is said of a declaration."""
    with pytest.raises(RuleError) as caught:
        declare()
    return str(caught.value)


def hebb(H: V, x: V, y: V, eta: V) -> V:
    return H + eta * x * y


def _pair(H: V, q: V, x: V, y: V) -> V:
    return H + x * y, q + y


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (lambda: rule()(hebb), "at least one state"),
        (lambda: rule(H="matrix")(hebb), "state H must be one of synapse, pre, post, element; got 'matrix'"),
        (lambda: rule(H="Synapse")(hebb), "got 'Synapse'"),
        (lambda: rule(H="connection")(hebb), "got 'connection'"),
        (lambda: rule(H="synapse", signals={"eta": "layer"})(hebb), "signal eta must be one of"),
        (lambda: rule(H="synapse", signals={"eta": "synapse"})(hebb), "make signal eta a state that keeps its value"),
        (lambda: rule(H="synapse", signals={"eta": "synapse"}, fused=False)(hebb), None),
        (lambda: rule(H="synapse", y="post")(hebb), "state y has the name of something else"),
        (lambda: rule(H="synapse", w="synapse")(hebb), "state w has the name of something else"),
        (lambda: rule(H="synapse", signals={"H": "pre"})(hebb), "signal H has the name of something else"),
        (lambda: rule(H="synapse", E="synapse")(hebb), "state E is declared, but neither"),
        (lambda: rule(H="synapse", signals={"v": "post"})(hebb), "signal v is declared, but neither"),
        (lambda: rule(H="synapse")(lambda H, x: H * x), "a rule needs a name"),
        (lambda: rule(H="synapse", read=lambda H, y: H * y)(hebb), "read cannot take y"),
        (lambda: rule(H="synapse", read=lambda H, x, z: z * x)(hebb), "read cannot take z"),
        (lambda: rule(H="synapse", read=lambda w, alpha: w * alpha)(hebb), None),
        (lambda: rule(H="synapse", q="post", read=lambda H, q: H * as_pre(q))(_pair), "read cannot take as_pre"),
        (lambda: rule(H="synapse", read_after=True)(hebb), "cannot take y, which follow from it"),
        (lambda: rule(H="synapse", read=lambda H, theta: H * theta)(hebb), None),
        (lambda: rule(**{f"s{k}": "synapse" for k in range(20)})(hebb), "at most 16 states; got 20"),
    ],
)  # fmt: skip
def test_a_declaration_that_does_not_fit_is_refused(
    declared: Callable[[], Any], message: str | None
) -> None:
    if message is None:
        declared()
    else:
        assert message in error_of(declared)


def _returns_one(H: V, E: V, x: V, y: V) -> V:
    return H + E * x * y


def _post_by_synapse(H: V, theta: V, x: V, y: V) -> V:
    return H + theta * x, theta + x


def _pre_by_post(H: V, p: V, x: V, y: V) -> V:
    return H + p * y, p + y


def _element_by_post(H: V, m: V, x: V, y: V) -> V:
    return H + m * x * y, m + y


def _idle(H: V, E: V, x: V, y: V) -> V:
    return H + x * y, 0 * x


def _number(H: V, x: V, y: V) -> V:
    return 1.0


@pytest.mark.parametrize(
    ("function", "states", "message"),
    [
        (_returns_one, {"H": "synapse", "E": "synapse"}, "must return 2 states (H, E); got 1"),
        (hebb, {"H": "post"}, "state H is declared 'post', but after a step it depends on pre"),
        (_post_by_synapse, {"H": "synapse", "theta": "post"}, "state theta is declared 'post', but after a step it depends on pre"),  # noqa: E501
        (_pre_by_post, {"H": "synapse", "p": "pre"}, "state p is declared 'pre', but after a step it depends on post"),
        (_element_by_post, {"H": "synapse", "m": "element"}, "'element', but after a step it depends on post"),
        (_idle, {"H": "synapse", "E": "synapse"}, "E has no influence on anything"),
        (_number, {"H": "synapse"}, "state H after a step must depend on what the rule is given; got 1.0"),
    ],
)  # fmt: skip
def test_what_a_rule_returns_must_be_its_states(
    function: Callable[..., Any], states: dict[str, str], message: str
) -> None:
    said = error_of(lambda: rule(**states)(function))
    assert message in said and f"{__file__}:{function.__code__.co_firstlineno}" in said


def _sanger(H: V, x: V, y: V) -> V:
    return H + y * (x - torch.cumsum(y * H, -2))


def _softmax(H: V, x: V, y: V) -> V:
    return H + torch.softmax(y, -2) * x


def _ranks(H: V, x: V, y: V) -> V:
    return H + torch.argsort(y) * x


def _largest(H: V, x: V, y: V) -> V:
    return (H + x * y) / torch.amax(torch.abs(H))


def _norm(H: V, x: V, y: V) -> V:
    return H / torch.linalg.norm(H)


def _most(H: V, x: V, y: V) -> V:
    return H / torch.max(H)


def _least_squares(H: V, x: V, y: V) -> V:
    return H - y * torch.matmul(H, x)


def _solve(H: V, x: V, y: V) -> V:
    return H + torch.linalg.solve(H, x)


def _product(H: V, x: V, y: V) -> V:
    return H + torch.einsum("bji,bi->bj", H, x)


def _sum(H: V, x: V, y: V) -> V:
    return H + x * H.sum(-1)


def _index(H: V, x: V, y: V) -> V:
    return H + x[0] * y


def _transposed(H: V, x: V, y: V) -> V:
    return H + H.transpose(-1, -2)


def _branch(H: V, x: V, y: V) -> V:
    return H + x if y > 0 else H


def _python_max(H: V, x: V, y: V) -> V:
    return max(H, x * y)


def _grows(H: V, x: V, y: V) -> V:
    H += x * y
    return H


def _captures(H: V, x: V, y: V) -> V:
    return H + x * y * torch.ones(3)


def _endless(H: V, x: V, y: V) -> V:
    return H + float("inf") * x * y


def _by_zero(H: V, x: V, y: V) -> V:
    return H + x / 0 * y


def _overflowing(H: V, x: V, y: V) -> V:
    return H + 1e308 * 10 * x * y


def _no_number(H: V, x: V, y: V) -> V:
    return H + float("nan") * x * y


def _scan(H: V, x: V, y: V) -> V:
    return H + torch.flip(H, (-1,)) * x


def _own_maximum(H: V, x: V, y: V) -> V:
    return H / abs(H).max()


def _own_norm(H: V, x: V, y: V) -> V:
    return H / H.norm()


def _mean(H: V, x: V, y: V) -> V:
    return H - H.mean()


def _loop(H: V, x: V, y: V) -> V:
    while abs(H) > 1:
        H = H / 2
    return H + x * y


def _for(H: V, x: V, y: V) -> V:
    for each in x:
        H = H + each * y
    return H


def _assert(H: V, x: V, y: V) -> V:
    assert H >= 0
    return H + x * y


def _in_place(H: V, x: V, y: V) -> V:
    return H.add_(x * y)


def _in_place_item(H: V, x: V, y: V) -> V:
    H[0] = x * y
    return H


def _in_place_relu(H: V, x: V, y: V) -> V:
    return torch.nn.functional.relu(H, inplace=True) + x * y


def _captures_a_parameter(H: V, x: V, y: V) -> V:
    return H + x * y * torch.nn.Parameter(torch.ones(3))


def _captures_in_a_choice(H: V, x: V, y: V) -> V:
    return torch.where(x > 0, H, torch.zeros(()))


def _different(H: V, x: V, y: V) -> V:
    return torch.where(x != 0, H + y, H)


def _modulo(H: V, x: V, y: V) -> V:
    return H + x % 2 * y


def _both(H: V, x: V, y: V) -> V:
    return torch.where((x > 0) & (y > 0), H, x)


def _text(H: V, x: V, y: V) -> V:
    return H + "1" * x


def _softplus(H: V, x: V, y: V) -> V:
    return H + torch.nn.functional.softplus(x, beta=2) * y


def _gelu(H: V, x: V, y: V) -> V:
    return H + torch.nn.functional.gelu(x) * y


def _other_role(H: V, x: V, y: V) -> V:
    return H + x * as_pre(2 * y)


def _no_sum(H: V, x: V, y: V) -> V:
    return H + over_pre(y) * x


def _no_sum_over_post(H: V, x: V, y: V) -> V:
    return H + over_post(x) * y


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_sanger, "torch's cumsum is not among the operations of rules"), (_softmax, "torch's softmax"),
        (_ranks, "torch's argsort"), (_largest, "torch's amax"), (_norm, "norm is not among"),
        (_most, "torch's max is not among"), (_least_squares, "torch's matmul"), (_solve, "solve is not among"),
        (_product, "torch's einsum"), (_sum, "a rule has no .sum; over_pre and over_post sum"),
        (_index, "a rule has no indices: it says what one synapse does"), (_transposed, "a rule has no .transpose"),
        (_branch, "a rule cannot branch on what it is given; use torch.where"),
        (_python_max, "a rule cannot branch"), (_grows, "cannot change what it is given in place"),
        (_captures, "cannot take a tensor from outside"), (_endless, "a constant in a rule must be finite; got inf"),
        (_scan, "torch's flip"), (_own_maximum, "a rule has no .max"), (_own_norm, "a rule has no .norm"),
        (_mean, "a rule has no .mean; over_pre"), (_loop, "cannot branch"), (_for, "has no parts to go through"),
        (_assert, "cannot branch"), (_in_place, r"in place; got .add_"), (_in_place_item, "in place; use torch.where"),
        (_in_place_relu, "leave inplace=True out"), (_captures_a_parameter, "cannot take a tensor from outside"),
        (_captures_in_a_choice, "cannot take a tensor from outside"), (_different, "a rule has no !=; use =="),
        (_modulo, "it has no // %"), (_both, "write one torch.where inside"),
        (_text, "a rule computes with numbers; got str"),
        (_softplus, "torch.softplus in a rule: got an unexpected keyword argument 'beta'"),
        (_gelu, "torch's gelu is not among the operations of rules"),
        (_by_zero, "cannot divide by the constant zero"), (_overflowing, "a constant in a rule must be finite"),
        (_no_number, "a constant in a rule must be finite; got nan"),
        (_other_role, "as_pre takes a state"), (_no_sum, "over_pre sums over pre"),
        (_no_sum_over_post, "over_post sums over post"),
    ],
)  # fmt: skip
def test_what_no_kernel_can_do_is_refused_where_it_is_written(
    function: Callable[..., Any], message: str
) -> None:
    with pytest.raises(TypeError) as caught:
        rule(H="synapse")(function)
    assert message in str(caught.value)
    lines = [frame.lineno for frame in _frames(caught.value) if frame.filename == __file__]
    first = function.__code__.co_firstlineno
    assert first < lines[-1] <= first + 3


SAME = [
    (torch.nn.functional.relu, torch.relu), (lambda x: torch.clip(x, -1, 1), lambda x: torch.clamp(x, -1, 1)),
    (lambda x: x.clip(min=0), lambda x: x.clamp(min=0)), (torch.square, lambda x: x**2),
    (lambda x: x.square(), lambda x: x * x), (torch.negative, lambda x: -x), (torch.absolute, abs),
    (lambda x: torch.multiply(x, 2), lambda x: x * 2), (lambda x: torch.true_divide(x, 2), lambda x: x / 2),
    (lambda x: torch.where(torch.greater(x, 1), x, 0.0), lambda x: torch.where(x > 1, x, 0.0)),
    (torch.nn.functional.tanh, torch.tanh), (torch.nn.functional.sigmoid, torch.sigmoid),
]  # fmt: skip


@pytest.mark.parametrize(("also", "known"), SAME)
def test_other_names_of_torch_mean_the_same(
    also: Callable[[Any], Any], known: Callable[[Any], Any]
) -> None:
    values = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    x = leaf("x", "pre")
    (ours,) = evaluate({"x": also(x)}, {"x": values}).values()
    theirs = also(values)
    assert torch.equal(ours, theirs) and torch.equal(theirs, known(values))
    assert torch.equal(*(torch.autograd.grad(each.sum(), values)[0] for each in (ours, theirs)))


def _frames(error: BaseException) -> Any:
    import traceback

    return traceback.extract_tb(error.__traceback__)


@pytest.mark.parametrize("function", [_sanger, _largest, _least_squares])
def test_what_no_kernel_can_do_the_reference_runs_where_it_is_asked_for(
    function: Callable[..., Any],
) -> None:
    from plastikern import rule_sequence

    own = rule(H="synapse", fused=False)(function)
    given = torch.randn(2, 3, 4), torch.randn(2, 3, 4), {"H": torch.randn(3, 4, 4)}
    parameters = {"w": torch.randn(4, 4), "alpha": torch.randn(4, 4)}
    with pytest.raises(RuleError, match="fused=False: backend='reference' runs it, 'cpu' cannot"):
        rule_sequence(own, *given, parameters, backend="cpu")
    if function is not _least_squares:  # whose product wants other shapes
        output, _ = rule_sequence(own, *given, parameters)
        assert output.shape == (2, 3, 4)


NOTEBOOK = """
import torch
from plastikern import rule

def helper(x):
    return x.sum()

@rule(H="synapse")
def fine(H, x, y, eta):
    return H + eta * x * y

def cumulated(H, x, y):
    return H + torch.cumsum(x, -1) * y

def returning_two(H, x, y):
    return H, y

def with_a_helper(H, x, y):
    return H + helper(x) * y
"""


@pytest.fixture
def cell() -> dict[str, Any]:
    """What a cell of a notebook declares: there is no file, and the module is __main__."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(NOTEBOOK, "<ipython-input-3>", "exec"), names)
    return names


def test_a_rule_of_a_notebook_runs_and_is_not_saved_by_a_name_that_nobody_finds(
    cell: dict[str, Any],
) -> None:
    import pickle

    from plastikern import rule_sequence

    assert cell["fine"].name == "__main__:fine"
    parameters = {"w": torch.ones(3, 3), "alpha": torch.ones(3, 3), "eta": torch.ones(())}
    given = torch.zeros(4, 2, 3), torch.ones(4, 2, 3), {"H": torch.zeros(2, 3, 3)}, parameters
    output, _ = rule_sequence(cell["fine"], *given, backend="reference")
    assert output.isfinite().all()
    with pytest.raises(pickle.PicklingError, match="__main__:fine is not where its name says"):
        pickle.dumps(cell["fine"])


@pytest.mark.parametrize(
    ("name", "message", "line"),
    [
        ("cumulated", "torch's cumsum", 13),
        ("returning_two", r"returning_two \(<ipython-input-3>:15\): must return 1 states", None),
        ("with_a_helper", r"a rule has no \.sum", 19),
    ],
)
def test_an_error_of_a_notebook_names_its_line(
    cell: dict[str, Any], name: str, message: str, line: int | None
) -> None:
    with pytest.raises(RuleError, match=message) as caught:
        rule(H="synapse")(cell[name])
    lines = [f.lineno for f in _frames(caught.value) if f.filename == "<ipython-input-3>"]
    assert line is None or line in lines
