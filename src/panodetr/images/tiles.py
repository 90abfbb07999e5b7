"""Where the tiles of a large image lie."""

from __future__ import annotations

from panodetr.results.types import Box


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
