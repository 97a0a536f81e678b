# Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
from __future__ import annotations

import triton
import triton.language as tl

from ..arithmetic import number


# H' = H + r * (y * (x - y * H))
class oja_none:
    class by_row:
        sum_count, passes_of_next, passes = 2, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            (r,) = given
            t0 = -y
            return y, r * y, r, t0 * r, t0 * y

        @triton.jit
        def next(row, before, x, given):
            y, v1, _, _, _ = row
            (H,) = before
            return (tl.fma(v1, tl.fma(-y, H, x), H),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            y, v1, _, _, _ = row
            (H,) = before
            (grad_H,) = grad
            t0 = v1 * grad_H
            return (tl.fma(-y, t0, grad_H),), t0, (x * grad_H, H * grad_H)

        @triton.jit
        def finish(row, sums):
            y, v1, r, v3, v4 = row
            s0, s1 = sums
            return tl.fma(-v1, s1, tl.fma(v3, s1, r * s0)), tl.fma(v4, s1, y * s0)

    class by_synapse:
        sum_count, passes_of_next, passes = 2, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            return (y,)

        @triton.jit
        def next(row, before, x, given):
            (y,) = row
            (H,) = before
            (r,) = given
            return (tl.fma(y, r * tl.fma(-y, H, x), H),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            (y,) = row
            (H,) = before
            (r,) = given
            (grad_H,) = grad
            t0 = r * grad_H
            t1 = y * t0
            return (
                (tl.fma(-y, t1, grad_H),),
                t1,
                (x * t0, H * t0),
                (y * (grad_H * tl.fma(-y, H, x)),),
            )

        @triton.jit
        def finish(row, sums):
            (y,) = row
            s0, s1 = sums
            t0 = s1 * y
            return (s0 - t0) - t0


# H' = H + r * E; E' = (1 - eta) * E + eta * (y * (x - y * H))
class oja_none_retroactive:
    class by_row:
        sum_count, passes_of_next, passes = 4, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            r, eta = given
            t0 = -y
            return r, number(1.0, y) - eta, y, eta * y, eta, t0, eta * t0

        @triton.jit
        def next(row, before, x, given):
            r, v1, y, v3, _, _, _ = row
            H, E = before
            return tl.fma(r, E, H), tl.fma(v3, tl.fma(-y, H, x), v1 * E)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            r, v1, y, v3, _, _, _ = row
            H, E = before
            grad_H, grad_E = grad
            t0 = v3 * grad_E
            return (
                (tl.fma(-y, t0, grad_H), tl.fma(r, grad_H, v1 * grad_E)),
                t0,
                (x * grad_E, H * grad_E, E * grad_H, E * grad_E),
            )

        @triton.jit
        def finish(row, sums):
            _, _, y, _, eta, v5, v6 = row
            s0, s1, s2, s3 = sums
            return (
                tl.fma(-(eta * s1), y, tl.fma(v6, s1, eta * s0)),
                s2,
                tl.fma(v5 * s1, y, y * s0) - s3,
            )

    class by_synapse:
        sum_count, passes_of_next, passes = 2, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            return (y,)

        @triton.jit
        def next(row, before, x, given):
            (y,) = row
            H, E = before
            r, eta = given
            return tl.fma(E, r, H), tl.fma(y, eta * tl.fma(-y, H, x), E * (number(1.0, H) - eta))

        @triton.jit
        def adjoint(row, before, x, given, grad):
            (y,) = row
            H, E = before
            r, eta = given
            grad_H, grad_E = grad
            t0 = eta * grad_E
            t1 = y * t0
            return (
                (tl.fma(-y, t1, grad_H), tl.fma(r, grad_H, (number(1.0, H) - eta) * grad_E)),
                t1,
                (x * t0, H * t0),
                (E * grad_H, tl.fma(-E, grad_E, y * (grad_E * tl.fma(-y, H, x)))),
            )

        @triton.jit
        def finish(row, sums):
            (y,) = row
            s0, s1 = sums
            t0 = s1 * y
            return (s0 - t0) - t0
