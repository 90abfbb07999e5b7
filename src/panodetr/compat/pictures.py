"""Images in the forms that transformers' processors take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from panodetr.errors import ImageError

Picture: TypeAlias = Image.Image | NDArray[Any] | torch.Tensor

_CHANNELS = (1, 3, 4)


def list_pictures(images: Picture | Sequence[Picture]) -> list[Picture]:
    """List the images of a list, or of an array or tensor of four dimensions, or a single one.

    Raises:
        ImageError: there are none.
    """
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, np.ndarray | torch.Tensor):
        return [images] if images.ndim < 4 else list(cast("Sequence[Picture]", images))
    if not images:
        raise ImageError("there is no image in this list; expected at least one")
    return list(images)


def as_picture(image: Picture) -> NDArray[Any]:
    """Turn an image into an RGB array (3, H, W), of its own type.

    Grey becomes three equal channels; alpha is dropped.

    Raises:
        ImageError: it is none, or has another number of dimensions or channels.
    """
    if isinstance(image, Image.Image):
        return np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]: a caller's
        raise ImageError(
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


def resize_picture(
    image: NDArray[Any], size: tuple[int, int], resample: int
) -> NDArray[np.float32] | NDArray[np.uint8]:
    """Resize (3, H, W) with Pillow, which takes bytes: floats from 0 to 1 become bytes on the way.

    Returns:
        (3, h, w), in the range that came in.
    """
    height, width = size
    unit = image.dtype != np.uint8 and bool((image >= 0).all() and (image <= 1).all())
    levels = (image * 255 if unit else image).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(levels, 0, -1)))
    resized = np.asarray(picture.resize((width, height), Image.Resampling(resample)))
    channels = np.moveaxis(resized, -1, 0)
    return channels.astype(np.float32) / np.float32(255) if unit else channels
