"""Panoptic quality (PQ, arXiv 1801.00868), counted by the rules of COCO's panopticapi.

A segment of the ground truth and a predicted one match where they have one category and an IoU
above one half. At most one pair can, so nothing has to be assigned. PQ = SQ x RQ: the mean IoU of
the matches, and their F1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from panodetr.data.masks import VOID, draw_id_map, draw_mask
from panodetr.data.samples import GroundTruthSegment, ObjectTruth
from panodetr.errors import DataError
from panodetr.results.id_map import run_starts
from panodetr.results.types import Category

IOU_UNIT = 2.0**-53
"""Every float64 from 0.5 to 1, as the IoU of a match is, is a whole number of these. So their sum
is exact, and the same in any order of the images and for any number of processes."""


class PredictedSegment(Protocol):
    """What counting needs of a predicted segment; `results.types.Segment` has it."""

    @property
    def id(self) -> int:
        """Its value in the predicted id map, 1 or more."""
        ...

    @property
    def category_id(self) -> int:
        """The data set's own."""
        ...


@dataclass(frozen=True, kw_only=True)
class ClassQuality:
    """The figures of one category.

    Attributes:
        pq: panoptic quality, 0 to 1; `pq`, `sq` and `rq` are 0 where the category never occurs.
        sq: segmentation quality: mean IoU of the matched segments.
        rq: recognition quality: F1 of the segments, counting matches at IoU above one half.
        tp: matched pairs.
        fp: predicted segments without a match.
        fn: segments of the ground truth without a match.
        iou: sum over the matched pairs.
    """

    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int
    iou: float


@dataclass(frozen=True, kw_only=True)
class MeanQuality:
    """Means over the categories that occur in the ground truth or the predictions.

    Attributes:
        pq: mean of the categories' panoptic qualities; all means are 0 where none occurs.
        sq: mean of their segmentation qualities.
        rq: mean of their recognition qualities.
        classes: how many occur.
    """

    pq: float
    sq: float
    rq: float
    classes: int


@dataclass(frozen=True, kw_only=True)
class PanopticFigures:
    """What `PanopticQuality` has counted.

    Attributes:
        all: over all categories.
        things: over the things.
        stuff: over the stuff.
        per_class: by the categories' names.
    """

    all: MeanQuality
    things: MeanQuality
    stuff: MeanQuality
    per_class: dict[str, ClassQuality]


