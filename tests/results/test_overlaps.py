from __future__ import annotations

import numpy as np
import pytest
import torch

from panodetr.boxes import cxcywh_to_xyxy, iou_and_union
from panodetr.results.overlaps import paired_box_iou, paired_mask_iou


def test_boxes_overlap_as_the_models_own_boxes_do() -> None:
    random = np.random.default_rng(0)
    a, b = random.uniform(0.2, 0.6, (2, 50, 4)).astype(np.float32)
    expected, _ = iou_and_union(*(cxcywh_to_xyxy(torch.from_numpy(boxes)) for boxes in (a, b)))
    np.testing.assert_allclose(paired_box_iou(a, b), expected.numpy(), atol=1e-5)
    assert 0.05 < paired_box_iou(a, b).mean() < 0.95


def test_boxes_apart_or_without_area_do_not_overlap() -> None:
    a = np.array([[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0, 0]], np.float32)
    b = np.array([[0.8, 0.8, 0.1, 0.1], [0.5, 0.5, 0, 0]], np.float32)
    assert paired_box_iou(a, b).tolist() == [0, 0]
    assert paired_box_iou(a[:0], b[:0]).shape == (0,)


def test_masks_overlap_where_both_are_above_zero() -> None:
    a = np.full((3, 4, 4), -1, np.float32)
    b = a.copy()
    a[0, :2], b[0, 1:3] = 5, 0.1
    a[1] = 1
    assert paired_mask_iou(a, b).tolist() == [pytest.approx(1 / 3), 0, 1]  # empty: the same
    assert paired_mask_iou(a[:0], b[:0]).shape == (0,)
