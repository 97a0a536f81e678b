"""The emulator of CUDA on which kernels are proved finds what it is there to find, and lets pass what is right."""

from __future__ import annotations

import contextlib
import ctypes
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

EMULATOR = Path(__file__).parent / "cuda_emulator"
COMPILER = shutil.which("g++")
FLAGS = {
    "plain": ["-O1", "-fPIC"],
    "ucontext": ["-O1", "-DPLASTIKERN_EMULATOR_UCONTEXT"],
    "thread": ["-O1", "-fsanitize=thread"],
    "address": ["-O1", "-fsanitize=address"],
}
KIB = 1024
Program = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++")


def compile_cuda(output: Path, sources: list[Path], kind: str, *flags: str) -> Path:
    """Compiles where not yet done. The sources are kernels, the emulator or objects."""
    if not output.exists():
        files = [
            word
            for path in sources
            for word in ("-x", "none" if path.suffix == ".o" else "c++", str(path))
        ]
        command = [
            COMPILER,
            "-std=c++20",
            *FLAGS[kind],
            *flags,
            "-DPLASTIKERN_EMULATED",
            "-I",
            str(EMULATOR),
        ]
        command += [*files, "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulated")


def emulator(builds: Path, kind: str) -> Path:
    return compile_cuda(builds / f"emulator.{kind}.o", [EMULATOR / "cuda_emulator.cpp"], kind, "-c")


@pytest.fixture(scope="module")
def program(builds: Path) -> Program:
    """Runs a program of a kind (a key of FLAGS) with arguments; skips where the kind's sanitizer does not run."""
    # What to put before a command. Race detectors older than the system can need addresses that are not random.
    prefixes: dict[str, list[str] | None] = {}

    def prefix(kind: str) -> list[str] | None:
        empty = builds / "empty.cpp"
        empty.write_text("int main() {}")
        path = builds / f"empty.{kind}"
        subprocess.run(
            [COMPILER, *FLAGS[kind], str(empty), "-o", str(path)], capture_output=True, timeout=60
        )
        for words in ([], ["setarch", "-R"]):
            with contextlib.suppress(OSError):
                if (
                    subprocess.run([*words, str(path)], capture_output=True, timeout=60).returncode
                    == 0
                ):
                    return words
        return None

    def run(kind: str, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        if kind not in prefixes:
            prefixes[kind] = prefix(kind)
        words = prefixes[kind]
        if words is None:
            pytest.skip(f"g++ makes no programs with {' '.join(FLAGS[kind])} that run here")
        source = EMULATOR / "programs" / f"{name}.cu"
        path = compile_cuda(builds / f"{name}.{kind}", [source, emulator(builds, kind)], kind, "-g")
        return subprocess.run(
            [*words, str(path), *arguments], capture_output=True, text=True, timeout=60
        )

    return run


@pytest.mark.parametrize("kind", list(FLAGS))
@pytest.mark.parametrize("n", [1, 400])
def test_blocks_sum_by_shuffles_and_shared_memory(program: Program, kind: str, n: int) -> None:
    done = program(kind, "reduction", "none", str(n))
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"cudaSuccess {n * (n - 1) // 2}\n",
        "",
    )


@pytest.mark.parametrize("kind", list(FLAGS))
@pytest.mark.parametrize("steps", [1, 6])
def test_blocks_of_a_cooperative_launch_wait_for_each_other(
    program: Program, kind: str, steps: int
) -> None:
    done = program(kind, "grid_barrier", "none", str(steps))
    assert (done.returncode, done.stdout, done.stderr) == (0, "cudaSuccess right \n", "")


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("reduction", "no_syncthreads"),
        ("reduction", "no_syncwarp"),
        ("reduction", "shuffle_as_barrier"),
        ("reduction", "blocks_share"),
        ("grid_barrier", "no_barrier"),
        ("grid_barrier", "no_fence"),
    ],
)
def test_what_no_barrier_orders_is_a_reported_race(
    program: Program, name: str, mistake: str
) -> None:
    done = program("thread", name, mistake, "256" if name == "reduction" else "6")
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr
    assert "'block " in done.stderr, "a report names blocks and threads"


