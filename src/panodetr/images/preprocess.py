"""How an image becomes the model's input: its size (the original's, to the pixel), tiles, colours.

B: images, H, W: pixels of the canvas, h, w: pixels of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from PIL import Image

from panodetr.threads import each_strip
from panodetr.validation import check_fields

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LARGE = 1_000_000
"""Images of more pixels are resized by all cores."""

STRIP = 128
"""Rows or columns that one core works on at a time."""

_Mean: TypeAlias = Annotated[float, Meta(ge=-1e6, le=1e6)]
_Deviation: TypeAlias = Annotated[float, Meta(ge=1e-6, le=1e6)]
_Channel: TypeAlias = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The rule that a model's images follow, kept in its checkpoint.

    Attributes:
        short_side: resize so that the short side has these pixels; None keeps the image's own
            resolution.
        long_side: but never longer than this; None sets no limit.
        enlarge: where images keep their own resolution, they are enlarged so many times all the
            same: small objects are told apart better.
        multiple: the model sees an image on a black canvas, in the upper left corner, whose sides
            are multiples of so many pixels; 1 leaves nothing beside it.
        tile: predict images that are larger than this in square tiles of this side, in the image's
            own pixels; None never tiles.
        tile_overlap: pixels of the image that neighbouring tiles share at least.
        share_from: in an image of so many tiles or more, those that overlap share the backbone's
            features where the runtime can (PyTorch, if a whole number of its places lies between
            tiles): it is quicker, and a tile's features then know what lies beyond its borders.
            None: in no image.
        mean: of red, green, blue, for values from 0 to 1.
        std: the standard deviations of the same.
        bits: that the values of 16-bit images fill: of 12, 4095 is white; None: all 16.
        channels: of images of more than three channels, those that are red, green and blue, or the
            one that is grey, from 0; None refuses such images.
    """

    short_side: Annotated[int, Meta(ge=1, le=100_000)] | None = 800
    long_side: Annotated[int, Meta(ge=1, le=1_000_000)] | None = 1333
    enlarge: Annotated[float, Meta(gt=0, le=100)] = 1.0
    multiple: Annotated[int, Meta(ge=1, le=100_000)] = 1
    tile: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    tile_overlap: Annotated[int, Meta(ge=0)] = 0
    share_from: Annotated[int, Meta(ge=2)] | None = None
    mean: tuple[_Mean, _Mean, _Mean] = IMAGENET_MEAN
    std: tuple[_Deviation, _Deviation, _Deviation] = IMAGENET_STD
    bits: Annotated[int, Meta(ge=8, le=16)] | None = None
    channels: Annotated[tuple[_Channel, ...], Meta(min_length=1, max_length=3)] | None = None

    def __post_init__(self) -> None:
        """Refuse rules that no image can follow.

        Raises:
            ValueError: a field is out of bounds, tiles overlap wholly, images are to be enlarged
                and resized, or two channels are chosen.
        """
        check_fields(self)
        if self.enlarge != 1 and self.short_side is not None:
            raise ValueError(
                f"preprocessing.enlarge is {self.enlarge} and short_side {self.short_side}; "
                "expected 1 where images are resized to a short side"
            )
        if self.channels is not None and len(self.channels) == 2:
            raise ValueError(
                f"preprocessing.channels is {self.channels}; expected three, or one for grey"
            )
        if self.tile is not None and self.tile_overlap >= self.tile:
            raise ValueError(
                f"preprocessing.tile_overlap is {self.tile_overlap}; "
                f"expected 0 to {self.tile - 1}, less than a tile"
            )


def normalize(
    image: NDArray[np.uint8], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Scale an image to 0 to 1, take off the mean and divide by the standard deviation.

    Args:
        image: (h, w, 3) uint8.
        mean: of red, green, blue, for values from 0 to 1.
        std: the standard deviations of the same.

    Returns:
        (3, h, w) float32.
    """
    # A table of 256 values a channel: quicker than arithmetic on every pixel, and the same values.
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    shift, scale = np.array(mean, np.float32), np.array(std, np.float32)
    table = (levels[None] - shift[:, None]) / scale[:, None]  # 3, 256
    return np.stack([np.take(table[c], image[:, :, c]) for c in range(3)])  # 3, h, w


def pad(
    images: Sequence[NDArray[np.float32]], rule: Preprocessing | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Put images into the upper left corners of one canvas, with zeros beyond.

    Args:
        images: one or more, each (3, h, w), normalised: the zeros stand for the mean colour.
        rule: how large the canvas is; beyond images there is black where it says `multiple`.

    Returns:
        Pixels (B, 3, H, W) and padding (B, H, W), True where an image has no pixel.
    """
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    pixels = np.zeros((len(images), 3, height, width), np.float32)
    if rule is not None and rule.multiple > 1:
        height, width = (-(-side // rule.multiple) * rule.multiple for side in (height, width))
        black = -np.array(rule.mean, np.float32) / np.array(rule.std, np.float32)
        pixels = np.tile(black[:, None, None], (len(images), 1, height, width))
    padding = np.ones((len(images), height, width), np.bool_)
    for index, image in enumerate(images):
        _, h, w = image.shape
        pixels[index, :, :h, :w] = image
        padding[index, :h, :w] = False
    return pixels, padding


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
