"""GPUs that plans and floors are calculated for where there is none.

Source of the figures: NVIDIA's architecture white papers and data sheets, and the CUDA C++ Programming Guide, table
"Technical specifications per compute capability". They are peaks; nobody has measured them here.
"""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    """What a plan depends on, and the peaks that a calculated time is made from.

    Attributes:
        name: of the card.
        capability: its compute capability, as in ``sm_90``: 90.
        processors: number of streaming multiprocessors.
        shared_per_block: bytes of shared memory that a block may opt in to.
        level_two: bytes of second-level cache.
        bandwidth: bytes per second of the device's memory.
        clock: boost clock in Hz.
    """

    name: str
    capability: int
    processors: int
    shared_per_block: int
    level_two: int
    bandwidth: float
    clock: float

    @property
    def shared_bandwidth(self) -> float:
        """Bytes per second of all shared memories: 128 bytes a clock of each processor."""
        return 128.0 * self.processors * self.clock

    @property
    def single_precision(self) -> float:
        """Operations per second, a multiply-add being two, with 128 lanes of a processor (64 on sm_80)."""
        return 2.0 * (64 if self.capability == 80 else 128) * self.processors * self.clock


_KIB, _MIB = 1024, 1024**2
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100", 80, 108, 163 * _KIB, 40 * _MIB, 2.04e12, 1.41e9),
        Gpu("RTX 3090", 86, 82, 99 * _KIB, 6 * _MIB, 0.936e12, 1.70e9),
        Gpu("L4", 89, 58, 99 * _KIB, 48 * _MIB, 0.300e12, 2.04e9),
        Gpu("H100", 90, 132, 227 * _KIB, 50 * _MIB, 3.35e12, 1.98e9),
        Gpu("H200", 90, 132, 227 * _KIB, 50 * _MIB, 4.8e12, 1.98e9),
        Gpu("B200", 100, 148, 227 * _KIB, 126 * _MIB, 8.0e12, 1.97e9),
        Gpu("RTX 5090", 120, 170, 99 * _KIB, 96 * _MIB, 1.79e12, 2.41e9),
    )
}
