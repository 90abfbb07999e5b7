from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from panodetr.data.samples import GroundTruthSegment, ObjectTruth
from panodetr.errors import DataError
from panodetr.evaluation.panoptic_quality import ClassQuality, PanopticQuality, object_segments
from panodetr.results.types import Category

from .conftest import box

CATEGORIES = (
    Category(index=0, id=1, name="cell", is_thing=True, color=(255, 0, 0)),
    Category(index=1, id=5, name="sky", is_thing=False, color=(0, 0, 255)),
)


def segment(
    number: int, category: int = 1, *, area: int = 10, is_crowd: bool = False
) -> GroundTruthSegment:
    return GroundTruthSegment(id=number, category_id=category, area=area, is_crowd=is_crowd)


def row(*runs: tuple[int, int]) -> NDArray[np.int32]:
    """An id map one pixel high, from pairs of id and length."""
    ids, lengths = zip(*runs, strict=True)
    return np.repeat(np.array(ids, np.int32), lengths)[None]


def count(
    truth: NDArray[np.int32],
    truth_segments: list[GroundTruthSegment],
    predicted: NDArray[np.int32],
    predicted_segments: list[GroundTruthSegment],
) -> ClassQuality:
    """The figures of the first category after one image."""
    quality = PanopticQuality(CATEGORIES)
    quality.update(truth, truth_segments, predicted, predicted_segments)
    return quality.compute().per_class["cell"]


def counts(quality: ClassQuality) -> tuple[int, int, int]:
    return quality.tp, quality.fp, quality.fn


def test_a_match_a_false_positive_and_a_miss() -> None:
    truth = row((1, 10), (2, 10), (0, 10))
    predicted = row((7, 8), (0, 12), (8, 10))
    void_free = [segment(1), segment(2), segment(3)]
    truth[0, 20:] = 3
    got = count(truth, void_free, predicted, [segment(7), segment(8, 5)])
    assert counts(got) == (1, 0, 2)
    assert got.iou == got.sq == 0.8
    assert got.rq == got.rq == 1 / (1 + 2 / 2)
    assert got.pq == 0.8 / 2


@pytest.mark.parametrize(
    ("truth", "segments", "predicted", "counted", "iou"),
    [
        # exactly one half is no match
        (row((1, 20)), [segment(1, area=20)], row((7, 10), (0, 10)), (0, 1, 1), 0),
        (row((1, 20)), [segment(1, area=20)], row((7, 11), (0, 9)), (1, 0, 0), 11 / 20),
        # predicted pixels on void leave the union, true ones on nothing stay in it
        (row((1, 10), (0, 90)), [segment(1)], row((7, 90), (0, 10)), (1, 0, 0), 1),
        (row((1, 10)), [segment(1)], row((7, 6), (0, 4)), (1, 0, 0), 0.6),
        # the true area is the JSON's, the predicted one the pixels
        (row((1, 10)), [segment(1, area=14)], row((7, 10)), (1, 0, 0), 10 / 14),
        # pixels on a crowd stay in the union
        (
            row((1, 10), (2, 4)),
            [segment(1), segment(2, is_crowd=True)],
            row((7, 14)),
            (1, 0, 0),
            10 / 14,
        ),
    ],
)
def test_the_iou_of_a_match(
    truth: NDArray[np.int32],
    segments: list[GroundTruthSegment],
    predicted: NDArray[np.int32],
    counted: tuple[int, int, int],
    iou: float,
) -> None:
    got = count(truth, segments, predicted, [segment(7, area=99)])
    assert counts(got) == counted
    assert got.iou == iou


def test_a_prediction_mostly_on_void_is_forgiven_but_not_half_on_it() -> None:
    truth = row((0, 10), (2, 10))
    mostly = row((0, 4), (7, 6), (7, 5), (0, 5))
    assert counts(count(truth, [segment(2, 5)], mostly, [segment(7)])) == (0, 0, 0)
    half = row((0, 4), (7, 6), (7, 6), (0, 4))
    assert counts(count(truth, [segment(2, 5)], half, [segment(7)])) == (0, 1, 0)


def test_a_crowd_is_neither_matched_nor_missed_and_forgives_its_own_category() -> None:
    crowd = [segment(1, is_crowd=True)]
    assert counts(count(row((1, 10)), crowd, row((7, 10)), [segment(7)])) == (0, 0, 0)
    assert counts(count(row((1, 10)), crowd, row((0, 10)), [])) == (0, 0, 0)
    of_sky = [segment(1, 5, is_crowd=True)]
    assert counts(count(row((1, 10)), of_sky, row((7, 10)), [segment(7)])) == (0, 1, 0)
    half = count(row((1, 5), (2, 5)), [*crowd, segment(2, 5)], row((7, 10)), [segment(7)])
    assert counts(half) == (0, 1, 0)


def test_void_and_the_last_crowd_of_a_category_forgive_together() -> None:
    truth = row((0, 3), (1, 3), (2, 4))
    segments = [segment(1, is_crowd=True), segment(2, 5)]
    assert counts(count(truth, segments, row((7, 10)), [segment(7)])) == (0, 0, 0)
    truth = row((1, 6), (2, 4))
    first, second = segment(1, is_crowd=True), segment(2, is_crowd=True)
    for crowds, false in (([first, second], 1), ([second, first], 0)):
        assert counts(count(truth, crowds, row((7, 10)), [segment(7)])) == (0, false, 0)


