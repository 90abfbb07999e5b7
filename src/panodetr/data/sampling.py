"""Which image is learned from when: a function of seed and number, with nothing to remember.

Images are numbered without end: step * batch_size + place in the batch. What a number stands for
depends on no other number, process or worker, so a run goes on from its step alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from panodetr.data.augment import Augmentation, draw_view

Sampling: TypeAlias = Literal["area", "epochs", "buckets"]
"""How images are chosen: see `Sampler`."""

# Keys of different random numbers begin differently. Zeros at the end of a key change nothing.
_ORDER, _BATCHES, _VIEW, _PASTE = 1, 2, 3, 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """An image's place in the data set, and where all randomness of its augmentation comes from.

    `pasted` is likewise of the image that lends objects to it, where one does.
    """

    index: int
    rng: np.random.Generator
    pasted: Draw | None = None


class Sampler:
    """Says what each number stands for.

    "area" draws images independently, with a probability that grows with the square root of their
    area: large images hold more to learn, but not in proportion. For crops; there are no epochs.

    "epochs" gives every image exactly once an epoch, in an order keyed by seed and epoch; its
    augmentation is keyed by seed, epoch and image. A batch may straddle two epochs.

    "buckets" is "epochs" with another order: batches are of images whose augmented sizes are alike,
    because what is smaller than the largest of its batch is padded. Batches that straddle two
    epochs stay mixed.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        augmentation: Augmentation,
        *,
        seed: int,
        batch_size: int,
        sampling: Sampling,
    ) -> None:
        """`sizes` are the images' heights and widths, in their order."""
        self._sizes = sizes
        self._augmentation = augmentation
        self._seed = seed
        self._batch_size = batch_size
        self._sampling = sampling
        sides = np.sqrt([height * width for height, width in sizes])
        self._chances = sides / sides.sum()
        # Two epochs: those of a batch that straddles them, or of what is read ahead.
        self._order = lru_cache(maxsize=2)(self._make_order)

    def draw(self, number: int, attempt: int = 0) -> Draw:
        """Say what a number stands for; or, at a later attempt, what stands in for it."""
        pasted = None
        if self._augmentation.paste:
            lent = np.random.default_rng((_PASTE, self._seed, number, attempt))
            if lent.random() < self._augmentation.paste:
                pasted = Draw(index=int(lent.integers(len(self._sizes))), rng=lent)
        if self._sampling == "area":
            rng = np.random.default_rng((self._seed, number, attempt))
            index = int(rng.choice(len(self._sizes), p=self._chances))
            return Draw(index=index, rng=rng, pasted=pasted)
        epoch, place = divmod(number, len(self._sizes))
        index = int(self._order(epoch)[(place + attempt) % len(self._sizes)])
        return Draw(index=index, rng=self._view_rng(epoch, index, attempt), pasted=pasted)

    def _view_rng(self, epoch: int, index: int, attempt: int = 0) -> np.random.Generator:
        return np.random.default_rng((_VIEW, self._seed, epoch, index, attempt))

    def _make_order(self, epoch: int) -> NDArray[np.intp]:
        rng = np.random.default_rng((_ORDER, self._seed, epoch))
        order = rng.permutation(len(self._sizes))
        if self._sampling == "buckets":
            # Whole batches of this epoch alone; its first images may end a batch of the one before.
            first = -epoch * len(order) % self._batch_size
            count = max(0, len(order) - first) // self._batch_size
            whole = slice(first, first + count * self._batch_size)
            order[whole] = self._group(order[whole], epoch)
        return order

    def _group(self, order: NDArray[np.intp], epoch: int) -> NDArray[np.intp]:
        """Put images of like augmented sizes together, and shuffle the batches."""
        shapes = np.array([
            draw_view(self._augmentation, self._sizes[i], self._view_rng(epoch, i)).shape
            for i in order.tolist()
        ]).reshape(-1, 2)  # fmt: skip
        # Shapes of a like aspect, a quarter of an octave, by their area: sorts keep the order.
        aspect = np.round(4 * np.log2(shapes[:, 1] / shapes[:, 0]))
        order = order[np.lexsort((shapes.prod(axis=1), aspect))]
        batches = order.reshape(-1, self._batch_size)
        rng = np.random.default_rng((_BATCHES, self._seed, epoch))
        return rng.permutation(batches).ravel()
