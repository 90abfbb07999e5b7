"""How many threads to use, for every runtime and for our own pools."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def omp_threads() -> int | None:
    """Give the number in OMP_NUM_THREADS, or None where it is not set or is not a number.

    PyTorch reads the variable itself. OpenVINO and ONNX Runtime do not, so they get this number.
    With None each library chooses, and takes all cores.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # the rest: nested loops
    return int(first) if first.isdecimal() and int(first) > 0 else None


def pool_threads() -> int:
    """Give the size of a thread pool: `omp_threads`, else the cores that this process may use."""
    if (threads := omp_threads()) is not None:
        return threads
    if sys.platform == "linux":  # a container or `taskset` may allow fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def each_strip(work: Callable[[slice], None], length: int, step: int) -> None:
    """Call `work` with strips of at most `step` of `length` rows or columns, on `pool_threads`."""
    strips = [slice(start, min(start + step, length)) for start in range(0, length, step)]
    threads = min(pool_threads(), len(strips))
    if threads == 1:  # to start one takes longer than a small strip
        for strip in strips:
            work(strip)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, strips))
