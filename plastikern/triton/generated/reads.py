# Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
from __future__ import annotations

import triton
import triton.language as tl

from ..arithmetic import number


# sum of (w + alpha * H) * x
class read_trace:
    class by_row:
        @triton.jit
        def row(c, alpha, grad_sum):
            return alpha, grad_sum, alpha * grad_sum

        @triton.jit
        def sum(row, w, alpha, H, x):
            alpha, _, _ = row
            return x * tl.fma(alpha, H, w)

        @triton.jit
        def adjoint(row, w, alpha, H, x, so_far_H):
            alpha, grad_sum, v2 = row
            return tl.fma(v2, x, so_far_H), grad_sum * tl.fma(alpha, H, w)

    class by_synapse:
        @triton.jit
        def row(c, alpha, grad_sum):
            return (grad_sum,)

        @triton.jit
        def sum(row, w, alpha, H, x):
            return x * tl.fma(alpha, H, w)

        @triton.jit
        def adjoint(row, w, alpha, H, x, so_far_H):
            (grad_sum,) = row
            return tl.fma(alpha, grad_sum * x, so_far_H), grad_sum * tl.fma(alpha, H, w)

        @triton.jit
        def alpha(row, H, x, so_far):
            (grad_sum,) = row
            return tl.fma(grad_sum * x, H, so_far)


# sum of (w + alpha * clamp(H, -c, c)) * x
class read_clipped:
    class by_row:
        @triton.jit
        def row(c, alpha, grad_sum):
            return alpha, c, -c, grad_sum, alpha * grad_sum

        @triton.jit
        def sum(row, w, alpha, H, x):
            alpha, c, v2, _, _ = row
            t0 = tl.where(H < v2, v2, H)
            return x * tl.fma(alpha, tl.where(c < t0, c, t0), w)

        @triton.jit
        def adjoint(row, w, alpha, H, x, so_far_H):
            alpha, c, v2, grad_sum, v4 = row
            t0 = tl.where(H < v2, v2, H)
            t1 = tl.where(c < t0, c, t0)
            return (
                so_far_H + tl.where(t1 == H, v4 * x, number(0.0, H)),
                grad_sum * tl.fma(alpha, t1, w),
            )

    class by_synapse:
        @triton.jit
        def row(c, alpha, grad_sum):
            return c, -c, grad_sum

        @triton.jit
        def sum(row, w, alpha, H, x):
            c, v1, _ = row
            t0 = tl.where(H < v1, v1, H)
            return x * tl.fma(alpha, tl.where(c < t0, c, t0), w)

        @triton.jit
        def adjoint(row, w, alpha, H, x, so_far_H):
            c, v1, grad_sum = row
            t0 = tl.where(H < v1, v1, H)
            t1 = tl.where(c < t0, c, t0)
            return (
                so_far_H + tl.where(t1 == H, alpha * (grad_sum * x), number(0.0, H)),
                grad_sum * tl.fma(alpha, t1, w),
            )

        @triton.jit
        def alpha(row, H, x, so_far):
            c, v1, grad_sum = row
            t0 = tl.where(H < v1, v1, H)
            return tl.fma(grad_sum * x, tl.where(c < t0, c, t0), so_far)
