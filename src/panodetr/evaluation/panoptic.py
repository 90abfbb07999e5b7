"""Panoptic quality (arXiv 1801.00868), counted by the rules of COCO's panopticapi. NumPy only.

A predicted and a true segment of one category match where their IoU is above one half; at most one
pair can, so there is nothing to assign. PQ = SQ x RQ: the mean IoU of the matches, and their F1.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from panodetr.data.idmaps import VOID, run_starts
from panodetr.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from panodetr.data.panoptic import GroundTruthSegment
    from panodetr.results.types import Category


IOU_UNIT = 2.0**-53
"""A double above one half, as every match's IoU is, is a whole number of these: their sum is exact,
so it is the same in any order of the images, and however they are split among processes."""


class PredictedSegment(Protocol):
    """What counting asks of a predicted segment; `results.types.Segment` has it."""

    @property
    def id(self) -> int:
        """Its value in the predicted id map, 1 or more."""
        ...

    @property
    def category_id(self) -> int:
        """The data set's own."""
        ...


_S = TypeVar("_S", bound=PredictedSegment)


@dataclass(frozen=True, kw_only=True)
class ClassQuality:
    """The figures of one category.

    Attributes:
        pq: panoptic quality, 0 to 1; 0 too where the category never occurs, as the two below.
        sq: mean IoU of the matched segments.
        rq: F1 of the segments, counting matches at IoU above one half.
        tp: matched pairs.
        fp: predicted segments without a match.
        fn: true segments without a match.
        iou: sum over the matched pairs.
    """

    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int
    iou: float

    @property
    def f1(self) -> float:
        """Recognition quality, by the name it has outside of panoptic segmentation."""
        return self.rq


@dataclass(frozen=True, kw_only=True)
class MeanQuality:
    """Means over the categories that occur in the truth or the predictions.

    Attributes:
        pq: mean of the categories' panoptic qualities; 0 where none occurs, as the two below.
        sq: mean of their segmentation qualities.
        rq: mean of their recognition qualities.
        classes: how many occur.
    """

    pq: float
    sq: float
    rq: float
    classes: int

    @property
    def f1(self) -> float:
        """Mean of the categories' F1: recognition quality by its other name."""
        return self.rq


@dataclass(frozen=True, kw_only=True)
class PanopticFigures:
    """What `PanopticQuality` has counted.

    Attributes:
        all: over all categories.
        things: over the things.
        stuff: over the stuff.
        per_class: in the order of the categories.
    """

    all: MeanQuality
    things: MeanQuality
    stuff: MeanQuality
    per_class: tuple[ClassQuality, ...]


class PanopticQuality:
    """Counts matches image by image; keeps four numbers a category and nothing of the images."""

    def __init__(self, categories: Sequence[Category]) -> None:
        """Start at zero for the data set's categories."""
        self.categories = tuple(categories)
        self._row = {category.id: row for row, category in enumerate(self.categories)}
        self._iou = [0] * len(self.categories)  # in units of IOU_UNIT
        self._counts = np.zeros((len(self.categories), 3), dtype=np.int64)  # tp, fp, fn

    def update(
        self,
        truth_ids: NDArray[np.int32],
        truth_segments: Sequence[GroundTruthSegment],
        predicted_ids: NDArray[np.int32],
        predicted_segments: Sequence[PredictedSegment],
    ) -> None:
        """Count one image. Both id maps are (H, W), 0 = nothing.

        Raises:
            DataError: the maps differ in size, two segments share an id, a category is unknown, or
                the predicted map and list don't name the same segments. Nothing is counted then.
        """
        if truth_ids.shape != predicted_ids.shape:
            raise DataError(
                f"the predicted id map is {predicted_ids.shape}, the true one {truth_ids.shape}; "
                "expected one size"
            )
        truth = self._by_id(truth_segments, "true")
        predicted = self._by_id(predicted_segments, "predicted")
        overlaps = _overlaps(truth_ids, predicted_ids)
        areas = Counter[int]()
        for (_, predicted_id), pixels in overlaps.items():
            areas[predicted_id] += pixels
        _check_listed(areas, predicted)

        matches = _matches(truth, predicted, overlaps, areas)
        found = {truth_id for truth_id, _ in matches}
        used = {predicted_id for _, predicted_id in matches}
        for (truth_id, _), iou in matches.items():
            row = self._row[truth[truth_id].category_id]
            self._iou[row] += round(iou / IOU_UNIT)
            self._counts[row, 0] += 1
        # Of a category's crowds only the last one forgives: panopticapi keeps one a category.
        crowd_of = {s.category_id: s.id for s in truth.values() if s.is_crowd}
        for segment in predicted.values():
            if segment.id in used or _forgiven(segment, crowd_of, overlaps, areas[segment.id]):
                continue
            self._counts[self._row[segment.category_id], 1] += 1
        for segment in truth.values():
            if segment.id not in found and not segment.is_crowd:
                self._counts[self._row[segment.category_id], 2] += 1

    def merge(self, other: PanopticQuality) -> None:
        """Add what another has counted on other images of the same data set. It is exact.

        Raises:
            ValueError: it has other categories.
        """
        if other.categories != self.categories:
            raise ValueError("expected counts of the same categories, in the same order")
        self._iou = [a + b for a, b in zip(self._iou, other._iou, strict=True)]
        self._counts += other._counts

    def compute(self) -> PanopticFigures:
        """Turn what was counted so far into figures."""
        per_class = tuple(
            _class_quality(iou * IOU_UNIT, *(int(n) for n in counts))
            for iou, counts in zip(self._iou, self._counts, strict=True)
        )
        things = [q for q, c in zip(per_class, self.categories, strict=True) if c.is_thing]
        stuff = [q for q, c in zip(per_class, self.categories, strict=True) if not c.is_thing]
        return PanopticFigures(
            all=_mean(per_class), things=_mean(things), stuff=_mean(stuff), per_class=per_class
        )

    def _by_id(self, segments: Iterable[_S], kind: str) -> dict[int, _S]:
        """List segments by their ids.

        Raises:
            DataError: two share one, one has no pixels' id, or a category is unknown.
        """
        found: dict[int, _S] = {}
        for segment in segments:
            if segment.id in found:
                raise DataError(f"two {kind} segments have id {segment.id}; expected one an image")
            if segment.id == VOID:
                raise DataError(f"a {kind} segment has id {VOID}, which means no segment")
            if segment.category_id not in self._row:
                raise DataError(
                    f"the {kind} segment {segment.id} has category {segment.category_id}, "
                    "which the data set doesn't have"
                )
            found[segment.id] = segment
        return found


