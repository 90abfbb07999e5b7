"""Labels from COCO's annotations, as transformers' processor makes them.

N: objects, H, W: pixels of an image; h, w: the same once resized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panodetr.compat.options import ProcessorOptions
from panodetr.data.masks import draw_mask, read_id_map
from panodetr.errors import DataError, UsageError

Annotation: TypeAlias = Mapping[str, Any]
Labels: TypeAlias = dict[str, Any]
"""Arrays by transformers' names; `size` is a tuple."""
Size: TypeAlias = tuple[int, int]
"""Height and width."""

_FAR = 1e8  # the least corner of a box without pixels


def read_annotations(
    sizes: Sequence[Size],
    annotations: Annotation | Sequence[Annotation],
    rule: ProcessorOptions,
    masks: bool | None,
    folder: str | Path | None,
) -> list[Labels]:
    """Read annotations as labels of images of these sizes, as they came."""
    each = [annotations] if isinstance(annotations, Mapping) else list(annotations)
    if len(each) != len(sizes):
        # Word for word what code written for transformers may look for.
        raise UsageError(
            f"The number of images ({len(sizes)}) and annotations ({len(each)}) do not match."
        )
    if rule.format == "coco_detection":
        return [_read_detection(*one, masks=bool(masks)) for one in zip(each, sizes, strict=True)]
    if folder is None:
        raise UsageError("masks_path is missing; expected the folder of the panoptic id maps")
    return [
        _read_panoptic(*one, Path(folder), masks=masks is None or masks)
        for one in zip(each, sizes, strict=True)
    ]


def follow_image(labels: Labels, before: Size, after: Size, rule: ProcessorOptions) -> Labels:
    """Do to labels what was done to their image, which was resized.

    Boxes become cxcywh in fractions where the rule says so.
    """
    boxes = labels["boxes"]
    if rule.do_resize:
        down, across = after[0] / before[0], after[1] / before[1]
        boxes = boxes * np.array([across, down, across, down], np.float32)
        labels |= {"size": after, "area": labels["area"] * (across * down)}
        if "masks" in labels:
            nearest = (after[1], after[0]), Image.Resampling.NEAREST
            masks = [np.asarray(Image.fromarray(m).resize(*nearest)) for m in labels["masks"]]
            labels |= {"masks": np.array(masks).reshape(-1, *after) > 0}
    if rule.do_convert_annotations:
        low, high = boxes[:, :2], boxes[:, 2:]
        scale = np.array([after[1], after[0]] * 2, np.float32)
        boxes = np.concatenate([(low + high) / 2, high - low], axis=1) / scale
    return {**labels, "boxes": boxes}


def pad_labels(labels: Labels, size: Size, canvas: Size, rule: ProcessorOptions) -> Labels:
    """Follow an image into the corner of a canvas.

    Boxes in fractions become those of the canvas, as transformers has it, although what a DETR
    gives out are fractions of the image.
    """
    if canvas == size:
        return labels
    padded = {**labels, "size": canvas}
    if rule.do_convert_annotations:
        parts = np.array([size[1] / canvas[1], size[0] / canvas[0]] * 2)
        padded["boxes"] = (np.asarray(labels["boxes"]) * parts).astype(np.float32)
    if "masks" in labels:
        padded["masks"] = pad_to(np.asarray(labels["masks"]), canvas)
    return padded


def _read_detection(annotation: Annotation, size: Size, *, masks: bool) -> Labels:
    """Turn one image's COCO detection annotation into labels; crowds are left out."""
    _need("detection", annotation, "image_id", "annotations")
    objects = [one for one in annotation["annotations"] if not one.get("iscrowd")]
    for one in objects:
        _need("detection", one, "category_id", "area", "bbox", *(["segmentation"] if masks else []))
    boxes = _stack([one["bbox"] for one in objects], "bbox", 4)
    boxes[:, 2:] += boxes[:, :2]  # x0, y0, x1, y1
    boxes = boxes.clip(0, np.array([size[1], size[0]] * 2, np.float32))
    real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    labels = _labels(annotation["image_id"], objects, boxes, size)
    for name in ("class_labels", "boxes", "area", "iscrowd"):
        labels[name] = labels[name][real]
    points = [np.ravel(() if (p := one.get("keypoints")) is None else p) for one in objects]
    if length := next(filter(None, map(len, points)), 0):
        # An object without keypoints has them all unlabelled.
        stacked = _stack(
            [each if len(each) else np.zeros(length) for each in points], "keypoints", length
        )
        labels["keypoints"] = stacked[real].reshape(-1, 3)
    if masks:
        drawn = [_draw(one["segmentation"], size) for one in objects]
        labels["masks"] = np.array(drawn, np.uint8).reshape(-1, *size)[real]
    return labels


