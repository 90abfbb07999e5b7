"""One view of an image: a window of it, laid down at some size, perhaps mirrored.

Image, id map and boxes go through the same few numbers, so they cannot come apart. NumPy and Pillow
only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pixel = TypeVar("Pixel", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class View:
    """Where a view lies in its image, and how it is laid down.

    Attributes:
        window: y0, x0, y1, x1 in pixels of the image, within it; fractions of pixels are allowed.
        size: height and width that the window is resized to.
        mirror: left and right are exchanged.
        upside_down: top and bottom are exchanged.
        swap: at last rows and columns are exchanged.
    """

    window: tuple[float, float, float, float]
    size: tuple[int, int]
    mirror: bool = False
    upside_down: bool = False
    swap: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        return (self.size[1], self.size[0]) if self.swap else self.size

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Show an image (H, W, 3): bilinear, antialiased where it shrinks."""
        y0, x0, y1, x1 = self.window
        top, left = floor(y0), floor(x0)
        part = image[top : ceil(y1), left : ceil(x1)]
        within = (x0 - left, y0 - top, x1 - left, y1 - top)
        if part.shape[:2] != self.size or within != (0, 0, self.size[1], self.size[0]):
            height, width = self.size
            picture = Image.fromarray(part).resize(
                (width, height), Image.Resampling.BILINEAR, box=within
            )
            part = np.asarray(picture)
        return np.ascontiguousarray(self._turn(part))

    def ids(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Show an id map (H, W): an id is that of the pixel below the new pixel's centre."""
        y0, x0, y1, x1 = self.window
        rows = _centers(y0, y1, self.size[0], ids.shape[0])
        columns = _centers(x0, x1, self.size[1], ids.shape[1])
        return np.ascontiguousarray(self._turn(ids[rows[:, None], columns]))

    def boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Show boxes (N, 4), x0, y0, x1, y1 in pixels, clipped to the view: some may be empty."""
        y0, x0, y1, x1 = self.window
        height, width = self.size
        scale = np.array([width / (x1 - x0), height / (y1 - y0)] * 2)
        shown = (boxes - np.array([x0, y0, x0, y0])) * scale
        shown = np.clip(shown, 0, np.array([width, height, width, height]))
        if self.mirror:
            shown[:, [0, 2]] = width - shown[:, [2, 0]]
        if self.upside_down:
            shown[:, [1, 3]] = height - shown[:, [3, 1]]
        if self.swap:
            shown = shown[:, [1, 0, 3, 2]]
        return shown.astype(np.float32)

    def _turn(self, pixels: NDArray[Pixel]) -> NDArray[Pixel]:
        if self.mirror:
            pixels = pixels[:, ::-1]
        if self.upside_down:
            pixels = pixels[::-1]
        return pixels.swapaxes(0, 1) if self.swap else pixels


def _centers(start: float, stop: float, count: int, limit: int) -> NDArray[np.intp]:
    """The pixels below the centres of `count` equal parts of a range within 0 to `limit`."""
    places = start + (np.arange(count) + 0.5) * ((stop - start) / count)
    return np.minimum(places.astype(np.intp), limit - 1)
