"""Ten published rules, as their authors' equations are; data/rules.npz has golden values of them."""

from __future__ import annotations

from typing import Any

from torch import clamp, exp, relu, sqrt, tanh

from plastikern.rules.decorator import Rule, rule
from plastikern.rules.operations import as_pre, over_post, over_pre

Value = Any


@rule(H="synapse", read=lambda H, x: H * x)
def A1(H: Value, x: Value, y: Value, eta: Value, A: Value, B: Value, C: Value, D: Value) -> Value:
    """ABCD (Najarro and Risi, 2020), every coefficient per connection."""
    return H + eta * (A * x * y + B * x + C * y + D)


@rule(H="synapse", read=lambda w, H, x: w * (1 + H) * x)
def A2(H: Value, x: Value, y: Value, lam: Value, eta: Value) -> Value:
    """MPN (Aitken and Mihalas, 2023)."""
    return tanh(lam * H + eta * x * y)


@rule(H="synapse", theta="post")
def A3(H: Value, theta: Value, x: Value, y: Value, eta: Value, tau: Value) -> Value:
    """BCM: a threshold of each post-synaptic neuron slides."""
    return H + eta * x * y * (y - theta), theta + tau * (y * y - theta)


@rule(H="synapse", p1="pre", p2="pre", q1="post", q2="post")
def A4(
    H: Value,
    p1: Value,
    p2: Value,
    q1: Value,
    q2: Value,
    x: Value,
    y: Value,
    a1: Value,
    a2: Value,
    b1: Value,
    b2: Value,
    A2p: Value,
    A3p: Value,
    A2m: Value,
    A3m: Value,
    top: Value,
) -> Value:
    """Triplet STDP (Pfister and Gerstner, 2006)."""
    p1, p2, q1, q2 = a1 * p1, a2 * p2, b1 * q1, b2 * q2
    H = clamp(H + y * p1 * (A2p + A3p * q2) - x * q1 * (A2m + A3m * p2), 0 * top, top)
    return H, p1 + x, p2 + x, q1 + y, q2 + y


@rule(E="synapse", H="synapse", e="post", signals={"r": "element", "s": "element", "m": "element"})
def A5(
    E: Value,
    H: Value,
    e: Value,
    x: Value,
    y: Value,
    r: Value,
    s: Value,
    m: Value,
    tau: Value,
    c: Value,
    w: Value,
    alpha: Value,
) -> Value:
    """Gated STDP with eligibility, on a recurrent connection (SGRU)."""
    E1 = (1 - s) * E + s * (y * as_pre(e) - e * as_pre(y))
    H = clamp((1 - tau) * H + tau * m * E1, -relu(c + w) / alpha, relu(c - w) / alpha)
    return E1, H, (1 - r) * e + r * y


@rule(eps="synapse", bar="synapse", H="synapse", p="pre", signals={"L": "post"})
def A6(
    eps: Value,
    bar: Value,
    H: Value,
    p: Value,
    x: Value,
    y: Value,
    L: Value,
    a: Value,
    beta: Value,
    rho: Value,
    kappa: Value,
    eta: Value,
) -> Value:
    """e-prop (Bellec et al., 2020)."""
    p = a * p + x
    psi = 1 - y * y
    bar = kappa * bar + psi * (p - beta * eps)
    eps = psi * p + (rho - psi * beta) * eps
    return eps, bar, H - eta * L * bar, p


@rule(
    u0="synapse",
    u1="synapse",
    u2="synapse",
    u3="synapse",
    read=lambda w, alpha, u0, x: (w + alpha * u0) * x,
)
def A7(
    u0: Value, u1: Value, u2: Value, u3: Value, x: Value, y: Value, eta: Value, g: Value, n: Value
) -> Value:
    """A synapse of four beakers (Benna and Fusi, 2016)."""
    u = (u0, u1, u2, u3)
    flow = (
        [eta * x * y]
        + [g * n ** (1 - k) * (u[k - 1] - u[k]) for k in (1, 2, 3)]
        + [g * n ** (-3) * u3]
    )
    return tuple(u[k] + (flow[k] - flow[k + 1]) / n**k for k in range(4))


@rule(
    H="synapse",
    signals={"k": "pre", "v": "post", "g": "pre", "b": "element"},
    read_after=True,
    read=lambda H, x: H * x,
)
def A8(H: Value, k: Value, v: Value, g: Value, b: Value) -> Value:
    """The gated delta rule (Yang et al., 2024)."""
    H = H * exp(g)
    return H + b * k * (v - over_pre(H * k))


@rule(
    H="synapse",
    signals={"k": "pre", "v": "post", "g": "post", "b": "post"},
    read_after=True,
    read=lambda H, x: H * x,
)
def A9(H: Value, k: Value, v: Value, g: Value, b: Value) -> Value:
    """Gated Oja, a sum over post."""
    H = H * exp(g)
    return H + b * v * (k - over_post(H * v))


@rule(H="synapse")
def A10(H: Value, x: Value, y: Value, lam: Value, gamma: Value) -> Value:
    """Hebb, rows normalised."""
    F = lam * H + gamma * x * y
    return F / sqrt(over_pre(F * F) + 1e-6)


RULES: dict[str, Rule] = {
    "A1": A1,
    "A2": A2,
    "A3": A3,
    "A4": A4,
    "A5": A5,
    "A6": A6,
    "A7": A7,
    "A8": A8,
    "A9": A9,
    "A10": A10,
}
GRANULARITIES = {
    "A1": dict.fromkeys(("eta", "A", "B", "C", "D"), "connection"),
    "A2": {"lam": "pre", "eta": "post"},
    "A3": {"eta": "post"},
    "A4": {"top": "connection"},
    "A6": {"beta": "post", "rho": "post"},
    "A7": {"eta": "connection"},
    "A10": {"lam": "connection", "gamma": "connection"},
}
"""Of coefficients that are not one of the layer."""
ACTIVITIES = {"A3": "sigmoid", "A4": "sigmoid", "A8": "identity", "A9": "identity"}
"""Where it is not tanh."""
