"""From images and annotations to a model's inputs, step by step.

H, W: pixels of an image; h, w: the same once resized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from panodetr.compat.annotations import (
    Labels,
    normalized,
    read_detection,
    read_panoptic,
    resized,
)
from panodetr.compat.options import ProcessorOptions
from panodetr.errors import ImageError, ImageTypeError, UsageError

TensorKind = Literal["pt", "np"]
ImageInput: TypeAlias = Image.Image | NDArray[Any] | torch.Tensor
Annotation: TypeAlias = Mapping[str, Any]

_CHANNELS = (1, 3, 4)


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


def read_labels(
    images: Sequence[NDArray[Any]],
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
    if len(each) != len(images):
        raise UsageError(
            f"{len(each)} annotations were given for {len(images)} images; expected one an image"
        )
    both = list(zip(each, map(size_of, images), strict=True))
    if rule.format == "coco_detection":
        return [read_detection(one, size, masks=bool(masks)) for one, size in both]
    if folder is None:
        raise UsageError("masks_path is missing; expected the folder of the panoptic id maps")
    wanted = masks is None or masks
    return [read_panoptic(one, Path(folder), size, masks=wanted) for one, size in both]


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
