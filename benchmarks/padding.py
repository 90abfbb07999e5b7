"""How much of the batches that training sees is padding, without buckets and with them.

    python benchmarks/padding.py --data ../shared/data/coco-instances --batch-size 4

Views are drawn as the paper does, over twenty epochs; no image is read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from panodetr.data.augment import PaperAugmentation, Sampler, Sampling, draw_view
from panodetr.data.dataset import open_data

EPOCHS = 20


def measure(
    sizes: list[tuple[int, int]], batch_size: int, sampling: Sampling
) -> tuple[float, float]:
    """The part of all pixels that is padding, and the pixels of the largest batch."""
    augmentation = PaperAugmentation()
    sampler = Sampler(sizes, augmentation, seed=0, batch_size=batch_size, sampling=sampling)
    used = 0
    padded: list[int] = []
    for first in range(0, EPOCHS * len(sizes) - batch_size + 1, batch_size):
        draws = [sampler.draw(number) for number in range(first, first + batch_size)]
        shapes = np.array([draw_view(augmentation, sizes[d.index], d.rng).shape for d in draws])
        used += int(shapes.prod(axis=1).sum())
        padded.append(batch_size * int(shapes.max(axis=0).prod()))
    return 1 - used / sum(padded), max(padded)


def main() -> None:
    """Print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="a data set of any format")
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args()
    sizes = [sample.size for sample in open_data(options.data).samples]
    for sampling in ("epochs", "buckets"):
        padding, largest = measure(sizes, options.batch_size, sampling)
        print(f"{sampling:8} {padding:6.1%} padding, largest batch {largest / 1e6:.2f} megapixels")


if __name__ == "__main__":
    main()