def _overlaps(
    truth_ids: NDArray[np.int32], predicted_ids: NDArray[np.int32]
) -> dict[tuple[int, int], int]:
    """Count the pixels of each pair of true and predicted id that meet, void included."""
    truth, predicted = truth_ids.ravel(), predicted_ids.ravel()
    starts = run_starts(truth, predicted)
    lengths = np.diff(starts, append=truth.size)
    pairs = (truth[starts].astype(np.int64) << 32) + predicted[starts]
    found, where = np.unique(pairs, return_inverse=True)
    pixels = np.bincount(where, weights=lengths)  # float64, exact below 2^53 pixels
    return {divmod(pair, 1 << 32): int(n) for pair, n in zip(found.tolist(), pixels, strict=True)}


def _check_listed(areas: Counter[int], predicted: dict[int, PredictedSegment]) -> None:
    unlisted = areas.keys() - predicted.keys() - {VOID}
    if unlisted:
        raise DataError(
            f"the predicted id map shows {min(unlisted)}, which no segment has as its id"
        )
    absent = predicted.keys() - areas.keys()
    if absent:
        raise DataError(f"the predicted segment {min(absent)} has no pixel in the id map")


def _matches(
    truth: dict[int, GroundTruthSegment],
    predicted: dict[int, PredictedSegment],
    overlaps: dict[tuple[int, int], int],
    areas: Counter[int],
) -> dict[tuple[int, int], float]:
    """Find the pairs of true and predicted id with an IoU above one half, and their IoUs.

    The true area is the JSON's, the predicted one is counted. Predicted pixels on void leave the
    union; those on crowds stay in it.
    """
    matches: dict[tuple[int, int], float] = {}
    for (truth_id, predicted_id), pixels in overlaps.items():
        if truth_id not in truth or predicted_id not in predicted:
            continue
        true = truth[truth_id]
        if true.is_crowd or true.category_id != predicted[predicted_id].category_id:
            continue
        on_void = overlaps.get((VOID, predicted_id), 0)
        iou = pixels / (true.area + areas[predicted_id] - pixels - on_void)
        if iou > 0.5:
            matches[truth_id, predicted_id] = iou
    return matches


def _forgiven(
    predicted: PredictedSegment,
    crowd_of: dict[int, int],
    overlaps: dict[tuple[int, int], int],
    area: int,
) -> bool:
    """Say whether more than half of an unmatched segment lies on void and its category's crowd."""
    pixels = overlaps.get((VOID, predicted.id), 0)
    if predicted.category_id in crowd_of:
        pixels += overlaps.get((crowd_of[predicted.category_id], predicted.id), 0)
    return 2 * pixels > area


def _class_quality(iou: float, tp: int, fp: int, fn: int) -> ClassQuality:
    weight = tp + fp / 2 + fn / 2
    return ClassQuality(
        pq=iou / weight if weight else 0.0,
        sq=iou / tp if tp else 0.0,
        rq=tp / weight if weight else 0.0,
        tp=tp,
        fp=fp,
        fn=fn,
        iou=iou,
    )


def _mean(qualities: Sequence[ClassQuality]) -> MeanQuality:
    occurring = [q for q in qualities if q.tp + q.fp + q.fn]
    count = max(len(occurring), 1)
    return MeanQuality(
        pq=sum(q.pq for q in occurring) / count,
        sq=sum(q.sq for q in occurring) / count,
        rq=sum(q.rq for q in occurring) / count,
        classes=len(occurring),
    )
