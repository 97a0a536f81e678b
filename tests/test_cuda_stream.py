"""torch's current CUDA stream is found as Python loads torch: a made-up libtorch_cuda.so stands for a CUDA build."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPILER = shutil.which("g++")
LOOK_UP = """
#include "cuda/stream.h"
static std::string text;
extern "C" const char* look_up(int device) {
    try {
        text = "stream " + std::to_string(reinterpret_cast<uintptr_t>(plastikern::cuda::current_stream(device)));
    } catch (const std::exception& error) { text = error.what(); }
    return text.c_str();
}
"""
TORCH = """
extern "C" int aoti_torch_get_current_cuda_stream(int device, void** stream) {
    *stream = reinterpret_cast<void*>(1000l + device);
    return device < 8 ? 0 : 1;
}
"""
ASK = """
import ctypes, sys
look_up = ctypes.CDLL(sys.argv[1])
look_up.look_up.restype = ctypes.c_char_p
print(look_up.look_up(2).decode())
if len(sys.argv) > 2:
    ctypes.CDLL(sys.argv[2], mode=ctypes.RTLD_LOCAL)
    for device in (3, 8):
        print(look_up.look_up(device).decode())
"""

pytestmark = pytest.mark.skipif(
    COMPILER is None or sys.platform != "linux", reason="g++ on Linux is needed"
)


def shared(folder: Path, name: str, source: str) -> Path:
    (folder / "source.cpp").write_text(source)
    command = [
        str(COMPILER),
        "-std=c++20",
        "-shared",
        "-fPIC",
        f"-I{ROOT / 'csrc'}",
        "source.cpp",
        "-o",
        name,
    ]
    done = subprocess.run(
        [*command, f"-Wl,-soname,{name}"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / name


def ask(*libraries: Path) -> list[str]:
    command = [sys.executable, "-c", ASK, *map(str, libraries)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_stream_is_found_in_a_library_that_is_loaded_for_its_own_use(tmp_path: Path) -> None:
    before, found, failed = ask(
        shared(tmp_path, "asks.so", LOOK_UP), shared(tmp_path, "libtorch_cuda.so", TORCH)
    )
    assert "of libtorch_cuda.so: libtorch_cuda.so: cannot open shared object file" in before
    assert found == "stream 1003"
    assert failed.endswith("aoti_torch_get_current_cuda_stream(8) failed with 1")


def test_the_message_says_what_the_loader_said(tmp_path: Path) -> None:
    libraries = (
        shared(tmp_path, "asks.so", LOOK_UP),
        shared(tmp_path, "libtorch_cuda.so", "int nothing;"),
    )
    assert "undefined symbol: aoti_torch_get_current_cuda_stream" in ask(*libraries)[1]
