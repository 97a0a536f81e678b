# Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
from __future__ import annotations

import triton
import triton.language as tl

from ..arithmetic import number


# H' = (1 - r) * H + r * (y * x)
class hebb_decay:
    class by_row:
        sum_count, passes_of_next, passes = 2, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            (r,) = given
            return number(1.0, y) - r, r * y, r, y

        @triton.jit
        def next(row, before, x, given):
            v0, v1, _, _ = row
            (H,) = before
            return (tl.fma(v1, x, v0 * H),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            v0, v1, _, _ = row
            (H,) = before
            (grad_H,) = grad
            return (v0 * grad_H,), v1 * grad_H, (x * grad_H, H * grad_H)

        @triton.jit
        def finish(row, sums):
            _, _, r, y = row
            s0, s1 = sums
            return r * s0, tl.fma(y, s0, -s1)

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
            return (tl.fma(y * x, r, H * (number(1.0, H) - r)),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            (y,) = row
            (H,) = before
            (r,) = given
            (grad_H,) = grad
            t0 = r * grad_H
            return (
                ((number(1.0, H) - r) * grad_H,),
                y * t0,
                (x * t0,),
                (tl.fma(-H, grad_H, (y * x) * grad_H),),
            )

        @triton.jit
        def finish(row, sums):
            (s0,) = sums
            return s0


# H' = (1 - r) * H + r * E; E' = (1 - eta) * E + eta * (y * x)
class hebb_decay_retroactive:
    class by_row:
        sum_count, passes_of_next, passes = 4, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            r, eta = given
            return r, number(1.0, y) - r, number(1.0, y) - eta, eta * y, eta, y

        @triton.jit
        def next(row, before, x, given):
            r, v1, v2, v3, _, _ = row
            H, E = before
            return tl.fma(r, E, v1 * H), tl.fma(v3, x, v2 * E)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            r, v1, v2, v3, _, _ = row
            H, E = before
            grad_H, grad_E = grad
            return (
                (v1 * grad_H, tl.fma(r, grad_H, v2 * grad_E)),
                v3 * grad_E,
                (x * grad_E, E * grad_H, H * grad_H, E * grad_E),
            )

        @triton.jit
        def finish(row, sums):
            _, _, _, _, eta, y = row
            s0, s1, s2, s3 = sums
            return eta * s0, s1 - s2, tl.fma(y, s0, -s3)

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
            return (
                tl.fma(E, r, H * (number(1.0, H) - r)),
                tl.fma(y * x, eta, E * (number(1.0, H) - eta)),
            )

        @triton.jit
        def adjoint(row, before, x, given, grad):
            (y,) = row
            H, E = before
            r, eta = given
            grad_H, grad_E = grad
            t0 = eta * grad_E
            return (
                ((number(1.0, H) - r) * grad_H, tl.fma(r, grad_H, (number(1.0, H) - eta) * grad_E)),
                y * t0,
                (x * t0,),
                (tl.fma(-H, grad_H, E * grad_H), tl.fma(-E, grad_E, (y * x) * grad_E)),
            )

        @triton.jit
        def finish(row, sums):
            (s0,) = sums
            return s0
