"""A ``torch.nn.RNN`` and, in its place, a ``PlasticRNN``: one line differs, and what it learns.

In every episode three keys are shown, each followed by its value, in pairs that are drawn anew; then one of the keys is
shown again, and its value is asked for. ``python examples/swap.py`` trains both networks in some seconds and prints how
often each is right.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plastikern import Plasticity, PlasticRNN

SYMBOLS, PAIRS, BATCH, HIDDEN = 5, 3, 32, 48
INPUTS = 2 * SYMBOLS + 1
"""A line for every key, one for every value, one that asks."""


def episodes() -> tuple[Tensor, Tensor]:
    """Inputs (T, B, INPUTS) and the values that are asked for (B,)."""
    keys, values = (torch.rand(BATCH, SYMBOLS).argsort(1)[:, :PAIRS].T for _ in range(2))
    pairs = torch.stack([keys, SYMBOLS + values], 1).flatten(0, 1)
    chosen = torch.randint(PAIRS, (1, BATCH))
    asking = torch.full((1, BATCH), 2 * SYMBOLS)
    steps = torch.cat([pairs, keys.gather(0, chosen), asking])
    return torch.eye(INPUTS)[steps], values.gather(0, chosen)[0]


def train(rnn: nn.Module, updates: int) -> float:
    """Share of right answers in the last tenth of the training."""
    readout = nn.Linear(HIDDEN, SYMBOLS)
    optimiser = torch.optim.Adam([*rnn.parameters(), *readout.parameters()], lr=1e-2)
    right = []
    for _ in range(updates):
        inputs, values = episodes()
        output, _ = rnn(inputs)
        scores = readout(output[-1])
        optimiser.zero_grad()
        nn.functional.cross_entropy(scores, values).backward()
        optimiser.step()
        right.append((scores.argmax(-1) == values).float().mean())
    return float(torch.stack(right[-(-9 * updates // 10) :]).mean())


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Trains both; the share of right answers of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=500)
    updates = parser.parse_args(arguments).updates
    torch.manual_seed(0)
    before = nn.RNN(INPUTS, HIDDEN)
    after = PlasticRNN(
        INPUTS, HIDDEN, plasticity=Plasticity(constraint="clip", alpha_init=0.2, eta_init=0.5)
    )
    found = {"nn.RNN": train(before, updates), "PlasticRNN": train(after, updates)}
    for name, share in found.items():
        print(f"{name}: {share:.0%} right")
    return found


if __name__ == "__main__":
    main()