def test_a_race_is_reported_even_where_the_result_is_right(program: Program) -> None:
    done = program("thread", "grid_barrier", "no_fence", "6")
    assert done.stdout == "cudaSuccess right \n"
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("mistake", "bytes_of_array"), [("shared_index", 32), ("global_index", 64)]
)
def test_an_index_out_of_range_is_reported(
    program: Program, mistake: str, bytes_of_array: int
) -> None:
    done = program("address", "reduction", mistake, "1000")
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert f"0 bytes to the right of {bytes_of_array}-byte region" in done.stderr or (
        f"0 bytes after {bytes_of_array}-byte region" in done.stderr
    )


@pytest.mark.parametrize("kind", ["plain", "thread", "address"])
def test_waiting_for_what_never_comes_ends_the_launch_and_says_where(
    program: Program, kind: str
) -> None:
    done = program(kind, "waiting")
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert {error for _, error, _, _ in lines} == {"cudaErrorLaunchFailure"}
    assert {after for _, _, _, after in lines} == {"then right"}
    nothing, polled = (
        "no thread can run on: ",
        "threads poll by __nanosleep for what does not come: ",
    )
    full = "(0xffffffff)"
    assert {name: text for name, _, text, _ in lines if name != "polls_by_shuffles"} == {
        "barrier_in_branch": nothing
        + "block 0: threads 0-39 in __syncthreads, threads 40-63 ended",
        "barrier_against_shuffle": nothing
        + f"block 0: threads 0-31 in __syncthreads, thread 32 in __shfl_sync{full}, thread 33 in __syncthreads, "
        + f"threads 34-63 in __shfl_sync{full}",
        "lane_has_left": nothing
        + f"block 0: threads 0-6 in __shfl_down_sync{full}, thread 7 ended, threads 8-31 in __shfl_down_sync{full}",
        "masks_differ": nothing + f"block 0: threads 0-15 in __syncwarp{full}, threads 16-31 ended",
        "operations_differ": nothing
        + f"block 0: thread 0 in __syncwarp{full}, threads 1-31 in __shfl_xor_sync{full}",
        "lane_outside_mask": "a lane is not in the mask that it gives: block 0: threads 0-15 ended, "
        "thread 16 in __syncwarp(0x0000ffff), threads 17-31 not begun",
        "polls_for_nothing": polled
        + "block 0: thread 0 in __nanosleep, threads 1-63 in __syncthreads",
        "throws": "the kernel threw an exception: block 0: threads 0-4 in __syncthreads, thread 5 ended, "
        "threads 6-63 not begun",
    }
    assert next(text for name, _, text, _ in lines if name == "polls_by_shuffles").startswith(
        polled
    )


@pytest.mark.parametrize(
    ("mistake", "waiting"), [("block_missing", [0, 2, 3, 4]), ("not_cooperative", [0])]
)
def test_a_grid_barrier_that_not_all_blocks_reach_is_an_error(
    program: Program, mistake: str, waiting: list[int]
) -> None:
    done = program("plain", "grid_barrier", mistake, "6")
    assert done.stdout.startswith(
        "cudaErrorLaunchFailure wrong threads poll by __nanosleep for what does not come: "
    )
    for block in waiting:
        assert (
            f"block {block}: thread 0 in __nanosleep, threads 1-63 in __syncthreads" in done.stdout
        )


class Launch(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("dynamic_shared_bytes", ctypes.c_uint64),
        ("stream", ctypes.c_uint64),
        ("kernel", ctypes.c_uint64),
        ("block_barriers", ctypes.c_uint64),
        ("warp_operations", ctypes.c_uint64),
        ("sleeps", ctypes.c_uint64),
        ("closest_atomics", ctypes.c_uint64),
        ("cooperative", ctypes.c_int),
        ("error", ctypes.c_int),
    ]


class Library:
    """The emulated runtime, called from Python."""

    def __init__(self, path: Path) -> None:
        self.native = ctypes.CDLL(str(path))
        self.native.emulator_last_error_text.restype = ctypes.c_char_p
        self.native.error_name.restype = ctypes.c_char_p
        self.native.launch.argtypes = [ctypes.POINTER(ctypes.c_uint)] * 2 + [
            ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint),
        ]  # fmt: skip
        self.native.resident_blocks.argtypes = [ctypes.c_int, ctypes.c_size_t]

    def use(self, device: str, registers: int = 32, allow: int | None = None) -> None:
        assert self.native.emulator_use_device(device.encode()) == 0
        self.native.emulator_reset()
        self.native.set_registers(registers)
        if allow is not None:
            assert self.native.allow_shared(allow) == 0

    def launch(
        self,
        grid: int | tuple[int, int, int] = 1,
        block: int | tuple[int, int, int] = 32,
        shared: int = 0,
        cooperative: bool = False,
        stream: int = 0,
    ) -> tuple[str, int]:
        """Name of the error and number of threads that ran."""
        sizes = [
            (ctypes.c_uint * 3)(*((of, 1, 1) if isinstance(of, int) else of))
            for of in (grid, block)
        ]
        count = ctypes.c_uint(0)
        error = self.native.launch(*sizes, shared, cooperative, stream, ctypes.byref(count))
        return self.native.error_name(error).decode(), count.value

    def text(self) -> str:
        return self.native.emulator_last_error_text().decode()


