"""Kernels stay inside their tensors: each lies at the end of a page behind which there is nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import needs_native

import plastikern

GUARDED = """
import ctypes, itertools, mmap, sys
import torch
from dataclasses import replace
from conftest import KINDS, VARIANTS, Case
from plastikern import Plasticity

libc, kept, page = ctypes.CDLL(None, use_errno=True), [], mmap.PAGESIZE

def at_the_end_of_a_page(tensor):
    if tensor.numel() == 0:
        return tensor.detach().clone().requires_grad_()
    size = tensor.numel() * tensor.element_size()
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    kept.append(memory)  # as long as the process lives
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if libc.mprotect(ctypes.c_void_p(start + pages * page), page, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    found = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=pages * page - size)
    found.copy_(tensor.detach().flatten())
    return found.view(tensor.shape).requires_grad_()

kinds = [Plasticity(rule=rule, constraint=constraint, alpha=alpha, eta=eta) for rule, constraint in KINDS
         for alpha, eta in (("connection", "layer"), ("neuron", "neuron"), ("layer", "connection"))]
cases = [Case(plasticity=plasticity) for plasticity in kinds] + list(VARIANTS.values())
for case, steps, neurons in itertools.product(cases, (1, 2, 3, 6), (1, 3, 18)):
    case = replace(case, steps=steps, neurons=neurons, features=5, lengths=None)
    for every, dtype in ((None, torch.float32), (2, torch.float64)):
        inputs = {k: at_the_end_of_a_page(t) for k, t in case.inputs(dtype).items()}
        one = replace(case, checkpoint_every=every)
        torch.autograd.grad(one.loss(one.sequence(inputs, "cpu")), list(inputs.values()), allow_unused=True)
        if steps == 1:
            torch.autograd.grad(one.loss(one.by_steps(inputs, "cpu")), list(inputs.values()), allow_unused=True)
print("inside", len(kept))
"""


@needs_native
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="guards pages by mprotect")
def test_no_kernel_reads_beyond_the_tensors_that_it_is_given() -> None:
    here = Path(__file__).parent
    paths = [str(here), str(Path(plastikern.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{GUARDED}"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-2000:]}"
    assert done.stdout.startswith("inside")
