"""Where programs run: how a call is timed there, and how its memory is counted. Nothing else knows the difference.

``cpu`` and ``cuda`` are measured. ``emulated`` runs the CUDA kernels in the emulator of the tests, on small networks:
it shows that the code of ``cuda`` works where there is no GPU, and its times say nothing about one.
"""

from __future__ import annotations

import gc
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor

from . import memory, variants
from .variants import Variant
from .workloads import FORWARD, Workload, small

if TYPE_CHECKING:
    from plastikern.devices import Gpu

Result = TypeVar("Result")
TESTS = Path(__file__).resolve().parents[1] / "tests"
# Runs before a capture: libraries allocate what they need, and autograd starts its thread.
WARM_RUNS = 3
# A call is repeated so long, and at most so often, for the mean of its host's time.
HOST_SECONDS, HOST_CALLS = 0.3, 200


class Device:
    """The processor, timed by the wall clock; the base of the others.

    Attributes:
        name: as ``--device`` takes it.
        clock: how its times are taken, as the reports say it.
        place: of the tensors, as torch names it.
        variants: what is compared by default.
        repeats: samples of each variant by default.
        least_trials: iterations before the first sample.
        sample_seconds: how long one sample lasts at least.
        settle_seconds: until other processes are asleep after a request.
        limit: seconds after which a worker without an answer is ended; None waits for ever.
        keeps_workers: whether a process serves one workload after the other.
        compile_options: of ``torch.compile``.
        whole_batch: whether the fp64 truth is computed for all elements at once.
        memory_alone: whether memory is measured in a fresh process, beside no other.
        probes: whether the bandwidth is measured, and floors are made from it.
    """

    name: ClassVar[str] = "cpu"
    clock: ClassVar[str] = "wall clock"
    place: ClassVar[str] = "cpu"
    variants: ClassVar[tuple[str, ...]] = variants.DEFAULT
    repeats: ClassVar[int] = 11
    least_trials: ClassVar[int] = 1
    # A sample repeats a fast pass, and is preceded by an untimed one: the process has just been asleep while others
    # filled the caches and took the memory, which is not what a training loop meets.
    sample_seconds: ClassVar[float] = 0.2
    # OpenMP's threads spin for a few milliseconds after a loop before they sleep; the next worker is asked after that.
    settle_seconds: ClassVar[float] = 0.03
    limit: ClassVar[float | None] = None
    keeps_workers: ClassVar[bool] = False
    compile_options: ClassVar[dict[str, Any]] = {}
    whole_batch: ClassVar[bool] = False
    memory_alone: ClassVar[bool] = True
    probes: ClassVar[bool] = True

    def missing(self) -> str | None:
        """Why nothing can be measured on it; None where it can."""
        return None

    def refuses(self, variant: Variant) -> str | None:
        """Why a variant cannot be measured on it; None where it can."""
        return "CUDA graphs and forms need --device cuda" if variant.graph or variant.form else None

    def start(self) -> None:
        """What a worker does once."""

    def clear(self) -> None:
        """Forget what the last workload left."""

    def free_unused(self) -> None:
        """Give back memory that nothing refers to."""

    def facts(self) -> dict[str, Any]:
        """What every row says of the device."""
        return {"device": self.name, "clock": self.clock, "torch": torch.__version__}

    def workload(self, workload: Workload) -> Workload:
        """The workload in the size that is measured here."""
        return workload

    def backend(self, name: str) -> str:
        """The backend of the library that serves a variant."""
        return name

    def environment(self, variant: Variant) -> dict[str, str]:
        """What a variant's processes need beside the variant's own environment."""
        return {}

    def seconds(self, call: Callable[[], object], iterations: int) -> float:
        """Of one of so many calls in a row."""
        start = time.perf_counter()
        for _ in range(iterations):
            call()
        return (time.perf_counter() - start) / iterations

    def host_seconds(self, call: Callable[[], object]) -> float | None:
        """How long a call keeps the host, that does not wait for the device; None where they are the same."""
        return None

    def with_peak(self, call: Callable[[], Result]) -> tuple[Result, int | None]:
        """A call's result, and the bytes that it added at its peak; None where a fresh process has to tell."""
        return call(), None

    def captured(self, call: Callable[[], Result]) -> Callable[[], Result]:
        """The same work as a CUDA graph: every call replays it, and returns the same tensors with new values."""
        raise RuntimeError(f"there are no CUDA graphs on {self.name}")

    def hold(self, tensor: Tensor) -> None:
        """Tell the compiler that the tensor stays where it is."""

    def begin_compiled(self) -> None:
        """Tell the compiler that an iteration begins: what the last one returned is not needed any more."""

    def skipped_graphs(self) -> int:
        """Functions for which the compiler has gone without a graph since the workload began."""
        return 0

    # What is inside of the library is imported here: an older one, which --against measures, may not have it.
    def gpu(self) -> Gpu | None:
        """The GPU that plans are made for."""
        return None

    def form(self, workload: Workload, variant: Variant, which: str) -> str | None:
        """How the CUDA kernels are laid out for a pass, by the plan: of the forward kernel, then the backward one."""
        gpu = self.gpu() if variant.backend == "cuda" else None
        if gpu is None:
            return None
        from plastikern.explanation import plan

        module, sizes = workload.module(), (workload.steps_of_call, workload.batch)
        directions = (False,) if which == FORWARD else (False, True)
        return ", ".join(
            dict.fromkeys(plan(module, sizes, gpu, backward)["form"] for backward in directions)
        )


