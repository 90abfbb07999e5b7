"""From images and annotations to a model's inputs, as transformers' processor makes them.

N: objects, H, W: pixels of an image; h, w: the same once resized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from panodetr.compat.options import ProcessorOptions
from panodetr.data.masks import read_id_map
from panodetr.errors import DataError, ImageError, ImageTypeError, UsageError

TensorKind = Literal["pt", "np"]
ImageInput: TypeAlias = Image.Image | NDArray[Any] | torch.Tensor
Annotation: TypeAlias = Mapping[str, Any]
Labels = dict[str, Any]
"""Arrays by transformers' names; `size` is a tuple."""

_CHANNELS = (1, 3, 4)
_FAR = 1e8  # the least corner of a box without pixels


class BatchFeature(dict[str, Any]):
    """A dictionary whose values are attributes, too: `model(**inputs)`, `inputs.pixel_values`."""

    def __getattr__(self, name: str) -> Any:
        """Give a value.

        Raises:
            AttributeError: there is none of this name.
        """
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, where: str | torch.device | torch.dtype) -> BatchFeature:
        """Move the tensors to a device, or turn those of floats into another type, in place."""
        for name, value in self.items():
            self[name] = _moved(value, where)
        return self


def as_features(values: Mapping[str, Any], kind: TensorKind | None) -> BatchFeature:
    """Turn arrays, and lists of arrays of one shape, into tensors or stacked arrays.

    Args:
        values: arrays, lists of arrays, or tuples of numbers.
        kind: "pt" for tensors, "np" for arrays, None to leave all as it is.

    Raises:
        UsageError: there is no such kind, or the arrays of a list differ in shape.
    """
    if kind not in ("pt", "np", None):
        raise UsageError(f"return_tensors is {kind!r}; expected 'pt', 'np' or None")
    if kind is None:
        return BatchFeature(values)
    arrays = {name: _stacked(name, value) for name, value in values.items()}
    if kind == "np":
        return BatchFeature(arrays)
    return BatchFeature({name: torch.from_numpy(value) for name, value in arrays.items()})


def _stacked(name: str, value: NDArray[Any] | Sequence[Any]) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    shapes = {np.shape(part) for part in value}
    if len(shapes) > 1:
        raise UsageError(
            f"{name} has arrays of the shapes {sorted(shapes)}; pass do_pad=True to make them one "
            "batch, or return_tensors=None to get them one by one"
        )
    return np.array(value)


def _moved(value: Any, where: str | torch.device | torch.dtype) -> Any:
    if isinstance(value, list):
        return [_moved(part, where) for part in value]
    if isinstance(value, BatchFeature):
        return value.to(where)
    if not isinstance(value, torch.Tensor):
        return value
    if isinstance(where, torch.dtype) and not value.is_floating_point():
        return value
    return value.to(where)


def list_images(images: ImageInput | Sequence[ImageInput]) -> list[ImageInput]:
    """List the images of a list, or of an array or tensor of four dimensions, or a single one.

    Raises:
        ImageError: there are none.
    """
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, np.ndarray | torch.Tensor):
        return [images] if images.ndim < 4 else list(cast("Sequence[ImageInput]", images))
    if not images:
        raise ImageError("there is no image in this list; expected at least one")
    return list(images)


def as_array(image: ImageInput) -> NDArray[Any]:
    """Turn an image into an RGB array (3, H, W), of its own type.

    Grey becomes three equal channels; alpha is dropped.

    Raises:
        ImageTypeError: it is of another type.
        ImageError: it has another number of dimensions or channels.
    """
    if isinstance(image, Image.Image):
        return np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]: a caller's
        raise ImageTypeError(
            f"an image is a {type(image).__name__}; expected a PIL image, an array or a tensor"
        )
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or not {image.shape[0], image.shape[2]} & set(_CHANNELS):
        raise ImageError(
            f"an image has the shape {image.shape}; expected (H, W, 3), (3, H, W) or (H, W)"
        )
    if image.shape[0] not in _CHANNELS:
        image = np.moveaxis(image, -1, 0)
    return np.repeat(image, 3, axis=0) if len(image) == 1 else image[:3]


