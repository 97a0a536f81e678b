"""A ``torch.nn.RNN`` and, in its place, a ``PlasticRNN``: one line differs, and what it learns.

In every episode three keys are shown with a value each, all of them new; then one key is shown alone, and its value is
asked for. ``python examples/swap.py`` trains both networks in some seconds and prints how often each is right.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plastikern import Plasticity, PlasticRNN

KEYS, SHOWN, BATCH, HIDDEN = 5, 3, 64, 32


def episodes() -> tuple[Tensor, Tensor]:
    """Inputs (T, B, 2 KEYS) and the values that are asked for (B,)."""
    keys, values = (torch.rand(BATCH, KEYS).argsort(1)[:, :SHOWN].T for _ in range(2))
    asked = torch.randint(SHOWN, (1, BATCH))
    one_hot = torch.eye(KEYS)
    shown = torch.cat([one_hot[keys], one_hot[values]], -1)
    cue = torch.cat([one_hot[keys.gather(0, asked)], torch.zeros(1, BATCH, KEYS)], -1)
    return torch.cat([shown, cue]), values.gather(0, asked)[0]


def train(rnn: nn.Module, updates: int) -> float:
    """Share of right answers in the last tenth of the training."""
    readout = nn.Linear(HIDDEN, KEYS)
    optimiser = torch.optim.Adam([*rnn.parameters(), *readout.parameters()], lr=3e-3)
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
    parser.add_argument("--updates", type=int, default=1500)
    updates = parser.parse_args(arguments).updates
    torch.manual_seed(0)
    before = nn.RNN(2 * KEYS, HIDDEN)
    after = PlasticRNN(2 * KEYS, HIDDEN, plasticity=Plasticity(alpha_init=0.1, eta_init=0.3))
    found = {"nn.RNN": train(before, updates), "PlasticRNN": train(after, updates)}
    for name, share in found.items():
        print(f"{name}: {share:.0%} right")
    return found


if __name__ == "__main__":
    main()