class PanopticQuality:
    """Counts matches image by image; keeps four numbers a category and nothing of the images."""

    def __init__(self, categories: Sequence[Category]) -> None:
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
            DataError: the maps differ in size, two predicted segments share an id, the category of
                one is unknown, or the predicted map and list don't have the same segments. Nothing
                is counted then.
        """
        if truth_ids.shape != predicted_ids.shape:
            raise DataError(
                f"the predicted id map is {predicted_ids.shape}; expected {truth_ids.shape}, the "
                "size of the ground truth's"
            )
        predicted = {segment.id: segment for segment in predicted_segments}
        overlaps = _overlaps(truth_ids, predicted_ids)
        areas = Counter[int]()
        for (_, predicted_id), pixels in overlaps.items():
            areas[predicted_id] += pixels
        self._check(predicted_segments, areas.keys())

        truth = {segment.id: segment for segment in truth_segments}
        missed = {segment.id for segment in truth.values() if not segment.is_crowd}
        false = set(predicted)
        for (truth_id, predicted_id), pixels in overlaps.items():
            true, found = truth.get(truth_id), predicted.get(predicted_id)
            if true is None or found is None or true.is_crowd:
                continue
            if true.category_id != found.category_id:
                continue
            # The true area is the JSON's, the predicted one is counted. Predicted pixels on void
            # are not in the union; those on crowds are.
            on_void = overlaps.get((VOID, predicted_id), 0)
            iou = pixels / (true.area + areas[predicted_id] - pixels - on_void)
            if iou > 0.5:
                row = self._row[true.category_id]
                self._iou[row] += round(iou / IOU_UNIT)
                self._counts[row, 0] += 1
                missed.discard(truth_id)
                false.discard(predicted_id)
        # Only the last crowd of a category counts below: panopticapi keeps one a category.
        crowd_of = {s.category_id: s.id for s in truth.values() if s.is_crowd}
        for number in false:
            category_id = predicted[number].category_id
            pixels = overlaps.get((VOID, number), 0)
            if category_id in crowd_of:
                pixels += overlaps.get((crowd_of[category_id], number), 0)
            if 2 * pixels <= areas[number]:  # else most of it lies where nothing is expected
                self._counts[self._row[category_id], 1] += 1
        for number in missed:
            self._counts[self._row[truth[number].category_id], 2] += 1

    def _check(self, segments: Sequence[PredictedSegment], shown: Set[int]) -> None:
        """Check predicted segments against each other and against the ids that the map shows."""
        ids = Counter(segment.id for segment in segments)
        for segment in segments:
            if ids[segment.id] > 1:
                raise DataError(
                    f"two predicted segments have id {segment.id}; expected one per image"
                )
            if segment.id == VOID:
                raise DataError(f"a predicted segment has id {VOID}, which means no segment")
            if segment.category_id not in self._row:
                raise DataError(
                    f"the predicted segment {segment.id} has category {segment.category_id}, "
                    "which the data set doesn't have"
                )
        if unlisted := shown - ids.keys() - {VOID}:
            raise DataError(
                f"the predicted id map shows {min(unlisted)}, which no segment has as its id"
            )
        if absent := ids.keys() - shown:
            raise DataError(f"the predicted segment {min(absent)} has no pixel in the id map")

    def merge(self, other: PanopticQuality) -> None:
        """Add what another has counted on other images of the same data set. It is exact."""
        self._iou = [a + b for a, b in zip(self._iou, other._iou, strict=True)]
        self._counts += other._counts

    def compute(self) -> PanopticFigures:
        """Turn what was counted so far into figures."""
        found = [
            _class_quality(iou * IOU_UNIT, *counts)
            for iou, counts in zip(self._iou, self._counts.tolist(), strict=True)
        ]
        pairs = list(zip(self.categories, found, strict=True))
        return PanopticFigures(
            all=_mean(found),
            things=_mean([of for category, of in pairs if category.is_thing]),
            stuff=_mean([of for category, of in pairs if not category.is_thing]),
            per_class={category.name: of for category, of in pairs},
        )


def _overlaps(
    truth_ids: NDArray[np.int32], predicted_ids: NDArray[np.int32]
) -> dict[tuple[int, int], int]:
    """Count the pixels that each true and predicted id have in common, void included."""
    truth, predicted = truth_ids.ravel(), predicted_ids.ravel()
    starts = run_starts(truth, predicted)
    lengths = np.diff(starts, append=truth.size)
    pairs = (truth[starts].astype(np.int64) << 32) + predicted[starts]
    found, where = np.unique(pairs, return_inverse=True)
    pixels = np.bincount(where, weights=lengths)  # float64, exact below 2^53 pixels
    return {divmod(pair, 1 << 32): int(n) for pair, n in zip(found.tolist(), pixels, strict=True)}


def _class_quality(iou: float, tp: int, fp: int, fn: int) -> ClassQuality:
    weight = tp + fp / 2 + fn / 2
    pq, sq, rq = (iou / weight, iou / max(tp, 1), tp / weight) if weight else (0.0, 0.0, 0.0)
    return ClassQuality(pq=pq, sq=sq, rq=rq, tp=tp, fp=fp, fn=fn, iou=iou)


def _mean(qualities: Sequence[ClassQuality]) -> MeanQuality:
    occurring = [q for q in qualities if q.tp + q.fp + q.fn]
    count = max(len(occurring), 1)
    return MeanQuality(
        pq=sum(q.pq for q in occurring) / count,
        sq=sum(q.sq for q in occurring) / count,
        rq=sum(q.rq for q in occurring) / count,
        classes=len(occurring),
    )


def object_segments(
    objects: Sequence[ObjectTruth], size: tuple[int, int]
) -> tuple[NDArray[np.int32], list[GroundTruthSegment]]:
    """Draw an image's objects into one id map, as training does, and list them as segments.

    Where objects overlap, the one of fewer pixels is on top; an object with no pixel left is
    omitted. Crowds lie below all others, those of a category as one segment. Pixels without any
    object are not void, where predictions are ignored: they get an id that no segment has, so a
    prediction there is a false positive.

    Args:
        objects: with masks.
        size: height and width of the image.

    Returns:
        Ids (H, W), and the segments in the order of their ids.
    """
    single = [truth for truth in objects if not truth["iscrowd"]]
    crowds = sorted((t for t in objects if t["iscrowd"]), key=lambda t: t["category_id"])
    ids = draw_id_map(single, size)
    categories = [truth["category_id"] for truth in single]
    categories += dict.fromkeys(crowd["category_id"] for crowd in crowds)
    for crowd in crowds:
        mask = draw_mask(crowd["segmentation"], size)  # pyright: ignore[reportTypedDictNotRequiredAccess]
        ids[mask & (ids == VOID)] = 1 + categories.index(crowd["category_id"], len(single))
    areas = np.bincount(ids.ravel(), minlength=len(categories) + 1).tolist()
    ids[ids == VOID] = len(categories) + 1
    return ids, [
        GroundTruthSegment(id=n, category_id=category_id, area=areas[n], is_crowd=n > len(single))
        for n, category_id in enumerate(categories, start=1)
        if areas[n]
    ]