def prepare(image: NDArray[Any], rule: ProcessorOptions) -> NDArray[np.float32]:
    """Resize, rescale and normalise one image (3, H, W)."""
    if rule.do_resize:
        image = _resize(image, rule.target_size(size_of(image)), rule.resample)
    pixels = image.astype(np.float32)
    if rule.do_rescale:
        pixels *= np.float32(rule.rescale_factor)
    if rule.do_normalize:
        mean, std = (np.array(v, np.float32) for v in (rule.image_mean, rule.image_std))
        pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    return pixels


def _resize(
    image: NDArray[Any], size: tuple[int, int], resample: int
) -> NDArray[np.float32] | NDArray[np.uint8]:
    """Resize (3, H, W) with Pillow, which takes bytes: floats from 0 to 1 become bytes on the way.

    Returns:
        (3, h, w), in the range that came in.
    """
    height, width = size
    unit = image.dtype != np.uint8 and bool((image >= 0).all() and (image <= 1).all())
    levels = (image * 255 if unit else image).astype(np.uint8)
    opened = Image.fromarray(np.ascontiguousarray(np.moveaxis(levels, 0, -1)))
    resized = np.asarray(opened.resize((width, height), Image.Resampling(resample)))
    channels = np.moveaxis(resized, -1, 0)
    return channels.astype(np.float32) / np.float32(255) if unit else channels


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


def size_of(pixels: NDArray[Any]) -> tuple[int, int]:
    """Give height and width of (..., h, w)."""
    return pixels.shape[-2], pixels.shape[-1]


def read_labels(
    images: Sequence[NDArray[Any]],
    annotations: Annotation | Sequence[Annotation] | None,
    rule: ProcessorOptions,
    masks: bool | None,
    folder: str | Path | None,
) -> list[Labels]:
    """Read the annotations, if there are any, as labels of the images as they came.

    Raises:
        UsageError: there are more or fewer than images, or the id maps' folder is not given.
        DataError: an annotation lacks something, or an id map cannot be read or has another size.
    """
    if annotations is None:
        return []
    each = [annotations] if isinstance(annotations, Mapping) else list(annotations)
    if len(each) != len(images):
        raise UsageError(
            f"{len(each)} annotations were given for {len(images)} images; expected one an image"
        )
    both = list(zip(each, map(size_of, images), strict=True))
    if rule.format == "coco_detection":
        return [_read_detection(one, size, masks=bool(masks)) for one, size in both]
    if folder is None:
        raise UsageError("masks_path is missing; expected the folder of the panoptic id maps")
    wanted = masks is None or masks
    return [_read_panoptic(one, Path(folder), size, masks=wanted) for one, size in both]


def follow(
    labels: Labels,
    before: tuple[int, int],
    after: tuple[int, int],
    canvas: tuple[int, int] | None,
    rule: ProcessorOptions,
) -> Labels:
    """Do to labels what was done to their image: it was resized, and put into a canvas's corner.

    Boxes become cxcywh in fractions of the canvas where the rule says so, as transformers has it,
    although what a DETR gives out are fractions of the image.
    """
    boxes, masks, changed = labels["boxes"], labels.get("masks"), dict(labels)
    if rule.do_resize:
        down, across = after[0] / before[0], after[1] / before[1]
        boxes = boxes * np.array([across, down, across, down], np.float32)
        changed |= {"size": after, "area": labels["area"] * (across * down)}
        if masks is not None:
            masks = np.array([_nearest(mask, after) for mask in masks], np.bool_)
            masks = masks.reshape(-1, *after)
    if rule.converts:
        low, high = boxes[:, :2], boxes[:, 2:]
        scale = np.array([after[1], after[0]] * 2, np.float32)
        boxes = np.concatenate([(low + high) / 2, high - low], axis=1) / scale
    if canvas is not None and canvas != after:
        changed["size"] = canvas
        if rule.converts:
            parts = np.array([after[1] / canvas[1], after[0] / canvas[0]] * 2)
            boxes = (boxes * parts).astype(np.float32)
        masks = None if masks is None else pad_to(masks, canvas)
    return {**changed, "boxes": boxes, **({} if masks is None else {"masks": masks})}


def _read_detection(annotation: Mapping[str, Any], size: tuple[int, int], *, masks: bool) -> Labels:
    """Turn one image's COCO detection annotation into labels; crowds are left out."""
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


def _read_panoptic(
    annotation: Mapping[str, Any], folder: Path, size: tuple[int, int], *, masks: bool
) -> Labels:
    """Turn one image's COCO panoptic annotation into labels; crowds stay in, marked."""
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
