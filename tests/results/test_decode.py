from __future__ import annotations

import numpy as np
import pytest
import torch

from panodetr.results.decode import (
    best_classes,
    drop_duplicates,
    keep_queries,
    paired_box_iou,
    paired_mask_iou,
    scale_boxes,
    softmax,
    suppress_non_maxima,
)


def test_softmax_is_torchs_and_does_not_overflow() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32) * 100
    expected = torch.from_numpy(logits).softmax(-1).numpy()
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-6)


def test_every_query_gets_its_best_real_class() -> None:
    logits = np.array([[1, 3, 2, 9], [5, 0, 0, 0]], np.float32)  # first "no object" above all
    boxes = np.array([[0.5, 0.5, 1, 1], [0.25, 0.75, 0.5, 0.1]], np.float32)
    queries, scores, classes = best_classes(logits)
    assert queries.tolist() == [0, 1]
    assert classes.tolist() == [1, 0]
    np.testing.assert_allclose(scores, softmax(logits)[[0, 1], [1, 0]])
    corners = scale_boxes(boxes, (100, 200))
    np.testing.assert_allclose(corners, [[0, 0, 200, 100], [0, 70, 100, 80]], atol=1e-4)
    queries, scores, classes = best_classes(logits[:0])
    assert queries.shape == scores.shape == classes.shape == (0,)
    assert scale_boxes(boxes[:0], (10, 10)).shape == (0, 4)


def test_kept_queries_are_real_classes_above_the_threshold() -> None:
    half = np.log(np.array([0.5, 0.25, 0.25], np.float32))
    logits = np.array([[0, 9, 0], [0, 0, 9], half, [3, 0, 0]], np.float32)
    queries, scores, classes = keep_queries(logits, float(np.exp(half[0])))
    assert queries.tolist() == [0, 3]  # "no object" is out, and so is the score at the threshold
    assert classes.tolist() == [1, 0]
    assert (scores > 0.5).all()


def test_of_two_masks_of_one_object_the_better_one_is_kept() -> None:
    masks = np.full((4, 8, 8), -1, np.float32)
    masks[0, :4] = 1  # the same object as 1
    masks[1, :4, :7] = 1
    masks[2, 4:] = 1  # another place
    masks[3, :4] = 1  # another class
    scores = np.array([0.6, 0.9, 0.5, 0.7], np.float32)
    classes = np.array([0, 0, 0, 1])
    assert drop_duplicates(masks, scores, classes, 0.5).tolist() == [1, 2, 3]
    assert drop_duplicates(masks, scores, classes, 0.9).tolist() == [0, 1, 2, 3]
    assert drop_duplicates(masks[:0], scores[:0], classes[:0], 0.5).tolist() == []
    empty = np.full((2, 4, 4), -1, np.float32)
    assert drop_duplicates(empty, scores[:2], classes[:2], 0.5).tolist() == [0, 1]


LEFT, RIGHT = (0, 0, 100, 100), (0, 60, 100, 160)  # y0, x0, y1, x1: 40 pixels shared
SIZE = (100, 160)

Query = tuple[int, tuple[float, float, float, float], float, int]
"""Tile, box, score, class."""


FRAGMENT, WHOLE = (80.0, 10.0, 100.0, 30.0), (80.0, 10.0, 140.0, 30.0)
ONE, SAME = (70.0, 10.0, 90.0, 30.0), (71.0, 10.0, 91.0, 30.0)
BESIDE = (88.0, 10.0, 98.0, 30.0)


@pytest.mark.parametrize(
    ("found", "duplicate_iou", "kept"),
    [
        ([], None, []),
        # Of an object that both tiles saw the better score stays.
        ([(0, ONE, 0.8, 0), (1, SAME, 0.9, 0)], None, [1]),
        # Boxes of one tile compete only where the model needs it, those of two classes never.
        ([(0, ONE, 0.8, 0), (0, SAME, 0.9, 0)], None, [0, 1]),
        ([(0, ONE, 0.8, 0), (0, SAME, 0.9, 0), (0, BESIDE, 0.7, 0)], 0.5, [1, 2]),
        ([(0, ONE, 0.8, 0), (1, SAME, 0.9, 1)], None, [0, 1]),
        # A fragment gives way to the whole, also with the better score, but not to a doubtful one.
        ([(0, FRAGMENT, 0.95, 0), (1, WHOLE, 0.6, 0)], None, [1]),
        ([(0, FRAGMENT, 0.95, 0), (1, WHOLE, 0.05, 0)], None, [0, 1]),
        # A small object beside a large one is no fragment, and the image's own borders cut nothing.
        ([(0, (62, 5, 72, 15), 0.9, 0), (1, (62, 5, 130, 80), 0.8, 0)], None, [0, 1]),
        ([(0, (0, 0, 90, 100), 0.9, 0), (1, (62, 0, 95, 100), 0.8, 0)], None, [0, 1]),
    ],
)
def test_each_object_of_two_tiles_is_kept_once(
    found: list[Query], duplicate_iou: float | None, kept: list[int]
) -> None:
    tiles, boxes, scores, classes = ([query[place] for query in found] for place in range(4))
    got = suppress_non_maxima(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.intp),
        np.array(tiles, np.intp),
        np.array([LEFT, RIGHT], np.intp),
        SIZE,
        duplicate_iou,
    )
    assert got.tolist() == kept


def test_overlap_of_boxes_is_their_iou() -> None:
    a = np.array(
        [[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.2], [0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0, 0]],
        np.float32,
    )
    b = np.array(
        [[0.6, 0.6, 0.4, 0.4], [0.5, 0.5, 0.2, 0.4], [0.8, 0.8, 0.1, 0.1], [0.5, 0.5, 0, 0]],
        np.float32,
    )
    expected = [0.09 / 0.23, 0.04 / 0.12, 0, 0]  # the last has no area
    np.testing.assert_allclose(paired_box_iou(a, b), expected, atol=1e-5)
    assert paired_box_iou(a[:0], b[:0]).shape == (0,)


def test_masks_overlap_where_both_are_above_zero() -> None:
    a = np.full((3, 4, 4), -1, np.float32)
    b = a.copy()
    a[0, :2], b[0, 1:3] = 5, 0.1
    a[1] = 1
    assert paired_mask_iou(a, b).tolist() == [pytest.approx(1 / 3), 0, 1]  # empty: the same
    assert paired_mask_iou(a[:0], b[:0]).shape == (0,)
