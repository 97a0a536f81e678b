# Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
from __future__ import annotations

import triton
import triton.language as tl

from ..arithmetic import number


# H' = clamp(H + (r * (y * (x - y * H))) * (1 - sign(r * (y * (x - y * H))) * H), -1, 1)
class oja_soft_clip:
    class by_row:
        sum_count, passes_of_next, passes = 3, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            (r,) = given
            t0 = r * y
            t1 = -y
            t2 = -r
            return y, t0, r, t1, t1 * t2, t2 * y, t0 * y

        @triton.jit
        def next(row, before, x, given):
            y, v1, _, _, _, _, _ = row
            (H,) = before
            t0 = v1 * tl.fma(-y, H, x)
            t1 = (
                tl.fma(t0, tl.fma(-tl.where(number(0.0, H) < t0, number(1.0, H), tl.where(t0 <
                    number(0.0, H), number(-1.0, H), number(0.0, H))), H, number(1.0, H)), H)
            )
            t2 = tl.where(t1 < number(-1.0, H), number(-1.0, H), t1)
            return (tl.where(number(1.0, H) < t2, number(1.0, H), t2),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            y, v1, _, _, _, _, v6 = row
            (H,) = before
            (grad_H,) = grad
            t0 = v1 * tl.fma(-y, H, x)
            t1 = (
                tl.where(number(0.0, H) < t0, number(1.0, H), tl.where(t0 < number(0.0, H),
                    number(-1.0, H), number(0.0, H)))
            )
            t2 = t1 * H
            t3 = number(1.0, H) - t2
            t4 = tl.fma(t0, t3, H)
            t5 = tl.where(t4 < number(-1.0, H), number(-1.0, H), t4)
            t6 = (
                tl.where(tl.where(number(1.0, H) < t5, number(1.0, H), t5) == t4, grad_H,
                    number(0.0, H))
            )
            t7 = t2 * t6
            return (
                (tl.fma(-v6, t3 * t6, tl.fma(-(t1 * t0), t6, t6)),),
                tl.fma(-v1, t7, v1 * t6),
                (tl.fma(-x, t7, x * t6), H * t6, H * t7),
            )

        @triton.jit
        def finish(row, sums):
            y, _, r, v3, v4, v5, _ = row
            s0, s1, s2 = sums
            return (
                tl.fma(v4, s2, tl.fma(v3 * s1, r, s0 * r)) + tl.fma(-v5, s2, -((s1 * r) * y)),
                tl.fma(v3 * (s1 - s2), y, s0 * y),
            )

    class by_synapse:
        sum_count, passes_of_next, passes = 2, 0, 0
        rests = True

        @triton.jit
        def row(y, c, pre_count, given):
            return y, y * y

        @triton.jit
        def next(row, before, x, given):
            y, _ = row
            (H,) = before
            (r,) = given
            t0 = y * (r * tl.fma(-y, H, x))
            t1 = (
                tl.fma(tl.fma(-tl.where(number(0.0, H) < t0, number(1.0, H), tl.where(t0 <
                    number(0.0, H), number(-1.0, H), number(0.0, H))), H, number(1.0, H)), t0, H)
            )
            t2 = tl.where(t1 < number(-1.0, H), number(-1.0, H), t1)
            return (tl.where(number(1.0, H) < t2, number(1.0, H), t2),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            y, v1 = row
            (H,) = before
            (r,) = given
            (grad_H,) = grad
            t0 = y * tl.fma(-y, H, x)
            t1 = t0 * r
            t2 = (
                tl.where(number(0.0, H) < t1, number(1.0, H), tl.where(t1 < number(0.0, H),
                    number(-1.0, H), number(0.0, H)))
            )
            t3 = H * t2
            t4 = number(1.0, H) - t3
            t5 = tl.fma(t1, t4, H)
            t6 = tl.where(t5 < number(-1.0, H), number(-1.0, H), t5)
            t7 = (
                tl.where(tl.where(number(1.0, H) < t6, number(1.0, H), t6) == t5, grad_H,
                    number(0.0, H))
            )
            t8 = t7 * t4
            t9 = t7 * r
            t10 = t9 * t3
            return (
                (tl.fma(-v1, t8 * r, tl.fma(-(t1 * t7), t2, t7)),),
                tl.fma(-y, t10, y * t9),
                (tl.fma(-x, t10, x * t9), tl.fma(-H, t10, t9 * H)),
                (t0 * t8,),
            )

        @triton.jit
        def finish(row, sums):
            y, _ = row
            s0, s1 = sums
            t0 = s1 * y
            return (s0 - t0) - t0


# H' = clamp(H + (r * E) * (1 - sign(r * E) * H), -1, 1); E' = (1 - eta) * E + eta * (y * (x - y *
# H))
class oja_soft_clip_retroactive:
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
            t0 = r * E
            t1 = (
                tl.fma(tl.fma(-H, tl.where(number(0.0, H) < t0, number(1.0, H), tl.where(t0 <
                    number(0.0, H), number(-1.0, H), number(0.0, H))), number(1.0, H)), t0, H)
            )
            t2 = tl.where(t1 < number(-1.0, H), number(-1.0, H), t1)
            return (
                tl.where(number(1.0, H) < t2, number(1.0, H), t2),
                tl.fma(v3, tl.fma(-y, H, x), v1 * E),
            )

        @triton.jit
        def adjoint(row, before, x, given, grad):
            r, v1, y, v3, _, _, _ = row
            H, E = before
            grad_H, grad_E = grad
            t0 = r * E
            t1 = (
                tl.where(number(0.0, H) < t0, number(1.0, H), tl.where(t0 < number(0.0, H),
                    number(-1.0, H), number(0.0, H)))
            )
            t2 = H * t1
            t3 = number(1.0, H) - t2
            t4 = tl.fma(t3, t0, H)
            t5 = tl.where(t4 < number(-1.0, H), number(-1.0, H), t4)
            t6 = (
                tl.where(tl.where(number(1.0, H) < t5, number(1.0, H), t5) == t4, grad_H,
                    number(0.0, H))
            )
            t7 = v3 * grad_E
            return (
                (tl.fma(-(t1 * t6), t0, tl.fma(-y, t7, t6)), tl.fma(r, t3 * t6, v1 * grad_E)),
                t7,
                (x * grad_E, H * grad_E, tl.fma(-t6, E * t2, E * t6), E * grad_E),
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
            t0 = E * r
            t1 = (
                tl.fma(t0, tl.fma(-H, tl.where(number(0.0, H) < t0, number(1.0, H), tl.where(t0 <
                    number(0.0, H), number(-1.0, H), number(0.0, H))), number(1.0, H)), H)
            )
            t2 = tl.where(t1 < number(-1.0, H), number(-1.0, H), t1)
            return (
                tl.where(number(1.0, H) < t2, number(1.0, H), t2),
                tl.fma(y, eta * tl.fma(-y, H, x), E * (number(1.0, H) - eta)),
            )

        @triton.jit
        def adjoint(row, before, x, given, grad):
            (y,) = row
            H, E = before
            r, eta = given
            grad_H, grad_E = grad
            t0 = E * r
            t1 = (
                tl.where(number(0.0, H) < t0, number(1.0, H), tl.where(t0 < number(0.0, H),
                    number(-1.0, H), number(0.0, H)))
            )
            t2 = tl.fma(-H, t1, number(1.0, H))
            t3 = tl.fma(t0, t2, H)
            t4 = tl.where(t3 < number(-1.0, H), number(-1.0, H), t3)
            t5 = (
                tl.where(tl.where(number(1.0, H) < t4, number(1.0, H), t4) == t3, grad_H,
                    number(0.0, H))
            )
            t6 = eta * grad_E
            t7 = y * t6
            t8 = t2 * t5
            return (
                (tl.fma(-(t0 * t1), t5, tl.fma(-y, t7, t5)), tl.fma(r, t8, (number(1.0, H) - eta) *
                    grad_E)),
                t7,
                (x * t6, H * t6),
                (E * t8, tl.fma(-E, grad_E, y * (grad_E * tl.fma(-y, H, x)))),
            )

        @triton.jit
        def finish(row, sums):
            (y,) = row
            s0, s1 = sums
            t0 = s1 * y
            return (s0 - t0) - t0
