"""Functions of vectors in single precision, against double precision."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "exp": torch.exp, "log": torch.log, "log1p": torch.log1p, "sqrt": torch.sqrt,
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "pow": torch.pow,
}  # fmt: skip
INSTRUCTIONS = {
    "default": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512f": ["-mavx512f", "-mavx2", "-mfma"],
}
PROGRAM = """
#include <cstring>
#include "arithmetic.h"
typedef float V __attribute__((vector_size(LANES * 4)));
#define RUN(name, call)                                                             \\
    extern "C" void run_##name(const float* a, const float* b, float* to, int64_t count) { \\
        for (int64_t i = 0; i < count; i += LANES) {                                \\
            V x, y;                                                                 \\
            std::memcpy(&x, a + i, sizeof x), std::memcpy(&y, b + i, sizeof y);     \\
            x = plastikern::arithmetic::call;                                       \\
            std::memcpy(to + i, &x, sizeof x);                                      \\
        }                                                                           \\
    }
RUN(exp, exp(x)) RUN(log, log(x)) RUN(log1p, log1p(x)) RUN(sqrt, sqrt(x))
RUN(tanh, tanh(x)) RUN(sigmoid, sigmoid(x)) RUN(pow, pow(x, y))
"""
SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 1e-45, 1e-39,
           4194304.5, 4194305.0, 3e38, -3e38, 88.7, 89.0, -87.5, -103.0,
           -104.5, 1e-8, float("inf"), float("-inf"), float("nan")]  # fmt: skip


def can_run(instructions: str) -> bool:
    """Whether this processor has them."""
    return instructions == "default" or f" {instructions} " in Path("/proc/cpuinfo").read_text()


@pytest.fixture(scope="module", params=INSTRUCTIONS)
def library(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    if shutil.which("g++") is None or not can_run(request.param):
        pytest.skip("no compiler, or no such processor")
    folder = tmp_path_factory.mktemp("functions")
    (folder / "program.cpp").write_text(PROGRAM)
    lanes = {"default": 4, "avx2": 8, "avx512f": 16}[request.param]
    command = [
        "g++",
        "-std=c++20",
        "-O2",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        f"-DLANES={lanes}",
    ]
    command += [
        *INSTRUCTIONS[request.param],
        f"-I{ROOT / 'csrc'}",
        "program.cpp",
        "-o",
        "program.so",
    ]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "program.so"))


def arguments(name: str) -> tuple[Tensor, Tensor]:
    """Numbers of all sizes, and each special one with each other."""
    generator = torch.Generator().manual_seed(len(name))

    def drawn(low: float, high: float, count: int) -> Tensor:
        sizes = torch.empty(count).uniform_(low, high, generator=generator).exp2()
        signs = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
        return sizes * signs

    special = torch.tensor(SPECIAL)
    near = 1 + drawn(-20, -1, 20000)
    a = torch.cat(
        [drawn(-140, 127, 20000), drawn(-10, 7, 20000), near, special.repeat(len(special))]
    )
    b = torch.cat([drawn(-3, 3, 60000), special.repeat_interleave(len(special))])
    whole = torch.arange(len(b)) % 3 == 0
    b[:60000] = torch.where(whole[:60000], b[:60000].round(), b[:60000])
    return torch.nn.functional.pad(a, (0, -len(a) % 16)), torch.nn.functional.pad(
        b, (0, -len(b) % 16)
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_vectors_is_exact_to_two_units_in_the_last_place(
    library: ctypes.CDLL, name: str
) -> None:
    a, b = arguments(name)
    found = torch.full_like(a, 7.0)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (a, b, found)]
    getattr(library, f"run_{name}")(*pointers, ctypes.c_int64(len(a)))
    given = (a.double(), b.double()) if name == "pow" else (a.double(),)
    exact = FUNCTIONS[name](*given)
    rounded = exact.float()
    same = (found == rounded) | (found.isnan() & rounded.isnan())
    wrong = ~same & ~rounded.isfinite()
    assert not wrong.any(), f"{name}({a[wrong][:5]}, {b[wrong][:5]}): {found[wrong][:5]}"
    unit = torch.where(
        rounded.abs() < 2.0**-126, 2.0**-149, (rounded.abs().double().log2().floor() - 23).exp2()
    )
    if name in (
        "sigmoid",
        "tanh",
    ):  # whose exponential ends at e^-87, far below what they are added to
        unit = unit.clamp(min=2.0**-126)
    error = ((found.double() - exact).abs() / unit)[rounded.isfinite()]
    assert error.max() <= 2, f"{name}({a[rounded.isfinite()][error.argmax()]}): {error.max()} units"


def test_tanh_is_exact_to_two_units_between_its_two_ways_and_never_beyond_one(
    library: ctypes.CDLL,
) -> None:
    sizes = torch.cat([torch.linspace(0.4, 1.2, 1 << 20), torch.linspace(1.2, 12.0, 1 << 18)])
    x = torch.cat([sizes, -sizes])
    found = torch.full_like(x, 7.0)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, x, found)]
    library.run_tanh(*pointers, ctypes.c_int64(len(x)))
    exact = x.double().tanh()
    unit = (exact.float().abs().double().log2().floor() - 23).exp2()
    assert ((found.double() - exact).abs() / unit).max() <= 2
    assert found.abs().max() == 1
    assert torch.equal(found[: len(sizes)], -found[len(sizes) :])
