"""Options of ``python -m pytest benchmarks``, and what is compared by it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import pytest

from . import variants
from .devices import DEVICES
from .machine import available_cores
from .quick import Quick
from .workloads import WORKLOADS

# The fastest form of PyTorch that needs no compiler, and the library.
QUICK = f"eager-recycled,{variants.LIBRARY}cpu-recycled"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("plastikern")
    group.addoption(
        "--variants", default=QUICK, type=_variants,
        help=f"comma-separated, as python -m benchmarks takes them (default {QUICK})",
    )  # fmt: skip
    group.addoption("--on", choices=DEVICES, default="cpu", help="where to measure (default cpu)")
    group.addoption("--threads", type=int, default=available_cores(), help="default: all cores")
    group.addoption("--no-memory", action="store_true", help="do not measure the peak memory")


def _variants(text: str) -> list[variants.Variant]:
    try:
        return [variants.parse(name) for name in dict.fromkeys(text.split(","))]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Group by group, in each the rivals first: a ratio needs their times."""
    if "variant" not in metafunc.fixturenames:
        return
    options = metafunc.config.option
    chosen = sorted(options.variants, key=lambda variant: variant.backend is not None)
    cases = [
        pytest.param(workload, which, variant, id=f"{workload.name}-{which}-{variant.name}")
        for workload in WORKLOADS.values()
        for which in workload.passes
        for variant in chosen
        if variant.family not in workload.without
    ]
    metafunc.parametrize(("workload", "which", "variant"), cases)


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quick]:
    options: Any = pytestconfig.option
    device = DEVICES[options.on]
    if (missing := device.missing()) is not None:
        pytest.skip(f"--on {device.name}: {missing}")
    scratch = tmp_path_factory.mktemp("benchmarks")
    with Quick(device, options.threads, not options.no_memory, scratch) as measured:
        yield measured
