"""Episodes that begin inside a sequence or a rollout: ``reset``."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from conftest import (
    BACKENDS,
    RESET,
    SIMPLE,
    Case,
    assert_close,
    assert_same_bits,
    close,
    gradients,
    needs_native,
    random,
    run,
    threads,
    uninitialised_memory_is_nan,
)  # fmt: skip
from rules.test_modules import OWN, hebb, modulated, on_kernels_of_its_own
from tolerances import FP64
from torch import Tensor, nn

import plastikern.functional as PF
from plastikern import (
    Plasticity,
    PlasticLinear,
    PlasticLSTM,
    PlasticRNN,
    RNNState,
    rule_sequence,
)
from plastikern.episodes import Segments, segments_of

each_case = pytest.mark.parametrize("case", RESET.values(), ids=RESET)
CPU = torch.device("cpu")


def by_episodes(case: Case, inputs: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    """Every episode by a call of its own, without resets."""
    reset, lengths = case.reset, case.lengths or (case.steps,) * case.batch
    assert reset is not None
    outputs, states = [], []
    for b in range(case.batch):
        element = [b] if case.batch_first else (slice(None), [b])
        own = {
            name: tensor[element] if name in ("input", "drive") else tensor
            for name, tensor in inputs.items()
        }
        state = {name: inputs[name][[b]] for name in case.state}
        begins = reset[b] if case.batch_first else reset[:, b]
        parts = [0, *(t for t in range(lengths[b]) if begins[t]), lengths[b]]
        found = []
        for t, end in pairwise(parts):
            if t < lengths[b] and begins[t]:
                state = {
                    name: inputs[f"reset_{name}"][[b]]
                    if case.with_reset_state
                    else torch.zeros_like(state[name])
                    for name in case.state
                }
            piece = slice(t, end)
            time = (slice(None), piece) if case.batch_first else piece
            given = {n: x[time] if n in ("input", "drive") else x for n, x in own.items()}
            given = {n: x for n, x in given.items() if not n.startswith("reset_")} | state
            whole = replace(case, lengths=None, resets=None)
            clamp = whole.options().get("clamp")
            changes = {} if clamp is None else {"clamp": clamp[element][time]}
            state = whole.sequence(given, backend, **changes)
            found.append(state.pop("output"))
        axis = 1 if case.batch_first else 0
        output = torch.cat(found, axis)
        missing = list(output.shape)
        missing[axis] = case.steps - output.shape[axis]
        outputs.append(torch.cat([output, output.new_zeros(missing)], axis))
        states.append(state)
    batch = 0 if case.batch_first else 1
    return {
        "output": torch.cat(outputs, batch),
        **{name: torch.cat([state[name] for state in states]) for name in case.state},
    }


@each_case
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_sequence_with_resets_is_its_episodes_one_by_one(case: Case, batch_first: bool) -> None:
    case = replace(case, batch_first=batch_first)
    expected_inputs, inputs = case.inputs(), case.inputs()
    expected = case.results(by_episodes(case, expected_inputs, "reference"), expected_inputs)
    assert_close(case.results(case.sequence(inputs, "reference"), inputs), expected, FP64)


@needs_native
@each_case
@pytest.mark.parametrize("lengths", [None, (7, 0), (3, 6)])
def test_kernels_equal_the_reference(case: Case, lengths: tuple[int, ...] | None) -> None:
    for form in (case, replace(case, batch_first=True, with_reset_state=not case.with_reset_state)):
        form = replace(form, lengths=lengths)
        with threads(2), uninitialised_memory_is_nan():
            assert_close(run(form, "cpu"), run(form, "reference"), FP64)


@needs_native
def test_episodes_of_any_number_and_length_equal_the_reference() -> None:
    begins = {
        "at every step": [(t, b) for t in range(40) for b in range(3)],
        "of one element": [(t, 1) for t in range(40)],
        "at once": [(t, b) for t in (10, 11, 30) for b in range(3)],
        "of all lengths": [(t, b) for b in range(3) for t in (1, 3, 7, 15 + b, 39)],
    }
    for network in ("rnn", "lstm", "linear"):
        for resets in begins.values():
            case = Case(
                40, 3, 9, Plasticity(constraint="clip", clip=0.3, **SIMPLE), resets=tuple(resets),
                network=network, lengths=(40, 40, 21),
            )  # fmt: skip
            assert_close(run(case, "cpu"), run(case, "reference"), FP64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_before_a_reset_reaches_nothing_after_it(backend: str) -> None:
    case = Case(6, 1, 4, resets=((3, 0),))
    inputs = case.inputs()
    found = case.sequence(inputs, backend)
    grads = gradients(found["output"][3:].sum() + found["trace"].sum(), inputs)
    assert not grads["grad_hidden"].any() and not grads["grad_drive"][:3].any()
    assert grads["grad_drive"][3:].all()
    with torch.no_grad():
        inputs["drive"][1] = float("nan")
        inputs["hidden"].fill_(float("inf"))
    broken = case.sequence(inputs, backend)
    assert broken["output"][1].isnan().all()
    close([broken["output"][3:], broken["trace"]], [found["output"][3:], found["trace"]])


@needs_native
def test_a_mask_without_resets_changes_no_bit() -> None:
    case = Case(5, 3, 6, with_clamp=True)
    assert_same_bits(run(replace(case, resets=()), "cpu"), run(case, "cpu"))


def test_a_mask_is_read_at_the_call() -> None:
    case = Case(5, 2, 3)
    reset, inputs = torch.zeros(5, 2, dtype=torch.bool), case.inputs()
    found = case.sequence(inputs, None, reset=reset)
    expected = gradients(found["output"].sum(), inputs)
    found = case.sequence(inputs, None, reset=reset)
    reset.fill_(True)
    close([*gradients(found["output"].sum(), inputs).values()], [*expected.values()])


def padded(segments: Segments) -> int:
    return sum(wave.steps * wave.size for wave in segments.waves)


@pytest.mark.parametrize("skips", [False, True])
def test_memory_for_padding_is_bounded(skips: bool) -> None:
    steps, batch = 1000, 30
    alone = torch.zeros(steps, batch, dtype=torch.bool)
    alone[:, 1:] = True
    thirds, often = torch.zeros_like(alone), torch.rand(steps, batch) < 0.1
    thirds[[100, 900]] = True
    for begins in (alone, thirds, often, torch.ones_like(alone)):
        worth = 2 * begins.numel() if skips else 256
        segments = segments_of(begins, None, False, CPU, worth)
        assert segments is not None
        assert padded(segments) <= (6 if skips else 1.5) * begins.numel()
        assert len(segments.back.unique()) == begins.numel()


KINDS: dict[str, Any] = {"rnn": PlasticRNN, "lstm": PlasticLSTM, "linear": PlasticLinear}
RULES: dict[str, Any] = {
    "decay": Plasticity(),
    "retroactive": Plasticity(constraint="clip", clip=0.3, modulation="retroactive"),
    "served by the library": hebb,
    "own kernels": on_kernels_of_its_own(hebb.use()),
    "own signal": modulated,
    "initial values": OWN,
}
SIGNALS = {"own signal": "m", "initial values": "reward"}


def made(kind: str, rule: str, **options: Any) -> nn.Module:
    torch.manual_seed(3)
    sizes = (4, 5) if kind == "linear" else (4, 5, 2)
    options.setdefault("dtype", torch.float64)
    module: nn.Module = KINDS[kind](*sizes, plasticity=RULES[rule], **options)
    return module


def states(module: Any, batch: int) -> Any:
    """A random one whose tensors want gradients."""
    layers = () if isinstance(module, PlasticLinear) else (module.num_layers,)
    retroactive = getattr(module.plasticity, "modulation", "") == "retroactive"
    fields = [name for name in module.State._fields if name != "eligibility" or retroactive]
    shapes = [(*layers, batch, *module._state_shape(name)) for name in fields]
    return module.State(*((0.3 * random(*shape)).requires_grad_() for shape in shapes))


def learnt(module: nn.Module, given: list[Tensor], found: Any) -> list[Tensor]:
    """What a module returns, and gradients of what it was given and of its parameters."""
    results = [found[0], *found[1]]
    loss = sum((x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)).sum() for x in results)  # fmt: skip
    wanted = [*given, *module.parameters()]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)  # type: ignore[arg-type]
    return [x.detach() for x in results] + [torch.zeros(()) if x is None else x for x in grads]


def some(kind: str, rule: str) -> Any:
    """Rules that have to be compiled take seconds; one of them stands for all."""
    compiled = rule in ("own kernels", "own signal") or (rule, kind) == ("initial values", "linear")
    return pytest.param(kind, rule, marks=[pytest.mark.slow] if compiled else [])


@needs_native
@pytest.mark.parametrize("kind, rule", [some(kind, rule) for kind in KINDS for rule in RULES])
def test_modules_equal_the_reference(kind: str, rule: str) -> None:
    torch.manual_seed(1)
    inputs, reset = random(9, 3, 4).requires_grad_(), torch.rand(9, 3) < 0.3
    reset[0, 0] = reset[5, 1] = True
    signals = {SIGNALS[rule]: random(9, 3)} if rule in SIGNALS else None
    first, fresh = (states(made(kind, rule), 3) for _ in range(2))
    for state, reset_state, lengths in (
        (None, None, None), (first, None, [9, 4, 0]), (first, fresh, [9, 4, 0]), (first, first, None),
    ):  # fmt: skip
        given = [inputs, *(state or ()), *(reset_state or ())]
        found = []
        for backend, batch_first in (("reference", False), ("cpu", False), ("cpu", True)):
            module = made(kind, rule, backend=backend, batch_first=batch_first)

            def laid(x: Tensor, first: bool = batch_first) -> Tensor:
                return x.transpose(0, 1) if first else x

            output, last = module(
                laid(inputs), state, lengths=lengths, reset=laid(reset), reset_state=reset_state,
                signals=signals and {name: laid(x) for name, x in signals.items()},
            )  # fmt: skip
            found.append(learnt(module, given, (laid(output), last)))
        close(found[1], found[0])
        close(found[2], found[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_gives_zero_though_a_state_goes_on_from_before(kind: str) -> None:
    module, inputs = made(kind, "decay"), random(6, 2, 4)
    reset = torch.zeros(6, 2, dtype=torch.bool)
    reset[2] = True
    output, last = module(inputs, states(module, 2), reset=reset)
    close([output[2:], *last], [(found := module(inputs[2:]))[0], *found[1]])


@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence_without_a_batch(kind: str) -> None:
    module, inputs, reset = made(kind, "decay"), random(5, 4), torch.arange(5) == 2
    output, last = module(inputs, reset=reset)
    expected = module(inputs.unsqueeze(1), reset=reset.unsqueeze(1))
    close(output, expected[0].squeeze(1))
    close(last[-1], expected[1][-1].squeeze(0 if kind == "linear" else 1))


@pytest.mark.parametrize(
    "backend", ["reference", pytest.param("cpu", marks=[needs_native, pytest.mark.slow])]
)
def test_rules_as_functions(backend: str) -> None:
    drive, pre, fresh = random(6, 2, 5), random(2, 5).tanh(), random(2, 5).tanh()
    parameters = {"w": random(5, 5) / 4, "alpha": random(5, 5) / 4, "eta": torch.tensor(0.1).double()}  # fmt: skip
    trace = random(2, 5, 5)
    reset = torch.zeros(6, 2, dtype=torch.bool)
    reset[2, 1] = reset[4, 0] = True
    output, last = rule_sequence(
        hebb, drive, pre, {"H": trace}, parameters, reset=reset, reset_state={"pre": fresh}, backend=backend
    )  # fmt: skip
    alone, after = rule_sequence(
        hebb, drive[2:, 1:], fresh[1:], {"H": torch.zeros(1, 5, 5).double()}, parameters, backend=backend
    )  # fmt: skip
    close([output[2:, 1:], last["H"][1:]], [alone, after["H"]])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["decay", "retroactive", "initial values"])
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_a_rollout_with_resets_is_the_sequence_with_resets(
    kind: str, rule: str, backend: str
) -> None:
    module: Any = made(kind, rule, backend=backend)
    torch.manual_seed(1)
    inputs, reset = random(9, 3, 4).requires_grad_(), torch.rand(9, 3) < 0.3
    reset[0, 0] = reset[5, 1] = True
    reward = random(9, 3)
    signals = {"reward": reward} if rule in SIGNALS else None
    first, fresh = (states(module, 3) for _ in range(2))
    for state, reset_state, lengths in ((None, None, None), (first, fresh, [9, 4, 0])):
        rollout = module.rollout(12, 3, state, reset_state=reset_state)
        for row, begins, each in zip(inputs.detach(), reset, reward, strict=True):
            rollout.step(row, signals and {"reward": each}, reset=begins)
        acted = rollout.state()
        given = [inputs, *(state or ()), *(reset_state or ())]
        options = {"reset": reset, "reset_state": reset_state, "signals": signals}
        found = learnt(module, given, rollout.finish(inputs, signals, lengths))
        close(found, learnt(module, given, module(inputs, state, lengths=lengths, **options)))
        close(acted, [x.detach() for x in module(inputs, state, **options)[1]])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_a_rollout_learns_from_as_many_steps_of_each_element_as_lengths_say(
    kind: str, backend: str
) -> None:
    module: Any = made(kind, "retroactive", backend=backend)
    inputs = random(5, 3, 4).requires_grad_()
    rollout = module.rollout(5, 3)
    for row in inputs.detach():
        rollout.step(row)
    found = learnt(module, [inputs], rollout.finish(inputs, lengths=torch.tensor([5, 0, 2])))
    close(found, learnt(module, [inputs], module(inputs, lengths=[5, 0, 2])))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_that_was_changed_is_refused(backend: str) -> None:
    for then in ("step", "state", "finish"):
        rollout: Any = made("rnn", "decay", backend=backend).rollout(3, 2)
        rollout.step(random(2, 4))
        with torch.inference_mode():
            rollout.state().trace[:, 0] = 0
        with pytest.raises(RuntimeError, match=r"begin episodes by step\(..., reset=\)"):
            rollout.step(random(2, 4)) if then == "step" else getattr(rollout, then)()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_and_autocast(autocast: bool, backend: str) -> None:
    dtype = torch.float32 if autocast else torch.bfloat16
    module = made("rnn", "decay", backend=backend, dtype=dtype)
    inputs, reset = random(6, 2, 4).to(dtype), torch.zeros(6, 2, dtype=torch.bool)
    reset[3] = True
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output, last = module(inputs, reset=reset, reset_state=module(inputs)[1])
        expected, after = module(inputs[3:], module(inputs)[1])
    assert output.dtype == dtype and last.trace.dtype == torch.float32
    torch.testing.assert_close(output[3:], expected, rtol=0, atol=2**-8)
    torch.testing.assert_close(last.trace, after.trace, rtol=0, atol=2**-8)


@needs_native
@pytest.mark.parametrize(
    "kind", ["rnn", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("lstm", "linear"))]
)
def test_compiled_code_gives_the_numbers_of_eager_code(kind: str) -> None:
    torch.compiler.reset()
    module, inputs = made(kind, "decay"), random(6, 2, 4).requires_grad_()
    quick = torch.compile(module, backend="aot_eager")
    for step in (2, 3):
        reset = torch.zeros(6, 2, dtype=torch.bool)
        reset[step, 1] = True
        found = learnt(module, [inputs], quick(inputs, reset=reset))
        close(found, learnt(module, [inputs], module(inputs, reset=reset)))


def test_compiled_code_of_the_reference_takes_resets_without_a_graph_break() -> None:
    torch.compiler.reset()
    module, inputs = made("rnn", "decay", backend="reference"), random(4, 2, 4)
    reset = torch.arange(8).view(4, 2) == 5
    expected = module(inputs, reset=reset)[0]
    quick = torch.compile(module, backend="aot_eager", fullgraph=True)
    close(quick(inputs, reset=reset)[0], expected)


CASE = Case(5, 2, 4)
MASK = torch.zeros(5, 2, dtype=torch.bool)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"reset": MASK.int()}, r"reset must be a bool tensor; got torch\.int32"),
    ({"reset": MASK[:4]}, r"reset must have shape \(5, 2\); got \(4, 2\)"),
    ({"reset": MASK.mT}, r"reset must have shape \(5, 2\); got \(2, 5\)"),
    ({"reset": True}, r"reset must have shape \(5, 2\); got \(\)"),
    ({"reset": "five"}, "reset must be a bool tensor; got 'five'"),
    ({"reset": MASK.to("meta")}, "reset must hold values"),
    ({"reset": MASK.to_sparse()}, "reset must be a dense tensor"),
    ({"reset_state": (None, None)}, "reset_state is for calls with reset; got reset=None"),
    ({"reset": MASK, "reset_state": (None,)}, r"reset_state must be a tuple of tensors \(hidden, trace\)"),
    ({"reset": MASK, "reset_state": MASK}, "reset_state must be a tuple of tensors"),
    ({"reset": MASK, "reset_state": (random(2, 3), None)}, r"reset_state: hidden must have shape \(2, 4\)"),
    ({"reset": MASK, "reset_state": (None, random(2, 4, 4).float())}, "reset_state: trace must have dtype"),
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("changes, message", WRONG)
def test_mistakes_are_named(backend: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"plastic_rnn_sequence: {message}"):
        PF.plastic_rnn_sequence(**{**CASE.arguments(CASE.inputs()), **changes}, backend=backend)


def test_mistakes_of_modules_and_rollouts_are_named() -> None:
    module: Any = made("rnn", "decay")
    inputs = random(5, 2, 4)
    for changes, message in (
        ({"reset": MASK[:4]}, r"reset must have shape \(5, 2\); got \(4, 2\)"),
        ({"reset_state": states(module, 2)}, "PlasticRNN: reset_state is for calls with reset"),
        ({"reset": MASK, "reset_state": (1, 2)}, "PlasticRNN: reset_state must be None or a tuple"),
        ({"reset": MASK, "reset_state": RNNState(random(2, 3, 5), random(2, 3, 5, 5))}, r"reset_state.hidden must"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=message):
            module(inputs, **changes)
    with pytest.raises(ValueError, match=r"reset must have shape \(5,\); got \(4,\)"):
        module(inputs[:, 0], reset=MASK[:4, 0])
    rollout = module.rollout(3, 2)
    for reset in (MASK, MASK[0].int(), MASK[0, :1]):
        with pytest.raises((TypeError, ValueError), match="rollout: reset must"):
            rollout.step(inputs[0], reset=reset)
    rollout.step(inputs[0])
    with pytest.raises(ValueError, match="lengths must lie from 0 to 1"):
        rollout.finish(lengths=[1, 2])
    with pytest.raises(ValueError, match="reset_state is for calls with reset"):
        rule_sequence(hebb, random(2, 2, 5), random(2, 5), {}, {}, reset_state={})
    with pytest.raises(ValueError, match=r"reset_state: .*hebb has no Q"):
        rule_sequence(
            hebb, random(2, 2, 5), random(2, 5), {"H": random(2, 5, 5)}, {}, reset=MASK[:2],
            reset_state={"Q": random(2, 2)},
        )  # fmt: skip