@pytest.fixture(scope="module")
def library(builds: Path) -> Library:
    sources = [EMULATOR / "programs" / "launches.cu", emulator(builds, "plain")]
    return Library(compile_cuda(builds / "launches.so", sources, "plain", "-shared"))


@pytest.mark.parametrize(
    ("device", "threads", "registers", "shared", "blocks"),
    [
        # Shared memory: 48 KiB and 1 KiB that CUDA reserves, of 164 KiB: 3.3. Registers: 64 * 32 = 2048 a warp, 8 warps
        # in the 16384 registers of each of the 4 partitions, 32 warps, 4 blocks of 8 warps.
        ("A100", 256, 64, 48 * KIB, 3),
        ("A100", 256, 64, 0, 4),
        # 33 * 32 = 1056 registers a warp, in units of 256 1280: 12 warps in a partition, 48 in all, 6 blocks of 8.
        ("A100", 256, 33, 0, 6),
        # 40 * 32 = 1280: again 48 warps, 9 blocks of 5 warps, although 65536 / 1280 are 51 warps.
        ("A100", 160, 40, 0, 9),
        # Nothing but the number of blocks limits: 32, 16 and 24.
        ("A100", 32, 32, 0, 32),
        ("RTX 3090", 32, 32, 0, 16),
        ("L4", 32, 32, 0, 24),
        # 1536 threads are one block of 1024, and 2048 are two.
        ("RTX 5090", 1024, 32, 0, 1),
        ("B200", 1024, 32, 0, 2),
        # All that a block may have leaves room for no other; a byte more for none, and neither does 1 KiB less than
        # half of 228 KiB for a third.
        ("H100", 128, 32, 227 * KIB, 1),
        ("H100", 128, 32, 227 * KIB + 1, 0),
        ("H100", 128, 32, 113 * KIB, 2),
        # 128 bytes is the unit of shared memory: 113 KiB + 1 byte + 1 KiB no longer fit twice.
        ("H100", 128, 32, 113 * KIB + 1, 1),
        # 128 registers of 512 threads are all 65536; of 1024 they are too many, as are 256 of any.
        ("H100", 512, 128, 0, 1),
        ("H100", 1024, 128, 0, 0),
        ("H100", 32, 256, 0, 0),
        ("H100", 1025, 32, 0, 0),
    ],
)
def test_as_many_blocks_are_resident_as_the_device_holds(
    library: Library, device: str, threads: int, registers: int, shared: int, blocks: int
) -> None:
    library.use(device, registers)
    library.native.allow_shared(
        min(shared, library.native.device_attribute(97))
    )  # as much as a block may opt in to
    assert library.native.resident_blocks(threads, shared) == blocks


TINY = {
    "device": "tiny",
    "registers": 64,
}  # 4 multiprocessors, each of 1024 threads, 4 blocks and 64 KiB


@pytest.mark.parametrize(
    ("device", "launch", "error", "text"),
    [
        (
            {"device": "A100"},
            {"block": 1025},
            "cudaErrorInvalidConfiguration",
            "1025 x 1 x 1 threads",
        ),
        ({"device": "A100"}, {"block": 0}, "cudaErrorInvalidConfiguration", "0 x 1 x 1 threads"),
        (
            {"device": "A100"},
            {"block": (1, 1, 65)},
            "cudaErrorInvalidConfiguration",
            "1 x 1 x 65 threads",
        ),
        ({"device": "A100"}, {"grid": 0}, "cudaErrorInvalidConfiguration", "0 x 1 x 1 blocks"),
        (
            {"device": "A100"},
            {"grid": (1, 65536, 1)},
            "cudaErrorInvalidConfiguration",
            "1 x 65536 x 1 blocks",
        ),
        ({"device": "A100"}, {"shared": 48 * KIB + 1}, "cudaErrorInvalidValue", "49153 bytes"),
        (
            {"device": "A100", "allow": 50 * KIB},
            {"shared": 50 * KIB + 1},
            "cudaErrorInvalidValue",
            "51201 bytes",
        ),
        (
            {"device": "A100", "registers": 128},
            {"block": 544},
            "cudaErrorLaunchOutOfResources",
            "128 registers",
        ),
        (
            TINY,
            {"grid": 17, "block": 256, "cooperative": True},
            "cudaErrorCooperativeLaunchTooLarge",
            "17 blocks",
        ),
        (
            TINY,
            {"grid": 5, "shared": 40 * KIB, "cooperative": True},
            "cudaErrorCooperativeLaunchTooLarge",
            "the 4 ",
        ),
    ],
)
def test_a_launch_that_the_device_refuses_gives_the_error_of_cuda(
    library: Library, device: dict, launch: dict, error: str, text: str
) -> None:
    library.use(**device)
    assert library.launch(**launch) == (error, 0)
    assert text in library.text()
    assert library.native.error_name(library.native.take_last_error()).decode() == error
    assert library.native.take_last_error() == 0


