# Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
from __future__ import annotations

import triton
import triton.language as tl

from ..arithmetic import number, sigmoid, tanh


class activity_tanh:
    @triton.jit
    def forward(z):
        return tanh(z)

    @triton.jit
    def adjoint(y, grad_y):
        return tl.fma(-y, y, number(1.0, y)) * grad_y


class activity_relu:
    @triton.jit
    def forward(z):
        return tl.where(z <= number(0.0, z), number(0.0, z), z)

    @triton.jit
    def adjoint(y, grad_y):
        return tl.where(y <= number(0.0, y), number(0.0, y), grad_y)


class activity_sigmoid:
    @triton.jit
    def forward(z):
        return sigmoid(z)

    @triton.jit
    def adjoint(y, grad_y):
        return (grad_y * y) * (number(1.0, y) - y)


class activity_identity:
    @triton.jit
    def forward(z):
        return z

    @triton.jit
    def adjoint(y, grad_y):
        return grad_y


class lstm:
    @triton.jit
    def forward(input_sum, forget_sum, candidate_sum, output_sum, cell_before):
        t0 = sigmoid(input_sum)
        t1 = sigmoid(forget_sum)
        t2 = tanh(candidate_sum)
        t3 = sigmoid(output_sum)
        t4 = tl.fma(t0, t2, t1 * cell_before)
        return t0, t1, t2, t3, t4, t3 * tanh(t4)

    @triton.jit
    def adjoint(input, forget, candidate, output, cell, cell_before, grad_candidate, grad_cell, grad_hidden):
        t0 = tanh(cell)
        t1 = tl.fma(grad_hidden * output, tl.fma(-t0, t0, number(1.0, input)), grad_cell)
        t2 = input * t1
        return (
            (candidate * t2) * (number(1.0, input) - input),
            (((number(1.0, input) - forget) * t1) * forget) * cell_before,
            (grad_candidate + t2) * tl.fma(-candidate, candidate, number(1.0, input)),
            (((number(1.0, input) - output) * grad_hidden) * output) * t0,
            t1 * forget,
        )