def _read_panoptic(annotation: Annotation, size: Size, folder: Path, *, masks: bool) -> Labels:
    """Turn one image's COCO panoptic annotation into labels; crowds stay in, marked."""
    _need("panoptic", annotation, "file_name", "segments_info")
    image_id = annotation.get("image_id", annotation.get("id"))
    segments: list[Annotation] = annotation["segments_info"]
    for segment in segments:
        _need("panoptic", segment, "id", "category_id", "iscrowd", "area")
    segment_ids = read_id_map(folder / annotation["file_name"], size)
    drawn = np.array([segment_ids == segment["id"] for segment in segments], np.uint8)
    drawn = drawn.reshape(-1, *size)  # N, H, W
    boxes = np.array([_box(mask) for mask in drawn], np.float32).reshape(-1, 4)
    labels = _labels(image_id, segments, boxes, size) | {"size": np.array(size, np.int64)}
    return labels | {"masks": drawn} if masks else labels


def _labels(
    image_id: Any, objects: Sequence[Annotation], boxes: NDArray[np.float32], size: Size
) -> Labels:
    """Make what both formats' labels have; an id that is no number stays as it is, in a list."""
    if image_id is None:
        raise DataError('Invalid COCO annotations: "image_id" is missing')
    try:
        ids: Any = np.array([image_id], np.int64)
    except (TypeError, ValueError, OverflowError):
        ids = [image_id]
    return {
        "image_id": ids,
        "class_labels": np.array([one["category_id"] for one in objects], np.int64),
        "boxes": boxes,
        "area": np.array([one["area"] for one in objects], np.float32),
        "iscrowd": np.array([one.get("iscrowd") or 0 for one in objects], np.int64),
        "orig_size": np.array(size, np.int64),
    }


def _need(kind: str, values: Annotation, *keys: str) -> None:
    for key in keys:
        if key not in values or (values[key] is None and key in ("category_id", "area")):
            raise DataError(f'Invalid COCO {kind} annotations: "{key}" is missing')


def _stack(values: Sequence[Any], name: str, length: int) -> NDArray[np.float32]:
    """Make an array (N, length) of objects' numbers."""
    if any(value is None or len(value) != length for value in values):
        raise DataError(f"{name} of an annotation is not {length} numbers")
    found = np.array(values, np.float32).reshape(-1, length)
    if not np.isfinite(found).all():
        raise DataError(f"{name} of an annotation is not finite; expected {length} numbers")
    return found


def _draw(segmentation: Any, size: Size) -> NDArray[np.bool_]:
    """Fill COCO's polygons, or one without its list, or decode its run lengths.

    A polygon of fewer than three corners has no pixels; its corners may be pairs.
    """
    if isinstance(segmentation, Mapping):
        given: Any = segmentation
        if tuple(given["size"]) != size:
            raise DataError(
                f"a segmentation's size is {given['size']}; expected the image's, {size}"
            )
        return draw_mask(given, size)
    polygons: list[Any] = [] if segmentation is None else list(segmentation)
    if polygons and np.ndim(polygons[0]) == 0:
        polygons = [polygons]
    flat = [np.ravel(polygon).tolist() for polygon in polygons]
    flat = [polygon for polygon in flat if len(polygon) >= 6]
    return draw_mask(flat, size) if flat else np.zeros(size, np.bool_)


def _box(mask: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Give a mask's first and last columns and rows: x0, y0, x1, y1, the last two inclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return _FAR, _FAR, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def pad_to(pixels: NDArray[Any], canvas: Size, fill: float = 0) -> NDArray[Any]:
    """Put a value below and right of (..., h, w)."""
    below, right = canvas[0] - pixels.shape[-2], canvas[1] - pixels.shape[-1]
    sides = [(0, 0)] * (pixels.ndim - 2) + [(0, below), (0, right)]
    return np.pad(pixels, sides, constant_values=fill)
