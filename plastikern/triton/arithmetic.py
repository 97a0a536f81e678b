"""The words of which printed arithmetic is made (plastikern/rules/printers.py), beside those of Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def number(value: tl.constexpr, like):
    """A constant of the type of ``like``; a literal would be rounded to single precision on its way."""
    return tl.full(like.shape, value, like.dtype)


@triton.jit
def log1p(x):
    """log(1 + x), also where 1 + x is rounded to 1."""
    u = 1 + x
    exact = u == 1
    return tl.where(exact, x, tl.log(u) * (x / tl.where(exact, 1.0, u - 1)))


@triton.jit
def pow(x, y):
    """x to the power y, of x >= 0."""
    zero = x == 0
    at_zero = tl.where(y < 0, float("inf"), tl.where(y == 0, 1.0, 0.0))
    return tl.where(zero, at_zero, tl.exp(y * tl.log(tl.where(zero, 1.0, x))))
