# Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
from __future__ import annotations

import triton
import triton.language as tl

from ..arithmetic import number


# H' = clamp(H + r * (y * (x - y * H)), -c, c)
class oja_clip:
    class by_row:
        sum_count, passes_of_next, passes = 2, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            (r,) = given
            return c, y, r * y, -c, r

        @triton.jit
        def next(row, before, x, given):
            c, y, v2, v3, _ = row
            (H,) = before
            t0 = tl.fma(v2, tl.fma(-y, H, x), H)
            t1 = tl.where(t0 < v3, v3, t0)
            return (tl.where(c < t1, c, t1),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            c, y, v2, v3, _ = row
            (H,) = before
            (grad_H,) = grad
            t0 = tl.fma(v2, tl.fma(-y, H, x), H)
            t1 = tl.where(t0 < v3, v3, t0)
            t2 = tl.where(tl.where(c < t1, c, t1) == t0, grad_H, number(0.0, H))
            t3 = v2 * t2
            return (tl.fma(-y, t3, t2),), t3, (x * t2, H * t2)

        @triton.jit
        def finish(row, sums):
            _, y, _, _, r = row
            s0, s1 = sums
            t0 = -(s1 * y)
            return tl.fma(-(s1 * r), y, tl.fma(t0, r, s0 * r)), tl.fma(t0, y, s0 * y)

    class by_synapse:
        sum_count, passes_of_next, passes = 2, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            return c, y, -c

        @triton.jit
        def next(row, before, x, given):
            c, y, v2 = row
            (H,) = before
            (r,) = given
            t0 = tl.fma(y, r * tl.fma(-y, H, x), H)
            t1 = tl.where(t0 < v2, v2, t0)
            return (tl.where(c < t1, c, t1),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            c, y, v2 = row
            (H,) = before
            (r,) = given
            (grad_H,) = grad
            t0 = y * tl.fma(-y, H, x)
            t1 = tl.fma(t0, r, H)
            t2 = tl.where(t1 < v2, v2, t1)
            t3 = tl.where(tl.where(c < t2, c, t2) == t1, grad_H, number(0.0, H))
            t4 = t3 * r
            t5 = y * t4
            return (tl.fma(-y, t5, t3),), t5, (x * t4, H * t4), (t0 * t3,)

        @triton.jit
        def finish(row, sums):
            _, y, _ = row
            s0, s1 = sums
            t0 = s1 * y
            return (s0 - t0) - t0


# H' = clamp(H + r * E, -c, c); E' = (1 - eta) * E + eta * (y * (x - y * H))
class oja_clip_retroactive:
    class by_row:
        sum_count, passes_of_next, passes = 4, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            r, eta = given
            t0 = -y
            return c, r, -c, number(1.0, y) - eta, y, eta * y, eta, t0, eta * t0

        @triton.jit
        def next(row, before, x, given):
            c, r, v2, v3, y, v5, _, _, _ = row
            H, E = before
            t0 = tl.fma(r, E, H)
            t1 = tl.where(t0 < v2, v2, t0)
            return tl.where(c < t1, c, t1), tl.fma(v5, tl.fma(-y, H, x), v3 * E)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            c, r, v2, v3, y, v5, _, _, _ = row
            H, E = before
            grad_H, grad_E = grad
            t0 = tl.fma(r, E, H)
            t1 = tl.where(t0 < v2, v2, t0)
            t2 = tl.where(tl.where(c < t1, c, t1) == t0, grad_H, number(0.0, H))
            t3 = v5 * grad_E
            return (
                (tl.fma(-y, t3, t2), tl.fma(r, t2, v3 * grad_E)),
                t3,
                (x * grad_E, H * grad_E, E * t2, E * grad_E),
            )

        @triton.jit
        def finish(row, sums):
            _, _, _, _, y, _, eta, v7, v8 = row
            s0, s1, s2, s3 = sums
            return (
                tl.fma(-(eta * s1), y, tl.fma(v8, s1, eta * s0)),
                s2,
                tl.fma(v7 * s1, y, y * s0) - s3,
            )

    class by_synapse:
        sum_count, passes_of_next, passes = 2, 0, 0
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
            return (
                tl.where(c < t1, c, t1),
                tl.fma(y, eta * tl.fma(-y, H, x), E * (number(1.0, H) - eta)),
            )

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
            t4 = y * t3
            return (
                (tl.fma(-y, t4, t2), tl.fma(t2, r, (number(1.0, H) - eta) * grad_E)),
                t4,
                (x * t3, H * t3),
                (E * t2, tl.fma(-E, grad_E, y * (grad_E * tl.fma(-y, H, x)))),
            )

        @triton.jit
        def finish(row, sums):
            _, _, y = row
            s0, s1 = sums
            t0 = s1 * y
            return (s0 - t0) - t0
