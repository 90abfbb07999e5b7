"""What training wants to know of a crop: its objects' classes, tight boxes and masks. NumPy only.

Called on every crop of every step, so it looks at the pixels once, as rows of runs of one id: a
thousand runs or so for a crop of 128 by 128, and everything after works on the runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from panodetr.data.panoptic import TruthSegment
    from panodetr.results.types import Category

LEAST_AREA = 5
"""Pixels. Smaller segments are no targets: the original drops results of 4 pixels or less."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """The N objects of one photo or crop, by rising segment id.

    Attributes:
        classes: (N,) int64 category indexes.
        boxes: (N, 4) float32 x0, y0, x1, y1 in pixels, tight around the mask (x1, y1 exclusive).
        segment_ids: (N,) int32, the values in `ids` that are the objects.
        ids: (H, W) int32; pixels of other values belong to no object.
    """

    classes: NDArray[np.int64]
    boxes: NDArray[np.float32]
    segment_ids: NDArray[np.int32]
    ids: NDArray[np.int32]


def panoptic_target(
    ids: NDArray[np.int32], segments: Sequence[TruthSegment], categories: Sequence[Category]
) -> Target:
    """Find the objects that an id map (H, W), or a crop of one, shows.

    Left out: crowds (one mask for many objects teaches a query nothing), segments of fewer than
    `LEAST_AREA` pixels in this map, and ids that `segments` doesn't list. Boxes and areas come from
    the pixels, because the JSON's hold for the whole photo only.
    """
    index_of = {category.id: category.index for category in categories}
    class_of = {s.id: index_of[s.category_id] for s in segments if not s.is_crowd}
    found, boxes, areas = _extents(ids)
    classes = np.array([class_of.get(i, -1) for i in found.tolist()], dtype=np.int64)
    kept = (classes >= 0) & (areas >= LEAST_AREA)
    return Target(classes=classes[kept], boxes=boxes[kept], segment_ids=found[kept], ids=ids)


def masks(target: Target) -> NDArray[np.bool_]:
    """Give a target's masks, (N, H, W), in the order of its classes and boxes."""
    return target.ids == target.segment_ids[:, None, None]


def _extents(
    ids: NDArray[np.int32],
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Find each value of an id map (H, W): values (K,), rising, boxes (K, 4), areas (K,)."""
    height, width = ids.shape
    begins = np.ones((height, width), dtype=np.bool_)  # a run ends with its row
    np.not_equal(ids[:, 1:], ids[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)  # (R,)
    lengths = np.diff(starts, append=height * width)
    values = ids[begins]

    order = np.argsort(values, kind="stable")  # of one value, runs stay from top to bottom
    values = values[order]
    first = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))  # (K,)
    last = np.append(first[1:], values.size) - 1
    rows, lefts = np.divmod(starts[order], width)
    lengths = lengths[order]
    boxes = np.empty((first.size, 4), dtype=np.float32)
    boxes[:, 0] = np.minimum.reduceat(lefts, first)
    boxes[:, 1] = rows[first]
    boxes[:, 2] = np.maximum.reduceat(lefts + lengths, first)
    boxes[:, 3] = rows[last] + 1
    return values[first], boxes, np.add.reduceat(lengths, first)
