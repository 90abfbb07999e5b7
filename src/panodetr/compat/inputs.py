"""From images and annotations to a model's inputs, as transformers' processor makes them.

N: objects, H, W: pixels of an image; h, w: the same once resized.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from panodetr.compat.options import ProcessorOptions
from panodetr.data.masks import draw_mask, read_id_map
from panodetr.errors import DataError, ImageError, ImageTypeError, ImageWarning, UsageError
from panodetr.images.read import read_image

TensorKind = Literal["pt", "np"]
ImageInput: TypeAlias = Image.Image | NDArray[Any] | torch.Tensor
Annotation: TypeAlias = Mapping[str, Any]
Labels: TypeAlias = dict[str, Any]
"""Arrays by transformers' names; `size` is a tuple."""
Size: TypeAlias = tuple[int, int]
"""Height and width."""

_CHANNELS = (3, 4, 1)  # the likeliest first
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

        def move(value: Any) -> Any:
            if isinstance(value, list):
                return [move(part) for part in value]
            if isinstance(value, BatchFeature):
                return value.to(where)
            if not isinstance(value, torch.Tensor):
                return value
            keeps = isinstance(where, torch.dtype) and not value.is_floating_point()
            return value if keeps else value.to(where)

        self.update({name: move(value) for name, value in self.items()})
        return self


def make_inputs(
    images: ImageInput | Sequence[ImageInput],
    annotations: Annotation | Sequence[Annotation] | None,
    rule: ProcessorOptions,
    *,
    masks: bool | None,
    folder: str | Path | None,
    kind: TensorKind | None,
    layout: str | None = None,
) -> BatchFeature:
    """Do the work of `DetrImageProcessor.__call__`.

    Args:
        images: one, or a list.
        annotations: one per image, if there are any.
        rule: the options.
        masks: whether labels have masks; None: in the panoptic format.
        folder: of the id maps.
        kind: "pt" for tensors, "np" for arrays, None for lists of arrays.
        layout: of arrays: "channels_first" or "channels_last"; None tells by their shapes.

    Raises:
        ImageError: an image is of another form or type.
        DataError: an annotation lacks something, or an id map cannot be read or has another size.
        UsageError: an option or the number of annotations is wrong, or `folder` is not given.
    """
    arrays = [_as_array(image, layout) for image in _list_images(images)]
    sizes = [_size_of(array) for array in arrays]
    read = None if annotations is None else _read_labels(sizes, annotations, rule, masks, folder)
    values = [_prepare(array, rule) for array in arrays]
    canvas = _canvas_of(values, rule)
    features: dict[str, Any] = {"pixel_values": values}
    if canvas is not None:
        real = [np.ones(_size_of(pixels), np.int64) for pixels in values]
        features["pixel_values"] = [_pad_to(pixels, canvas) for pixels in values]
        features["pixel_mask"] = [_pad_to(mask, canvas) for mask in real]
    found = _as_features(features, kind)
    if read is not None:
        found["labels"] = [
            _as_features(_follow(labels, size, _size_of(pixels), canvas, rule), kind)
            for labels, size, pixels in zip(read, sizes, values, strict=True)
        ]
    return found


def _list_images(images: ImageInput | Sequence[ImageInput]) -> list[ImageInput]:
    """List the images of a list, or of an array or tensor of four dimensions, or a single one."""
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, np.ndarray | torch.Tensor):
        return [images] if images.ndim < 4 else list(cast("Sequence[ImageInput]", images))
    if not images:
        raise ImageError("there is no image in this list; expected at least one")
    return list(images)


