# Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
from __future__ import annotations

import triton
import triton.language as tl

from ..arithmetic import number


# H' = H + r * (y * x)
class hebb_none:
    class by_row:
        sum_count, passes_of_next, passes = 1, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            (r,) = given
            return r * y, r, y

        @triton.jit
        def next(row, before, x, given):
            v0, _, _ = row
            (H,) = before
            return (tl.fma(v0, x, H),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            v0, _, _ = row
            (grad_H,) = grad
            return (grad_H,), v0 * grad_H, (x * grad_H,)

        @triton.jit
        def finish(row, sums):
            _, r, y = row
            (s0,) = sums
            return r * s0, y * s0

    class by_synapse:
        sum_count, passes_of_next, passes = 1, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            return (y,)

        @triton.jit
        def next(row, before, x, given):
            (y,) = row
            (H,) = before
            (r,) = given
            return (tl.fma(y * x, r, H),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            (y,) = row
            (r,) = given
            (grad_H,) = grad
            t0 = r * grad_H
            return (grad_H,), y * t0, (x * t0,), ((y * x) * grad_H,)

        @triton.jit
        def finish(row, sums):
            (s0,) = sums
            return s0


# H' = H + r * E; E' = (1 - eta) * E + eta * (y * x)
class hebb_none_retroactive:
    class by_row:
        sum_count, passes_of_next, passes = 3, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            r, eta = given
            return r, number(1.0, y) - eta, eta * y, eta, y

        @triton.jit
        def next(row, before, x, given):
            r, v1, v2, _, _ = row
            H, E = before
            return tl.fma(r, E, H), tl.fma(v2, x, v1 * E)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            r, v1, v2, _, _ = row
            _, E = before
            grad_H, grad_E = grad
            return (
                (grad_H, tl.fma(r, grad_H, v1 * grad_E)),
                v2 * grad_E,
                (x * grad_E, E * grad_H, E * grad_E),
            )

        @triton.jit
        def finish(row, sums):
            _, _, _, eta, y = row
            s0, s1, s2 = sums
            return eta * s0, s1, tl.fma(y, s0, -s2)

    class by_synapse:
        sum_count, passes_of_next, passes = 1, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            return (y,)

        @triton.jit
        def next(row, before, x, given):
            (y,) = row
            H, E = before
            r, eta = given
            return tl.fma(E, r, H), tl.fma(y * x, eta, E * (number(1.0, H) - eta))

        @triton.jit
        def adjoint(row, before, x, given, grad):
            (y,) = row
            H, E = before
            r, eta = given
            grad_H, grad_E = grad
            t0 = eta * grad_E
            return (
                (grad_H, tl.fma(r, grad_H, (number(1.0, H) - eta) * grad_E)),
                y * t0,
                (x * t0,),
                (E * grad_H, tl.fma(-E, grad_E, (y * x) * grad_E)),
            )

        @triton.jit
        def finish(row, sums):
            (s0,) = sums
            return s0
