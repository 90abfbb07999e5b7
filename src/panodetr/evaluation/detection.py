"""Average precision of boxes and of masks, with COCO's twelve figures.

The counting is hotcoco's, whose figures are pycocotools' to the last bit. It only warns of input
that cannot be meant, so whatever comes from outside is checked before it gets here.
hotcoco runs threads: a process that is forked after it has run hangs in it, so spawn.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

import numpy as np
from hotcoco import StreamingEval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from panodetr.data.instances import InstanceCategory, ObjectTruth, RunLengths

Kind = Literal["bbox", "segm"]
"""What overlap is measured on, in COCO's words."""

IOUS = np.linspace(0.5, 0.95, 10)
"""The overlaps at which a detection may be asked to match, T of them."""

RANKED = 100
"""Detections of a class in one image that count at all, the best ones."""

RECALLS = np.linspace(0, 1, 101)
"""Where precision is read off, R of them."""


class ObjectResult(TypedDict):
    """One detection in COCO's result format.

    `bbox` is x, y, width, height in pixels. A mask's result must carry none: pycocotools would take
    the object's area, which decides whether it is small, from the box instead of the mask.
    """

    image_id: int
    category_id: int
    score: float
    bbox: NotRequired[list[float]]
    segmentation: NotRequired[RunLengths]


@dataclass(frozen=True, kw_only=True)
class ClassPrecision:
    """The figures of one category; None where it has no truth.

    Attributes:
        ap: mean precision over recalls, and over IoUs from 0.5 to 0.95.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        ar100: mean recall over the IoUs, of the 100 best detections of each image.
        truths: true objects, crowds not counted.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar100: float | None
    truths: int


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionFigures:
    """COCO's twelve figures, 0 to 1; None where no truth of that size exists.

    Attributes:
        ap: mean over the categories, over IoUs from 0.5 to 0.95, and over recalls.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        ap_small: of objects of less than 32² pixels.
        ap_medium: of 32² to 96² pixels.
        ap_large: of more.
        ar1: mean recall over categories and IoUs, of the best detection of each image.
        ar10: of the 10 best.
        ar100: of the 100 best.
        ar_small: of the 100 best, of small objects.
        ar_medium: likewise.
        ar_large: likewise.
        per_class: in the order of the categories.
        precision: (T, R, C) at each of `IOUS` and `RECALLS`, for each category, all sizes, 100
            detections; -1 where a category has no truth.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    per_class: tuple[ClassPrecision, ...]
    precision: NDArray[np.float64]


class AveragePrecision:
    """Matches detections image by image; keeps 5 kB an image: scores and matches, no masks."""

    def __init__(self, categories: Sequence[InstanceCategory], kind: Kind) -> None:
        self.categories = tuple(categories)
        self.kind: Kind = kind
        self._truths = Counter[int]()
        self._matches = StreamingEval([{"id": c.id, "name": c.name} for c in categories], kind)

    def update(
        self,
        image_id: int,
        size: tuple[int, int],
        truth: Sequence[ObjectTruth],
        results: Sequence[ObjectResult],
    ) -> None:
        """Match one image, which must not have been given before.

        Args:
            image_id: the data set's own.
            size: height and width.
            truth: its true objects, crowds included.
            results: its detections, whose categories are all among ours.
        """
        image = {"id": image_id, "height": size[0], "width": size[1]}
        # Typed dictionaries are plain ones that the type checker does not take for such.
        self._matches.update([image], [dict(t) for t in truth], [dict(r) for r in results])
        self._truths.update(t["category_id"] for t in truth if not t["iscrowd"])

    def merge(self, other: AveragePrecision) -> None:
        """Add what another has matched on other images of the same data set. It is exact.

        Raises:
            ValueError: it has other categories, or measures another overlap.
        """
        if (other.categories, other.kind) != (self.categories, self.kind):
            raise ValueError("expected matches of the same categories and the same kind")
        self._matches = StreamingEval.merge([self._matches, other._matches])
        self._truths += other._truths

    def compute(self) -> DetectionFigures:
        """Turn what was matched so far into figures."""
        ended = copy.copy(self._matches).finalize()  # ending it is for good
        ended.accumulate()
        counted = ended.eval or {}
        # IoU T, recall R, category C, size A (all, small, medium, large), detections M (1, 10, 100)
        precision: NDArray[np.float64] = counted["precision"]  # T, R, C, A, M
        recall: NDArray[np.float64] = counted["recall"]  # T, C, A, M
        return DetectionFigures(
            ap=_mean(precision[..., 0, 2]),
            ap50=_mean(precision[0, ..., 0, 2]),
            ap75=_mean(precision[5, ..., 0, 2]),
            ap_small=_mean(precision[..., 1, 2]),
            ap_medium=_mean(precision[..., 2, 2]),
            ap_large=_mean(precision[..., 3, 2]),
            ar1=_mean(recall[..., 0, 0]),
            ar10=_mean(recall[..., 0, 1]),
            ar100=_mean(recall[..., 0, 2]),
            ar_small=_mean(recall[..., 1, 2]),
            ar_medium=_mean(recall[..., 2, 2]),
            ar_large=_mean(recall[..., 3, 2]),
            per_class=tuple(
                ClassPrecision(
                    ap=_mean(precision[:, :, row, 0, 2]),
                    ap50=_mean(precision[0, :, row, 0, 2]),
                    ap75=_mean(precision[5, :, row, 0, 2]),
                    ar100=_mean(recall[:, row, 0, 2]),
                    truths=self._truths[category.id],
                )
                for row, category in enumerate(self.categories)
            ),
            precision=precision[..., 0, 2].copy(),
        )


def _mean(values: NDArray[np.float64]) -> float | None:
    """Average what has truth: -1 stands for a category without any."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else None
