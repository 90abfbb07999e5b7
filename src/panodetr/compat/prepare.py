"""What a processor does to images and their labels, step by step.

h, w: pixels of an image once resized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from panodetr.compat.annotations import (
    Labels,
    normalized,
    read_detection,
    read_panoptic,
    resized,
)
from panodetr.compat.options import ProcessorOptions
from panodetr.compat.pictures import resize_picture
from panodetr.errors import UsageError

Annotation: TypeAlias = Mapping[str, Any]


def read_labels(
    pictures: Sequence[NDArray[Any]],
    annotations: Annotation | Sequence[Annotation] | None,
    rule: ProcessorOptions,
    masks: bool | None,
    folder: str | Path | None,
) -> list[Labels]:
    """Read the annotations, if there are any.

    Raises:
        UsageError: there are more or fewer than images, or the id maps' folder is not given.
        DataError: an annotation lacks something.
    """
    if annotations is None:
        return []
    each = [annotations] if isinstance(annotations, Mapping) else list(annotations)
    if len(each) != len(pictures):
        raise UsageError(
            f"{len(each)} annotations were given for {len(pictures)} images; expected one an image"
        )
    both = list(zip(each, map(size_of, pictures), strict=True))
    if rule.format == "coco_detection":
        return [read_detection(one, size, masks=bool(masks)) for one, size in both]
    if folder is None:
        raise UsageError("masks_path is missing; expected the folder of the panoptic id maps")
    wanted = masks is None or masks
    return [read_panoptic(one, Path(folder), size, masks=wanted) for one, size in both]


def prepare(picture: NDArray[Any], rule: ProcessorOptions) -> NDArray[np.float32]:
    """Resize, rescale and normalise one image (3, H, W)."""
    if rule.do_resize:
        picture = resize_picture(picture, rule.target_size(size_of(picture)), rule.resample)
    pixels = picture.astype(np.float32)
    if rule.do_rescale:
        pixels *= np.float32(rule.rescale_factor)
    if rule.do_normalize:
        mean, std = (np.array(v, np.float32) for v in (rule.image_mean, rule.image_std))
        pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    return pixels


def follow(
    labels: Labels, before: tuple[int, int], after: tuple[int, int], rule: ProcessorOptions
) -> Labels:
    """Do to the labels what was done to their image."""
    if rule.do_resize:
        labels = resized(labels, before, after)
    return normalized(labels, after) if rule.converts else labels


def canvas_of(images: Sequence[NDArray[Any]], rule: ProcessorOptions) -> tuple[int, int]:
    """Say how large the batch is.

    Raises:
        UsageError: an image is larger than it was to be.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    if rule.pad_size is None:
        return height, width
    canvas = rule.pad_size["height"], rule.pad_size["width"]
    if height > canvas[0] or width > canvas[1]:
        raise UsageError(f"pad_size is {canvas}; the images need {(height, width)}, after resizing")
    return canvas


def pad_to(pixels: NDArray[Any], canvas: tuple[int, int]) -> NDArray[Any]:
    """Put zeros below and right of (..., h, w)."""
    below, right = canvas[0] - pixels.shape[-2], canvas[1] - pixels.shape[-1]
    return np.pad(pixels, [(0, 0)] * (pixels.ndim - 2) + [(0, below), (0, right)])


def ones_of(pixels: NDArray[Any]) -> NDArray[np.int64]:
    """Mark every pixel of an image (3, h, w) as real, in (h, w)."""
    return np.ones(size_of(pixels), np.int64)


def size_of(pixels: NDArray[Any]) -> tuple[int, int]:
    """Give height and width of (..., h, w)."""
    return pixels.shape[-2], pixels.shape[-1]
