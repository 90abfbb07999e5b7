"""COCO's annotations as a model's labels, as transformers' processor makes them.

N: objects, H, W: pixels of the image, and of the canvas once padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.data.masks import read_id_map
from panodetr.errors import DataError

Labels = dict[str, Any]
"""Arrays by transformers' names; `size` is a tuple."""

_FAR = 1e8  # the least corner of a box without pixels


def read_detection(annotation: Mapping[str, Any], size: tuple[int, int], *, masks: bool) -> Labels:
    """Turn one image's COCO detection annotation into labels; crowds are left out.

    Args:
        annotation: `image_id` and `annotations`, a list of COCO's objects.
        size: height and width of the image.
        masks: whether polygons become masks.

    Raises:
        DataError: something is missing.
    """
    _need(annotation, ("image_id", "annotations"))
    objects: list[Mapping[str, Any]] = [
        one for one in annotation["annotations"] if not one.get("iscrowd", 0)
    ]
    needed = ("category_id", "area", "bbox", *(("segmentation",) if masks else ()))
    for one in objects:
        _need(one, needed)
    height, width = size
    boxes = np.array([one["bbox"] for one in objects], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # x0, y0, x1, y1
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
    real = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
    labels: Labels = {
        "image_id": np.array([annotation["image_id"]], np.int64),
        "class_labels": np.array([one["category_id"] for one in objects], np.int64)[real],
        "boxes": boxes[real],
        "area": np.array([one["area"] for one in objects], np.float32)[real],
        "iscrowd": np.zeros(int(real.sum()), np.int64),
        "orig_size": np.array(size, np.int64),
    }
    if objects and "keypoints" in objects[0]:
        points = np.array([one["keypoints"] for one in objects], np.float32)[real]
        labels["keypoints"] = points.reshape(-1, 3) if len(points) else points
    if masks:
        drawn = [_draw(one["segmentation"], size) for one in objects]
        labels["masks"] = np.array(drawn, np.uint8).reshape(-1, *size)[real]
    return labels


def read_panoptic(
    annotation: Mapping[str, Any], folder: Path, size: tuple[int, int], *, masks: bool
) -> Labels:
    """Turn one image's COCO panoptic annotation into labels; crowds stay in, marked.

    Args:
        annotation: `image_id`, `file_name` of the id map, and `segments_info`.
        folder: where the id map lies.
        size: height and width of the image.
        masks: whether masks are among the labels.

    Raises:
        DataError: something is missing, or the id map cannot be read or has another size.
    """
    _need(annotation, ("file_name", "segments_info"))
    image_id = annotation.get("image_id", annotation.get("id"))
    if image_id is None:
        raise DataError('an annotation has no "image_id"; COCO\'s format requires it')
    segments: list[Mapping[str, Any]] = annotation["segments_info"]
    for segment in segments:
        _need(segment, ("id", "category_id", "iscrowd", "area"))
    segment_ids = read_id_map(folder / annotation["file_name"], size)
    drawn = np.array([segment_ids == segment["id"] for segment in segments], np.uint8)
    drawn = drawn.reshape(-1, *segment_ids.shape)  # N, H, W
    labels: Labels = {
        "image_id": np.array([image_id], np.int64),
        "size": np.array(size, np.int64),
        "orig_size": np.array(size, np.int64),
        "boxes": np.array([_box(mask) for mask in drawn], np.float32).reshape(-1, 4),
        "class_labels": np.array([segment["category_id"] for segment in segments], np.int64),
        "iscrowd": np.array([segment["iscrowd"] for segment in segments], np.int64),
        "area": np.array([segment["area"] for segment in segments], np.float32),
    }
    if masks:
        labels["masks"] = drawn
    return labels


def resized(labels: Labels, before: tuple[int, int], after: tuple[int, int]) -> Labels:
    """Follow an image from one height and width to another."""
    down, across = after[0] / before[0], after[1] / before[1]
    changed = {**labels, "size": after}
    changed["boxes"] = labels["boxes"] * np.array([across, down, across, down], np.float32)
    changed["area"] = labels["area"] * (across * down)
    if "masks" in labels:
        grown = [_nearest(mask, after) for mask in labels["masks"]]
        changed["masks"] = np.array(grown, np.bool_).reshape(-1, *after)
    return changed


def normalized(labels: Labels, size: tuple[int, int]) -> Labels:
    """Turn boxes from corners in pixels to cxcywh in fractions of a height and width."""
    low, high = labels["boxes"][:, :2], labels["boxes"][:, 2:]
    height, width = size
    scale = np.array([width, height, width, height], np.float32)
    boxes = np.concatenate([(low + high) / 2, high - low], axis=1) / scale
    return {**labels, "boxes": boxes}


def padded(
    labels: Labels, before: tuple[int, int], after: tuple[int, int], *, fractions: bool
) -> Labels:
    """Follow an image into the upper left corner of a canvas.

    Boxes in fractions become fractions of the canvas, as transformers has it, although what a
    DETR gives out are fractions of the image.
    """
    if before == after:
        return labels
    (h, w), (height, width) = before, after
    changed = {**labels, "size": after}
    if fractions:
        scale = np.array([w / width, h / height, w / width, h / height])
        changed["boxes"] = (labels["boxes"] * scale).astype(np.float32)
    if "masks" in labels:
        beyond = ((0, 0), (0, height - h), (0, width - w))
        changed["masks"] = np.pad(labels["masks"], beyond)
    return changed


def _need(values: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        if key not in values:
            raise DataError(f'an annotation has no "{key}"; COCO\'s format requires it')


def _draw(polygons: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill COCO's polygons, or decode its run lengths."""
    import hotcoco

    runs = hotcoco.mask.frPyObjects(polygons, *size)
    drawn = np.asarray(hotcoco.mask.decode(runs), np.bool_)
    return np.logical_or.reduce(drawn, axis=2) if drawn.ndim == 3 else drawn


def _box(mask: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Give a mask's first and last columns and rows: x0, y0, x1, y1, the last two inclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return _FAR, _FAR, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def _nearest(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.bool_]:
    height, width = size
    picture = Image.fromarray(mask.astype(np.uint8))
    return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST)) > 0
