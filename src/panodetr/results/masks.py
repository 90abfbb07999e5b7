"""Masks at the size of the image, in NumPy: whose each pixel is, band of rows by band of rows.

The steps are the original's: bilinear to the size of the model's input, a comparison there, then
the nearest pixel. Rows and columns that the last step does not pick are never computed.

N: masks, h, w: values of a mask, H, W: pixels of the result, R, C: rows and columns of the model's
input that are picked, k: rows of the masks that a band lies between, b: rows of a band.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.errors import CheckpointError
from panodetr.results.decode import sigmoid
from panodetr.threads import each_strip

Size = tuple[int, int]
"""Height and width."""

Pick: TypeAlias = Callable[[int, int], NDArray[np.intp]]
"""Gives which of the rows of the model's input each row of the image shows."""

Merged: TypeAlias = Callable[[], tuple[NDArray[np.integer], NDArray[np.intp]]]
"""Gives what `Masks.merge` has found."""

BAND_PIXELS = 1 << 14
"""Pixels of a band: what is computed for one mask at a time stays in the processor's cache."""


class Frame(NamedTuple):
    """How masks lie over an image.

    Attributes:
        size: height and width of the image in the model's input, to which masks are upsampled
            bilinearly.
        target: of the image, or of a tile of it, whose pixels are picked from there.
        canvas: height and width of all of the model's input, in the image's pixels there; the image
            is its upper left part, and masks cover it. None: the image fills it.
    """

    size: Size
    target: Size
    canvas: tuple[float, float] | None = None

    def at(self, size: Size) -> Frame:
        """Give the same for an image that has another size in the input, and as its target."""
        height, width = (
            new * whole / old
            for new, whole, old in zip(size, self.canvas or self.size, self.size, strict=True)
        )
        return Frame(size, size, (height, width))


UNPLACED = Frame((0, 0), (0, 0))
"""Of masks of which nobody has said yet how they lie."""


@dataclass(frozen=True, eq=False)
class Masks(ABC):
    """Masks of some queries of one image, kept where they were computed.

    Attributes:
        values: (N, h, w), small, above 0 inside.
        frame: how they lie over the image.
    """

    values: Any
    frame: Frame = UNPLACED

    def on(self, frame: Frame) -> Self:
        """Say how they lie over the image."""
        return replace(self, frame=frame)

    @abstractmethod
    def logits(self) -> NDArray[np.float32]:
        """Copy them (N, h, w) to NumPy as they are: small, above 0 inside."""

    @abstractmethod
    def choose(self, chosen: NDArray[np.intp]) -> Self:
        """Give some of them, by their indices (K,), in that order."""

    def highest(self) -> NDArray[np.integer]:
        """Find the highest mask at every pixel of the target; there must be a mask.

        Pixels are picked as Pillow picks the nearest.

        Returns:
            (H, W) indices of masks; of equal masks the first.
        """
        return self._find(pick_like_pillow)

    @abstractmethod
    def merge(self, first: NDArray[np.intp], least: int) -> Merged:
        """Find the highest mask at every pixel, in rounds: without masks of too few pixels.

        The next round has no mask with fewer than `least` pixels, until all that are left have as
        many.

        Args:
            first: (N,) the mask that each one's pixels count for in the first round.
            least: pixels that a mask needs.

        Returns:
            A function that waits until it is done, so that a device can work on several images; it
            gives indices (H, W), and those (K,) of the masks that are left.
        """

    def topmost(self) -> NDArray[np.integer]:
        """Find the first mask that is above 0 at every pixel of the target.

        Pixels are picked as torch picks the nearest.

        Returns:
            (H, W) indices of masks; N where no mask is above 0.
        """
        return self._find(pick_like_torch, inside=True)

    @abstractmethod
    def compete(self, scores: NDArray[np.float32], least: float = 0) -> Contest:
        """Find where each mask's probability times its score is the highest; there must be a mask.

        As `highest`, but that masks are upsampled from their size to the target's bilinearly, too.

        Args:
            scores: (N,).
            least: value, before the sigmoid, from which a mask is likely.
        """

    @abstractmethod
    def mix(self, weights: NDArray[np.float32]) -> Self:
        """Add up the masks' probabilities (the sigmoid) by weights (N, M): M maps of h by w."""

    @abstractmethod
    def _find(self, pick: Pick, *, inside: bool = False) -> NDArray[np.integer]:
        """Find the highest mask at the pixels that are picked; or the first that is above 0."""


