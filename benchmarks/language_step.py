"""Where the time of a training step of the language models goes: ``python -m benchmarks.language_step --data ZIP``.

Prints the parts of a step of the fused path and its memory. Then times it and the pure PyTorch path of the whole model,
in turn, from the same weights, and compares their losses; not with ``--alone``. With ``--plain-loss`` the fused path
has its loss in plain PyTorch, to compare: in a process of its own, for what fresh memory costs depends on what else a
process has allocated.
"""

from __future__ import annotations

import argparse
import resource
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.common.experiment import stream
from experiments.language import MODULATION, Language

PARTS = {
    "recurrent layers, forward": ("plastikern::sequence", "aten::lstm"),
    "recurrent layers, backward": (
        "plastikern::sequence_backward",
        "MkldnnRnnLayerBackward0",
        "MkldnnRnnLayerBackward",
    ),
    "output layer and loss": ("_CrossEntropy", "_CrossEntropyBackward"),
    "embedding": ("aten::embedding", "aten::embedding_dense_backward"),
    "norm of the gradient, SGD": (
        "aten::linalg_vector_norm",
        "aten::_foreach_mul_",
        "aten::_fused_sgd_",
    ),
}
"""What the profiler calls the parts; the rest is mostly the products of the layers' inputs with their weights."""


class Contender:
    """A model that is trained, and the seconds (wall, processor) of its updates."""

    def __init__(self, experiment: Language, backend: str | None):
        torch.manual_seed(0)
        self.experiment = experiment
        self.model = experiment.build(backend)
        self.optimizer = experiment.optimizer(self.model)
        self.generator = stream(0, "episodes")
        self.seconds: list[tuple[float, float]] = []
        self.losses: list[float] = []
        self.words = 0

    def update(self) -> None:
        segment = self.experiment.episode(self.generator, held_out=False)
        torch.manual_seed(len(self.losses))  # the same dropout for all
        before, busy = perf_counter(), process_time()
        values = self.experiment.update(self.model, self.optimizer, segment)
        self.losses.append(float(values["loss"].detach()))
        self.seconds.append((perf_counter() - before, process_time() - busy))
        self.words = segment.words.numel()

    def show(self, label: str) -> float:
        wall, busy = (median(values) for values in zip(*self.seconds[1:], strict=True))
        print(
            f"{label}: {wall * 1e3:.0f} ms an update, {busy * 1e3:.0f} ms of processor time; "
            f"{self.words / wall:.0f} words/s"
        )
        return wall


def shares(contender: Contender, updates: int) -> dict[str, float]:
    """Milliseconds of an update in each part."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        start = perf_counter()
        for _ in range(updates):
            contender.update()
        total = perf_counter() - start
    found: dict[str, float] = {
        event.key: event.cpu_time_total / 1e3 for event in profiled.key_averages()
    }
    parts = {
        part: sum(found.get(name, 0.0) for name in names) / updates for part, names in PARTS.items()
    }
    return {**parts, "rest": total * 1e3 / updates - sum(parts.values())}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.language_step", description=__doc__)
    add: Any = parser.add_argument
    add(
        "--data", type=Path, help="folder or zip with the Penn Treebank (default: it is downloaded)"
    )
    add("--model", choices=["small", "large"], default="small")
    add("--cell", choices=list(MODULATION), default="simple")
    add("--threads", type=int, default=2)
    add("--updates", type=int, default=8)
    add(
        "--batch",
        type=int,
        help="columns, where the pure PyTorch path of the large model needs too much memory",
    )
    add("--bptt", type=int, help="steps of an update, likewise")
    add(
        "--plain-loss",
        action="store_true",
        help="cross_entropy of torch in place of the layer that has its loss inside",
    )
    add(
        "--alone",
        action="store_true",
        help="without the pure PyTorch path, which may need too much memory",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    config = Language.presets[options.model][options.cell]
    changes = {name: getattr(options, name) for name in ("batch", "bptt") if getattr(options, name)}
    config = replace(config, **changes, vary_bptt=False)

    def contender(backend: str | None) -> Contender:
        made = Contender(Language(config, torch.device("cpu"), None, options.data), backend)
        made.model.plain |= options.plain_loss
        return made

    fused = contender(None)
    fused.update()
    parts = shares(fused, options.updates)
    fused.show("plastikern, alone")
    for part, milliseconds in parts.items():
        print(f"{part}: {milliseconds:.1f} ms, {milliseconds / sum(parts.values()):.0%}")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    print(
        f"losses: {', '.join(f'{loss:.4f}' for loss in fused.losses[:: max(options.updates // 10, 1)])}"
    )
    if options.alone:
        return 0
    fused, plain = contender(None), contender("reference")
    for _ in range(options.updates + 1):
        fused.update()
        plain.update()
    ratio = plain.show("pure PyTorch") / fused.show("plastikern")
    apart = max(abs(ours - theirs) for ours, theirs in zip(fused.losses, plain.losses, strict=True))
    print(
        f"ratio: {ratio:.2f}; losses {plain.losses[0]:.4f} to {plain.losses[-1]:.4f}, at most {apart:.1e} apart"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
