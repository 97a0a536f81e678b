"""An ABCD rule, learned by gradient descent: in every episode weights start at zero, and only the rule is trained.

An episode shows five random cues with their responses, once. Then the cues come again, a tenth of their lines turned
round, and the responses are asked for: all that the network has then is what the rule has written. An outer Adam goes
through whole episodes and trains the coefficients A, B, C and D of every connection.
``python examples/abcd_gradient.py`` trains five seeds and tells whether they beat the rules that they started from.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from record import write
from torch import Tensor

from plastikern import Coefficient, PlasticLinear, rule

LINES, RESPONSES, BATCH, TOLD, TURNED = 20, 5, 64, 5.0, 0.1


@rule(H="synapse", read=lambda H, x: H * x)
def abcd(H: Any, x: Any, y: Any, eta: Any, A: Any, B: Any, C: Any, D: Any) -> Any:
    """All terms of a correlation (Najarro and Risi, 2020)."""
    return H + eta * (A * x * y + B * x + C * y + D)


def network() -> PlasticLinear:
    """Cues to probabilities of the responses; nothing is a parameter but the rule's coefficients."""
    drawn = Coefficient("connection", init=0.0, std=1.0)
    use = abcd.use(eta=Coefficient(init=0.1, learned=False), A=drawn, B=drawn, C=drawn, D=drawn)
    return PlasticLinear(LINES, RESPONSES, bias=False, nonlinearity="softmax", plasticity=use)


def episodes(batch: int, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Cues (T, B, LINES), what tells the responses (T, B, RESPONSES), responses that are asked for (T / 2, B)."""
    drawn = partial(torch.rand, generator=source)
    cues = (drawn((RESPONSES, batch, LINES)) < 0.5).float()
    shown, asked = (drawn((batch, RESPONSES)).argsort(1).T for _ in range(2))
    again = cues.gather(0, asked.unsqueeze(-1).expand_as(cues))
    again = torch.where(drawn(cues.shape) < TURNED, 1 - again, again)
    told = TOLD * torch.eye(RESPONSES)[shown]
    wanted = shown.gather(0, asked)
    return torch.cat([cues, again]), torch.cat([told, torch.zeros_like(told)]), wanted


@torch.no_grad()
def right(net: PlasticLinear) -> float:
    """Share of right answers in a thousand episodes, the same ones for all."""
    cues, told, wanted = episodes(1000, torch.Generator().manual_seed(10**6))
    given = net(cues, drive=told)[0][RESPONSES:]
    return float((given.argmax(-1) == wanted).float().mean())


def train(seed: int, updates: int) -> dict[str, Any]:
    """Share of right answers before and after, the coefficients' means, and the loss, means of 25 updates."""
    torch.manual_seed(seed)
    net, source = network(), torch.Generator().manual_seed(seed)
    untrained, curve = right(net), []
    optimiser = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(updates):
        cues, told, wanted = episodes(BATCH, source)
        given = net(cues, drive=told)[0][RESPONSES:].gather(-1, wanted.unsqueeze(-1))
        loss = -torch.log(given + 1e-6).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        curve.append(loss.item())
    losses = [sum(part) / len(part) for part in (curve[k : k + 25] for k in range(0, updates, 25))]
    means = {name: float(net.get_parameter(name).detach().mean()) for name in "ABCD"}
    return {"untrained": untrained, "trained": right(net), "mean": means, "loss": losses}


@torch.no_grad()
def hebb() -> float:
    """Share of right answers of Hebb's rule, C = B = D = 0, at the best of seven rates."""
    reached, net = [], network()
    for rate in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0):
        for name in "ABCD":
            net.get_parameter(name).fill_(rate if name == "A" else 0.0)
        reached.append(right(net))
    return max(reached)


def p_value(before: Sequence[float], after: Sequence[float]) -> float:
    """Of an exact permutation test of the sums, two-sided; with five of each it is 2 / 252 at least."""
    both, half = [*before, *after], len(before)
    middle = sum(both) * half / len(both)
    far = [abs(sum(part) - middle) for part in combinations(both, half)]
    return sum(each >= abs(sum(before) - middle) - 1e-9 for each in far) / len(far)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Trains all seeds; what they reach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result there")
    options = parser.parse_args(arguments)
    began, runs = time.perf_counter(), []
    for seed in range(options.seeds):
        runs.append(train(seed, options.updates))
        print(
            f"seed {seed}: {runs[-1]['untrained']:.1%} right untrained, {runs[-1]['trained']:.1%}"
        )
    p = p_value([run["untrained"] for run in runs], [run["trained"] for run in runs])
    found = {"p": p, "hebb": hebb(), "chance": 1 / RESPONSES, "seeds": runs}
    print(f"p = {p:.4f}; Hebb's rule {found['hebb']:.1%}")
    command = (
        f"python examples/abcd_gradient.py --updates {options.updates} --seeds {options.seeds}"
    )
    write(options.json, command, began, found)
    return found


if __name__ == "__main__":
    main()
