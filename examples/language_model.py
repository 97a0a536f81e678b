"""A character language model with a modulated ``PlasticLSTM`` that carries its states, traces among them, along a text.

``python examples/language_model.py --text FILE`` trains for some seconds and prints bits a character; without a file it
reads this repository's licence.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from plastikern import LSTMState, Plasticity, PlasticLSTM

LICENCE = Path(__file__).resolve().parents[1] / "LICENSE"


class LanguageModel(nn.Module):
    """Embedding, one plastic LSTM, and a score for every character."""

    def __init__(self, characters: int, neurons: int) -> None:
        super().__init__()
        rule = Plasticity(constraint="clip", alpha="neuron", modulation="simple", fan_out="neuron")
        self.embedding = nn.Embedding(characters, neurons)
        self.lstm = PlasticLSTM(neurons, neurons, plasticity=rule)
        self.scores = nn.Linear(neurons, characters)

    def forward(self, text: Tensor, state: LSTMState | None) -> tuple[Tensor, LSTMState]:
        """Scores (T, B, characters) of what follows each character of text (T, B), and the last state."""
        output, state = self.lstm(self.embedding(text), state)
        return self.scores(output), state


def train(
    text: str, epochs: int, neurons: int = 64, batch: int = 8, steps: int = 32
) -> list[float]:
    """Mean bits a character of every epoch."""
    torch.manual_seed(0)
    alphabet = sorted(set(text))
    codes = torch.tensor([alphabet.index(character) for character in text])
    streams = (
        codes[: len(codes) // batch * batch].view(batch, -1).T
    )  # each column one stretch of the text
    model = LanguageModel(len(alphabet), neurons)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    bits = []
    for _ in range(epochs):
        state, total, count = None, 0.0, 0
        for start in range(0, len(streams) - 1, steps):
            piece = streams[start : start + steps + 1]
            scores, state = model(piece[:-1], state)
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), piece[1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            state = state.detach()  # numbers go on to the next piece, gradients do not
            total, count = total + loss.item() * len(piece[1:]), count + len(piece[1:])
        bits.append(total / count / math.log(2))
    return bits


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Trains a model; bits a character of every epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, default=LICENCE)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args(arguments)
    bits = train(options.text.read_text(encoding="utf-8"), options.epochs)
    for epoch, value in enumerate(bits, 1):
        print(f"epoch {epoch}: {value:.2f} bits a character")
    return bits


if __name__ == "__main__":
    main()
