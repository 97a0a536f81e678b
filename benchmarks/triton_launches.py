"""``python -m benchmarks.triton_launches``: what launches by steps cost the host, and what finding their graph costs.

Measured is what happens in Python before the driver is called, so that no GPU is needed: of a launch, Triton's binding
and look-up of its arguments; of a graph, the making of its key. It is the least that a launch costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.triton_resources import WORKLOADS, launches
from plastikern.triton import graphs

STEPS, NEURONS, REPEATS = 20, 200, 300


def microseconds(run: Callable[[], object]) -> float:
    """The shortest of some runs: others had the processor in between."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


def lookups(launch: Any) -> Callable[[], object]:
    """What Triton does in Python at a launch whose kernel is compiled."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import compute_cache_key, create_function_from_signature

    from plastikern.triton.launch import COMPILER

    backend, kernel = make_backend(GPUTarget("cuda", 90, 32)), launch.kernel
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    given = {**launch.constants, **COMPILER, "num_warps": launch.warps, "debug": False}
    keys: dict[Any, Any] = {}

    def run() -> object:
        _, specialization, options = bind(*launch.arguments, **given)
        return compute_cache_key(keys, specialization, options)

    return run


def main() -> None:
    keys: list[str] = []

    def note(function: Callable[..., None], *arguments: Any, **_: Any) -> None:
        function(*arguments)
        cost = microseconds(lambda: hash((function, graphs.identity(arguments))))
        keys.append(f"  {function.__name__}: its graph is found in {cost:.0f} us")

    run, graphs.run = graphs.run, note
    try:
        for name in ("rnn", "rnn, retroactive", "lstm, simple"):
            keys.clear()
            found = {
                id(launch.kernel): launch
                for launch in launches(WORKLOADS[name].network, NEURONS, STEPS, 2)
            }
            print(f"{name}, {NEURONS} neurons", *keys, sep="\n")
            for launch in found.values():
                print(
                    f"  {launch.kernel.__name__}: {microseconds(lookups(launch)):.0f} us a launch"
                )
    finally:
        graphs.run = run


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
