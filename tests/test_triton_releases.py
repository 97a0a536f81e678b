"""The Triton kernels under every release that a supported PyTorch brings: ``make check-triton``, which fetches them.

PLASTIKERN_TRITONS names the releases, separated by spaces. Each is installed in an environment of its own, beside the
packages that run the tests. Kernels of all workloads are compiled for all targets, and of every small network for one;
then they run in that release's interpreter.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from test_install import HERE, ROOT, Environment

from benchmarks.triton_resources import TARGETS

RELEASES = os.environ.get("PLASTIKERN_TRITONS", "").split()
TESTS = ROOT / "tests"
pytestmark = pytest.mark.slow


@pytest.fixture(
    scope="module",
    params=RELEASES or [pytest.param("", marks=pytest.mark.skip("make check-triton"))],
)
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    release = request.param
    # The interpreter of Triton 3.6 makes integers of arrays of one value, which numpy 2.4 and newer refuse.
    old = tuple(map(int, release.split(".")[:2])) < (3, 7)
    made = Environment(
        tmp_path_factory.mktemp("triton"), HERE, without=("triton", *(("numpy",) if old else ()))
    )
    made.pip("install", "--no-deps", f"triton=={release}", *(("numpy<2.4",) if old else ()))
    found = made.python_says("-c", "import triton; print(triton.__version__)").strip()
    assert found == release
    return made


def passes(environment: Environment, *arguments: str | Path, **variables: str) -> str:
    """Runs Python there, with the sources of this tree."""
    folder = environment.folder
    known = {
        "PYTHONPATH": str(ROOT),
        "TRITON_CACHE_DIR": str(folder / "cache"),
        "TRITON_HOME": str(folder),
    }
    done: subprocess.CompletedProcess[str] = environment.run(
        *map(str, arguments), **known, **variables
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
    return done.stdout


def test_every_kernel_compiles_for_every_target(environment: Environment) -> None:
    said = passes(environment, "-m", "benchmarks.triton_resources", "--compile-only")
    (count,) = re.findall(rf"(\d+) kernels compiled for {', '.join(TARGETS)}", said)
    assert int(count) > 500


def test_every_small_network_compiles(environment: Environment) -> None:
    named = "test_every_network_compiles_in_either_form or test_no_tuple_has"
    said = passes(
        environment,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        TESTS / "test_triton.py",
        "-k",
        named,
    )
    assert "skipped" not in said


def test_kernels_under_its_interpreter_equal_the_reference(environment: Environment) -> None:
    file = TESTS / "triton_interpreted.py"
    words = ("-q", "-p", "no:cacheprovider", file, "-m", "not slow")
    said = passes(
        environment, "-m", "pytest", *words, TRITON_INTERPRET="1", PATH=os.environ["PATH"]
    )
    assert int(re.findall(r"(\d+) passed", said)[0]) > 60 and "skipped" not in said
