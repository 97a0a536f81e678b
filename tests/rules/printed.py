"""Printed arithmetic, run: C++ compiled into one program, Triton under its interpreter.

Every value is a tile of (post, pre); a stage is run for all of them, a sum over its axis.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from plastikern.rules.printers import cpp, triton
from plastikern.rules.schedule import Schedule
from plastikern.rules.symbols import Symbol, walk

from .random_rules import SIZES

ROOT = Path(__file__).parents[2]
POSTS, PRES = SIZES["post"], SIZES["pre"]
Rules = dict[int, dict[str, Symbol]]


def leaves_of(outputs: dict[str, Symbol]) -> list[str]:
    """Names of what an expression is given."""
    return [symbol.payload for symbol in walk(outputs.values()) if symbol.operation == "leaf"]


def packed(names: list[str], values: dict[str, Tensor]) -> Tensor:
    """(batch, names, post, pre)."""
    full = [values[name].expand(tuple(SIZES.values())) for name in names]
    return torch.stack(full, 1).contiguous()


def reduced(value: Tensor, symbol: Symbol) -> Tensor:
    """A value that is the same along an axis, once."""
    for place, axis in enumerate(("post", "pre"), start=1):
        if axis not in symbol.axes:
            value = value.narrow(place, 0, 1)
    return value


def _cpp_rule(seed: int, outputs: dict[str, Symbol]) -> str:
    names = leaves_of(outputs)
    lines = [f"namespace rule_{seed} {{", "using namespace plastikern::arithmetic;"]
    body = [f"void run(const double (*in)[{POSTS}][{PRES}], double (*out)[{POSTS}][{PRES}]) {{"]
    body += [f"    auto& {name} = in[{place}];" for place, name in enumerate(names)]
    each = f"for (int j = 0; j < {POSTS}; ++j) for (int i = 0; i < {PRES}; ++i)"
    for number, stage in enumerate(Schedule(outputs).parts):
        lines.append(cpp(f"stage_{number}", stage))
        given = ", ".join(f"{name}[j][i]" for name in stage.inputs)
        body += [f"    double of_{name}[{POSTS}][{PRES}];" for name in stage.outputs]
        body.append(f"    {each} {{ const auto found = stage_{number}<double>({given});")
        body += [f"        of_{name}[j][i] = found.{name};" for name in stage.outputs]
        body.append("    }")
        for name in stage.outputs:
            if name not in stage.sums:
                body.append(f"    auto& {name} = of_{name};")
                continue
            body.append(f"    double {name}[{POSTS}][{PRES}];")
            loop = ("i2", PRES, "j][i2") if stage.sums[name] == "pre" else ("j2", POSTS, "j2][i")
            body.append(
                f"    {each} {{ double sum = 0; for (int {loop[0]} = 0; {loop[0]} < {loop[1]}; ++{loop[0]}) "
                f"sum += of_{name}[{loop[2]}]; {name}[j][i] = sum; }}"
            )
    names = {symbol: name for name, symbol in outputs.items()}
    for place, symbol in enumerate(outputs.values()):
        made = names[symbol] if symbol.operation != "leaf" else symbol.payload
        value = f"{symbol.payload!r}" if symbol.operation == "constant" else f"{made}[j][i]"
        body.append(f"    {each} out[{place}][j][i] = {value};")
    return "\n".join([*lines, *body, "}", "}"])


def run_cpp(
    rules: Rules, values: dict[int, dict[str, Tensor]], folder: Path
) -> dict[int, dict[str, Tensor]]:
    """All rules from one file, compiled once."""
    tile = f"[{POSTS}][{PRES}]"
    text = [
        '#include "arithmetic.h"',
        *(_cpp_rule(seed, outputs) for seed, outputs in rules.items()),
    ]
    text += [
        f'extern "C" void run_{seed}(const double (*in){tile}, double (*out){tile}) {{ rule_{seed}::run(in, out); }}'
        for seed in rules
    ]
    (folder / "rules.cpp").write_text("\n".join(text))
    command = [
        "g++",
        "-std=c++20",
        "-O0",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        f"-I{ROOT / 'csrc'}",
    ]
    command += [str(folder / "rules.cpp"), "-o", str(folder / "rules.so")]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(folder / "rules.so"))
    found = {}
    for seed, outputs in rules.items():
        given = packed(leaves_of(outputs), values[seed])
        result = given.new_full((given.shape[0], len(outputs), POSTS, PRES), float("nan"))
        for b in range(given.shape[0]):
            pointers = (ctypes.c_void_p(tensor[b].data_ptr()) for tensor in (given, result))
            getattr(library, f"run_{seed}")(*pointers)
        found[seed] = {
            name: reduced(result[:, place], symbol)
            for place, (name, symbol) in enumerate(outputs.items())
        }
    return found


def triton_text(rules: Rules) -> str:
    """A module with a kernel ``run_SEED(given, found)`` for each rule, on tiles that are padded."""
    rows, columns = (1 << (size - 1).bit_length() for size in (POSTS, PRES))
    text = [
        "import triton", "import triton.language as tl",
        "from plastikern.triton.arithmetic import log1p, number, pow, sigmoid, tanh",
    ]  # fmt: skip
    for seed, outputs in rules.items():
        kernel = ["@triton.jit", f"def run_{seed}(given, found):"]
        kernel += [
            f"    rows, columns = tl.arange(0, {rows})[:, None], tl.arange(0, {columns})[None, :]",
            f"    at, inside = rows * {PRES} + columns, (rows < {POSTS}) & (columns < {PRES})",
        ]
        for place, name in enumerate(leaves_of(outputs)):
            # What lies beyond the last neuron is anything, here what makes the most trouble.
            kernel.append(
                f"    {name} = tl.load(given + {place * POSTS * PRES} + at, inside, float('nan'))"
            )
        like = leaves_of(outputs)[0]
        for number, stage in enumerate(Schedule(outputs).parts):
            text.append(triton(f"stage_{seed}_{number}", stage))
            to = ", ".join(stage.outputs)
            kernel.append(f"    {to} = stage_{seed}_{number}({', '.join((*stage.inputs, like))})")
            for name, axis in stage.sums.items():
                over = 1 if axis == "pre" else 0
                kernel.append(
                    f"    {name} = tl.sum(tl.where(inside, {name}, 0.0), {over}, keep_dims=True)"
                )
                kernel.append(f"    {name} = tl.broadcast_to({name}, [{rows}, {columns}])")
        names = {symbol: name for name, symbol in outputs.items()}
        for place, symbol in enumerate(outputs.values()):
            made = {"leaf": str(symbol.payload), "constant": f"number({symbol.payload!r}, {like})"}
            value = made.get(symbol.operation, names[symbol])
            kernel.append(f"    tl.store(found + {place * POSTS * PRES} + at, {value}, inside)")
        text += kernel
    return "\n".join(text)
