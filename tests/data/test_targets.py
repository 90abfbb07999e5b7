from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from tests.data.whole import masks, panoptic_target

from panodetr.data.samples import GroundTruthSegment
from panodetr.data.targets import LEAST_AREA
from panodetr.results.types import Category

CATEGORIES = tuple(
    Category(index=i, id=10 * (i + 1), name=f"c{i}", is_thing=i == 0, color=(i, 0, 0))
    for i in range(3)
)


def segment(number: int, category: int = 10, *, is_crowd: bool = False) -> GroundTruthSegment:
    return GroundTruthSegment(id=number, category_id=category, area=1, is_crowd=is_crowd)


def test_classes_boxes_and_masks_of_a_small_map() -> None:
    ids = np.zeros((8, 10), np.int32)
    ids[1:4, 2:5] = 9_000_000
    ids[5:8, 0:10] = 4
    ids[6, 5] = 9_000_000  # an island: boxes span it
    target = panoptic_target(ids, [segment(9_000_000, 30), segment(4, 20)], CATEGORIES)
    assert target.segment_ids.tolist() == [4, 9_000_000]
    assert target.classes.tolist() == [1, 2]
    assert target.boxes.tolist() == [[0, 5, 10, 8], [2, 1, 6, 7]]
    assert (target.classes.dtype, target.boxes.dtype) == (np.int64, np.float32)
    assert masks(target).sum((1, 2)).tolist() == [29, 10]


def test_void_crowds_specks_and_absent_segments_are_no_targets() -> None:
    ids = np.zeros((8, 8), np.int32)
    ids[0] = 1  # a crowd
    ids[2, : LEAST_AREA - 1] = 2
    ids[4, :LEAST_AREA] = 3
    segments = [segment(1, is_crowd=True), segment(2), segment(3), segment(4)]
    target = panoptic_target(ids, segments, CATEGORIES)
    assert target.segment_ids.tolist() == [3]


@given(
    arrays(
        np.int32,
        array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([0, 1, 2, 3, 2**24 - 1]),
    ),
    st.booleans(),
)
def test_every_target_is_what_its_mask_says(ids: NDArray[np.int32], turned: bool) -> None:
    ids = ids.T if turned else ids  # flipped crops are views whose rows are not contiguous
    segments = [segment(i) for i in (1, 2, 3, 2**24 - 1)]
    target = panoptic_target(ids, segments, CATEGORIES)
    large = [s.id for s in segments if (ids == s.id).sum() >= LEAST_AREA]
    assert target.segment_ids.tolist() == large
    for number, box, mask in zip(target.segment_ids, target.boxes, masks(target), strict=True):
        np.testing.assert_array_equal(mask, ids == number)
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
