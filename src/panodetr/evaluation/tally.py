"""Counts the answers to all tasks, image by image.

What several processes have counted adds up exactly: to what one process would have counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from panodetr.data.idmaps import VOID
from panodetr.data.masks import panoptic_objects
from panodetr.data.panoptic import read_ids
from panodetr.errors import DataError
from panodetr.evaluation.detection import AveragePrecision
from panodetr.evaluation.objects import object_segments
from panodetr.evaluation.panoptic import PanopticQuality

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from panodetr.data.instances import ObjectTruth
    from panodetr.evaluation.answers import Answer
    from panodetr.evaluation.detection import DetectionFigures
    from panodetr.evaluation.ground_truth import GroundTruth, GroundTruthImage, Task
    from panodetr.evaluation.panoptic import PanopticFigures


@dataclass(frozen=True, kw_only=True, eq=False)
class Figures:
    """What was found; None for tasks that weren't asked for.

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


class Tally:
    """Keeps counts, scores and matches, a few kilobytes an image, and neither masks nor the truth.

    It can be pickled, so that processes that have counted a share of the images each
    (`GroundTruth.share`) can send theirs to one that merges them.
    """

    def __init__(self, truth: GroundTruth, tasks: Iterable[Task]) -> None:
        """Start at zero.

        Raises:
            DataError: the truth doesn't say what a task needs.
        """
        self.tasks = tuple(tasks)
        truth.require(self.tasks)
        self._things = frozenset(category.id for category in truth.object_categories)
        self._of_objects = truth.of_objects
        self._panoptic = (
            PanopticQuality(truth.segment_categories) if "panoptic" in self.tasks else None
        )
        of = truth.object_categories
        self._boxes = AveragePrecision(of, "bbox") if "boxes" in self.tasks else None
        self._masks = AveragePrecision(of, "segm") if "instances" in self.tasks else None
        self._counted: set[int] = set()

    def update(self, image: GroundTruthImage, answer: Answer) -> None:
        """Count one image.

        Raises:
            DataError: the truth or the answer contradicts itself.
            ValueError: the image was counted before.
        """
        if image.image_id in self._counted:
            raise ValueError(f"image {image.image_id} was counted before; expected each once")
        ids = self._read_ids(image)
        if self._panoptic is not None and answer.segment_ids is not None:
            try:
                self._count_segments(self._panoptic, image, ids, answer)
            except DataError as error:
                raise DataError(f"{image.path}: {error}") from error
        truth = self._objects(image, ids)
        for counter, results in ((self._boxes, answer.boxes), (self._masks, answer.masks)):
            if counter is not None:
                counter.update(image.image_id, image.size, truth, results or ())
        self._counted.add(image.image_id)

    def merge(self, other: Tally) -> None:
        """Add what another has counted on other images of the same data set. It is exact.

        Raises:
            ValueError: both have counted the same image, or they count different things.
        """
        twice = self._counted & other._counted
        if twice:
            raise ValueError(
                f"{len(twice)} images were counted by both, first {min(twice)}; give each process "
                "its own, as GroundTruth.share does"
            )
        for ours, theirs in ((self._boxes, other._boxes), (self._masks, other._masks)):
            if (ours is None) != (theirs is None):
                raise ValueError("expected counts of the same tasks")
            if ours is not None and theirs is not None:
                ours.merge(theirs)
        if (self._panoptic is None) != (other._panoptic is None):
            raise ValueError("expected counts of the same tasks")
        if self._panoptic is not None and other._panoptic is not None:
            self._panoptic.merge(other._panoptic)
        self._counted |= other._counted

    def compute(self) -> Figures:
        """Turn what was counted so far into figures."""
        return Figures(
            panoptic=None if self._panoptic is None else self._panoptic.compute(),
            boxes=None if self._boxes is None else self._boxes.compute(),
            instances=None if self._masks is None else self._masks.compute(),
            images=len(self._counted),
        )

    def _count_segments(
        self,
        quality: PanopticQuality,
        image: GroundTruthImage,
        ids: NDArray[np.int32] | None,
        answer: Answer,
    ) -> None:
        """Count the panoptic answer, of which nothing but objects counts where they are all."""
        found, segments = answer.segment_ids, answer.segments
        assert found is not None
        if image.panoptic is not None and ids is not None:
            quality.update(ids, image.panoptic.segments, found, segments)
        elif image.instances is not None and self._of_objects:
            known = {category.id for category in quality.categories}
            things = [segment for segment in segments if segment.category_id in known]
            if len(things) < len(segments):
                found = np.where(np.isin(found, [s.id for s in things]), found, np.int32(VOID))
            quality.update(*object_segments(image.instances), found, things)

    def _read_ids(self, image: GroundTruthImage) -> NDArray[np.int32] | None:
        """Read the id map of an image where something is counted by it."""
        objects_from_it = image.instances is None and (self._boxes or self._masks)
        if image.panoptic is None or not (self._panoptic or objects_from_it):
            return None
        return read_ids(image.panoptic)

    def _objects(
        self, image: GroundTruthImage, ids: NDArray[np.int32] | None
    ) -> Sequence[ObjectTruth]:
        """List the true objects: the instance JSON's, or else the panoptic things."""
        if image.instances is not None:
            return image.instances.objects
        if image.panoptic is None or ids is None or not (self._boxes or self._masks):
            return ()
        return panoptic_objects(image.panoptic, ids, self._things)