def _as_array(image: ImageInput, layout: str | None) -> NDArray[Any]:
    """Turn an image into an RGB array (3, H, W): grey repeated, without alpha, 16 bits as 8."""
    if isinstance(image, Image.Image):
        deep = image.mode[0] in "IF"  # more than 8 bits, which Pillow would cut off
        pixels = read_image(image) if deep else np.asarray(image.convert("RGB"))
        return np.moveaxis(pixels, -1, 0)
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]: a caller's
        raise ImageTypeError(
            f"an image is a {type(image).__name__}; expected a PIL image, an array or a tensor"
        )
    if image.ndim == 2:
        image, layout = image[None], "channels_first"
    if _channels_last(image, layout):
        image = np.moveaxis(image, -1, 0)
    image = np.repeat(image, 3, axis=0) if len(image) == 1 else image[:3]
    if image.dtype == np.uint16:
        return ((image.astype(np.int32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8 and (
        image.max(initial=0) > 255 or (image.dtype.kind == "i" and image.min(initial=0) < 0)
    ):
        raise ImageError(
            f"an image of {image.dtype} has values from {image.min()} to {image.max()}; expected 0 "
            "to 255, uint16 from 0 to 65535, or floating point from 0 to 1"
        )
    return image


def _channels_last(image: NDArray[Any], layout: str | None) -> bool:
    """Find where the channels of an array are; its first and last side may both fit."""
    known = ("channels_first", "channels_last", None)
    name = getattr(layout, "value", layout)  # transformers has an enumeration of them
    if name not in known:
        raise UsageError(f"input_data_format is {layout!r}; expected one of {known}")
    first, last = (image.shape[0], image.shape[-1]) if image.ndim == 3 else (0, 0)
    fits = {"channels_first": first in _CHANNELS, "channels_last": last in _CHANNELS}
    if not (any(fits.values()) if name is None else fits[name]):
        raise ImageError(
            f"an image has the shape {image.shape}; expected (H, W, 3), (3, H, W) or (H, W)"
        )
    if name is not None or not all(fits.values()):
        return fits["channels_last"] if name is None else name == "channels_last"
    is_last = _CHANNELS.index(last) < _CHANNELS.index(first)
    warnings.warn(
        f"an image of the shape {image.shape} may have its channels first or last; taken as "
        f"{'last' if is_last else 'first'}, say otherwise with input_data_format",
        ImageWarning,
        stacklevel=2,
    )
    return is_last


def _prepare(image: NDArray[Any], rule: ProcessorOptions) -> NDArray[np.float32]:
    """Resize, rescale and normalise one image (3, H, W)."""
    if rule.do_resize:
        image = _resize(image, rule.target_size(_size_of(image)), rule.resample)
    pixels = image.astype(np.float32)
    if rule.do_rescale:
        pixels *= np.float32(rule.rescale_factor)
    if rule.do_normalize:
        mean, std = (np.array(v, np.float32) for v in (rule.image_mean, rule.image_std))
        pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    return pixels


def _resize(image: NDArray[Any], size: Size, resample: int) -> NDArray[Any]:
    """Resize (3, H, W) with Pillow, which takes bytes: floats from 0 to 1 become bytes and back."""
    unit = image.dtype != np.uint8 and bool((image >= 0).all() and (image <= 1).all())
    levels = (image * 255 if unit else image).astype(np.uint8)
    opened = Image.fromarray(np.ascontiguousarray(np.moveaxis(levels, 0, -1)))
    resized = np.asarray(opened.resize((size[1], size[0]), Image.Resampling(resample)))
    channels = np.moveaxis(resized, -1, 0)
    return channels.astype(np.float32) / np.float32(255) if unit else channels


def _canvas_of(images: Sequence[NDArray[Any]], rule: ProcessorOptions) -> Size | None:
    """Say how large the batch is; None where nothing is padded."""
    if not rule.do_pad:
        return None
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    if rule.pad_size is None:
        return height, width
    canvas = rule.pad_size["height"], rule.pad_size["width"]
    if height > canvas[0] or width > canvas[1]:
        raise UsageError(f"pad_size is {canvas}; the images need {(height, width)}, after resizing")
    return canvas


def _pad_to(pixels: NDArray[Any], canvas: Size) -> NDArray[Any]:
    """Put zeros below and right of (..., h, w)."""
    below, right = canvas[0] - pixels.shape[-2], canvas[1] - pixels.shape[-1]
    return np.pad(pixels, [(0, 0)] * (pixels.ndim - 2) + [(0, below), (0, right)])


def _size_of(pixels: NDArray[Any]) -> Size:
    return pixels.shape[-2], pixels.shape[-1]


def _read_labels(
    sizes: Sequence[Size],
    annotations: Annotation | Sequence[Annotation],
    rule: ProcessorOptions,
    masks: bool | None,
    folder: str | Path | None,
) -> list[Labels]:
    """Read annotations as labels of images of these sizes, as they came."""
    each = [annotations] if isinstance(annotations, Mapping) else list(annotations)
    if len(each) != len(sizes):
        raise UsageError(
            f"{len(each)} annotations were given for {len(sizes)} images; expected one per image"
        )
    if rule.format == "coco_detection":
        return [_read_detection(*one, masks=bool(masks)) for one in zip(each, sizes, strict=True)]
    if folder is None:
        raise UsageError("masks_path is missing; expected the folder of the panoptic id maps")
    return [
        _read_panoptic(*one, Path(folder), masks=masks is None or masks)
        for one in zip(each, sizes, strict=True)
    ]


def _follow(
    labels: Labels, before: Size, after: Size, canvas: Size | None, rule: ProcessorOptions
) -> Labels:
    """Do to labels what was done to their image: it was resized, and put into a canvas's corner.

    Boxes become cxcywh in fractions of the canvas where the rule says so, as transformers has it,
    although what a DETR gives out are fractions of the image.
    """
    boxes, masks = labels["boxes"], labels.get("masks")
    if rule.do_resize:
        down, across = after[0] / before[0], after[1] / before[1]
        boxes = boxes * np.array([across, down, across, down], np.float32)
        labels |= {"size": after, "area": labels["area"] * (across * down)}
        if masks is not None:
            masks = np.array([_nearest(mask, after) for mask in masks]).reshape(-1, *after) > 0
    if rule.converts:
        low, high = boxes[:, :2], boxes[:, 2:]
        scale = np.array([after[1], after[0]] * 2, np.float32)
        boxes = np.concatenate([(low + high) / 2, high - low], axis=1) / scale
    if canvas is not None and canvas != after:
        labels["size"] = canvas
        if rule.converts:
            parts = np.array([after[1] / canvas[1], after[0] / canvas[0]] * 2)
            boxes = (boxes * parts).astype(np.float32)
        masks = None if masks is None else _pad_to(masks, canvas)
    return {**labels, "boxes": boxes, **({} if masks is None else {"masks": masks})}


def _read_detection(annotation: Annotation, size: Size, *, masks: bool) -> Labels:
    """Turn one image's COCO detection annotation into labels; crowds are left out."""
    _need(annotation, "image_id", "annotations")
    objects = [one for one in annotation["annotations"] if not one.get("iscrowd", 0)]
    for one in objects:
        _need(one, "category_id", "area", "bbox", *(["segmentation"] if masks else []))
    boxes = np.array([one["bbox"] for one in objects], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # x0, y0, x1, y1
    boxes = boxes.clip(0, np.array([size[1], size[0]] * 2, np.float32))
    real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    labels = _labels(annotation["image_id"], objects, boxes, size)
    for name in ("class_labels", "boxes", "area", "iscrowd"):
        labels[name] = labels[name][real]
    if objects and "keypoints" in objects[0]:
        points = np.array([one["keypoints"] for one in objects], np.float32)[real]
        labels["keypoints"] = points.reshape(-1, 3) if len(points) else points
    if masks:
        drawn = [_draw(one["segmentation"], size) for one in objects]
        labels["masks"] = np.array(drawn, np.uint8).reshape(-1, *size)[real]
    return labels


def _read_panoptic(annotation: Annotation, size: Size, folder: Path, *, masks: bool) -> Labels:
    """Turn one image's COCO panoptic annotation into labels; crowds stay in, marked."""
    _need(annotation, "file_name", "segments_info")
    image_id = annotation.get("image_id", annotation.get("id"))
    if image_id is None:
        raise DataError('an annotation has no "image_id"; COCO\'s format requires it')
    segments: list[Annotation] = annotation["segments_info"]
    for segment in segments:
        _need(segment, "id", "category_id", "iscrowd", "area")
    segment_ids = read_id_map(folder / annotation["file_name"], size)
    drawn = np.array([segment_ids == segment["id"] for segment in segments], np.uint8)
    drawn = drawn.reshape(-1, *size)  # N, H, W
    boxes = np.array([_box(mask) for mask in drawn], np.float32).reshape(-1, 4)
    labels = _labels(image_id, segments, boxes, size) | {"size": np.array(size, np.int64)}
    return labels | {"masks": drawn} if masks else labels


def _labels(
    image_id: int, objects: Sequence[Annotation], boxes: NDArray[np.float32], size: Size
) -> Labels:
    return {
        "image_id": np.array([image_id], np.int64),
        "class_labels": np.array([one["category_id"] for one in objects], np.int64),
        "boxes": boxes,
        "area": np.array([one["area"] for one in objects], np.float32),
        "iscrowd": np.array([one.get("iscrowd", 0) for one in objects], np.int64),
        "orig_size": np.array(size, np.int64),
    }


def _need(values: Annotation, *keys: str) -> None:
    for key in keys:
        if key not in values:
            raise DataError(f'an annotation has no "{key}"; COCO\'s format requires it')


def _draw(segmentation: Any, size: Size) -> NDArray[np.bool_]:
    """Fill COCO's polygons, or decode its run lengths."""
    if isinstance(segmentation, Mapping):
        return draw_mask(cast("Any", segmentation), size)
    return draw_mask(list(segmentation), size) if segmentation else np.zeros(size, np.bool_)


def _box(mask: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Give a mask's first and last columns and rows: x0, y0, x1, y1, the last two inclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return _FAR, _FAR, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def _nearest(mask: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def _as_features(values: Mapping[str, Any], kind: TensorKind | None) -> BatchFeature:
    """Turn arrays, and lists of arrays of one shape, into tensors or stacked arrays."""
    if kind not in ("pt", "np", None):
        raise UsageError(f"return_tensors is {kind!r}; expected 'pt', 'np' or None")
    if kind is None:
        return BatchFeature(values)
    found = BatchFeature()
    for name, value in values.items():
        shapes = {np.shape(part) for part in value}
        if len(shapes) > 1:
            raise UsageError(
                f"{name} has arrays of the shapes {sorted(shapes)}; pass do_pad=True to make them "
                "one batch, or return_tensors=None to get them one by one"
            )
        found[name] = np.asarray(value) if kind == "np" else torch.from_numpy(np.asarray(value))
    return found
