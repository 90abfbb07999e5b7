"""Resizing images by the original's rule, to the pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.threads import each_strip

LARGE = 1_000_000
"""Images of more pixels are resized by all cores."""

STRIP = 128
"""Rows or columns that one core works on at a time."""


def resized_size(
    size: tuple[int, int], short_side: int | None, long_side: int | None
) -> tuple[int, int]:
    """Say to which size an image is resized.

    The short side becomes `short_side`, or less where the long one would pass `long_side`. The
    long side is cut to whole pixels, not rounded, and an image whose short side fits is left
    alone: both as in the original, whose published figures were measured so.

    Args:
        size: height and width of the image, 1 or more.
        short_side: pixels; None leaves the size as it is.
        long_side: pixels; None sets no limit.

    Returns:
        Height and width, 1 or more.
    """
    if short_side is None:
        return size
    shorter, longer = min(size), max(size)
    # In this order: the original compares with a quotient of floats, and so its rounding counts.
    if long_side is not None and longer / shorter * short_side > long_side:
        short_side = max(1, round(long_side * shorter / longer))
    if shorter == short_side:
        return size
    height, width = size
    if width < height:
        return int(short_side * height / width), short_side
    return short_side, int(short_side * width / height)


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize RGB (H, W, 3) to `size`, height and width; bilinear, antialiased when it shrinks."""
    height, width = size
    rows, columns = image.shape[:2]
    # Newer versions of Pillow change the order of rows and columns for some shapes, and with it
    # the rounding: not for images that are no taller than these and keep their proportions.
    keeps_order = 2 * rows <= 3 * columns and abs(rows * width - columns * height) <= rows + columns
    if (rows, columns) == size:
        return image
    if rows * columns >= LARGE and keeps_order:
        return _resize_in_strips(image, height, width)
    return _resample(image, height, width)


def _resize_in_strips(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Do what Pillow does, on all cores: rows made narrower first, then columns made shorter.

    Each row, and then each column, is resampled by itself and rounded to bytes, so cutting the
    image into strips changes no value. Strips also fit into the cache, which whole images do not.
    """
    rows = len(image)
    narrow = np.empty((rows, width, 3), np.uint8)
    small = np.empty((height, width, 3), np.uint8)

    def make_narrower(strip: slice) -> None:
        part = image[strip]
        narrow[strip] = _resample(part, len(part), width)

    def make_shorter(strip: slice) -> None:
        # Columns do not see each other, so the colours may be columns of a grey image: Pillow
        # would store a fourth byte with each of them.
        part = np.ascontiguousarray(narrow[:, strip]).reshape(rows, -1)  # H, 3 w
        shorter = _resample(part, height, part.shape[1])
        small[:, strip] = shorter.reshape(height, -1, 3)  # h, w, 3

    each_strip(make_narrower, rows, STRIP)
    each_strip(make_shorter, width, STRIP)
    return small


def _resample(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    size = width, height
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
