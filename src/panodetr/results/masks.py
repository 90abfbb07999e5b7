"""Masks at the size of the image, in NumPy: whose each pixel is, band of rows by band of rows.

The steps are the original's: bilinear to the size of the model's input, a comparison there, then
the nearest pixel. Rows and columns that the last step does not pick are never computed.

N: masks, h, w: values of a mask, H, W: pixels of the result, R, C: rows and columns of the model's
input that are picked, k: rows of the masks that a band lies between, b: rows of a band.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.results.decode import sigmoid
from panodetr.threads import each_strip

Size = tuple[int, int]
"""Height and width."""

BAND_PIXELS = 1 << 16
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
        return self._find(processed_size, pick_like_pillow(processed_size, target_size))

    def topmost(self, processed_size: Size, target_size: Size) -> NDArray[np.integer]:
        """See `Masks`."""
        picked = pick_like_torch(processed_size, target_size)
        return self._find(processed_size, picked, inside=True)

    def mix(self, weights: NDArray[np.float32]) -> NumpyMasks:
        """See `Masks`."""
        return NumpyMasks(np.tensordot(weights, sigmoid(self.values), axes=(0, 0)))

    def _find(
        self,
        processed_size: Size,
        picked: tuple[NDArray[np.intp], NDArray[np.intp]],
        *,
        inside: bool = False,
    ) -> NDArray[np.integer]:
        """Find the highest mask at the pixels that are picked; or the first that is above 0."""
        count = len(self.values)
        rows, columns = (
            _Lines.of(length, processed, along)
            for length, processed, along in zip(
                self.values.shape[1:], processed_size, picked, strict=True
            )
        )
        shape = len(rows.before), len(columns.before)  # R, C
        found = np.full(shape, count, np.min_scalar_type(count))
        at_once = max(1, BAND_PIXELS // shape[1])

        def fill(band: slice) -> None:
            """Compare the masks in one band."""
            above, below, weight = rows.before[band], rows.after[band], rows.weight[band, None]
            part = self.values[:, above[0] : below[-1] + 1]  # N, k, w
            left, right = part.take(columns.before, axis=2), part.take(columns.after, axis=2)
            wide = left + columns.weight * (right - left)  # N, k, C
            best = np.full(found[band].shape, 0 if inside else -np.inf, np.float32)
            for number, mask in enumerate(wide):
                upper, lower = mask[above - above[0]], mask[below - above[0]]
                value = upper + weight * (lower - upper)  # b, C
                if inside:
                    value = (value > 0).astype(np.float32)
                np.copyto(found[band], number, where=value > best, casting="unsafe")
                np.maximum(best, value, out=best)

        each_strip(fill, shape[0], at_once)
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

    @classmethod
    def of(cls, length: int, processed: int, picked: NDArray[np.intp]) -> _Lines:
        """Upsample `length` values to `processed`, of which some are picked (H,), in rising order.

        Pixel centres are aligned, not corners, and computed in float32, as torch does.
        """
        new = np.diff(picked, prepend=-1) > 0
        wanted, shown = picked[new], np.cumsum(new) - 1
        scale = np.float32(length) / np.float32(processed)
        place = (wanted.astype(np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
        place = np.maximum(place, 0)
        before = np.minimum(place.astype(np.intp), length - 1)
        after = np.minimum(before + 1, length - 1)
        return cls(before, after, place - before.astype(np.float32), shown)


def pick_like_pillow(
    processed_size: Size, target_size: Size
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Give the rows (H,) and columns (W,) of the nearest pixels, as Pillow picks them."""

    def pick(processed: int, target: int) -> NDArray[np.intp]:
        line = Image.fromarray(np.arange(processed, dtype=np.int32)[None])
        nearest = line.resize((target, 1), Image.Resampling.NEAREST)
        return np.asarray(nearest)[0].astype(np.intp)

    return pick(processed_size[0], target_size[0]), pick(processed_size[1], target_size[1])


def pick_like_torch(
    processed_size: Size, target_size: Size
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Give the rows (H,) and columns (W,) of the nearest pixels, as torch picks them.

    By their upper and left edges, in float32.
    """

    def pick(processed: int, target: int) -> NDArray[np.intp]:
        scale = np.float32(processed) / np.float32(target)
        nearest = np.floor(np.arange(target, dtype=np.float32) * scale).astype(np.intp)
        return np.minimum(nearest, processed - 1)

    return pick(processed_size[0], target_size[0]), pick(processed_size[1], target_size[1])


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask as COCO's uncompressed run lengths: down the columns, empty pixels first."""
    pixels = np.asfortranarray(mask).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate([[0], changes, [pixels.size]])
    lengths: list[int] = np.diff(edges).tolist()
    return [0, *lengths] if pixels[0] else lengths
