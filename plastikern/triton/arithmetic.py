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


@triton.jit
def exponential(z):
    """exp(z) of z <= 0, to a few units in the last place."""
    if z.dtype == tl.float32:
        # Triton's own rounds z / log(2) to single precision, which costs |z| units in the last place. Here tl.exp gets
        # what is left beside whole powers of 2. The two summands of log(2) are short, so that products are exact.
        z = tl.where(z < -104, -104.0, z)
        power = tl.floor(z * 1.44269504 + 0.5)
        y = tl.exp(z - power * 0.693359375 + power * 2.12194440e-4) * tl.exp2(power)
    else:
        y = tl.exp(z)
    return y


@triton.jit
def tanh(z):
    # Triton has no tanh for all its targets. Near 0, where 1 - exp(-2 |z|) would lose what makes the result, this is
    # the eighth convergent of Lambert's continued fraction, z / (1 + z^2 / (3 + z^2 / (5 + ...))): 6e-18 off at 0.625.
    s = z * z
    lost = (
        s
        * (675675 + s * (45045 + s * (594 + s)))
        / (2027025 + s * (945945 + s * (51975 + s * (630 + s))))
    )
    size = tl.abs(z)
    decayed = exponential(-2 * size)
    far = 1 - 2 * decayed / (1 + decayed)
    return tl.where(size < 0.625, z - z * lost, tl.where(z < 0, -far, far))


@triton.jit
def sigmoid(z):
    decayed = exponential(-tl.abs(z))
    return tl.where(z < 0, decayed, 1.0) / (1 + decayed)
