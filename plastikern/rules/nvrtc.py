"""``python nvrtc.py SOURCE RESULT HEADER OPTION...``: compiles CUDA by NVRTC, in a process of its own.

A crash of the compiler ends this process alone. Knows nothing of plastikern, and is run by its path: nothing of torch
is imported. The result is a cubin; where the architecture of the options is a virtual one, it is PTX.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

LIBRARY = ("array", "cmath", "cstdint", "type_traits", "utility", "math.h", "cuda_runtime.h")
"""Headers of the C++ library and of CUDA, which NVRTC has not: each is the one that is named."""
STACK = 512 << 20
"""Bytes. The compiler recurs as deep as a text is long."""


def compiled(source: Path, header: Path, options: list[str]) -> bytes:
    """The code of a source; its errors are raised as one SystemExit."""
    from cuda.bindings import nvrtc

    def found(result: tuple[Any, ...]) -> Any:
        error, *values = result
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise SystemExit(error.name)
        return values[0] if values else None

    headers, names = [header.read_bytes()] * len(LIBRARY), [name.encode() for name in LIBRARY]
    program = found(
        nvrtc.nvrtcCreateProgram(
            source.read_bytes(), source.name.encode(), len(names), headers, names
        )
    )
    words = [option.encode() for option in options]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(words), words)
    log = b" " * found(nvrtc.nvrtcGetProgramLogSize(program))
    found(nvrtc.nvrtcGetProgramLog(program, log))
    sys.stderr.write(log.decode().rstrip("\0"))
    found((error,))
    kind = "PTX" if any("=compute_" in option for option in options) else "CUBIN"
    code = b" " * found(getattr(nvrtc, f"nvrtcGet{kind}Size")(program))
    found(getattr(nvrtc, f"nvrtcGet{kind}")(program, code))
    return code


def main(source: str, result: str, header: str, *options: str) -> int:
    """Compiles on a thread with a stack that is large enough; the exit status."""
    made: list[bytes] = []

    def work() -> None:
        try:
            made.append(compiled(Path(source), Path(header), list(options)))
        except (SystemExit, ImportError, RuntimeError) as error:
            print(f"error: {error}", file=sys.stderr)

    threading.stack_size(STACK)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for code in made:
        Path(result).write_bytes(code)
    return 0 if made else 1


if __name__ == "__main__":
    # Modules beside this one have names that others have, too.
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]
    sys.exit(main(*sys.argv[1:]))
