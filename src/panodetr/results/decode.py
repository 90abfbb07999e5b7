"""From the model's logits and boxes to scores, classes and boxes in pixels.

Q: queries, C: real classes; the last of the C + 1 logits is "no object".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn logits into probabilities over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def boxes_in_pixels(boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Turn boxes (Q, 4) from cx, cy, w, h in 0 to 1 into x0, y0, x1, y1 in pixels of `size` (h, w).

    Boxes are not clipped: the model may put a side outside the image.
    """
    height, width = size
    center, extent = boxes[:, :2], boxes[:, 2:]
    corners = np.concatenate([center - extent / 2, center + extent / 2], axis=1)  # Q, 4
    scale = np.array([width, height, width, height], np.float32)
    return (corners * scale).astype(np.float32)


def decode_detections(
    logits: NDArray[np.float32],
    boxes: NDArray[np.float32],
    size: tuple[int, int],
    named: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.float32]]:
    """Give every query its best real class, as the original does for box AP.

    "No object" takes its share of the probability and is then left out: no query is dropped, and
    a query that found nothing has low scores.

    Args:
        logits: (Q, C + 1).
        boxes: (Q, 4) cx, cy, w, h in 0 to 1.
        size: height and width of the image that the boxes are wanted in.
        named: (C,), the classes that the data knows; others keep their share of the probability,
            and are never chosen. None: all.

    Returns:
        Scores (Q,), classes (Q,) and boxes (Q, 4) x0, y0, x1, y1 in pixels.
    """
    probabilities = softmax(logits)[:, :-1]  # Q, C
    if named is not None:
        probabilities = np.where(named, probabilities, np.float32(-1))
    classes = probabilities.argmax(axis=1)
    scores = np.take_along_axis(probabilities, classes[:, None], axis=1)[:, 0]
    return scores, classes, boxes_in_pixels(boxes, size)
