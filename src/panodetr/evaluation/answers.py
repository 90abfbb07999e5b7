"""What a model answers, in the form in which it is counted and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import hotcoco
import numpy as np

from panodetr.data.instances import RunLengths
from panodetr.errors import DataError
from panodetr.evaluation.detection import RANKED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from panodetr.evaluation.detection import ObjectResult
    from panodetr.evaluation.panoptic import PredictedSegment
    from panodetr.results.types import Candidates


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """The predictions for one image, of the tasks that were asked for.

    Attributes:
        segment_ids: (H, W), 0 = nothing; None where there is no panoptic answer.
        segments: those of `segment_ids`.
        boxes: with `bbox`; None where they weren't asked for.
        masks: with `segmentation` and without `bbox`; likewise.
    """

    segment_ids: NDArray[np.int32] | None = None
    segments: Sequence[PredictedSegment] = ()
    boxes: Sequence[ObjectResult] | None = None
    masks: Sequence[ObjectResult] | None = None


def box_results(
    image_id: int, candidates: Candidates, chosen: NDArray[np.intp]
) -> list[ObjectResult]:
    """Write candidates as COCO's box results, unrounded.

    Args:
        image_id: the data set's own.
        candidates: the queries of one image.
        chosen: (N,) which of them.
    """
    x0, y0, x1, y1 = candidates.boxes[chosen].astype(np.float64).T
    boxes: list[list[float]] = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1).tolist()
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        for category_id, box, score in zip(
            candidates.category_ids[chosen].tolist(),
            boxes,
            candidates.scores[chosen].tolist(),
            strict=True,
        )
    ]


def best_of_each_class(candidates: Candidates, chosen: NDArray[np.intp]) -> NDArray[np.intp]:
    """Leave out what no figure of COCO's looks at: all but the `RANKED` best of each class.

    Args:
        candidates: the queries of one image.
        chosen: (N,) some of them.

    Returns:
        Those of them that count, in their order.
    """
    classes = candidates.category_ids[chosen]
    kept: list[int] = []
    for category_id in np.unique(classes).tolist():
        own = chosen[classes == category_id]
        best = np.argsort(-candidates.scores[own], kind="stable")[:RANKED]
        kept += own[best].tolist()
    return np.array(sorted(kept), np.intp)


def mask_result(image_id: int, category_id: int, score: float, mask: RunLengths) -> ObjectResult:
    """Write one mask as COCO's result."""
    return {
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": mask,
        "score": score,
    }


def run_lengths(mask: NDArray[np.bool_]) -> RunLengths:
    """Encode a mask (H, W) as COCO's string of run lengths."""
    # Columns first, or hotcoco takes ten times as long.
    encoded = hotcoco.mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def check_finite(candidates: Candidates) -> None:
    """See that a model gave numbers.

    Raises:
        DataError: a score or a box is infinite or not a number.
    """
    bad = ~(np.isfinite(candidates.scores) & np.isfinite(candidates.boxes).all(axis=1))
    if bad.any():
        query = int(np.argmax(bad))
        raise DataError(
            f"the model's query {query} has the score {candidates.scores[query]} and the box "
            f"{candidates.boxes[query].tolist()}; expected finite numbers: its weights are broken"
        )
