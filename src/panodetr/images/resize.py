"""Resizing photos by the original's rule, to the pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resized_size(
    size: tuple[int, int], short_side: int | None, long_side: int | None
) -> tuple[int, int]:
    """Say to which size a photo is resized.

    The short side becomes `short_side`, or less where the long one would pass `long_side`. The
    long side is cut to whole pixels, not rounded, and a photo whose short side fits already is left
    alone: both as in the original, whose published figures were measured so.

    Args:
        size: height and width of the photo, 1 or more.
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


def resize(photo: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) to `size`, height and width; bilinear, antialiased when it shrinks."""
    height, width = size
    if photo.shape[:2] == size:
        return photo
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))
