"""The bound of a kernel by memory: the bytes that it must move over the bandwidth that this machine reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT_BYTES = 4
# Long enough that the clock, the call and the waking of the threads do not count.
PROBE_SECONDS = 0.05


@dataclass(frozen=True)
class Traffic:
    """What one kernel must move, in fp32 values.

    ``reads`` and ``writes`` count for every one of ``synapse_steps`` (steps x batch x synapses), ``shared`` is what all
    steps together read for the batch as a whole, ``once`` counts for the whole sequence. ``arrays`` of ``length``
    values are the working set between which the kernel goes back and forth; with ``element_per_thread`` every thread
    has such a set, since it works on an element of the batch of its own.
    """

    reads: int
    writes: int
    synapse_steps: int
    once: int
    arrays: int
    length: int
    shared: int = 0
    element_per_thread: bool = False

    @property
    def bytes(self) -> int:
        return FLOAT_BYTES * (
            (self.reads + self.writes) * self.synapse_steps + self.shared + self.once
        )

    @property
    def write_share(self) -> float:
        return self.writes / (self.reads + self.writes)

    def floor_ms(self, gb_per_s: float) -> float:
        return self.bytes / gb_per_s / 1e6


def connection_traffic(
    kernel: str,
    steps: int,
    batch: int,
    synapses: int,
    *,
    matrices: int = 2,
    traces: int = 1,
    element_per_thread: bool = False,
) -> Traffic:
    """Traffic of a plastic connection.

    Args:
        kernel: ``"forward"`` or ``"backward"``.
        synapses: of one element of the batch.
        matrices: parameters of the connection's size: weight, and alpha where there is one per connection.
        traces: traces of a synapse: its own, and its eligibility with retroactive modulation.
        element_per_thread: as in :class:`Traffic`.
    """
    steps, kept = steps * batch * synapses, batch * traces * synapses
    if kernel == "forward":
        # Reads matrices and traces, writes the traces. Once: the last traces of each element.
        reads, writes, once = matrices + traces, traces, kept
    else:
        # Reads matrices, traces and their gradients, writes the last two: rule decay is run backwards, traces of the
        # other rules are computed a second time. Once: the gradients of the matrices, and the traces of each element
        # from which the pass starts.
        reads, writes, once = matrices + 2 * traces, 2 * traces, matrices * synapses + kept
    return Traffic(
        reads=reads,
        writes=writes,
        synapse_steps=steps,
        once=once,
        arrays=reads,
        length=synapses,
        element_per_thread=element_per_thread,
    )


@dataclass(frozen=True)
class Probe:
    """A loop over ``arrays`` arrays that does next to nothing but ``reads`` and ``writes`` per position."""

    name: str
    reads: int
    writes: int
    arrays: int
    run: Callable[[list[Tensor], int], object]

    @property
    def write_share(self) -> float:
        return self.writes / (self.reads + self.writes)

    def measure(self, length: int) -> float:
        """Bandwidth in GB/s over arrays of ``length`` fp32 values, with torch's number of threads."""
        arrays = [torch.full((length,), 0.01) for _ in range(self.arrays)]
        repeats = 1
        while True:
            self.run(arrays, 1)
            start = time.perf_counter()
            self.run(arrays, repeats)
            seconds = time.perf_counter() - start
            if seconds >= PROBE_SECONDS:
                return (self.reads + self.writes) * FLOAT_BYTES * length * repeats / seconds / 1e9
            repeats = max(2 * repeats, int(1.2 * repeats * PROBE_SECONDS / seconds))


def _addcmul(arrays: list[Tensor], repeats: int) -> None:
    a, b, c = arrays
    for _ in range(repeats):
        c.addcmul_(a, b)


def probes() -> list[Probe]:
    """The probes that can run here: that of the native library, else one by PyTorch's own operators."""
    operator = getattr(torch.ops.plastikern, "bandwidth", None)
    if operator is None:
        return [Probe("torch addcmul_", 3, 1, 3, _addcmul)]
    # c = 0.999 c + a b.
    return [
        Probe(
            "plastikern::bandwidth", 3, 1, 3, lambda tensors, repeats: operator(*tensors, repeats)
        )
    ]


def probe_for(traffic: Traffic) -> Probe:
    """The probe whose mix of reads and writes is nearest to the kernel's."""
    return min(probes(), key=lambda probe: abs(probe.write_share - traffic.write_share))


def probe_length(traffic: Traffic, probe: Probe) -> int:
    """Length of the probe's arrays that gives it the kernel's working set, over all threads."""
    sets = torch.get_num_threads() if traffic.element_per_thread else 1
    return max(1, sets * traffic.arrays * traffic.length // probe.arrays)
