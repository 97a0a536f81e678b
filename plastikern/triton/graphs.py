"""Launches that come again with the same arguments, as CUDA graphs.

Where a pass takes launches for every step, they cost the host more time than most steps cost the device. A graph holds
the addresses that its launches were given, and is replayed only where a call comes with the same addresses again, as
those of a training loop do: torch's allocator hands out what the call before gave back. So nothing is copied into
buffers of a graph and nothing is kept alive for it; a replay is what would have been launched.
"""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

import torch
from torch import Tensor

GRAPHS = "PLASTIKERN_TRITON_GRAPHS"
MAX_GRAPHS = 32
"""Those used last are kept: two passes of a few layers, whose addresses may alternate."""
MAX_SEEN = 256
"""Calls that are remembered so as to know them when they come again."""

Replay = Callable[[], None]


def identity(argument: Any) -> Hashable:
    """What launches depend on, beside the values in memory."""
    if isinstance(argument, Tensor):
        return argument.data_ptr(), argument.dtype, argument.shape, argument.stride()
    return tuple(map(identity, argument)) if isinstance(argument, tuple) else argument


class Graphs:
    """Runs functions that launch kernels on their arguments, and neither allocate nor read anything else.

    The first call with some arguments runs: it compiles. The second is captured, and that and later ones are replayed.
    """

    def __init__(self, capture: Callable[[Callable[[], None]], Replay]) -> None:
        self._capture = capture
        self._graphs: OrderedDict[Hashable, Replay] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._lock = Lock()  # a graph must not be launched by two threads at once
        self.failed = False

    def run(self, function: Callable[..., None], *arguments: Any) -> None:
        """``function(*arguments)``."""
        key = function, identity(arguments)
        with self._lock:
            if (
                not self.failed
                and (replay := self._find(key, lambda: function(*arguments))) is not None
            ):
                return replay()
        function(*arguments)
        with self._lock:
            _use(self._seen, key, None, MAX_SEEN)

    def _find(self, key: Hashable, run: Callable[[], None]) -> Replay | None:
        replay = self._graphs.get(key)
        if replay is None:
            if key not in self._seen:
                return None
            try:
                replay = self._capture(run)
            except RuntimeError as error:
                self.failed = True
                warnings.warn(
                    f"no more graphs, as {GRAPHS}=0 has it: a capture failed: {error}", stacklevel=2
                )
                return None
            del self._seen[key]
        _use(self._graphs, key, replay, MAX_GRAPHS)
        return replay


def _use(entries: OrderedDict[Hashable, Any], key: Hashable, value: Any, most: int) -> None:
    """Make it the entry used last."""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > most:
        entries.popitem(last=False)


def _captured(run: Callable[[], None]) -> Replay:
    graph = torch.cuda.CUDAGraph()
    # The default stream cannot be captured; other threads may use the device meanwhile.
    with torch.cuda.stream(torch.cuda.Stream()):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            run()
        finally:
            graph.capture_end()
    return graph.replay


_GRAPHS = Graphs(_captured)


def run(function: Callable[..., None], *arguments: Any, device: torch.device, steps: int) -> None:
    """``function(*arguments)``, by a graph where that is possible and, with several ``steps``, worth it."""
    if (
        device.type != "cuda"
        or torch.version.hip is not None
        or steps == 1
        or os.environ.get(GRAPHS) == "0"
        or torch.cuda.is_current_stream_capturing()
    ):
        function(*arguments)
    else:
        _GRAPHS.run(function, *arguments)