@pytest.mark.parametrize(
    ("device", "launch", "threads"),
    [
        ({"device": "A100"}, {"block": 1024}, 1024),
        ({"device": "A100"}, {"grid": (2, 3, 4), "block": (4, 2, 8)}, 24 * 64),
        ({"device": "A100", "allow": 163 * KIB}, {"shared": 163 * KIB}, 32),
        ({"device": "A100", "registers": 128}, {"block": 512}, 512),
        (TINY, {"grid": 16, "block": 256, "cooperative": True}, 16 * 256),
        (TINY, {"grid": 17, "block": 256}, 17 * 256),
        (TINY, {"grid": 4, "shared": 40 * KIB, "cooperative": True}, 4 * 32),
    ],
)
def test_a_launch_at_the_limit_runs(
    library: Library, device: dict, launch: dict, threads: int
) -> None:
    library.use(**device)
    assert library.launch(**launch) == ("cudaSuccess", threads)


def test_shared_memory_is_allowed_for_each_device_anew(library: Library) -> None:
    library.use("A100", allow=100 * KIB)
    assert library.launch(shared=100 * KIB) == ("cudaSuccess", 32)
    library.native.emulator_use_device(b"RTX 3090")
    assert library.launch(shared=99 * KIB) == ("cudaErrorInvalidValue", 0)
    assert (
        library.native.error_name(library.native.allow_shared(100 * KIB))
        == b"cudaErrorInvalidValue"
    )
    assert library.native.allow_shared(99 * KIB) == 0
    assert library.launch(shared=99 * KIB) == ("cudaSuccess", 32)


def test_registers_limit_the_threads_of_a_block(library: Library) -> None:
    library.use("A100", registers=0)  # none of its own
    library.native.emulator_describe_registers(
        255
    )  # 255 * 32 in units of 256: 8192 a warp, 2 in each partition
    assert library.native.most_threads() == 8 * 32
    library.native.set_registers(96)  # 3072 a warp, 5 in each partition
    assert library.native.most_threads() == 20 * 32


def test_launches_are_recorded(library: Library) -> None:
    library.use("tiny")
    library.launch(grid=(3, 1, 1), block=(64, 1, 1), shared=KIB, cooperative=True, stream=0x70)
    library.launch(grid=0)
    assert library.native.emulator_launch_count() == 2
    found = (Launch * 2)()
    assert library.native.emulator_launches(found, 2) == 2
    first, second = found
    assert (list(first.grid), list(first.block), first.dynamic_shared_bytes) == (
        [3, 1, 1],
        [64, 1, 1],
        KIB,
    )
    assert (first.cooperative, first.stream, first.error, first.sleeps) == (1, 0x70, 0, 0)
    assert (first.block_barriers, first.warp_operations) == (3, 6)
    assert library.native.error_name(second.error) == b"cudaErrorInvalidConfiguration"
    assert first.kernel == second.kernel != 0
    library.native.emulator_reset()
    assert library.native.emulator_launch_count() == 0
    assert library.text() == ""


def test_what_nobody_wrote_is_nan(library: Library) -> None:
    library.use("tiny")
    values = (ctypes.c_float * 2)(1.0, 1.0)
    assert library.native.launch_unwritten(values) == 0
    assert all(math.isnan(value) for value in values)


def test_an_unknown_device_is_refused(library: Library) -> None:
    assert (
        library.native.error_name(library.native.emulator_use_device(b"A1000"))
        == b"cudaErrorInvalidDevice"
    )
