"""Training crops by number: the same number gives the same crop, whatever came before it.

So a run that was stopped goes on with exactly the crops it would have seen, and nothing has to be
stored for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panodetr.data.augment import augment
from panodetr.data.panoptic import read_ids, read_photo
from panodetr.data.targets import panoptic_target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from panodetr.data.augment import CropAugmentation
    from panodetr.data.panoptic import PanopticData, Sample
    from panodetr.data.targets import Target

CACHED_PIXELS = 150_000_000
"""Photos and id maps are kept in memory up to this many pixels, of 7 bytes each."""


class CropReader:
    """Random crops of a data set's photos.

    A photo is drawn with a probability that grows with the square root of its area: large photos
    hold more to learn, but not in proportion.
    """

    def __init__(self, data: PanopticData, augmentation: CropAugmentation, seed: int) -> None:
        self.data = data
        self.augmentation = augmentation
        self.seed = seed
        sides = np.sqrt([height * width for height, width in (s.size for s in data.samples)])
        self._chances = sides / sides.sum()
        self._cache: dict[int, tuple[NDArray[np.uint8], NDArray[np.int32]]] = {}
        self._room = CACHED_PIXELS

    def crop(self, number: int) -> tuple[NDArray[np.uint8], Target]:
        """Crop `number`: a photo (h, w, 3) and its objects.

        Raises:
            ImageError: the photo cannot be read.
            DataError: its id map cannot be read or does not fit.
        """
        rng = np.random.default_rng((self.seed, number))
        index = int(rng.choice(len(self.data.samples), p=self._chances))
        sample = self.data.samples[index]
        photo, ids = augment(*self._read(index, sample), self.augmentation, rng)
        return photo, panoptic_target(ids, sample.segments, self.data.categories)

    def _read(self, index: int, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        if index in self._cache:
            return self._cache[index]
        pair = read_photo(sample), read_ids(sample)
        if pair[1].size <= self._room:
            self._cache[index] = pair
            self._room -= pair[1].size
        return pair
