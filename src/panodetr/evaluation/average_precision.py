"""Average precision (AP) of boxes and of masks: COCO's twelve figures.

hotcoco counts; its figures equal pycocotools' to the last bit. It only warns of faulty input, so
everything from outside is checked before it gets here.
hotcoco runs threads: a process that is forked after hotcoco has run hangs in it, so spawn instead.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil
from typing import Literal, NotRequired, TypedDict

import hotcoco
import numpy as np
from hotcoco import COCOeval, StreamingEval
from numpy.typing import NDArray

from panodetr.data.samples import ObjectTruth, RunLengths
from panodetr.results.types import Category

Overlap = Literal["bbox", "segm"]
"""What IoU is measured on, in COCO's words."""

RANKED = 100
"""How many predictions of a class count in one image: those with the highest scores, as COCO has it
unless the user says otherwise."""


class ObjectResult(TypedDict):
    """One predicted object in COCO's result format.

    `bbox` is x, y, width, height in pixels. A mask's result must not have one: pycocotools would
    take the object's area, which decides whether it is small, from the box instead of the mask.
    """

    image_id: int
    category_id: int
    score: float
    bbox: NotRequired[list[float]]
    segmentation: NotRequired[RunLengths]


@dataclass(frozen=True, kw_only=True)
class ClassPrecision:
    """The figures of one category; None where the ground truth has no such object.

    Attributes:
        ap: mean precision over recalls, and over IoUs from 0.5 to 0.95.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        ar100: mean recall over the IoUs, of the 100 best predictions of each image.
        best_threshold: the threshold of scores with the highest F1 at IoU 0.5, in hundredths.
        truths: objects in the ground truth, crowds not counted.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar100: float | None
    best_threshold: float | None
    truths: int


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionFigures:
    """COCO's twelve figures, 0 to 1; None where the ground truth has no object of that size.

    Attributes:
        ap: mean over the categories, over IoUs from 0.5 to 0.95, and over recalls.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        ap_small: of objects of less than 32² pixels.
        ap_medium: of 32² to 96² pixels.
        ap_large: of more than 96² pixels.
        ar1: mean recall over categories and IoUs, of the best prediction of each image.
        ar10: of the 10 best.
        ar100: of the 100 best.
        ar_small: of the 100 best, of small objects.
        ar_medium: of the 100 best, of medium objects.
        ar_large: of the 100 best, of large objects.
        per_class: by the categories' names.
        counted: hotcoco's own result, from which it draws curves.
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
    per_class: dict[str, ClassPrecision]
    counted: COCOeval


TWELVE = tuple(field.name for field in fields(DetectionFigures))[:12]
"""The names of COCO's twelve figures, in COCO's order."""


class AveragePrecision:
    """Matches predictions image by image; keeps 5 kB an image: scores and matches, no masks.

    Attributes:
        beyond: images that have more objects of a class than predictions of it count.
    """

    def __init__(
        self, categories: Sequence[Category], overlap: Overlap, ranked: int = RANKED
    ) -> None:
        self.categories = tuple(categories)
        self.beyond = 0
        self._ranked = ranked
        params = hotcoco.Params(overlap)
        params.max_dets = [1, 10, ranked]
        self._truths = Counter[int]()
        named = [{"id": c.id, "name": c.name} for c in categories]
        self._matches = StreamingEval(named, overlap, params=params)

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
            truth: its objects in the ground truth, crowds included.
            results: its predictions, whose categories are all among ours.
        """
        image = {"id": image_id, "height": size[0], "width": size[1]}
        # The type checker does not take typed dictionaries for dictionaries.
        self._matches.update([image], [dict(t) for t in truth], [dict(r) for r in results])
        counted = Counter(t["category_id"] for t in truth if not t["iscrowd"])
        self._truths += counted
        self.beyond += any(count > self._ranked for count in counted.values())

    def merge(self, other: AveragePrecision) -> None:
        """Add what another has matched on other images of the same data set. It is exact."""
        self._matches = StreamingEval.merge([self._matches, other._matches])
        self._truths += other._truths
        self.beyond += other.beyond

    def compute(self) -> DetectionFigures:
        """Turn what was matched so far into figures."""
        counted = copy.copy(self._matches).finalize()  # nothing can be added after finalize
        counted.accumulate()
        counted.summary_lines()  # computes `stats`; `summarize` would print them
        tables = counted.eval or {}
        # IoU T, recall R, category C, then all sizes and the 100 best predictions
        precision: NDArray[np.float64] = tables["precision"][..., 0, 2]  # T, R, C
        recall: NDArray[np.float64] = tables["recall"][..., 0, 2]  # T, C
        scores: NDArray[np.float64] = tables["scores"][0, ..., 0, 2]  # R, C, at IoU 0.5
        stats = [None if value == -1 else float(value) for value in counted.stats]
        return DetectionFigures(
            **dict(zip(TWELVE, stats, strict=True)),
            per_class={
                category.name: ClassPrecision(
                    ap=_mean(precision[:, :, row]),
                    ap50=_mean(precision[0, :, row]),
                    ap75=_mean(precision[5, :, row]),
                    ar100=_mean(recall[:, row]),
                    best_threshold=_best_threshold(precision[0, :, row], scores[:, row]),
                    truths=self._truths[category.id],
                )
                for row, category in enumerate(self.categories)
            },
            counted=counted,
        )


def _mean(values: NDArray[np.float64]) -> float | None:
    """Average over the ground truth: -1 stands for a category without objects."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else None


def _best_threshold(precision: NDArray[np.float64], scores: NDArray[np.float64]) -> float | None:
    """Find the threshold with the highest F1, of a class's precision and scores by recall (R,)."""
    recall = np.linspace(0, 1, len(precision))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    best = int(f1.argmax())
    # Scores above a threshold are kept: it lies below that of the last prediction which is wanted.
    return max(0.0, ceil(100 * scores[best] - 1) / 100) if f1[best] > 0 else None
