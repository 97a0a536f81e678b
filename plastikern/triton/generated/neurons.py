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
    def forward(input_sum, forget_sum, candidate_sum, output_sum, before):
        t0 = sigmoid(input_sum)
        t1 = sigmoid(forget_sum)
        t2 = tanh(candidate_sum)
        t3 = sigmoid(output_sum)
        t4 = tl.fma(t0, t2, before * t1)
        return t0, t1, t2, t3, t4, t3 * tanh(t4)

    @triton.jit
    def adjoint(input, forget, candidate, output, cell, before, grad_candidate, grad_cell, grad_hidden):
        t0 = tanh(cell)
        t1 = tl.fma(grad_hidden * output, tl.fma(-t0, t0, number(1.0, input)), grad_cell)
        t2 = input * t1
        return (
            (candidate * t2) * (number(1.0, input) - input),
            ((before * (number(1.0, input) - forget)) * t1) * forget,
            (grad_candidate + t2) * tl.fma(-candidate, candidate, number(1.0, input)),
            (((number(1.0, input) - output) * grad_hidden) * output) * t0,
            t1 * forget,
        )


class gru:
    @triton.jit
    def forward(reset_sum, update_sum, recurrent_sum, candidate_sum, before):
        t0 = sigmoid(reset_sum)
        t1 = sigmoid(update_sum)
        t2 = tanh(tl.fma(t0, recurrent_sum, candidate_sum))
        return t0, t1, recurrent_sum, t2, tl.fma(before, t1, (number(1.0, reset_sum) - t1) * t2)

    @triton.jit
    def adjoint(reset, update, recurrent, candidate, before, grad_candidate, grad_recurrent, grad_hidden):
        t0 = number(1.0, reset) - update
        t1 = (
            tl.fma(-candidate, candidate, number(1.0, reset)) * tl.fma(grad_hidden, t0,
                grad_candidate)
        )
        t2 = t1 * reset
        return (
            (t2 * (number(1.0, reset) - reset)) * recurrent,
            (update * t0) * tl.fma(-grad_hidden, candidate, grad_hidden * before),
            grad_recurrent + t2,
            t1,
            grad_hidden * update,
        )
