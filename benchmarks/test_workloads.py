"""``python -m pytest benchmarks``: every workload, pass and variant, quickly (see :mod:`benchmarks.quick`)."""

from __future__ import annotations

import math
from typing import Any

import pytest

from .pool import WorkerFailed
from .quick import Quick, clock
from .variants import Variant
from .workloads import Workload


@pytest.mark.benchmark(timer=clock)
def test_workload(
    benchmark: Any, quick: Quick, workload: Workload, which: str, variant: Variant
) -> None:
    """A case passes where the variant is right; its speed decides nothing."""
    if (reason := variant.missing() or quick.device.refuses(variant)) is not None:
        pytest.skip(reason)
    benchmark.group = f"{workload.name}, {which}"
    try:
        with quick.prepared(workload, which, variant) as (process, known):
            iterations = math.ceil(quick.device.sample_seconds / known["seconds"])

            def sample() -> None:
                answer = process.ask("sample", which=which, iterations=iterations, warm=True)
                clock.add(answer["seconds"])

            benchmark.pedantic(sample, rounds=quick.rounds(known["seconds"]))
    except WorkerFailed as error:
        pytest.fail(str(error), pytrace=False)
    if benchmark.enabled:
        median = benchmark.stats.stats.median
        benchmark.extra_info |= quick.facts(workload, which, variant, known, median)
