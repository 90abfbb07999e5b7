"""The figures as `metrics.json` holds them: fractions from 0 to 1, unrounded."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from panodetr.evaluation.detection import DetectionFigures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panodetr.data.instances import InstanceCategory
    from panodetr.evaluation.ground_truth import GroundTruth
    from panodetr.evaluation.panoptic import PanopticFigures
    from panodetr.evaluation.tally import Figures

TWELVE: tuple[str, ...] = tuple(
    field.name for field in fields(DetectionFigures) if field.name not in ("per_class", "precision")
)
"""COCO's twelve figures, in COCO's order; `DetectionFigures` explains them."""


def metrics(
    figures: Figures, truth: GroundTruth, seconds: float | None = None
) -> dict[str, object]:
    """Lay figures out for JSON.

    Panoptic figures are `pq`, `sq`, `rq` and `f1` (at IoU above one half) over all categories that
    occur, the same with `_things` and `_stuff`, and `per_class`, by name. `boxes` and `instances`
    hold COCO's twelve figures each, null where no truth of that size exists, and `per_class`.

    Args:
        figures: what was counted.
        truth: what it was counted against.
        seconds: of predicting alone, all images together; None where that was done elsewhere.
    """
    written: dict[str, object] = {"images": figures.images}
    if seconds is not None:
        written["seconds_per_image"] = seconds / max(1, figures.images)
    if figures.panoptic is not None:
        written |= _panoptic(figures.panoptic, [c.name for c in truth.segment_categories])
    if figures.boxes is not None:
        written["boxes"] = _objects(figures.boxes, truth.object_categories)
    if figures.instances is not None:
        written["instances"] = _objects(figures.instances, truth.object_categories)
    return written


def _panoptic(figures: PanopticFigures, names: Sequence[str]) -> dict[str, object]:
    written: dict[str, object] = {}
    for suffix, mean in (("", figures.all), ("_things", figures.things), ("_stuff", figures.stuff)):
        for key in ("pq", "sq", "rq", "f1"):
            written[key + suffix] = getattr(mean, key)
    written["per_class"] = {
        name: {**asdict(quality), "f1": quality.f1}
        for name, quality in zip(names, figures.per_class, strict=True)
    }
    return written


def _objects(
    figures: DetectionFigures, categories: Sequence[InstanceCategory]
) -> dict[str, object]:
    per_class = zip(categories, figures.per_class, strict=True)
    return {
        **{key: getattr(figures, key) for key in TWELVE},
        "per_class": {category.name: asdict(of_class) for category, of_class in per_class},
    }
