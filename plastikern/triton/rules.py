"""What one synapse does, forward and adjoint: the only place in Triton where the arithmetic of a rule is written.

Everything is elementwise over tiles (R, C), with ``pre`` (1, C), ``post`` (R, 1) and rates that broadcast. Words and
formulas are those of plastikern/reference.py. One more rule or constraint is one more branch in each function here.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def clamped(value, bound):
    # Comparisons, so that NaN stays NaN.
    return tl.where(value < -bound, -bound, tl.where(value > bound, bound, value))


@triton.jit
def bound_of(trace, network: tl.constexpr):
    # A literal would be rounded to single precision on its way into double.
    return tl.full([1, 1], 1.0 if network.constraint == "soft_clip" else network.clip, trace.dtype)


@triton.jit
def read(trace, network: tl.constexpr):
    """The trace as the forward pass sees it."""
    if network.constraint == "clip_on_read":
        trace = clamped(trace, bound_of(trace, network))
    return trace


@triton.jit
def read_adjoint(trace, grad, network: tl.constexpr):
    if network.constraint == "clip_on_read":
        # As torch.clamp: the gradient passes inside the bounds, the bounds included.
        grad = tl.where(tl.abs(trace) <= bound_of(trace, network), grad, 0.0)
    return grad


@triton.jit
def increment(trace, pre, post, network: tl.constexpr):
    if network.rule == "oja":
        product = post * (pre - post * trace)
    else:
        product = post * pre
    return product


@triton.jit
def increment_adjoint(trace, pre, post, grad, network: tl.constexpr):
    """Gradients of trace, pre and post from that of the increment."""
    if network.rule == "oja":
        grads = -(grad * post) * post, grad * post, grad * (pre - 2 * post * trace)
    else:
        grads = tl.zeros_like(trace), grad * post, grad * pre
    return grads


@triton.jit
def towards(trace, change):
    """sign(change) trace."""
    return tl.where(change > 0, trace, tl.where(change < 0, -trace, 0.0))


@triton.jit
def soft_clipped(trace, change):
    # A trace on a bound stays there exactly: rounding does not decide whether its gradient passes.
    return trace + change * (1 - towards(trace, change))


@triton.jit
def constrained(trace, change, rate, network: tl.constexpr):
    """The next trace."""
    if network.constraint == "decay":
        after = (1 - rate) * trace + change
    elif network.constraint == "clip":
        after = clamped(trace + change, bound_of(trace, network))
    elif network.constraint == "soft_clip":
        after = clamped(soft_clipped(trace, change), bound_of(trace, network))
    else:
        after = trace + change
    return after


@triton.jit
def constrained_adjoint(trace, change, rate, grad, network: tl.constexpr):
    """Gradients of trace, change and, beside the change, rate."""
    grad_change, grad_rate = grad, tl.zeros_like(grad)
    if network.constraint == "decay":
        grad_rate = -(trace * grad)
        grad = (1 - rate) * grad
    elif network.constraint == "clip":
        grad = tl.where(tl.abs(trace + change) <= bound_of(trace, network), grad, 0.0)
        grad_change = grad
    elif network.constraint == "soft_clip":
        size = tl.abs(change)
        bounded = soft_clipped(trace, change)
        grad = tl.where(tl.abs(bounded) <= bound_of(trace, network), grad, 0.0)
        grad_change = grad - towards(trace, change) * grad
        grad = grad - size * grad
    return grad, grad_change, grad_rate


@triton.jit
def next_traces(trace, eligibility, pre, post, rate, fading, eligible, network: tl.constexpr):
    """The traces after a step. ``eligible`` (R, 1): neurons with eligibility traces, where not all have them."""
    product = increment(trace, pre, post, network)
    change = rate * product
    if network.retroactive:
        gated, faded = rate * eligibility, (1 - fading) * eligibility + fading * product
        if network.half_eligible:
            gated, faded = tl.where(eligible, gated, change), tl.where(eligible, faded, eligibility)
        change, eligibility = gated, faded
    return constrained(trace, change, rate, network), eligibility


@triton.jit
def next_adjoint(
    trace, eligibility, pre, post, rate, fading, eligible, grad_trace, grad_eligibility, network: tl.constexpr
):  # fmt: skip
    """Gradients of trace, eligibility, pre, post, rate and fading, the last four for every synapse."""
    product = increment(trace, pre, post, network)
    change = rate * product
    source, grad_fading = product, grad_trace
    if network.retroactive:
        source = eligibility
        if network.half_eligible:
            source = tl.where(eligible, eligibility, product)
        change = rate * source
    grad_trace, grad_change, grad_rate = constrained_adjoint(
        trace, change, rate, grad_trace, network
    )
    grad_rate += grad_change * source
    grad_product = rate * grad_change
    if network.retroactive:
        gated = grad_product + (1 - fading) * grad_eligibility
        faded, grad_fading = fading * grad_eligibility, grad_eligibility * (product - eligibility)
        if network.half_eligible:
            faded, gated = (
                tl.where(eligible, faded, grad_product),
                tl.where(eligible, gated, grad_eligibility),
            )
            grad_fading = tl.where(eligible, grad_fading, 0.0)
        grad_product, grad_eligibility = faded, gated
    through, grad_pre, grad_post = increment_adjoint(trace, pre, post, grad_product, network)
    return grad_trace + through, grad_eligibility, grad_pre, grad_post, grad_rate, grad_fading
