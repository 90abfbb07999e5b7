"""How many threads compute, said in one place for every runtime."""

from __future__ import annotations

import os


def threads() -> int | None:
    """Give the number in OMP_NUM_THREADS, which PyTorch follows by itself.

    OpenVINO and ONNX Runtime do not know that variable; they are told. None where it is not set,
    or holds no number of threads: then each library chooses, and takes the machine's cores.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # others are of inner loops
    return int(first) if first.isdecimal() and int(first) > 0 else None
