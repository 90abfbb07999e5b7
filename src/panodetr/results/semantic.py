"""One class a pixel, without telling objects apart.

Q: queries, C: real classes, h, w: pixels of a mask, H, W: pixels of the result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from panodetr.results.decode import softmax
from panodetr.results.grow import Grid, highest
from panodetr.results.panoptic import ClassSegment, measure_segments

_LOWEST = np.float32(-80)  # exp(80) is a float32 still; the sigmoid of less is 0 for any purpose


def classify_pixels(
    logits: NDArray[np.float32],
    masks: NDArray[np.float32],
    named: NDArray[np.bool_],
    size: tuple[int, int],
) -> tuple[NDArray[np.int32], list[ClassSegment]]:
    """Give every pixel the class that all queries together make likeliest there.

    As transformers does: a class's value at a pixel is the sum, over all queries, of the
    probability of the class times that of the mask. Values grow bilinearly to `size`, where the
    highest wins; the growing is done only where winners meet (`results.grow`).

    Args:
        logits: (Q, C + 1), "no object" last.
        masks: (Q, h, w) logits of all queries, over the image alone, without padding.
        named: (C,), the classes to choose from.
        size: height and width of the result.

    Returns:
        Ids (H, W), from 1 in the order of the classes, one for each class that was found; and
        what they stand for. A segment's score is the best that any query gives its class.
    """
    classes = np.flatnonzero(named)
    probabilities = softmax(logits)[:, classes]  # Q, named
    where = 1 / (1 + np.exp(-np.maximum(masks, _LOWEST)))  # Q, h, w
    values = np.tensordot(probabilities, where, axes=(0, 0)).astype(np.float32)  # named, h, w
    winner = highest(values, Grid.between(masks.shape[1:], size, size))  # H, W
    found = np.flatnonzero(np.bincount(winner.ravel(), minlength=len(classes)))
    new_id = np.zeros(len(classes), np.int32)
    new_id[found] = np.arange(1, len(found) + 1)
    segment_ids = new_id.take(winner)
    measured = measure_segments(segment_ids, len(found))
    segments = [
        ClassSegment(
            id=number,
            class_index=int(classes[place]),
            is_thing=False,  # objects are not told apart: tiles are joined as stuff is
            score=float(probabilities[:, place].max()),
            area=area,
            box=box,
        )
        for number, (place, (area, box)) in enumerate(zip(found, measured, strict=True), start=1)
    ]
    return segment_ids, segments
