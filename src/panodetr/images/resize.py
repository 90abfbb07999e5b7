"""Resizing images by the original's rule, to the pixel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.threads import pool_threads

LARGE = 2_000_000
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


def resize(image: NDArray[np.uint8] | Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize RGB to `size`, height and width; bilinear, antialiased when it shrinks.

    Args:
        image: (H, W, 3), or an image in Pillow's hands, which saves laying it out anew.
        size: height and width.
    """
    height, width = size
    rows, columns = image_size(image)
    # Newer versions of Pillow change the order of rows and columns for some shapes, and with it
    # the rounding: not for images that are no taller than these and keep their proportions.
    keeps_order = 2 * rows <= 3 * columns and abs(rows * width - columns * height) <= rows + columns
    if (rows, columns) != size and rows * columns >= LARGE and keeps_order:
        return _resize_in_strips(image, height, width)
    if isinstance(image, Image.Image):
        return _resample(image, height, width)
    return image if (rows, columns) == size else _resample(Image.fromarray(image), height, width)


def image_size(image: NDArray[np.uint8] | Image.Image) -> tuple[int, int]:
    """Give height and width of an image, whoever holds it."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    return image.shape[0], image.shape[1]


def _resize_in_strips(
    image: NDArray[np.uint8] | Image.Image, height: int, width: int
) -> NDArray[np.uint8]:
    """Do what Pillow does, on all cores: rows made narrower first, then columns made shorter.

    Each row, and then each column, is resampled by itself and rounded to bytes, so cutting the
    image into strips changes no value. Strips also fit into the cache, which whole images do not.
    """
    rows, columns = image_size(image)
    narrow = np.empty((rows, width, 3), np.uint8)
    small = np.empty((height, width, 3), np.uint8)

    def make_narrower(strip: slice) -> None:
        if isinstance(image, Image.Image):
            part = image.crop((0, strip.start, columns, strip.stop))
        else:
            part = Image.fromarray(image[strip])
        narrow[strip] = _resample(part, part.height, width)

    def make_shorter(strip: slice) -> None:
        # Columns do not see each other, so the colours may be columns of a grey image: Pillow
        # would store a fourth byte with each of them.
        part = np.ascontiguousarray(narrow[:, strip]).reshape(rows, -1)  # H, 3 w
        shorter = _resample(Image.fromarray(part), height, part.shape[1])
        small[:, strip] = shorter.reshape(height, -1, 3)  # h, w, 3

    with ThreadPoolExecutor(pool_threads()) as pool:
        list(pool.map(make_narrower, _strips(rows)))
        list(pool.map(make_shorter, _strips(width)))
    return small


def _strips(length: int) -> list[slice]:
    return [slice(start, min(start + STRIP, length)) for start in range(0, length, STRIP)]


def _resample(image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