@dataclass(frozen=True, eq=False)
class Contest:
    """Which mask is the highest at each pixel, and where masks are likely.

    Attributes:
        winner: (H, W) indices of masks; of equal ones the first.
        likely: (H, W), whether the winner's mask is likely there.
        areas: (N,) pixels where each mask is likely, also where others win.
    """

    winner: NDArray[np.integer]
    likely: NDArray[np.bool_]
    areas: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class NumpyMasks(Masks):
    """Masks in NumPy."""

    values: NDArray[np.float32]

    def logits(self) -> NDArray[np.float32]:
        """See `Masks`."""
        return self.values

    def choose(self, chosen: NDArray[np.intp]) -> Self:
        """See `Masks`."""
        return replace(self, values=self.values[chosen])

    def merge(self, first: NDArray[np.intp], least: int) -> Merged:
        """See `Masks`."""

        def finish() -> tuple[NDArray[np.integer], NDArray[np.intp]]:
            left, count = np.arange(len(first)), len(first)
            winner = self.highest()  # H, W: places in left
            areas = np.bincount(first, _count_pixels(winner, count), minlength=count)
            while len(left) and (areas < least).any():
                left = left[areas >= least]
                if len(left):
                    winner = self.choose(left).highest()
                    areas = _count_pixels(winner, len(left))
            return (left.take(winner) if len(left) else winner), left

        return finish

    def mix(self, weights: NDArray[np.float32]) -> Self:
        """See `Masks`."""
        return replace(self, values=np.tensordot(weights, sigmoid(self.values), axes=(0, 0)))

    def compete(self, scores: NDArray[np.float32], least: float = 0) -> Contest:
        """See `Masks`."""
        count, height, width = self.values.shape
        size, target, canvas = self.frame
        sides = zip((height, width), canvas or size, size, target, strict=True)
        rows, columns = (_upsampling(*each) for each in sides)  # H, h and W, w
        wide = self.values @ columns.T  # N, h, W
        winner = np.zeros(target, np.min_scalar_type(count))
        likely = np.zeros(target, np.bool_)
        areas = np.zeros((target[0], count), np.int64)  # of the band that begins at a row

        def fill(band: slice) -> None:
            """Compare the masks in one band."""
            best = np.full(winner[band].shape, -1, np.float32)
            value = np.empty_like(best)  # b, W
            used = np.flatnonzero(rows[band].any(axis=0))  # k
            near = slice(used[0], used[-1] + 1)
            weights = np.ascontiguousarray(rows[band, near])  # b, k
            for number in range(count):
                np.matmul(weights, wide[number, near], out=value)
                inside = value >= least
                areas[band.start, number] = np.count_nonzero(inside)
                chance = np.multiply(scores[number], sigmoid(value, value), out=value)
                higher = chance > best
                # Not by masked copies, which are slow where edges are ragged.
                winner[band] += (winner.dtype.type(number) - winner[band]) * higher
                likely[band] ^= (likely[band] ^ inside) & higher
                np.maximum(best, chance, out=best)

        each_strip(fill, target[0], max(1, BAND_PIXELS // target[1]))
        return Contest(winner, likely, areas.sum(axis=0))

    def _find(self, pick: Pick, *, inside: bool = False) -> NDArray[np.integer]:
        count, height, width = self.values.shape
        rows, columns = _lines((height, width), self.frame, pick)
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
def _lines(of_masks: Size, frame: Frame, pick: Pick) -> tuple[_Lines, ...]:
    """Upsample masks to the canvas's size: only rows and columns that are picked from its part."""
    lines: list[_Lines] = []
    size, target, canvas = frame
    for length, whole, own, wide in zip(of_masks, canvas or size, size, target, strict=True):
        picked = pick(own, wide)  # in rising order
        new = np.diff(picked, prepend=-1) > 0
        wanted, shown = picked[new], np.cumsum(new) - 1
        lines.append(_Lines(*_between(wanted, length, whole), shown))
    return tuple(lines)


def _between(
    wanted: NDArray[np.intp], length: int, whole: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Say between which of `length` rows wanted ones of `whole` lie, and how far from the first.

    Pixel centres are aligned, not corners, and computed in float32, as torch does.
    """
    scale = np.float32(length) / np.float32(whole)
    place = (wanted.astype(np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    place = np.maximum(place, 0)
    before = np.minimum(place.astype(np.intp), length - 1)
    return before, np.minimum(before + 1, length - 1), place - before.astype(np.float32)


@lru_cache(maxsize=64)
def _upsampling(length: int, canvas: float, processed: int, target: int) -> NDArray[np.float32]:
    """The matrix (target, length) of two linear upsamplings: to the canvas, and from its part."""
    first = _interpolation(length, round(canvas))[:processed]
    return np.ascontiguousarray(_interpolation(processed, target) @ first)


def _interpolation(length: int, target: int) -> NDArray[np.float32]:
    """The matrix (target, length) that interpolates as torch does."""
    row = np.arange(target)
    before, after, weight = _between(row, length, target)
    matrix = np.zeros((target, length), np.float32)
    matrix[row, before] += 1 - weight
    matrix[row, after] += weight
    return matrix


def mask_boxes(masks: Masks) -> NDArray[np.float32]:
    """Give the boxes (N, 4) cxcywh, in fractions, of where each mask is above 0 in the input.

    A mask that is nowhere above 0 has a box of no size.
    """
    boxes = np.zeros((len(masks.logits()), 4), np.float32)
    masks = masks.on(masks.frame.at(masks.frame.size))
    for number, box in enumerate(boxes):
        inside = masks.choose(np.array([number])).topmost() == 0
        for axis, side in enumerate(masks.frame.size[::-1]):
            along = np.flatnonzero(inside.any(axis=axis))
            if len(along):
                low, high = along[0] / side, (along[-1] + 1) / side
                box[axis], box[axis + 2] = (low + high) / 2, high - low
    return boxes


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


def run_lengths(
    mask: NDArray[np.bool_], size: Size | None = None, at: tuple[int, int] = (0, 0)
) -> list[int]:
    """Encode a mask as COCO's uncompressed run lengths: down the columns, empty pixels first.

    Args:
        mask: (h, w), a part of an image that holds all of the object.
        size: height and width of the image; None where the part is all of it.
        at: the row and column where the part begins.
    """
    height, width = size or mask.shape
    columns = np.pad(mask.T, ((0, 0), (1, 1)))  # w, h + 2
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    place = (at[1] + column) * height + at[0] + row  # where runs begin and end, in turn
    apart = np.ones(len(place), np.bool_)
    apart[1:-1:2] = apart[2::2] = place[1:-1:2] != place[2::2]  # one ends and the next begins
    edges = np.concatenate([[0], place[apart], [height * width]])
    lengths: list[int] = np.diff(edges).tolist()
    return lengths if lengths[-1] else lengths[:-1]


def _count_pixels(winner: NDArray[np.integer], count: int) -> NDArray[np.intp]:
    """Count the pixels of each of so many masks.

    Raises:
        CheckpointError: a pixel has none, because no mask is a number there.
    """
    areas = np.bincount(winner.ravel(), minlength=count)
    if len(areas) > count:
        raise CheckpointError("the model's masks are not finite; its weights are damaged")
    return areas
