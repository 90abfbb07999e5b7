"""Objects that were written one by one, as the segments that panoptic quality is counted by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panodetr.data.idmaps import VOID
from panodetr.data.masks import draw_id_map, draw_mask
from panodetr.data.panoptic import GroundTruthSegment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from panodetr.data.instances import InstanceImage


def object_segments(image: InstanceImage) -> tuple[NDArray[np.int32], list[GroundTruthSegment]]:
    """Draw an image's objects into one id map, as training does, and list them.

    Where objects overlap, the one of fewer pixels is on top; one that is covered whole is left out.
    Crowds lie below all others, those of a category as one segment. What no object covers is not
    void, which forgives whatever is found there, but an id that no segment has: nothing is true
    there.

    Args:
        image: all of whose objects have masks.

    Returns:
        Ids (H, W), and the segments in the order of their ids.
    """
    objects = [truth for truth in image.objects if not truth["iscrowd"]]
    crowds = [truth for truth in image.objects if truth["iscrowd"]]
    ids = draw_id_map(objects, image.size)
    categories = [truth["category_id"] for truth in objects]
    crowded = sorted({truth["category_id"] for truth in crowds})
    for number, category_id in enumerate(crowded, start=len(objects) + 1):
        for crowd in (crowd for crowd in crowds if crowd["category_id"] == category_id):
            mask = draw_mask(crowd["segmentation"], image.size)  # pyright: ignore[reportTypedDictNotRequiredAccess]
            ids[mask & (ids == VOID)] = number
    categories += crowded
    areas = np.bincount(ids.ravel(), minlength=len(categories) + 1).tolist()
    ids[ids == VOID] = len(categories) + 1
    return ids, [
        GroundTruthSegment(
            id=number,
            category_id=category_id,
            area=areas[number],
            is_crowd=number > len(objects),
        )
        for number, category_id in enumerate(categories, start=1)
        if areas[number]
    ]
