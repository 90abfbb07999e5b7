"""Images as the model sees them: whole or in tiles, resized, and those of one size together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from panodetr.errors import ImageWarning
from panodetr.images.preprocess import Preprocessing
from panodetr.images.read import ImageSource, origin_of, read_image
from panodetr.images.resize import resize, resized_size
from panodetr.results.types import Box

BATCH_PIXELS = 1 << 20
"""Views of one size run together up to this many pixels; a larger one runs alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TiledImage:
    """An image, and the tiles that cover it, often a single one.

    Attributes:
        pixels: all of it (H, W, 3).
        source: its path, or the name of a `NamedImage`; None for an image that has neither.
        tiles: of the whole image.
    """

    pixels: NDArray[np.uint8]
    source: Path | str | None
    tiles: list[Box]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One input of the model.

    Attributes:
        image: which of the images it is of.
        box: the tile of that image.
        pixels: the tile, resized, in the upper left corner of a black canvas.
        size: height and width of the resized tile.
    """

    image: int
    box: Box
    pixels: NDArray[np.uint8]
    size: tuple[int, int]

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width as the model's input."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width in the image."""
        return _tile_size(self.box)


def warn(text: str) -> None:
    """Warn of an image in one line."""
    warnings.warn(text, ImageWarning, stacklevel=2)


def read_tiled(image: ImageSource, rule: Preprocessing) -> TiledImage:
    """Read an image and lay its tiles.

    Raises:
        ImageError: it cannot be read.
    """
    pixels = read_image(image, bits=rule.bits, channels=rule.channels, note=warn)
    height, width, _ = pixels.shape
    tiles = lay_tiles((height, width), rule)
    return TiledImage(pixels=pixels, source=origin_of(image), tiles=tiles)


def lay_tiles(size: tuple[int, int], rule: Preprocessing) -> list[Box]:
    """Lay the tiles that cover an image of a size (H, W), one where it is seen as a whole."""
    return tile_boxes(size, rule.tile or max(size), rule.tile_overlap)


def view_batches(
    images: Sequence[TiledImage], rule: Preprocessing, streams: int = 1
) -> Iterator[list[View]]:
    """Cut images into views, and put those of one size together, up to `BATCH_PIXELS`.

    Batches that run side by side, in so many streams, share these pixels. No view is padded for
    another's sake, so that an image gives the same whatever images stand beside it. The views of
    one image come in the order of its tiles. A batch is cut when it is asked for: all views of an
    image in tiles that overlap are many times as large as the image.
    """
    by_size: dict[tuple[int, int], list[tuple[int, Box]]] = {}
    for index, image in enumerate(images):
        for box in image.tiles:
            by_size.setdefault(processed_size(_tile_size(box), rule), []).append((index, box))
    for (height, width), together in sorted(by_size.items()):
        shared = -(-len(together) // streams)  # rounded up
        at_once = max(1, min(BATCH_PIXELS // streams // (height * width), shared))
        for start in range(0, len(together), at_once):
            some = together[start : start + at_once]
            yield [cut_view(images[index], box, rule, index) for index, box in some]


def cut_view(image: TiledImage, box: Box, rule: Preprocessing, index: int = 0) -> View:
    """Cut one of an image's tiles and resize it; `index` is the image's among others."""
    y0, x0, y1, x1 = box
    size = processed_size((y1 - y0, x1 - x0), rule)
    pixels = resize(image.pixels[y0:y1, x0:x1], size)
    canvas = tuple(-(-side // rule.multiple) * rule.multiple for side in size)
    if canvas != size:
        whole = np.zeros((*canvas, 3), np.uint8)
        whole[: size[0], : size[1]] = pixels
        pixels = whole
    return View(image=index, box=box, pixels=pixels, size=size)


def processed_size(size: tuple[int, int], rule: Preprocessing) -> tuple[int, int]:
    """Give the height and width that the model sees an image, or a tile, of a size (H, W) in."""
    if rule.short_side is None:
        height, width = (max(1, round(side * rule.enlarge)) for side in size)
        return height, width
    if rule.multiple == 1:
        return resized_size(size, rule.short_side, rule.long_side)
    # As EoMT's original: to fill the canvas, the long side must be exactly so.
    scale = min(rule.short_side / min(size), (rule.long_side or math.inf) / max(size))
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def most_streams(rule: Preprocessing) -> int:
    """Give how many views of the largest size under a rule have `BATCH_PIXELS` together."""
    if rule.tile is not None:
        height, width = processed_size((rule.tile, rule.tile), rule)
    elif rule.short_side is not None and rule.long_side is not None:
        height, width = rule.short_side, rule.long_side
    else:
        return 1  # the image itself says how large it is
    return max(1, BATCH_PIXELS // (height * width))


def _tile_size(box: Box) -> tuple[int, int]:
    y0, x0, y1, x1 = box
    return y1 - y0, x1 - x0


def tile_boxes(size: tuple[int, int], tile: int, overlap: int) -> list[Box]:
    """Cover an image with the fewest square tiles that overlap enough, evenly spread.

    Args:
        size: height and width of the image.
        tile: side of a tile; an image that is smaller in one direction has tiles as low or narrow.
        overlap: pixels that neighbours share at least, 0 to `tile` - 1.

    Returns:
        Boxes of one size, row by row; a single one, of the whole image, where that fits a tile.
    """
    height, width = size
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    tall, wide = min(tile, height), min(tile, width)
    return [(y, x, y + tall, x + wide) for y in rows for x in columns]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    if length <= tile:
        return [0]
    steps = -((tile - length) // (tile - overlap))  # rounded up
    # Starts are cut to whole pixels: no step is above the mean one rounded up, tile - overlap.
    return [index * (length - tile) // steps for index in range(steps + 1)]