def test_means_are_over_the_categories_that_occur() -> None:
    quality = PanopticQuality(CATEGORIES)
    empty = quality.compute()
    assert (empty.all.pq, empty.all.classes) == (0.0, 0)
    quality.update(row((1, 10)), [segment(1)], row((7, 8), (0, 2)), [segment(7)])
    figures = quality.compute()
    assert (figures.all.pq, figures.all.classes) == (0.8, 1)
    assert (figures.things.rq, figures.things.classes) == (1.0, 1)
    assert (figures.stuff.pq, figures.stuff.classes) == (0.0, 0)


ONE = row((1, 10))


@pytest.mark.parametrize(
    ("predicted", "segments", "message"),
    [
        (row((7, 9)), [segment(7)], "the size of the ground truth"),
        (ONE, [segment(1), segment(1, 5)], "two predicted segments have id 1"),
        (ONE, [segment(1, 3)], "predicted segment 1 has category 3"),
        (ONE, [], "predicted id map shows 1, which no segment has"),
        (ONE, [segment(1), segment(4)], "segment 4 has no pixel"),
        (row((0, 10)), [segment(0)], "means no segment"),
    ],
)
def test_a_contradiction_is_refused_and_counts_nothing(
    predicted: NDArray[np.int32], segments: list[GroundTruthSegment], message: str
) -> None:
    quality = PanopticQuality(CATEGORIES)
    before = quality.compute()
    with pytest.raises(DataError, match=message):
        quality.update(ONE, [segment(1)], predicted, segments)
    assert quality.compute() == before


def listed(ids: NDArray[np.int32]) -> list[GroundTruthSegment]:
    """Segments of an id map: odd ids are cells, even ones sky."""
    return [
        segment(i, 1 if i % 2 else 5, area=int((ids == i).sum()))
        for i in np.unique(ids).tolist()
        if i
    ]


maps = arrays(np.int32, (6, 7), elements=st.integers(0, 4))


@given(maps, maps)
def test_counts_are_what_masks_say(truth: NDArray[np.int32], predicted: NDArray[np.int32]) -> None:
    true_segments, predicted_segments = listed(truth), listed(predicted)
    tp, iou = 0, 0.0
    forgiven = 0
    for p in predicted_segments:
        mask = (predicted == p.id) & (truth != 0)
        matched = False
        for t in true_segments:
            inside = int((mask & (truth == t.id)).sum())
            ratio = inside / int((mask | (truth == t.id)).sum())
            if p.category_id == t.category_id == 1 and ratio > 0.5:
                tp, iou, matched = tp + 1, iou + ratio, True
        if p.category_id == 1 and not matched and 2 * int(mask.sum()) < p.area:
            forgiven += 1
    cells = [
        sum(s.category_id == 1 for s in found) for found in (predicted_segments, true_segments)
    ]
    got = count(truth, true_segments, predicted, predicted_segments)
    assert counts(got) == (tp, cells[0] - tp - forgiven, cells[1] - tp)
    assert got.iou == pytest.approx(iou, rel=1e-12)


@given(maps, maps)
def test_merged_counts_are_those_of_one_pass(a: NDArray[np.int32], b: NDArray[np.int32]) -> None:
    together, first, second = (PanopticQuality(CATEGORIES) for _ in range(3))
    for truth, predicted, part in ((a, b, first), (b, a, second)):
        together.update(truth, listed(truth), predicted, listed(predicted))
        part.update(truth, listed(truth), predicted, listed(predicted))
    first.merge(second)
    merged, whole = first.compute(), together.compute()
    for one, other in zip(merged.per_class.values(), whole.per_class.values(), strict=True):
        assert counts(one) == counts(other)
        assert one.iou == pytest.approx(other.iou, rel=1e-14)  # sums in another order


def drawn(*objects: ObjectTruth) -> tuple[NDArray[np.int32], list[GroundTruthSegment]]:
    return object_segments(objects, (20, 20))


def test_objects_are_segments_the_smaller_on_top_and_crowds_below() -> None:
    ids, segments = drawn(
        box(1, 7, (0, 0, 10, 10)),
        box(2, 7, (5, 5, 9, 9)),
        box(3, 8, (8, 8, 18, 10), 1),
        box(4, 8, (8, 0, 18, 2), 1),
    )
    assert segments == [
        segment(1, 7, area=84),
        segment(2, 7, area=16),
        segment(3, 8, area=32, is_crowd=True),
    ]
    assert (ids[0, 0], ids[6, 6], ids[9, 12], ids[1, 12]) == (1, 2, 3, 3)
    assert ids[19, 19] == 4  # nothing, and not void
    covered = box(1, 7, (0, 0, 4, 4)), box(2, 7, (0, 0, 4, 4))
    assert len(drawn(*covered)[1]) == 1  # it cannot be missed


def test_what_is_found_where_no_object_is_counts_as_false() -> None:
    found = np.zeros((20, 20), np.int32)
    found[:4, :4], found[10:14, 10:14] = 1, 2
    got = count(*drawn(box(1, 1, (0, 0, 4, 4))), found, [segment(1), segment(2)])
    assert counts(got) == (1, 1, 0)
