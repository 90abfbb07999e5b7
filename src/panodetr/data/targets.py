"""What training needs to know of an image: its objects' classes, boxes and masks. NumPy only.

Called on every view of every step, so it looks at the pixels once, as rows of runs of one id: a
thousand runs or so for a crop of 128 by 128, and everything after works on the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from panodetr.data.augment import View
from panodetr.data.masks import present_ids
from panodetr.data.samples import GroundTruthSegment
from panodetr.results.id_map import run_starts

LEAST_AREA = 5
"""Pixels. Smaller segments are no targets: the original drops results of 4 pixels or less."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """The N objects of a whole image, crowds left out, by rising segment id.

    Attributes:
        classes: (N,) int64 category indexes.
        segment_ids: (N,) int32, 1 or more: the values in `ids` that are the objects.
        boxes: (N, 4) float32 x0, y0, x1, y1 in pixels, as annotated; None where they are those of
            the segments' pixels.
        ids: (H, W) int32; pixels of other values belong to no object. None where there are boxes
            only.
    """

    classes: NDArray[np.int64]
    segment_ids: NDArray[np.int32]
    boxes: NDArray[np.float32] | None
    ids: NDArray[np.int32] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Target(Objects):
    """The N objects of a view, which always have boxes.

    Attributes:
        boxes: (N, 4) float32 x0, y0, x1, y1 in pixels, within the view (x1, y1 exclusive); tight
            around the mask where none are annotated.
    """

    boxes: NDArray[np.float32]


def view_target(objects: Objects, view: View) -> Target:
    """Find what a view of an image shows of its objects.

    Left out: segments of fewer than `LEAST_AREA` pixels in the view; annotated boxes with nothing
    left of them in it, or whose object has a mask and no pixel of it is left; pixels of other ids.
    """
    ids = None if objects.ids is None else view.ids(objects.ids)
    if objects.boxes is None:
        assert ids is not None  # boxes come from somewhere
        return _tight_target(ids, objects.classes, objects.segment_ids)
    boxes = view.boxes(objects.boxes)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if ids is not None:
        kept &= np.isin(objects.segment_ids, present_ids(ids))
    return Target(
        classes=objects.classes[kept],
        boxes=boxes[kept],
        segment_ids=objects.segment_ids[kept],
        ids=ids,
    )


def paste_target(
    under: Target, over: Target, chosen: NDArray[np.bool_], offset: tuple[int, int]
) -> tuple[Target, NDArray[np.bool_]]:
    """Lay objects of one view over another view: where they cover, they hide what lies there.

    Objects are numbered anew, those of the lower view first. A partly hidden one has a box around
    what is left of it, within the box that it had; one with fewer than `LEAST_AREA` pixels left is
    left out.

    Args:
        under: the lower view.
        over: the upper view, which lies within the lower one; both with masks.
        chosen: (N,), which of its objects are pasted.
        offset: row and column of the lower view at which the upper one begins.

    Returns:
        What the lower view then shows, and (h, w) of the upper view, where it covers.
    """
    assert under.ids is not None
    assert over.ids is not None
    ids = number_pixels(under.segment_ids, under.ids).astype(np.int32)
    before = np.bincount(ids.ravel(), minlength=len(under.classes) + 1)
    place = number_pixels(over.segment_ids, over.ids).astype(np.int32)
    covers = np.concatenate(([False], chosen))[place]
    (y, x), (height, width) = offset, place.shape
    ids[y : y + height, x : x + width][covers] = place[covers] + len(under.classes)
    classes = np.concatenate((under.classes, over.classes))
    boxes = np.concatenate((under.boxes, over.boxes + np.array([x, y, x, y], np.float32)))
    numbers = np.arange(1, len(classes) + 1, dtype=np.int32)
    left = _tight_target(ids, classes, numbers)
    places = left.segment_ids - 1
    areas = np.bincount(ids.ravel(), minlength=len(numbers) + 1)
    hidden = places[places < len(under.classes)]
    hidden = hidden[areas[hidden + 1] < before[hidden + 1]]
    seen = left.boxes[np.searchsorted(places, hidden)]
    boxes[hidden, :2] = np.maximum(boxes[hidden, :2], seen[:, :2])
    boxes[hidden, 2:] = np.minimum(boxes[hidden, 2:], seen[:, 2:])
    return replace(left, boxes=boxes[places].astype(np.float32)), covers


def number_pixels(segment_ids: NDArray[np.int32], ids: NDArray[np.int32]) -> NDArray[np.int16]:
    """Give (h, w), 1 + the place of each pixel's object among the segments; 0 where is none."""
    if segment_ids.size == 0:
        return np.zeros(ids.shape, dtype=np.int16)
    place = np.searchsorted(segment_ids, ids).clip(max=segment_ids.size - 1)
    found = segment_ids[place] == ids
    return np.where(found, place + 1, 0).astype(np.int16)


def segment_classes(
    segments: Sequence[GroundTruthSegment], index_of: dict[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Give class indexes (N,) and ids (N,), rising, of the segments that are no crowd."""
    kept = sorted((s.id, index_of[s.category_id]) for s in segments if not s.is_crowd)
    classes = np.array([index for _, index in kept], dtype=np.int64)
    return classes, np.array([number for number, _ in kept], dtype=np.int32)


def _tight_target(
    ids: NDArray[np.int32], classes: NDArray[np.int64], segment_ids: NDArray[np.int32]
) -> Target:
    """Find which segments an id map shows, and the boxes of their pixels."""
    found, boxes, areas = extents(ids)
    place = np.searchsorted(segment_ids, found)
    known = place < segment_ids.size
    known[known] = segment_ids[place[known]] == found[known]
    kept = known & (areas >= LEAST_AREA)
    return Target(classes=classes[place[kept]], boxes=boxes[kept], segment_ids=found[kept], ids=ids)


def extents(
    ids: NDArray[np.int32],
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Find each value of an id map (H, W): values (K,), rising, boxes (K, 4), areas (K,)."""
    starts = run_starts(ids)  # (R,); a run ends with its row
    lengths = np.diff(starts, append=ids.size)
    values = ids.ravel()[starts]
    order = np.argsort(values, kind="stable")  # of one value, runs stay from top to bottom
    values = values[order]
    first = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))  # (K,)
    last = np.append(first[1:], values.size) - 1
    rows, lefts = np.divmod(starts[order], ids.shape[1])
    lengths = lengths[order]
    boxes = np.empty((first.size, 4), dtype=np.float32)
    boxes[:, 0] = np.minimum.reduceat(lefts, first)
    boxes[:, 1] = rows[first]
    boxes[:, 2] = np.maximum.reduceat(lefts + lengths, first)
    boxes[:, 3] = rows[last] + 1
    return values[first], boxes, np.add.reduceat(lengths, first)
