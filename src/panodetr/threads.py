"""How many threads work, said in one place for every runtime and for our own pools."""

from __future__ import annotations

import os
import sys


def omp_threads() -> int | None:
    """Give the number in OMP_NUM_THREADS, which PyTorch follows by itself.

    OpenVINO and ONNX Runtime do not know that variable; they are told. None where it is not set,
    or holds no number of threads: then each library chooses, and takes the machine's cores.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # others are of inner loops
    return int(first) if first.isdecimal() and int(first) > 0 else None


def pool_threads() -> int:
    """Give the threads of a pool of ours: as many as are told, else the cores that we may use."""
    if (told := omp_threads()) is not None:
        return told
    if sys.platform == "linux":  # a container or `taskset` may leave a process fewer than there are
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
