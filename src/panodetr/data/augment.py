"""Random views of a photo and its id map, always changed together. NumPy and Pillow only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from panodetr.images.resize import resize

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class CropAugmentation:
    """Square crops at about the photo's own resolution.

    For photos larger than what the model sees at once.

    Attributes:
        size: pixels a side of what comes out; a photo that is smaller gives smaller crops.
        least_scale: the strongest shrinking of the photo's own pixels, 1 for none.
        most_scale: the strongest enlarging.
        flip: whether to flip left-right and top-bottom, each half of the time, and swap rows and
            columns.
        color: how far brightness, contrast and each channel's gain may go, as a fraction.
    """

    size: int
    least_scale: float = 1.0
    most_scale: float = 1.0
    flip: bool = True
    color: float = 0.0

    def __post_init__(self) -> None:
        """Refuse ranges that hold nothing.

        Raises:
            ValueError: a size or scale is not positive, or the range is upside down.
        """
        if self.size < 1 or not 0 < self.least_scale <= self.most_scale or not 0 <= self.color < 1:
            raise ValueError(
                f"augmentation size {self.size}, scales {self.least_scale} to {self.most_scale}, "
                f"color {self.color}; "
                "expected a positive size, 0 < least_scale <= most_scale, and 0 <= color < 1"
            )


def augment(
    photo: NDArray[np.uint8],
    ids: NDArray[np.int32],
    config: CropAugmentation,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A random crop, scaled, flipped and recoloured.

    Args:
        photo: (H, W, 3).
        ids: (H, W), the id map of the same pixels.
        config: the ranges.
        rng: where all randomness comes from.

    Returns:
        Photo (h, w, 3) and id map (h, w), at most `config.size` a side.
    """
    scale = np.exp(rng.uniform(np.log(config.least_scale), np.log(config.most_scale)))
    window = (
        min(round(config.size / scale), photo.shape[0]),
        min(round(config.size / scale), photo.shape[1]),
    )
    top, left = (
        int(rng.integers(0, side - part + 1))
        for side, part in zip(photo.shape, window, strict=False)
    )
    rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
    size = (min(config.size, round(window[0] * scale)), min(config.size, round(window[1] * scale)))
    photo, ids = resize_both(photo[rows, columns], ids[rows, columns], size)
    if config.flip:
        photo, ids = flip(photo, ids, rng)
    if config.color:
        photo = recolor(photo, config.color, rng)
    return photo, ids


def resize_both(
    photo: NDArray[np.uint8], ids: NDArray[np.int32], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Photo and id map at another size (h, w).

    The photo is smoothed; an id is that of the pixel below the new pixel's centre.
    """
    if ids.shape == size:
        return photo, ids
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.intp)
        for new, old in zip(size, ids.shape, strict=True)
    )
    return resize(photo, size), ids[rows[:, None], columns]


def flip(
    photo: NDArray[np.uint8], ids: NDArray[np.int32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """One of the eight ways to lay down a square, all equally likely."""
    left_right, top_bottom, swap = rng.integers(0, 2, 3)
    if left_right:
        photo, ids = photo[:, ::-1], ids[:, ::-1]
    if top_bottom:
        photo, ids = photo[::-1], ids[::-1]
    if swap:
        photo, ids = photo.transpose(1, 0, 2), ids.T
    return np.ascontiguousarray(photo), np.ascontiguousarray(ids)


def recolor(photo: NDArray[np.uint8], most: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The photo with another brightness, contrast and gain of each channel.

    It goes through one table a channel, which is faster than arithmetic on every pixel.
    """
    contrast, brightness = 1 + rng.uniform(-most, most), 255 * rng.uniform(-most, most) / 2
    gains = 1 + rng.uniform(-most, most, 3) / 2
    mean = photo.mean()
    levels = (np.arange(256)[:, None] - mean) * contrast + mean + brightness
    table = np.clip(levels * gains, 0, 255).round().astype(np.uint8)  # 256, 3
    return table[photo, np.arange(3)]
