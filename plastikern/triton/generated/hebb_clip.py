# Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
from __future__ import annotations

import triton
import triton.language as tl

from ..arithmetic import number


# H' = clamp(H + r * (y * x), -c, c)
class hebb_clip:
    class by_row:
        sum_count, passes_of_next, passes = 1, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            (r,) = given
            return c, r * y, -c, r, y

        @triton.jit
        def next(row, before, x, given):
            c, v1, v2, _, _ = row
            (H,) = before
            t0 = tl.fma(v1, x, H)
            t1 = tl.where(t0 < v2, v2, t0)
            return (tl.where(c < t1, c, t1),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            c, v1, v2, _, _ = row
            (H,) = before
            (grad_H,) = grad
            t0 = tl.fma(v1, x, H)
            t1 = tl.where(t0 < v2, v2, t0)
            t2 = tl.where(tl.where(c < t1, c, t1) == t0, grad_H, number(0.0, H))
            return (t2,), v1 * t2, (x * t2,)

        @triton.jit
        def finish(row, sums):
            _, _, _, r, y = row
            (s0,) = sums
            return r * s0, y * s0

    class by_synapse:
        sum_count, passes_of_next, passes = 1, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            return c, y, -c

        @triton.jit
        def next(row, before, x, given):
            c, y, v2 = row
            (H,) = before
            (r,) = given
            t0 = tl.fma(y * x, r, H)
            t1 = tl.where(t0 < v2, v2, t0)
            return (tl.where(c < t1, c, t1),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            c, y, v2 = row
            (H,) = before
            (r,) = given
            (grad_H,) = grad
            t0 = y * x
            t1 = tl.fma(t0, r, H)
            t2 = tl.where(t1 < v2, v2, t1)
            t3 = tl.where(tl.where(c < t2, c, t2) == t1, grad_H, number(0.0, H))
            t4 = t3 * r
            return (t3,), y * t4, (x * t4,), (t0 * t3,)

        @triton.jit
        def finish(row, sums):
            (s0,) = sums
            return s0


# H' = clamp(H + r * E, -c, c); E' = (1 - eta) * E + eta * (y * x)
class hebb_clip_retroactive:
    class by_row:
        sum_count, passes_of_next, passes = 3, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            r, eta = given
            return c, r, -c, number(1.0, y) - eta, eta * y, eta, y

        @triton.jit
        def next(row, before, x, given):
            c, r, v2, v3, v4, _, _ = row
            H, E = before
            t0 = tl.fma(r, E, H)
            t1 = tl.where(t0 < v2, v2, t0)
            return tl.where(c < t1, c, t1), tl.fma(v4, x, v3 * E)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            c, r, v2, v3, v4, _, _ = row
            H, E = before
            grad_H, grad_E = grad
            t0 = tl.fma(r, E, H)
            t1 = tl.where(t0 < v2, v2, t0)
            t2 = tl.where(tl.where(c < t1, c, t1) == t0, grad_H, number(0.0, H))
            return (t2, tl.fma(r, t2, v3 * grad_E)), v4 * grad_E, (x * grad_E, E * t2, E * grad_E)

        @triton.jit
        def finish(row, sums):
            _, _, _, _, _, eta, y = row
            s0, s1, s2 = sums
            return eta * s0, s1, tl.fma(y, s0, -s2)

    class by_synapse:
        sum_count, passes_of_next, passes = 1, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            return c, -c, y

        @triton.jit
        def next(row, before, x, given):
            c, v1, y = row
            H, E = before
            r, eta = given
            t0 = tl.fma(E, r, H)
            t1 = tl.where(t0 < v1, v1, t0)
            return tl.where(c < t1, c, t1), tl.fma(y * x, eta, E * (number(1.0, H) - eta))

        @triton.jit
        def adjoint(row, before, x, given, grad):
            c, v1, y = row
            H, E = before
            r, eta = given
            grad_H, grad_E = grad
            t0 = tl.fma(E, r, H)
            t1 = tl.where(t0 < v1, v1, t0)
            t2 = tl.where(tl.where(c < t1, c, t1) == t0, grad_H, number(0.0, H))
            t3 = eta * grad_E
            return (
                (t2, tl.fma(t2, r, (number(1.0, H) - eta) * grad_E)),
                y * t3,
                (x * t3,),
                (E * t2, tl.fma(-E, grad_E, (y * x) * grad_E)),
            )

        @triton.jit
        def finish(row, sums):
            (s0,) = sums
            return s0
