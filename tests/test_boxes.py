from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from panodetr.boxes import cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh

GRID = 12
spans = st.tuples(st.integers(0, GRID - 1), st.integers(1, GRID)).map(
    lambda span: (span[0], min(GRID, span[0] + span[1]))
)
whole_boxes = st.tuples(spans, spans).map(lambda s: [s[0][0], s[1][0], s[0][1], s[1][1]])


def tensor(*boxes: list[int]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float64)


def pixels(box: list[int]) -> Tensor:
    """The pixels of a grid that a box of whole numbers covers."""
    canvas = torch.zeros(GRID, GRID, dtype=torch.bool)
    canvas[box[1] : box[3], box[0] : box[2]] = True
    return canvas


@given(st.lists(whole_boxes, min_size=1, max_size=4))
def test_formats_go_both_ways(boxes: list[list[int]]) -> None:
    assert xyxy_to_cxcywh(tensor([2, 4, 8, 6])).tolist() == [[5, 5, 6, 2]]
    corners = tensor(*boxes)
    assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(corners)), corners)
    assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(corners)), corners)


@given(whole_boxes, whole_boxes)
def test_overlaps_are_those_of_the_pixels(a: list[int], b: list[int]) -> None:
    hull = pixels([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    both, either = pixels(a) & pixels(b), pixels(a) | pixels(b)
    iou = (both.sum() / either.sum()).item()
    expected = iou - ((hull & ~either).sum() / hull.sum()).item()
    found = generalized_iou(tensor(a), tensor(b))
    assert found.item() == pytest.approx(expected, abs=1e-6)
    assert_close(found, generalized_iou(tensor(b), tensor(a)))
    assert generalized_iou(tensor(a), tensor(a)).item() == 1


@given(whole_boxes, whole_boxes, st.floats(0.01, 100), st.floats(-50, 50))
def test_generalized_iou_has_no_unit_and_no_origin(
    a: list[int], b: list[int], scale: float, shift: float
) -> None:
    moved = generalized_iou(tensor(a) * scale + shift, tensor(b) * scale + shift)
    assert_close(moved, generalized_iou(tensor(a), tensor(b)), atol=1e-6, rtol=0)
