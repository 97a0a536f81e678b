"""``python tests/run_emulated.py MODULE ARGUMENTS``: ``python -m`` with the emulated CUDA kernels as a backend."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    tests = Path(__file__).resolve().parent
    sys.path[:1] = [str(tests.parent), str(tests)]
    import emulated

    emulated.library()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
