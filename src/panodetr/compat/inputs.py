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

from panodetr.compat.annotations import (
    Annotation,
    Labels,
    Size,
    follow_image,
    pad_labels,
    pad_to,
    read_annotations,
)
from panodetr.compat.options import FORMATS, ProcessorOptions
from panodetr.errors import ImageError, ImageTypeError, ImageWarning, UsageError
from panodetr.images.read import read_image

TensorKind = Literal["pt", "np"]
ImageInput: TypeAlias = Image.Image | NDArray[Any] | torch.Tensor | str | Path

_CHANNELS = (3, 4, 1)  # the likeliest first


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

    @property
    def data(self) -> BatchFeature:
        """The dictionary itself, as libraries ask for it."""
        return self

    def convert_to_tensors(self, tensor_type: TensorKind | None = None) -> BatchFeature:
        """Turn lists of arrays into tensors ("pt") or arrays ("np"), in place."""
        labels = self.pop("labels", None)
        self.update(_with_labels(_as_features(self, tensor_type), labels, tensor_type))
        return self

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Move the tensors to a device and turn those of floats into another type, in place.

        Labels move, but keep their types. Arguments are those of `torch.Tensor.to`.
        """
        device = kwargs.get("device", args[0] if args else None)
        moves = device is not None and not isinstance(device, torch.dtype)

        def move(value: Any) -> Any:
            if isinstance(value, list):
                return [move(part) for part in value]
            if isinstance(value, BatchFeature):
                return value.to(device) if moves else value
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                return value.to(*args, **kwargs)
            if isinstance(value, torch.Tensor) and moves:
                return value.to(device, non_blocking=kwargs.get("non_blocking", False))
            return value

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
    if rule.format not in FORMATS:
        expected = " or ".join(map(repr, FORMATS))
        raise UsageError(f"format is {rule.format!r}; expected {expected}")
    arrays = [_as_array(image, layout, rule) for image in _list_images(images)]
    if not arrays:
        raise ImageError("there is no image in this list; expected at least one")
    sizes = [_size_of(array) for array in arrays]
    read = (
        None if annotations is None else read_annotations(sizes, annotations, rule, masks, folder)
    )
    values = [_prepare(array, rule) for array in arrays]
    if read is not None:
        read = [
            follow_image(labels, size, _size_of(pixels), rule)
            for labels, size, pixels in zip(read, sizes, values, strict=True)
        ]
    if rule.do_pad:
        return pad(values, read, rule, kind=kind)
    return _with_labels(_as_features({"pixel_values": values}, kind), read, kind)


def pad(
    values: Sequence[NDArray[Any]],
    labels: Sequence[Labels] | None,
    rule: ProcessorOptions,
    *,
    kind: TensorKind | None,
    fill: float = 0,
    mask: bool = True,
) -> BatchFeature:
    """Put arrays (C, h, w) of several sizes into the upper left corners of one batch.

    Args:
        values: the arrays.
        labels: one per array, if there are any: boxes and masks follow.
        rule: the options.
        kind: as for `make_inputs`.
        fill: what to put below and at the right of the arrays.
        mask: whether to give a `pixel_mask`, too.

    Raises:
        UsageError: an array is larger than the rule's `pad_size`.
    """
    canvas = _canvas_of(values, rule)
    features: dict[str, Any] = {"pixel_values": [pad_to(pixels, canvas, fill) for pixels in values]}
    if mask:
        real = [np.ones(_size_of(pixels), np.int64) for pixels in values]
        features["pixel_mask"] = [pad_to(pixels, canvas) for pixels in real]
    if labels is not None:
        labels = [
            pad_labels(one, _size_of(pixels), canvas, rule)
            for one, pixels in zip(labels, values, strict=True)
        ]
    return _with_labels(_as_features(features, kind), labels, kind)


def _with_labels(
    found: BatchFeature, labels: Sequence[Labels] | None, kind: TensorKind | None
) -> BatchFeature:
    if labels is not None:
        found["labels"] = [_as_features(one, kind) for one in labels]
    return found


def _list_images(images: ImageInput | Sequence[Any]) -> list[ImageInput]:
    """List images out of lists and out of arrays or tensors of four dimensions."""
    is_array = isinstance(images, np.ndarray | torch.Tensor)
    if isinstance(images, list | tuple) or (is_array and images.ndim > 3):
        return [image for part in images for image in _list_images(part)]
    return [cast("ImageInput", images)]


def _as_array(image: ImageInput, layout: str | None, rule: ProcessorOptions) -> NDArray[Any]:
    """Turn an image into an RGB array (3, H, W): grey repeated, without alpha, 16 bits as 8.

    Of an array a fourth channel stays where the rule's mean is for four, or for any number; a grey
    image keeps its one channel where the mean is for one.
    """
    mean = rule.image_mean
    channels = 3 if not rule.do_normalize else len(mean) if isinstance(mean, tuple) else 4
    if isinstance(image, str | Path):
        image = np.moveaxis(read_image(image), -1, 0)
    elif isinstance(image, Image.Image):
        deep = image.mode[0] in "IF"  # more than 8 bits, which Pillow would cut off
        pixels = read_image(image) if deep else np.asarray(image.convert("RGB"))
        grey = len(image.getbands()) == 1 and image.mode != "P"
        image = np.moveaxis(pixels, -1, 0)[: 1 if grey else 3]
    elif not isinstance(image, np.ndarray | torch.Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]: a caller's
        raise ImageTypeError(
            f"an image is a {type(image).__name__}; expected a PIL image, an array, a tensor or "
            "a path"
        )
    else:
        image = channels_first(image, layout)
    if channels == 1 < len(image):
        raise ImageError(
            f"an image has {len(image)} channels and image_mean is for one; give grey images, or "
            "a mean of three numbers"
        )
    image = np.repeat(image, 3, axis=0) if len(image) == 1 < channels else image[:channels]
    if image.dtype == np.uint16:
        return ((image.astype(np.int32) + 128) // 257).astype(np.uint8)
    if image.dtype.kind == "b":
        return image * np.uint8(255)
    if image.dtype != np.uint8:
        _check_range(image, rule)
    return image


def _check_range(image: NDArray[Any], rule: ProcessorOptions) -> None:
    """Refuse values that would be cut off or wrapped; floats may be ready for the network."""
    is_float, changes = image.dtype.kind == "f", rule.do_resize or rule.do_rescale
    least, most = image.min(initial=0), image.max(initial=0)
    if not most <= 255 or (not least >= 0 and (changes or not is_float)):
        raise ImageError(
            f"an image of {image.dtype} has values from {least} to {most}; expected 0 "
            "to 255, uint16 from 0 to 65535, or floating point from 0 to 1"
        )
    if is_float and rule.do_resize and most > 1 and not np.allclose(image, np.rint(image)):
        raise ImageError(
            f"an image of {image.dtype} has values to {most} that are not whole, and is resized as "
            "bytes; expected whole numbers, 0 to 1, or do_resize=False"
        )
    if is_float and rule.do_rescale and 0 < most <= 1:
        warnings.warn(
            f"an image of {image.dtype} has values up to {most} and is rescaled by "
            f"{rule.rescale_factor:.4g}, which leaves it almost black; pass do_rescale=False",
            ImageWarning,
            stacklevel=2,
        )


def channels_first(image: NDArray[Any] | torch.Tensor, layout: str | None) -> NDArray[Any]:
    """Turn an array or tensor (C, H, W), (H, W, C) or (H, W) into an array (C, H, W).

    Args:
        image: of 1, 3 or 4 channels.
        layout: "channels_first" or "channels_last"; None tells by the shape.

    Raises:
        ImageError: it has another shape.
        UsageError: there is no such layout.
    """
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    if image.ndim == 2:
        return image[None]
    return np.moveaxis(image, -1, 0) if _channels_last(image, layout) else image


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
        pixels = (pixels - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)
    return pixels


def _resize(image: NDArray[Any], size: Size, resample: int) -> NDArray[Any]:
    """Resize (C, H, W) with Pillow, which takes bytes: floats from 0 to 1 become bytes and back."""
    size = max(size[0], 1), max(size[1], 1)
    unit = image.dtype != np.uint8 and bool((image >= 0).all() and (image <= 1).all())
    levels = (image * 255 if unit else image).astype(np.uint8)
    last = levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1)
    opened = Image.fromarray(np.ascontiguousarray(last))
    resized = np.asarray(opened.resize((size[1], size[0]), Image.Resampling(resample)))
    channels = np.moveaxis(resized, -1, 0) if len(levels) > 1 else resized[None]
    return channels.astype(np.float32) / np.float32(255) if unit else channels


def _canvas_of(images: Sequence[NDArray[Any]], rule: ProcessorOptions) -> Size:
    """Say how large the batch is."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    if rule.pad_size is None:
        return height, width
    canvas = rule.pad_size["height"], rule.pad_size["width"]
    if height > canvas[0] or width > canvas[1]:
        raise UsageError(f"pad_size is {canvas}; the images need {(height, width)}, after resizing")
    return canvas


def _size_of(pixels: NDArray[Any]) -> Size:
    return pixels.shape[-2], pixels.shape[-1]


def _as_features(values: Mapping[str, Any], kind: TensorKind | None) -> BatchFeature:
    """Turn arrays, and lists of arrays of one shape, into tensors or stacked arrays."""
    if kind not in ("pt", "np", None):
        raise UsageError(f"return_tensors is {kind!r}; expected 'pt', 'np' or None")
    if kind is None:
        return BatchFeature(values)
    found = BatchFeature()
    for name, value in values.items():
        if name == "image_id" and isinstance(value, list):
            found[name] = value
            continue
        shapes = {np.shape(part) for part in value}
        if len(shapes) > 1:
            raise UsageError(
                f"{name} has arrays of the shapes {sorted(shapes)}; pass do_pad=True to make them "
                "one batch, or return_tensors=None to get them one by one"
            )
        found[name] = np.asarray(value) if kind == "np" else torch.from_numpy(np.asarray(value))
    return found
