"""Counts the matches of all tasks image by image, and turns them into figures.

What several processes have counted adds up exactly to what one process would have counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.masks import VOID, panoptic_objects
from panodetr.data.samples import Sample
from panodetr.errors import DataError
from panodetr.evaluation.average_precision import (
    RANKED,
    TWELVE,
    AveragePrecision,
    DetectionFigures,
    ObjectResult,
    Overlap,
)
from panodetr.evaluation.ground_truth import GroundTruth, Task, TruthImage
from panodetr.evaluation.panoptic_quality import (
    PanopticFigures,
    PanopticQuality,
    PredictedSegment,
    object_segments,
)

OVERLAPS: dict[Task, Overlap] = {"boxes": "bbox", "instances": "segm"}
"""The tasks of average precision, and what IoU is measured on."""


@dataclass(kw_only=True, eq=False)
class Prediction:
    """The predictions for one image; None for tasks that are not measured.

    Attributes:
        segment_ids: (H, W), 0 = nothing.
        segments: those of `segment_ids`.
        boxes: results with `bbox`.
        instances: results with `segmentation` and without `bbox`.
    """

    segment_ids: NDArray[np.int32] | None = None
    segments: Sequence[PredictedSegment] = ()
    boxes: Sequence[ObjectResult] | None = None
    instances: Sequence[ObjectResult] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Figures:
    """The measured figures; None for tasks that were not measured.

    Attributes:
        images: how many were counted.
        panoptic: panoptic quality.
        boxes: average precision of boxes.
        instances: average precision of masks.
    """

    images: int
    panoptic: PanopticFigures | None = None
    boxes: DetectionFigures | None = None
    instances: DetectionFigures | None = None


class Counts:
    """Keeps counts, scores and matches: a few kilobytes per image, no masks, no ground truth.

    It can be pickled: processes that have counted a share of the images each (`GroundTruth.share`)
    send theirs to one process, which merges them.

    Attributes:
        tasks: what is counted.
        seconds: what predicting took, summed over all processes. Reading images and enlarging masks
            are included; reading the ground truth, counting and writing are not. None if the
            predictions come from elsewhere.
        missing: images without any prediction, counted as if nothing had been found.
    """

    def __init__(self, truth: GroundTruth, tasks: Iterable[Task], ranked: int = RANKED) -> None:
        """Start at zero; `ranked` predictions of a class count in an image, at most.

        Raises:
            DataError: the ground truth lacks what a task needs.
        """
        self.tasks = frozenset(tasks)
        self.seconds: float | None = None
        self.missing = 0
        for task in sorted(self.tasks.difference(truth.tasks())):
            there = ", ".join(truth.tasks())
            raise DataError(f"{truth.folder} has no ground truth for {task}; it has {there}")
        segments, objects = self._categories = truth.segment_categories, truth.object_categories
        self._things = frozenset(category.id for category in objects)
        self._segments = PanopticQuality(segments) if "panoptic" in self.tasks else None
        self._objects = {
            task: AveragePrecision(objects, overlap, ranked)
            for task, overlap in OVERLAPS.items()
            if task in self.tasks
        }
        self._counted: set[int] = set()

    @property
    def beyond(self) -> int:
        """Images that have more objects of a class than predictions of it count."""
        return max((counter.beyond for counter in self._objects.values()), default=0)

    def update(self, image: TruthImage, prediction: Prediction) -> None:
        """Count one image.

        Raises:
            DataError: the ground truth or the prediction contradicts itself.
            ValueError: the image was counted before.
        """
        if image.image_id in self._counted:
            raise ValueError(f"image {image.image_id} was counted before; expected each once")
        objects, ids = image.objects, None
        if isinstance(image, Sample) and (self._segments or objects is None):
            ids = read_ids(image)
            if self._objects and objects is None:
                objects = panoptic_objects(image, ids, self._things)
        if self._segments is not None and prediction.segment_ids is not None:
            found, segments = prediction.segment_ids, prediction.segments
            if isinstance(image, Sample) and ids is not None:
                truth = ids, image.segments
            else:  # it is drawn from objects, and there is no stuff
                segments = [s for s in segments if s.category_id in self._things]
                found = np.where(np.isin(found, [s.id for s in segments]), found, np.int32(VOID))
                truth = object_segments(objects or (), image.size)
            try:
                self._segments.update(*truth, found, segments)
            except DataError as error:
                raise DataError(f"{image.path}: {error}") from error
        objects = list(objects or ())  # they may be text yet, and decoded at each use
        for task, counter in self._objects.items():
            results: Sequence[ObjectResult] | None = getattr(prediction, task)
            counter.update(image.image_id, image.size, objects, results or ())
        self._counted.add(image.image_id)

    def merge(self, other: Counts) -> None:
        """Add what another has counted on other images of the same data set. It is exact.

        Raises:
            ValueError: both have counted the same image, or they count other tasks or categories.
        """
        twice = self._counted & other._counted
        if twice:
            raise ValueError(
                f"{len(twice)} images were counted by both, first {min(twice)}; give each process "
                "its own, as GroundTruth.share does"
            )
        if (self.tasks, self._categories) != (other.tasks, other._categories):
            raise ValueError("expected counts of the same tasks and categories")
        for task, counter in self._objects.items():
            counter.merge(other._objects[task])
        if self._segments and other._segments:
            self._segments.merge(other._segments)
        self._counted |= other._counted
        self.missing += other.missing
        if self.seconds is not None and other.seconds is not None:
            self.seconds += other.seconds

    def compute(self) -> Figures:
        """Turn what was counted so far into figures."""
        return Figures(
            images=len(self._counted),
            panoptic=self._segments.compute() if self._segments else None,
            **{task: counter.compute() for task, counter in self._objects.items()},
        )


def metrics(figures: Figures, seconds: float | None = None) -> dict[str, object]:
    """Give the figures as `metrics.json` holds them: fractions from 0 to 1, unrounded.

    Panoptic figures are `pq`, `sq`, `rq` and `f1` (`rq` by its other name) over all categories that
    occur, the same with `_things` and `_stuff`, and `per_class`, by name. `boxes` and `instances`
    hold COCO's twelve figures each, null where the ground truth has no object of that size, and
    `per_class`.

    Args:
        figures: what was counted.
        seconds: of predicting alone, all images together; None where that was done elsewhere.
    """
    written: dict[str, object] = {"images": figures.images}
    if seconds is not None:
        written["seconds_per_image"] = seconds / max(1, figures.images)
    if (quality := figures.panoptic) is not None:
        parts = {"": quality.all, "_things": quality.things, "_stuff": quality.stuff}
        for suffix, mean in parts.items():
            for key, value in (("pq", mean.pq), ("sq", mean.sq), ("rq", mean.rq), ("f1", mean.rq)):
                written[key + suffix] = value
        written["per_class"] = {
            name: {**asdict(of), "f1": of.rq} for name, of in quality.per_class.items()
        }
    for task, found in (("boxes", figures.boxes), ("instances", figures.instances)):
        if found is not None:
            classes = {name: asdict(of) for name, of in found.per_class.items()}
            written[task] = {key: getattr(found, key) for key in TWELVE} | {"per_class": classes}
    return written
