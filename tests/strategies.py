"""Random cases of every network, for Hypothesis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from conftest import KINDS, MODULATED_BY, POSTS_OF, WEIGHTS, Case, ruled
from hypothesis import strategies as st

from plastikern.plasticity import (
    FAN_OUTS,
    GRANULARITIES,
    LINEAR_NONLINEARITIES,
    MODULATIONS,
    MODULATOR_NONLINEARITIES,
    NONLINEARITIES,
)

SIZES = (1, 5, 33, 51)


@st.composite
def cases(draw: st.DrawFn, network: str) -> Case:
    rule, constraint = draw(st.sampled_from(KINDS))
    options: dict[str, Any] = {
        name: draw(st.sampled_from(GRANULARITIES)) for name in ("alpha", "eta")
    }
    if modulated := (modulation := draw(st.sampled_from(MODULATIONS))) != "none":
        options |= {
            "modulation": modulation,
            "modulator_input": draw(st.sampled_from(MODULATED_BY[network])),
            "modulator_nonlinearity": draw(st.sampled_from(MODULATOR_NONLINEARITIES)),
            "fan_out": draw(st.sampled_from(FAN_OUTS)),
        }
    nonlinearity = draw(
        st.sampled_from(LINEAR_NONLINEARITIES if network == "linear" else NONLINEARITIES)
    )
    gated = network in WEIGHTS
    post = draw(st.sampled_from(POSTS_OF[network]))
    # Unbounded signals, and rules without a bound, grow like a power tower: only short sequences stay finite.
    unbounded_signal = (
        post in ("recurrent", "cell") if gated else nonlinearity in ("relu", "identity")
    )
    bounded_trace = constraint in ("clip", "soft_clip")
    grows = (unbounded_signal and not (gated and bounded_trace)) or (
        rule == "oja" and not bounded_trace
    )
    rates = (
        (0.01, 0.05, 0.3) if grows else (0.01, 0.05, 0.3, 0.499, 0.5, 1.0, 1.7, 2.0, -0.05, -0.5)
    )
    steps = draw(st.sampled_from((0, 1, 2, 3, 4) if grows else (0, 1, 2, 3, 4, 5, 9, 17, 40)))
    batch = draw(st.sampled_from((0, 1, 3)))
    lengths = st.tuples(*[st.integers(0, steps)] * batch)
    begin = st.tuples(st.integers(0, max(steps - 1, 0)), st.integers(0, max(batch - 1, 0)))
    resets = st.sets(begin, max_size=12).map(tuple) if steps * batch else st.just(())
    case = Case(
        steps, batch, draw(st.sampled_from(SIZES)), ruled(rule, constraint, **options), nonlinearity,
        eta=draw(st.sampled_from(rates)), with_clamp=draw(st.booleans()) and network == "rnn",
        lengths=draw(st.none() | lengths), resets=draw(st.none() | resets), with_reset_state=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        checkpoint_every=draw(st.sampled_from((None, None, 1, 2, 3, 7, 100))), seed=draw(st.integers(0, 99)),
        network=network, post=post, features=draw(st.sampled_from(SIZES)),
        half_modulated=modulated and draw(st.booleans()),
    )  # fmt: skip
    upstream = draw(st.none() | st.sets(st.sampled_from(case.outputs), min_size=1))
    return case if upstream is None else replace(case, upstream=tuple(sorted(upstream)))
