"""Targets of whole id maps, and their masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from panodetr.data.augment import View
from panodetr.data.samples import GroundTruthSegment
from panodetr.data.targets import Objects, Target, segment_classes, view_target
from panodetr.results.types import Category


def panoptic_target(
    ids: NDArray[np.int32], segments: Sequence[GroundTruthSegment], categories: Sequence[Category]
) -> Target:
    classes, segment_ids = segment_classes(segments, {c.id: c.index for c in categories})
    height, width = ids.shape
    objects = Objects(classes=classes, segment_ids=segment_ids, boxes=None, ids=ids)
    return view_target(objects, View(window=(0, 0, height, width), size=(height, width)))


def masks(target: Target) -> NDArray[np.bool_]:
    """(N, H, W)."""
    assert target.ids is not None
    return target.ids == target.segment_ids[:, None, None]
