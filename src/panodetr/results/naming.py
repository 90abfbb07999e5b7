"""Categories' names and ids for what was found by class index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from panodetr.results.panoptic import ClassSegment
from panodetr.results.types import Candidates, Category, Detection, Segment


def name_segments(
    found: Iterable[ClassSegment], by_index: Mapping[int, Category]
) -> tuple[Segment, ...]:
    """Name segments, in their order; `by_index` has the categories of the classes that occur."""
    return tuple(
        Segment(
            id=segment.id,
            label=by_index[segment.class_index].name,
            category_id=by_index[segment.class_index].id,
            is_thing=by_index[segment.class_index].is_thing,
            score=segment.score,
            box=segment.box,
            area=segment.area,
        )
        for segment in found
    )


def name_detections(found: Candidates, categories: Sequence[Category]) -> tuple[Detection, ...]:
    """Name what was found, the best score first."""
    labels = {category.id: category.name for category in categories}
    detections: list[Detection] = []
    for index in np.argsort(-found.scores, kind="stable"):
        x0, y0, x1, y1 = found.boxes[index].tolist()
        category_id = int(found.category_ids[index])
        detections.append(
            Detection(
                label=labels[category_id],
                category_id=category_id,
                score=float(found.scores[index]),
                box=(x0, y0, x1, y1),
                coarse_mask=found.coarse_masks[index] if found.coarse_masks else None,
            )
        )
    return tuple(detections)
