"""How an image becomes the model's input: its size, its tiles, its mean and deviation.

B: images, H, W: pixels of the canvas, h, w: pixels of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from panodetr.validation import check_fields

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_Deviation: TypeAlias = Annotated[float, Meta(gt=0)]
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
    mean: tuple[float, float, float] = IMAGENET_MEAN
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
