"""What all queries say of an image, put together from its tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from panodetr.results.repeats import drop_repeats
from panodetr.results.types import Box, Candidates, Category, CoarseMask


@dataclass(frozen=True, kw_only=True, eq=False)
class TileCandidates:
    """Queries of one tile.

    Attributes:
        tile: where it lies.
        processed_size: height and width that it had as the model's input.
        scores: (N,).
        classes: (N,) class indices.
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the tile.
        masks: (N, h, w) logits, or None where masks were not asked for.
    """

    tile: Box
    processed_size: tuple[int, int]
    scores: NDArray[np.float32]
    classes: NDArray[np.intp]
    boxes: NDArray[np.float32]
    masks: NDArray[np.float32] | None


def join_candidates(
    tiles: Sequence[TileCandidates],
    size: tuple[int, int],
    by_index: Mapping[int, Category],
    duplicate_iou: float | None = None,
) -> Candidates:
    """Put the queries of an image's tiles together, in the order of the tiles.

    What several tiles have found is given once, and what several queries have found where the
    model is known to do so (`drop_repeats`).

    Args:
        tiles: of one image.
        size: height and width of the image.
        by_index: the categories of the classes that occur.
        duplicate_iou: above it, boxes of one tile and class are one object; None never.
    """
    places = np.array([tile.tile for tile in tiles])  # T, 4
    corners = places[:, [1, 0, 1, 0]].astype(np.float32)  # T, 4: x0, y0 of each tile, twice
    boxes = np.concatenate([t.boxes + corner for t, corner in zip(tiles, corners, strict=True)])
    scores = np.concatenate([tile.scores for tile in tiles])
    classes = np.concatenate([tile.classes for tile in tiles])
    kept = np.arange(len(scores))
    if len(tiles) > 1 or duplicate_iou is not None:
        owner = np.repeat(np.arange(len(tiles)), [len(tile.scores) for tile in tiles])
        kept = drop_repeats(boxes, scores, classes, owner, places, size, duplicate_iou)
    masks = [
        CoarseMask(
            logits=logits,
            processed_size=tile.processed_size,
            tile=tile.tile,
            image_size=size,
        )
        for tile in tiles
        if tile.masks is not None
        for logits in tile.masks
    ]
    return Candidates(
        scores=scores[kept],
        category_ids=np.array([by_index[c].id for c in classes[kept].tolist()], np.int64),
        boxes=boxes[kept],
        image_size=size,
        coarse_masks=tuple(masks[index] for index in kept) if masks else (),
    )
