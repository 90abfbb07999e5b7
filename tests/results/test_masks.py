from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from panodetr.results.masks import grow_mask, paint_instances, run_lengths

sides = st.integers(1, 40)
sizes = st.tuples(sides, sides)


def the_originals(
    logits: NDArray[np.float32], processed: tuple[int, int], target: tuple[int, int]
) -> NDArray[np.bool_]:
    grown = F.interpolate(torch.from_numpy(logits)[None, None], processed, mode="bilinear")
    inside = (grown.sigmoid() > 0.5).float()
    return F.interpolate(inside, target, mode="nearest")[0, 0].bool().numpy()


@given(sizes, sizes, sizes, st.integers(0, 2**31))
def test_a_mask_grows_as_in_the_original(
    mask: tuple[int, int], processed: tuple[int, int], target: tuple[int, int], seed: int
) -> None:
    logits = np.random.default_rng(seed).standard_normal(mask).astype(np.float32)
    expected = the_originals(logits, processed, target)
    np.testing.assert_array_equal(grow_mask(logits, processed, target), expected)


@given(sizes, st.integers(0, 2**31))
def test_run_lengths_are_cocos(size: tuple[int, int], seed: int) -> None:
    mask = np.random.default_rng(seed).random(size) > 0.5
    runs: Any = {"size": list(size), "counts": run_lengths(mask)}
    decoded = coco_mask.decode(coco_mask.frPyObjects(runs, *size))
    np.testing.assert_array_equal(decoded.astype(bool), mask)


def square(y0: int, x0: int, y1: int, x1: int) -> NDArray[np.float32]:
    mask = np.full((20, 20), -1, np.float32)
    mask[y0:y1, x0:x1] = 1
    return mask


def painted(
    *masks: NDArray[np.float32], scores: list[float]
) -> tuple[NDArray[np.int32], list[int]]:
    classes = np.arange(len(masks))
    ids, segments = paint_instances(
        np.stack(masks), np.array(scores, np.float32), classes, (20, 20), (20, 20)
    )
    assert [segment.id for segment in segments] == list(range(1, len(segments) + 1))
    for segment in segments:
        assert segment.area == np.count_nonzero(ids == segment.id)
    return ids, [segment.class_index for segment in segments]


def test_the_better_score_lies_on_top_and_the_rest_stays_empty() -> None:
    ids, classes = painted(square(0, 0, 10, 10), square(5, 5, 15, 15), scores=[0.6, 0.9])
    assert classes == [1, 0]
    assert ids[7, 7] == 1
    assert ids[2, 2] == 2
    assert ids[18, 18] == 0
    assert np.count_nonzero(ids == 2) == 75


def test_an_instance_of_four_visible_pixels_is_dropped() -> None:
    hidden, seen = square(0, 0, 10, 10), square(0, 0, 10, 10)
    hidden[10, :4] = 1
    ids, classes = painted(hidden, seen, scores=[0.6, 0.9])
    assert classes == [1]
    assert ids[10, 0] == 0


def test_no_instance_is_an_empty_map() -> None:
    nothing = np.zeros((0, 5, 5), np.float32)
    ids, segments = paint_instances(
        nothing, np.zeros(0, np.float32), np.zeros(0, np.intp), (20, 20), (30, 30)
    )
    assert ids.shape == (30, 30)
    assert not ids.any()
    assert segments == []


@pytest.mark.parametrize("first", [True, False])
def test_run_lengths_begin_with_empty_pixels(first: bool) -> None:
    assert run_lengths(np.full((2, 2), first)) == ([0, 4] if first else [4])
