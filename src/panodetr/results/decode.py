"""From the model's logits and boxes to scores, classes and boxes in pixels, each object once.

Q: queries, C: real classes; the last of the C + 1 logits is "no object". N: queries that are kept,
h, w: values of a mask, T: tiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SAME_OBJECT_IOU = 0.5
"""IoU above which boxes of two tiles are one object, as for masks in `panodetr.results.tiles`."""

NEAR_BORDER = 2
"""Pixels: a box that ends so close to a tile's inner border counts as cut by it."""

MOST_PAIRS = 100
"""Of queries and classes that an image has, where classes have probabilities of their own."""

_LOWEST = np.float32(-80)  # exp(80) is still a float32; the sigmoid of less is 0 for any purpose


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn logits into probabilities over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(
    logits: NDArray[np.float32], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Turn each logit into a probability by itself, in `out` if given, which may be `logits`."""
    values = np.maximum(logits, _LOWEST, out=out)
    values = np.exp(np.negative(values, out=values), out=values)
    return np.reciprocal(np.add(values, 1, out=values), out=values)


def best_classes(
    logits: NDArray[np.float32], named: NDArray[np.bool_] | None = None, *, apart: bool = False
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.intp]]:
    """Give every query its best real class, as the original does for box AP.

    "No object" takes its share of the probability and is then left out: no query is dropped, and
    a query that found nothing has low scores. Of classes with probabilities of their own the best
    100 of all queries are given, so that a query may have several or none (Conditional DETR).

    Args:
        logits: (Q, C + 1), or (Q, C) of classes `apart`.
        named: (C,), the classes that the data knows; others keep their share of the probability,
            and are never chosen. None: all.
        apart: whether classes have probabilities of their own (`DetrConfig.sigmoid`).

    Returns:
        Queries (N,), their scores (N,) and classes (N,).
    """
    if not apart:
        return np.arange(len(logits)), *_best(softmax(logits)[:, :-1], named)
    scores = sigmoid(logits) if named is None else np.where(named, sigmoid(logits), np.float32(-1))
    best = np.argsort(-scores, axis=None, kind="stable")[:MOST_PAIRS]
    queries, classes = np.unravel_index(best, scores.shape)
    return queries, scores[queries, classes], classes


def scale_boxes(boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Scale boxes (N, 4) cxcywh in fractions to x0, y0, x1, y1 in pixels of a size (H, W).

    They are not clipped: the model may put a side outside the image.
    """
    center, extent = boxes[:, :2], boxes[:, 2:]
    corners = np.concatenate([center - extent / 2, center + extent / 2], axis=1)  # N, 4
    height, width = size
    return (corners * np.array([width, height, width, height], np.float32)).astype(np.float32)


def keep_queries(
    logits: NDArray[np.float32],
    threshold: float | NDArray[np.float32],
    named: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.intp]]:
    """Find the queries that can become segments, so that no other mask needs computing.

    Args:
        logits: (Q, C + 1), "no object" last.
        threshold: scores up to and including it are dropped (the paper's 0.85); or (C,), each
            class's own.
        named: as for `best_classes`.

    Returns:
        Indices (N,) of the queries whose likeliest class is a real one and whose score is above
        `threshold`, in rising order; their scores (N,) and classes (N,).
    """
    scores, classes = _best(softmax(logits), None if named is None else np.append(named, True))
    nothing = logits.shape[1] - 1
    least = np.append(np.broadcast_to(threshold, nothing), np.inf).astype(np.float32)[classes]
    keep = np.flatnonzero(scores > least)
    return keep, scores[keep], classes[keep]


def _best(
    probabilities: NDArray[np.float32], choice: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Give the best class of each query and its score; `choice` says which may be chosen."""
    if choice is not None:
        probabilities = np.where(choice, probabilities, np.float32(-1))
    classes = probabilities.argmax(axis=1)
    return np.take_along_axis(probabilities, classes[:, None], axis=1)[:, 0], classes


def drop_duplicates(
    masks: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    most: float,
) -> NDArray[np.intp]:
    """Find the queries that stand for objects of their own.

    Not in the paper: a DETR that has seen few objects in training lets several queries answer for
    one, and they would share its pixels. The one with the highest score is kept.

    Args:
        masks: (N, h, w) logits, above 0 inside.
        scores: (N,).
        classes: (N,) class indices.
        most: greatest IoU of two masks of one class.

    Returns:
        Indices of the queries to keep, rising.
    """
    count, height, width = masks.shape
    inside = (masks > 0).reshape(count, height * width).astype(np.float32)
    both = inside @ inside.T  # N, N: pixels
    area = both.diagonal()
    # both / (area + area - both) > most, without dividing by empty masks
    same = both > most * (area[:, None] + area - both)
    same &= classes[:, None] == classes
    kept: list[int] = []
    for query in np.argsort(-scores, kind="stable").tolist():
        if not same[query, kept].any():
            kept.append(query)
    return np.sort(np.array(kept, np.intp))


def suppress_non_maxima(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    tiles: NDArray[np.intp],
    tile_boxes: NDArray[np.intp],
    size: tuple[int, int],
    duplicate_iou: float | None = None,
) -> NDArray[np.intp]:
    """Keep one box of each object that several tiles have found: non-maximum suppression.

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
    cut = np.count_nonzero(cut_borders(boxes, tile_boxes[tiles], size), axis=1) > 0
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    within = np.inf if duplicate_iou is None else duplicate_iou
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
        most = np.where(elsewhere, SAME_OBJECT_IOU, within)
        same = common > most * (area[others] + area[index] - common)
        part = elsewhere & cut[others] & (2 * common > area[others])
        waiting[others[same | part]] = False
    return np.array(sorted(kept), np.intp)


def cut_borders(
    boxes: NDArray[np.floating], tiles: NDArray[np.intp], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Say which borders of their tile (N, 4), or of one (1, 4), boxes (N, 4) end at.

    Returns:
        (N, 4), left, top, right and bottom; False for borders of the image, of `size` (H, W).
    """
    y0, x0, y1, x1 = tiles.T
    height, width = size
    inner = np.array([x0 > 0, y0 > 0, x1 < width, y1 < height]).T
    low, high = tiles[:, 1::-1], tiles[:, :1:-1]  # x and y
    within = np.concatenate([boxes[:, :2] - low, high - boxes[:, 2:]], axis=1)
    return inner & (within < NEAR_BORDER)


def paired_box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """IoU (N,) of boxes (N, 4) cxcywh, pair by pair; 0 for two without area."""
    both = np.stack([a, b]).astype(np.float64)  # 2, N, 4
    center, extent = both[..., :2], both[..., 2:]  # 2, N, 2
    low = (center - extent / 2).max(axis=0)  # N, 2
    high = (center + extent / 2).min(axis=0)  # N, 2
    common = np.clip(high - low, 0, None).prod(axis=1)
    union = extent.prod(axis=2).sum(axis=0) - common
    return common / np.maximum(union, np.finfo(np.float64).tiny)


def paired_mask_iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """IoU (N,) of masks (N, h, w), pair by pair, logits above 0 inside; two empty ones have 1."""
    mine, other = a > 0, b > 0
    common = (mine & other).sum(axis=(1, 2))
    either = (mine | other).sum(axis=(1, 2))
    return np.where(either > 0, common / np.maximum(either, 1), 1.0)