class Cuda(Device):
    """An NVIDIA GPU, timed by its own events."""

    name = "cuda"
    clock = "CUDA events"
    place = "cuda"
    variants = variants.DEFAULT_CUDA
    repeats = 20
    # A compiled function first runs without a graph, then is captured, then replayed.
    least_trials = 4
    sample_seconds = 0.02
    settle_seconds = 0.0
    limit = 300.0
    # A context and torch's libraries take seconds, and the caching allocator tells a workload's own memory.
    keeps_workers = True
    compile_options: ClassVar[dict[str, Any]] = {"mode": "max-autotune"}
    whole_batch = True
    memory_alone = False
    probes = False

    def missing(self) -> str | None:
        if torch.cuda.is_available():
            return None
        built = (
            f"is built for CUDA {torch.version.cuda} and sees none"
            if torch.version.cuda
            else "has no CUDA"
        )
        return f"no CUDA device: torch {torch.__version__} {built}"

    def refuses(self, variant: Variant) -> str | None:
        return "JAX is compared on the CPU" if variant.kind == variants.JAX else None

    def clear(self) -> None:
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
        self.free_unused()

    def free_unused(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "device": torch.cuda.get_device_name()}

    def seconds(self, call: Callable[[], object], iterations: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(iterations):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / iterations

    def host_seconds(self, call: Callable[[], object]) -> float:
        # Each call finds the device idle: with many under way the host would wait for room in the queue.
        times: list[float] = []
        while len(times) < HOST_CALLS and sum(times) < HOST_SECONDS:
            torch.cuda.synchronize()
            start = time.perf_counter()
            result = call()
            times.append(time.perf_counter() - start)
            del result
        torch.cuda.synchronize()
        return sum(times) / len(times)

    def with_peak(self, call: Callable[[], Result]) -> tuple[Result, int | None]:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = call()
        torch.cuda.synchronize()
        return result, torch.cuda.max_memory_allocated() - before

    def captured(self, call: Callable[[], Result]) -> Callable[[], Result]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_RUNS):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()

        def replay() -> Result:
            graph.replay()
            return result

        return replay

    def hold(self, tensor: Tensor) -> None:
        # Else every replay of a step would first copy the weights into memory of its graph.
        torch._dynamo.mark_static_address(tensor)

    def begin_compiled(self) -> None:
        torch.compiler.cudagraph_mark_step_begin()

    def skipped_graphs(self) -> int:
        return (
            int(torch._dynamo.utils.counters["inductor"]["cudagraph_skips"])
            if "torch._dynamo" in sys.modules
            else 0
        )

    def gpu(self) -> Gpu | None:
        from plastikern.explanation import gpu_of

        return gpu_of(None)


class Emulated(Device):
    """What :class:`Cuda` does, on small networks, with the kernels in the emulator of the tests and the wall clock."""

    name = "emulated"
    clock = "wall clock of the emulator: says nothing about a GPU"
    variants = ("plastikern-cuda", "eager", "eager-graph")
    repeats = 3
    sample_seconds = 0.0
    settle_seconds = 0.0
    limit = Cuda.limit
    keeps_workers = True
    whole_batch = True
    memory_alone = False
    probes = False

    def missing(self) -> str | None:
        return (
            None
            if (TESTS / "emulated.py").exists()
            else f"no emulator: {TESTS / 'emulated.py'} is not there"
        )

    def refuses(self, variant: Variant) -> str | None:
        return Cuda().refuses(variant)

    def start(self) -> None:
        sys.path.insert(0, str(TESTS))
        emulated: Any = importlib.import_module("emulated")
        emulated.library()
        emulated.use_device("A100")

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "device": "emulated A100"}

    def workload(self, workload: Workload) -> Workload:
        return small(workload)

    def backend(self, name: str) -> str:
        return {"cuda": "emulated"}.get(name, name)

    def environment(self, variant: Variant) -> dict[str, str]:
        return {"TRITON_INTERPRET": "1"} if variant.backend == "triton" else {}

    def host_seconds(self, call: Callable[[], object]) -> float:
        return self.seconds(call, 1)

    def with_peak(self, call: Callable[[], Result]) -> tuple[Result, int | None]:
        return memory.with_added_peak(call)

    def captured(self, call: Callable[[], Result]) -> Callable[[], Result]:
        # What a graph replays it does to the same memory: here, too, every call returns the tensors of the first one.
        result = call()

        def replay() -> Result:
            again = call()
            with torch.inference_mode():
                for kept, new in zip(_tensors(result), _tensors(again), strict=True):
                    kept.copy_(new)
            return result

        return replay

    def gpu(self) -> Gpu | None:
        from plastikern.devices import GPUS

        return GPUS["A100"]


def _tensors(value: Any) -> list[Tensor]:
    return (
        [value]
        if isinstance(value, Tensor)
        else [tensor for part in value for tensor in _tensors(part)]
    )


DEVICES = {device.name: device for device in (Device(), Cuda(), Emulated())}
