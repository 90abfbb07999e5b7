"""Objects' masks between the two ways of writing them: one by one, and all in one id map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hotcoco
import numpy as np

from panodetr.data.instances import RunLengths

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from numpy.typing import NDArray

    from panodetr.data.instances import ObjectTruth
    from panodetr.data.panoptic import Sample


def encode_mask(
    segmentation: list[list[float]] | RunLengths, size: tuple[int, int]
) -> dict[str, Any]:
    """Encode polygons or run lengths of an image (H, W) as hotcoco's run lengths.

    Polygons are filled by COCO's rule; the object is all that any of them covers.
    """
    if isinstance(segmentation, list):
        return hotcoco.mask.merge(hotcoco.mask.fr_py_objects(segmentation, *size))
    return hotcoco.mask.fr_py_objects(dict(segmentation), *size)


def draw_mask(
    segmentation: list[list[float]] | RunLengths, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Draw polygons or run lengths as a mask (H, W)."""
    return np.asarray(hotcoco.mask.decode(encode_mask(segmentation, size)), np.bool_)


def mask_area(truth: ObjectTruth, size: tuple[int, int]) -> int:
    """Count the pixels of an object's mask in an image (H, W)."""
    assert "segmentation" in truth
    return int(hotcoco.mask.area(encode_mask(truth["segmentation"], size)))


def draw_id_map(objects: Sequence[ObjectTruth], size: tuple[int, int]) -> NDArray[np.int32]:
    """Draw all objects' masks into one map (H, W): 1 + the object's place, 0 where there is none.

    Where objects overlap, the one of fewer pixels is on top: docs/decisions/011-id-maps.md. Only
    one mask is decoded at a time; as masks are, the map is contiguous column by column.

    Args:
        objects: each with a mask.
        size: of the image.
    """
    encoded = [encode_mask(truth["segmentation"], size) for truth in objects]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    areas = [int(hotcoco.mask.area(mask)) for mask in encoded]
    ids = np.zeros(size, np.int32, order="F")  # masks are decoded column by column
    for place in sorted(range(len(objects)), key=lambda place: -areas[place]):
        np.copyto(ids, place + 1, where=hotcoco.mask.decode(encoded[place]).view(np.bool_))
    return ids


def panoptic_objects(
    sample: Sample, ids: NDArray[np.int32], things: Container[int]
) -> list[ObjectTruth]:
    """Make objects with boxes and masks of the segments of a panoptic truth.

    Args:
        sample: whose segments.
        ids: its id map (H, W).
        things: the ids of the categories whose segments are objects.
    """
    found: list[ObjectTruth] = []
    columns = np.asfortranarray(ids)  # run lengths go down the columns
    for number, segment in enumerate(sample.segments, start=1):
        if segment.category_id not in things:
            continue
        truth = mask_object(columns == segment.id, number, sample.image_id, segment.category_id)
        truth["area"], truth["iscrowd"] = float(segment.area), int(segment.is_crowd)
        found.append(truth)
    return found


def id_map_objects(
    ids: NDArray[np.int32], numbers: NDArray[np.int32], image_id: int, category_id: int
) -> list[ObjectTruth]:
    """Make objects with boxes and masks of an id map (H, W) whose ids are all of one category.

    Args:
        ids: 0 = background.
        numbers: (N,) the ids that are objects.
        image_id: the data set's own.
        category_id: of all objects.
    """
    columns = np.asfortranarray(ids)  # run lengths go down the columns
    return [
        mask_object(columns == number, place, image_id, category_id)
        for place, number in enumerate(numbers.tolist(), start=1)
    ]


def mask_object(
    mask: NDArray[np.bool_], number: int, image_id: int, category_id: int
) -> ObjectTruth:
    """Make an object of a mask (H, W), which is fast where its columns are contiguous."""
    encoded = hotcoco.mask.encode(mask)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [float(edge) for edge in hotcoco.mask.to_bbox(encoded)],
        "area": float(hotcoco.mask.area(encoded)),
        "iscrowd": 0,
        "segmentation": RunLengths(size=list(mask.shape), counts=encoded["counts"].decode("ascii")),
    }
