"""Masks of single objects, which may overlap: the original's instance segmentation.

N: masks, h, w: pixels of a coarse mask, H, W: pixels of the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from panodetr.results.grow import Axis
from panodetr.results.panoptic import SMALLEST_AREA, ClassSegment, measure_segments


def grow_mask(
    logits: NDArray[np.float32], processed_size: tuple[int, int], target_size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Grow one mask to the image's size and say where the object is.

    As in the original: bilinear to the processed size, true where the sigmoid is above one half,
    then the nearest pixel. Only the pixels that are picked at the end are interpolated.

    Args:
        logits: (h, w) over the image alone, without padding.
        processed_size: height and width that the image had as the model's input.
        target_size: height and width of the result, (H, W).
    """
    rows, columns = (
        Axis.at(_nearest(processed, target), length, processed)
        for length, processed, target in zip(logits.shape, processed_size, target_size, strict=True)
    )
    above, below = (logits[ends] for ends in rows.ends(rows.cell))  # H, w
    tall = above + rows.weight[:, None] * (below - above)
    left, right = (tall[:, ends] for ends in columns.ends(columns.cell))  # H, W
    return left + columns.weight * (right - left) > 0  # the sigmoid is above one half


def paint_instances(
    masks: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    processed_size: tuple[int, int],
    target_size: tuple[int, int],
) -> tuple[NDArray[np.int32], list[ClassSegment]]:
    """Paint the masks of things onto one map, the best score on top.

    Each mask is the original's (`grow_mask`); where several claim a pixel the best score has it,
    and what no mask claims stays empty. An instance of which 4 pixels or fewer are to be seen is
    dropped, and leaves its pixels empty.

    Args:
        masks: (N, h, w) logits.
        scores: (N,).
        classes: (N,) class indices, of things.
        processed_size: height and width that the image had as the model's input.
        target_size: height and width of the result.

    Returns:
        Segment ids (H, W), from 1 in the order of falling scores, 0 = nothing; and the segments.
    """
    order = np.argsort(-scores, kind="stable")
    painted = np.zeros(target_size, np.int32)
    for place in range(len(order), 0, -1):
        painted[grow_mask(masks[order[place - 1]], processed_size, target_size)] = place
    areas = np.bincount(painted.ravel(), minlength=len(order) + 1)[1:]
    seen = np.flatnonzero(areas >= SMALLEST_AREA)
    new_id = np.zeros(len(order) + 1, np.int32)
    new_id[seen + 1] = np.arange(1, len(seen) + 1)
    segment_ids = new_id.take(painted)
    return segment_ids, _segments(segment_ids, scores[order[seen]], classes[order[seen]])


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask as COCO's uncompressed run lengths: down the columns, empty pixels first."""
    pixels = np.asfortranarray(mask).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate([[0], changes, [pixels.size]])
    lengths: list[int] = np.diff(edges).tolist()
    return [0, *lengths] if pixels[0] else lengths


def _segments(
    segment_ids: NDArray[np.int32], scores: NDArray[np.float32], classes: NDArray[np.intp]
) -> list[ClassSegment]:
    return [
        ClassSegment(
            id=number,
            class_index=int(class_index),
            is_thing=True,
            score=float(score),
            area=area,
            box=box,
        )
        for number, (class_index, score, (area, box)) in enumerate(
            zip(classes, scores, measure_segments(segment_ids, len(scores)), strict=True), start=1
        )
    ]


def _nearest(processed: int, target: int) -> NDArray[np.intp]:
    """Pick the nearest rows as torch does: by their upper edges, in float32, unlike Pillow."""
    scale = np.float32(processed) / np.float32(target)
    rows = np.floor(np.arange(target, dtype=np.float32) * scale).astype(np.intp)
    return np.minimum(rows, processed - 1)
