"""Masks at the size of the image, in NumPy: whose each pixel is, band of rows by band of rows.

The steps are the original's: bilinear to the size of the model's input, a comparison there, then
the nearest pixel. Rows and columns that the last step does not pick are never computed.

N: masks, h, w: values of a mask, H, W: pixels of the result, R, C: rows and columns of the model's
input that are picked, k: rows of the masks that a band lies between, b: rows of a band.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.results.decode import sigmoid
from panodetr.threads import each_strip

Size = tuple[int, int]
"""Height and width."""

Pick: TypeAlias = Callable[[int, int], NDArray[np.intp]]
"""Gives which of the rows of the model's input each row of the image shows."""

BAND_PIXELS = 1 << 14
"""Pixels of a band: what is computed for one mask at a time stays in the processor's cache."""


class Masks(Protocol):
    """Masks of some queries of one image, kept where they were computed."""

    def logits(self) -> NDArray[np.float32]:
        """Copy them (N, h, w) to NumPy as they are: small, above 0 inside."""
        ...

    def choose(self, chosen: NDArray[np.intp]) -> Masks:
        """Give some of them, by their indices (K,), in that order."""
        ...

    def highest(self, processed_size: Size, target_size: Size) -> NDArray[np.integer]:
        """Find the highest mask at every pixel of the image; there must be a mask.

        Args:
            processed_size: of the model's input; masks are upsampled to it bilinearly.
            target_size: of the image; its pixels are picked as Pillow picks the nearest.

        Returns:
            (H, W) indices of masks; of equal masks the first.
        """
        ...

    def topmost(self, processed_size: Size, target_size: Size) -> NDArray[np.integer]:
        """Find the first mask that is above 0 at every pixel of the image.

        Arguments as for `highest`, but pixels are picked as torch picks the nearest.

        Returns:
            (H, W) indices of masks; N where no mask is above 0.
        """
        ...

    def mix(self, weights: NDArray[np.float32]) -> Masks:
        """Add up the masks' probabilities (the sigmoid) by weights (N, M): M maps of h by w."""
        ...


@dataclass(frozen=True, eq=False)
class NumpyMasks:
    """Masks (N, h, w) in NumPy; see `Masks`."""

    values: NDArray[np.float32]

    def logits(self) -> NDArray[np.float32]:
        """See `Masks`."""
        return self.values

    def choose(self, chosen: NDArray[np.intp]) -> NumpyMasks:
        """See `Masks`."""
        return NumpyMasks(self.values[chosen])

    def highest(self, processed_size: Size, target_size: Size) -> NDArray[np.integer]:
        """See `Masks`."""
        return self._find(processed_size, target_size, pick_like_pillow)

    def topmost(self, processed_size: Size, target_size: Size) -> NDArray[np.integer]:
        """See `Masks`."""
        return self._find(processed_size, target_size, pick_like_torch, inside=True)

    def mix(self, weights: NDArray[np.float32]) -> NumpyMasks:
        """See `Masks`."""
        return NumpyMasks(np.tensordot(weights, sigmoid(self.values), axes=(0, 0)))

    def _find(
        self, processed_size: Size, target_size: Size, pick: Pick, *, inside: bool = False
    ) -> NDArray[np.integer]:
        """Find the highest mask at the pixels that are picked; or the first that is above 0."""
        count, height, width = self.values.shape
        rows, columns = _lines((height, width), processed_size, target_size, pick)
        shape = len(rows.before), len(columns.before)  # R, C
        found = np.full(shape, count, np.min_scalar_type(count))

        def fill(band: slice) -> None:
            """Compare the masks in one band."""
            weight, top = rows.weight[band, None], rows.before[band][0]
            above, below = rows.before[band] - top, rows.after[band] - top
            best = np.full((len(above), shape[1]), 0 if inside else -np.inf, np.float32)
            upper, value = np.empty_like(best), np.empty_like(best)
            for number in reversed(range(count)) if inside else range(count):  # the first stays
                part = self.values[number, top : top + below[-1] + 1]  # k, w
                wide, right = part.take(columns.before, axis=1), part.take(columns.after, axis=1)
                wide += columns.weight * (right - wide)  # k, C
                wide.take(above, axis=0, out=upper, mode="clip")  # into `upper` without a copy
                wide.take(below, axis=0, out=value, mode="clip")
                value -= upper
                value *= weight
                value += upper  # b, C
                np.copyto(found[band], number, where=value > best, casting="unsafe")
                if not inside:
                    np.maximum(best, value, out=best)

        each_strip(fill, shape[0], max(1, BAND_PIXELS // shape[1]))
        return found.take(columns.shown, axis=1).take(rows.shown, axis=0)


@dataclass(frozen=True, eq=False)
class _Lines:
    """Rows (or columns) of upsampled masks, each between two rows of the masks.

    Attributes:
        before: (R,) the row of the masks above.
        after: (R,) the row below; at the edge the same.
        weight: (R,) float32, how far from the one above to the one below, 0 to 1.
        shown: (H,) which of these rows each row of the image shows.
    """

    before: NDArray[np.intp]
    after: NDArray[np.intp]
    weight: NDArray[np.float32]
    shown: NDArray[np.intp]


@lru_cache(maxsize=64)  # all tiles of an image, and often all images, are of one size
def _lines(size: Size, processed_size: Size, target_size: Size, pick: Pick) -> tuple[_Lines, ...]:
    """Upsample masks to the processed size: only rows and columns that are picked from it.

    Pixel centres are aligned, not corners, and computed in float32, as torch does.
    """
    lines: list[_Lines] = []
    for length, processed, target in zip(size, processed_size, target_size, strict=True):
        picked = pick(processed, target)  # in rising order
        new = np.diff(picked, prepend=-1) > 0
        wanted, shown = picked[new], np.cumsum(new) - 1
        scale = np.float32(length) / np.float32(processed)
        place = (wanted.astype(np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
        place = np.maximum(place, 0)
        before = np.minimum(place.astype(np.intp), length - 1)
        after = np.minimum(before + 1, length - 1)
        lines.append(_Lines(before, after, place - before.astype(np.float32), shown))
    return tuple(lines)


def pick_like_pillow(processed: int, target: int) -> NDArray[np.intp]:
    """Give which of the `processed` rows each of the `target` rows is nearest to, for Pillow."""
    line = Image.fromarray(np.arange(processed, dtype=np.int32)[None])
    nearest = line.resize((target, 1), Image.Resampling.NEAREST)
    return np.asarray(nearest)[0].astype(np.intp)


def pick_like_torch(processed: int, target: int) -> NDArray[np.intp]:
    """Give the same for torch: by their upper edges, in float32."""
    scale = np.float32(processed) / np.float32(target)
    nearest = np.floor(np.arange(target, dtype=np.float32) * scale).astype(np.intp)
    return np.minimum(nearest, processed - 1)


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask as COCO's uncompressed run lengths: down the columns, empty pixels first."""
    pixels = np.asfortranarray(mask).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate([[0], changes, [pixels.size]])
    lengths: list[int] = np.diff(edges).tolist()
    return [0, *lengths] if pixels[0] else lengths
