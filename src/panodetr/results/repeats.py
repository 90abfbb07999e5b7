"""Boxes of one image, found in overlapping tiles or by several queries: each object once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SAME = 0.5  # IoU above which boxes of two tiles are one object, as for masks in `results.tiles`
_NEAR = 2  # pixels: a box that ends so close to a tile's inner border counts as cut by it


def drop_repeats(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    tiles: NDArray[np.intp],
    tile_boxes: NDArray[np.intp],
    size: tuple[int, int],
    duplicate_iou: float | None = None,
) -> NDArray[np.intp]:
    """Keep one box of each object that several tiles have found.

    The best score is kept first; the score of a box that an inner border of its tile cuts counts
    half, since a neighbour may have seen all of the object. A box goes when a kept one of another
    tile and the same class overlaps it by an IoU above one half, or, of a cut box, covers more
    than half. Boxes of one tile do not compete, since the model has already made them a set, unless
    `duplicate_iou` says that it hasn't. An object that no tile sees whole stays in parts; masks are
    what joins those (`results.tiles`).

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the image.
        scores: (N,).
        classes: (N,).
        tiles: (N,), the tile of each box.
        tile_boxes: (T, 4) y0, x0, y1, x1, all tiles of the image.
        size: height and width of the image.
        duplicate_iou: above it, boxes of one tile and class are one object, too; None never.

    Returns:
        Indices of the boxes that are kept, rising.
    """
    cut = _cut(boxes, tile_boxes[tiles], size)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    waiting = np.ones(len(boxes), np.bool_)
    kept: list[int] = []
    for index in np.argsort(-np.where(cut, scores / 2, scores), kind="stable").tolist():
        if not waiting[index]:
            continue
        kept.append(index)
        waiting[index] = False
        others = np.flatnonzero(waiting & (classes == classes[index]))
        elsewhere = tiles[others] != tiles[index]
        low = np.maximum(boxes[others, :2], boxes[index, :2])
        high = np.minimum(boxes[others, 2:], boxes[index, 2:])
        common = np.clip(high - low, 0, None).prod(axis=1)
        most = np.where(elsewhere, _SAME, np.inf if duplicate_iou is None else duplicate_iou)
        same = common > most * (area[others] + area[index] - common)
        part = elsewhere & cut[others] & (2 * common > area[others])
        waiting[others[same | part]] = False
    return np.array(sorted(kept), np.intp)


def _cut(
    boxes: NDArray[np.float32], tiles: NDArray[np.intp], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Say which boxes (N, 4) end at a border of their tile (N, 4) that lies within the image."""
    y0, x0, y1, x1 = tiles.T
    height, width = size
    return (
        ((boxes[:, 0] < x0 + _NEAR) & (x0 > 0))
        | ((boxes[:, 1] < y0 + _NEAR) & (y0 > 0))
        | ((boxes[:, 2] > x1 - _NEAR) & (x1 < width))
        | ((boxes[:, 3] > y1 - _NEAR) & (y1 < height))
    )
