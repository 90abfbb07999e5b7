"""Counts the matches of all tasks image by image, and turns them into figures.

What several processes have counted adds up exactly to what one process would have counted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from panodetr.data.formats.coco_panoptic import read_ids
from panodetr.data.masks import VOID, panoptic_objects
from panodetr.errors import DataError
from panodetr.evaluation.average_precision import RANKED, TWELVE, AveragePrecision
from panodetr.evaluation.panoptic_quality import PanopticQuality, object_segments

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from panodetr.data.samples import ObjectTruth
    from panodetr.evaluation.average_precision import DetectionFigures, ObjectResult
    from panodetr.evaluation.ground_truth import GroundTruth, GroundTruthImage, Task
    from panodetr.evaluation.panoptic_quality import PanopticFigures, PredictedSegment


@dataclass(kw_only=True, eq=False)
class Prediction:
    """The predictions for one image; None for tasks that are not measured.

    Attributes:
        segment_ids: (H, W), 0 = nothing.
        segments: those of `segment_ids`.
        boxes: results with `bbox`.
        masks: results with `segmentation` and without `bbox`.
    """

    segment_ids: NDArray[np.int32] | None = None
    segments: Sequence[PredictedSegment] = ()
    boxes: Sequence[ObjectResult] | None = None
    masks: Sequence[ObjectResult] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Figures:
    """The measured figures; None for tasks that were not measured.

    Attributes:
        panoptic: panoptic quality.
        boxes: average precision of boxes.
        instances: average precision of masks.
        images: how many were counted.
    """

    panoptic: PanopticFigures | None
    boxes: DetectionFigures | None
    instances: DetectionFigures | None
    images: int


class Counts:
    """Keeps counts, scores and matches: a few kilobytes an image, no masks, no ground truth.

    It can be pickled: processes that have counted a share of the images each (`GroundTruth.share`)
    send theirs to one process, which merges them.
    """

    def __init__(self, truth: GroundTruth, tasks: Iterable[Task], ranked: int = RANKED) -> None:
        """Start at zero; `ranked` predictions of a class count in an image, at most.

        Raises:
            DataError: the ground truth lacks what a task needs.
        """
        self.tasks = frozenset(tasks)
        truth.require(self.tasks)
        self._of_objects = truth.of_objects
        segments, objects = self._categories = truth.segment_categories, truth.object_categories
        self._things = frozenset(category.id for category in objects)
        self._panoptic = PanopticQuality(segments) if "panoptic" in self.tasks else None
        self._boxes = AveragePrecision(objects, "bbox", ranked) if "boxes" in self.tasks else None
        self._masks = (
            AveragePrecision(objects, "segm", ranked) if "instances" in self.tasks else None
        )
        self._counted: set[int] = set()

    @property
    def beyond(self) -> int:
        """Images that have more objects of a class than predictions of it count."""
        return max((one.beyond for one in (self._boxes, self._masks) if one is not None), default=0)

    def update(self, image: GroundTruthImage, prediction: Prediction) -> None:
        """Count one image.

        Raises:
            DataError: the ground truth or the prediction contradicts itself.
            ValueError: the image was counted before.
        """
        if image.image_id in self._counted:
            raise ValueError(f"image {image.image_id} was counted before; expected each once")
        objects: Sequence[ObjectTruth] = image.instances.objects if image.instances else ()
        ids: NDArray[np.int32] | None = None
        if image.panoptic is not None:
            objects_from_map = image.instances is None and (self._boxes or self._masks)
            if self._panoptic or objects_from_map:
                ids = read_ids(image.panoptic)
            if ids is not None and objects_from_map:
                objects = panoptic_objects(image.panoptic, ids, self._things)
        if self._panoptic is not None and prediction.segment_ids is not None:
            try:
                self._count_segments(self._panoptic, image, ids, prediction)
            except DataError as error:
                raise DataError(f"{image.path}: {error}") from error
        for counter, results in ((self._boxes, prediction.boxes), (self._masks, prediction.masks)):
            if counter is not None:
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
        if self._boxes and other._boxes:
            self._boxes.merge(other._boxes)
        if self._masks and other._masks:
            self._masks.merge(other._masks)
        if self._panoptic and other._panoptic:
            self._panoptic.merge(other._panoptic)
        self._counted |= other._counted

    def compute(self) -> Figures:
        """Turn what was counted so far into figures."""
        return Figures(
            panoptic=self._panoptic.compute() if self._panoptic else None,
            boxes=self._boxes.compute() if self._boxes else None,
            instances=self._masks.compute() if self._masks else None,
            images=len(self._counted),
        )

    def _count_segments(
        self,
        quality: PanopticQuality,
        image: GroundTruthImage,
        ids: NDArray[np.int32] | None,
        prediction: Prediction,
    ) -> None:
        """Count the segments of an image; where the ground truth has objects only, no stuff."""
        found, segments = prediction.segment_ids, prediction.segments
        assert found is not None
        if image.panoptic is not None and ids is not None:
            quality.update(ids, image.panoptic.segments, found, segments)
        elif image.instances is not None and self._of_objects:
            things = [segment for segment in segments if segment.category_id in self._things]
            if len(things) < len(segments):
                found = np.where(np.isin(found, [s.id for s in things]), found, np.int32(VOID))
            quality.update(*object_segments(image.instances), found, things)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What was measured.

    Attributes:
        counts: to be merged with those of other processes.
        seconds: of predicting alone: includes reading the images and enlarging the masks, not
            reading the ground truth, counting and writing. None where that was done elsewhere.
        missing: images without any prediction, counted as if nothing had been found.
    """

    counts: Counts
    seconds: float | None = None
    missing: int = 0


def metrics(
    figures: Figures, truth: GroundTruth, seconds: float | None = None
) -> dict[str, object]:
    """Give the figures as `metrics.json` holds them: fractions from 0 to 1, unrounded.

    Panoptic figures are `pq`, `sq`, `rq` and `f1` (`rq` by its other name) over all categories that
    occur, the same with `_things` and `_stuff`, and `per_class`, by name. `boxes` and `instances`
    hold COCO's twelve figures each, null where the ground truth has no object of that size, and
    `per_class`.

    Args:
        figures: what was counted.
        truth: what it was counted against.
        seconds: of predicting alone, all images together; None where that was done elsewhere.
    """
    written: dict[str, object] = {"images": figures.images}
    if seconds is not None:
        written["seconds_per_image"] = seconds / max(1, figures.images)
    if figures.panoptic is not None:
        parts = {"": figures.panoptic.all}
        parts |= {"_things": figures.panoptic.things, "_stuff": figures.panoptic.stuff}
        for suffix, mean in parts.items():
            for key, value in (("pq", mean.pq), ("sq", mean.sq), ("rq", mean.rq), ("f1", mean.rq)):
                written[key + suffix] = value
        classes = zip(truth.segment_categories, figures.panoptic.per_class, strict=True)
        written["per_class"] = {c.name: {**asdict(of), "f1": of.rq} for c, of in classes}
    for task, found in (("boxes", figures.boxes), ("instances", figures.instances)):
        if found is not None:
            classes = zip(truth.object_categories, found.per_class, strict=True)
            written[task] = {key: getattr(found, key) for key in TWELVE} | {
                "per_class": {category.name: asdict(of_class) for category, of_class in classes}
            }
    return written
