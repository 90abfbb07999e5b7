"""Reads a small image, then a large one, and prints by how much the large one added to memory.

A script, for a process of its own: `python tests/data/memory.py FOLDER FORMAT`. In bytes: what
Python's allocators held at most, and by how much the process grew.
"""

from __future__ import annotations

import resource
import sys
import tracemalloc
from pathlib import Path
from typing import cast

import numpy as np

from panodetr.data.augment import CropAugmentation
from panodetr.data.dataset import Format, open_data
from panodetr.data.loader import Example, ExampleReader


def largest() -> int:
    """The most bytes that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Read, and print both figures."""
    data = open_data(Path(sys.argv[1]), format=cast("Format", sys.argv[2]))
    read = ExampleReader(
        augmentation=CropAugmentation(size=512), index_of=data.index_of, with_masks=True
    )
    small, large = data.samples
    read[small, np.random.default_rng(0), None]
    before = largest()
    tracemalloc.start()
    example = read[large, np.random.default_rng(0), None]
    assert isinstance(example, Example)
    traced = tracemalloc.get_traced_memory()[1]
    assert len(example.target.classes) > 1
    print(traced, largest() - before)


if __name__ == "__main__":
    main()
