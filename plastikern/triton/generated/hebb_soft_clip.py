# Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
from __future__ import annotations

import triton
import triton.language as tl

from ..arithmetic import number


# H' = clamp(H + (r * (y * x)) * (1 - sign(r * (y * x)) * H), -1, 1)
class hebb_soft_clip:
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
            t0 = v0 * x
            t1 = (
                tl.fma(tl.fma(-tl.where(number(0.0, H) < t0, number(1.0, H), tl.where(t0 <
                    number(0.0, H), number(-1.0, H), number(0.0, H))), H, number(1.0, H)), t0, H)
            )
            t2 = tl.where(t1 < number(-1.0, H), number(-1.0, H), t1)
            return (tl.where(number(1.0, H) < t2, number(1.0, H), t2),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            v0, _, _ = row
            (H,) = before
            (grad_H,) = grad
            t0 = v0 * x
            t1 = (
                tl.where(number(0.0, H) < t0, number(1.0, H), tl.where(t0 < number(0.0, H),
                    number(-1.0, H), number(0.0, H)))
            )
            t2 = t1 * H
            t3 = tl.fma(number(1.0, H) - t2, t0, H)
            t4 = tl.where(t3 < number(-1.0, H), number(-1.0, H), t3)
            t5 = (
                tl.where(tl.where(number(1.0, H) < t4, number(1.0, H), t4) == t3, grad_H,
                    number(0.0, H))
            )
            t6 = t2 * t5
            return (
                (tl.fma(-(t1 * t5), t0, t5),),
                tl.fma(-v0, t6, v0 * t5),
                (tl.fma(-x, t6, x * t5),),
            )

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
            t0 = (y * x) * r
            t1 = (
                tl.fma(tl.fma(-H, tl.where(number(0.0, H) < t0, number(1.0, H), tl.where(t0 <
                    number(0.0, H), number(-1.0, H), number(0.0, H))), number(1.0, H)), t0, H)
            )
            t2 = tl.where(t1 < number(-1.0, H), number(-1.0, H), t1)
            return (tl.where(number(1.0, H) < t2, number(1.0, H), t2),)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            (y,) = row
            (H,) = before
            (r,) = given
            (grad_H,) = grad
            t0 = y * x
            t1 = t0 * r
            t2 = (
                tl.where(number(0.0, H) < t1, number(1.0, H), tl.where(t1 < number(0.0, H),
                    number(-1.0, H), number(0.0, H)))
            )
            t3 = H * t2
            t4 = number(1.0, H) - t3
            t5 = tl.fma(t4, t1, H)
            t6 = tl.where(t5 < number(-1.0, H), number(-1.0, H), t5)
            t7 = (
                tl.where(tl.where(number(1.0, H) < t6, number(1.0, H), t6) == t5, grad_H,
                    number(0.0, H))
            )
            t8 = t7 * r
            t9 = t8 * t3
            return (
                (tl.fma(-(t7 * t1), t2, t7),),
                tl.fma(-y, t9, y * t8),
                (tl.fma(-x, t9, x * t8),),
                ((t0 * t4) * t7,),
            )

        @triton.jit
        def finish(row, sums):
            (s0,) = sums
            return s0


# H' = clamp(H + (r * E) * (1 - sign(r * E) * H), -1, 1); E' = (1 - eta) * E + eta * (y * x)
class hebb_soft_clip_retroactive:
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
            t0 = r * E
            t1 = (
                tl.fma(tl.fma(-H, tl.where(number(0.0, H) < t0, number(1.0, H), tl.where(t0 <
                    number(0.0, H), number(-1.0, H), number(0.0, H))), number(1.0, H)), t0, H)
            )
            t2 = tl.where(t1 < number(-1.0, H), number(-1.0, H), t1)
            return tl.where(number(1.0, H) < t2, number(1.0, H), t2), tl.fma(v2, x, v1 * E)

        @triton.jit
        def adjoint(row, before, x, given, grad):
            r, v1, v2, _, _ = row
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
            return (
                (tl.fma(-(t1 * t6), t0, t6), tl.fma(r, t3 * t6, v1 * grad_E)),
                v2 * grad_E,
                (x * grad_E, tl.fma(-t6, E * t2, E * t6), E * grad_E),
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
            t0 = E * r
            t1 = (
                tl.fma(t0, tl.fma(-H, tl.where(number(0.0, H) < t0, number(1.0, H), tl.where(t0 <
                    number(0.0, H), number(-1.0, H), number(0.0, H))), number(1.0, H)), H)
            )
            t2 = tl.where(t1 < number(-1.0, H), number(-1.0, H), t1)
            return (
                tl.where(number(1.0, H) < t2, number(1.0, H), t2),
                tl.fma(y * x, eta, E * (number(1.0, H) - eta)),
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
            t6 = t2 * t5
            t7 = eta * grad_E
            return (
                (tl.fma(-(t0 * t1), t5, t5), tl.fma(r, t6, (number(1.0, H) - eta) * grad_E)),
                y * t7,
                (x * t7,),
                (E * t6, tl.fma(-E, grad_E, (y * x) * grad_E)),
            )

        @triton.jit
        def finish(row, sums):
            (s0,) = sums
            return s0
