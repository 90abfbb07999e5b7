"""Images as the model sees them: whole or in tiles, resized, and those of one size together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.images.preprocess import Preprocessing
from panodetr.images.read import ImageSource, copy_pixels, open_image
from panodetr.images.resize import image_size, resize, resized_size
from panodetr.results.types import Box

BATCH_PIXELS = 1 << 20
"""Views of one size run together up to this many pixels; a larger one runs alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TiledImage:
    """An image, and the tiles that cover it, often a single one.

    Attributes:
        held: as it was opened, by Pillow or in an array; where it was given as an RGB image, that
            image, to which nothing else may happen meanwhile.
        source: its path, None for an image that came from no file.
        tiles: of the whole image.
    """

    held: Image.Image | NDArray[np.uint8]
    source: Path | None
    tiles: list[Box]

    def kept(self) -> TiledImage:
        """Give the same image, which stays what it is whatever becomes of what it was read from."""
        if self.source is not None or not isinstance(self.held, Image.Image):
            return self  # it is nobody else's
        return replace(self, held=self.held.copy())

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """All of it (H, W, 3); copied when it is first asked for."""
        return copy_pixels(self.held) if isinstance(self.held, Image.Image) else self.held

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return image_size(self.held)


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One input of the model.

    Attributes:
        image: which of the images it is of.
        box: the tile of that image.
        pixels: the tile, resized to (h, w, 3).
    """

    image: int
    box: Box
    pixels: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as the model's input."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width in the image."""
        return _tile_size(self.box)


def read_tiled(image: ImageSource, rule: Preprocessing) -> TiledImage:
    """Read an image and lay its tiles.

    Raises:
        ImageError: it cannot be read.
    """
    held = open_image(image)
    path = Path(os.fsdecode(image)) if isinstance(image, str | os.PathLike) else None
    return TiledImage(held=held, source=path, tiles=lay_tiles(image_size(held), rule))


def lay_tiles(size: tuple[int, int], rule: Preprocessing) -> list[Box]:
    """Lay the tiles that cover an image of a size (H, W), one where it is seen as a whole."""
    return tile_boxes(size, rule.tile or max(size), rule.tile_overlap)


def view_batches(images: Sequence[TiledImage], rule: Preprocessing) -> Iterator[list[View]]:
    """Cut images into views, and put those of one size together, up to `BATCH_PIXELS`.

    No view is ever padded, so that an image gives the same whatever images stand beside it. The
    views of one image come in the order of its tiles. A batch is cut when it is asked for: all
    views of an image in tiles that overlap are many times as large as the image.
    """
    by_size: dict[tuple[int, int], list[tuple[int, Box]]] = {}
    for index, image in enumerate(images):
        for box in image.tiles:
            by_size.setdefault(processed_size(_tile_size(box), rule), []).append((index, box))
    for (height, width), together in sorted(by_size.items()):
        at_once = max(1, BATCH_PIXELS // (height * width))
        for start in range(0, len(together), at_once):
            some = together[start : start + at_once]
            yield [cut_view(images[index], box, rule, index) for index, box in some]


def cut_view(image: TiledImage, box: Box, rule: Preprocessing, index: int = 0) -> View:
    """Cut one of an image's tiles and resize it; `index` is the image's among others."""
    y0, x0, y1, x1 = box
    pixels = image.held if image.tiles == [box] else image.pixels[y0:y1, x0:x1]
    size = processed_size(_tile_size(box), rule)
    return View(image=index, box=box, pixels=resize(pixels, size))


def processed_size(size: tuple[int, int], rule: Preprocessing) -> tuple[int, int]:
    """Give the height and width that the model sees an image, or a tile, of a size (H, W) in."""
    if rule.short_side is None:
        height, width = (max(1, round(side * rule.enlarge)) for side in size)
        return height, width
    return resized_size(size, rule.short_side, rule.long_side)


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
