"""The model's input, made where the model runs: images travel as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from panodetr.images.preprocess import Preprocessing


def normalize_images(images: Tensor, padding: Tensor | None, rule: Preprocessing) -> Tensor:
    """Pixels (B, 3, H, W) from images (B, H, W, 3) uint8, zero at padding (B, H, W).

    The values are those of `panodetr.images.batch.normalize`, to the bit. Channels stay last in
    memory, where images have them and convolutions want them.
    """
    # Channels first in order, so that other libraries don't compute in rows of three values.
    pixels = images.permute(0, 3, 1, 2).float().div_(255)  # B, 3, H, W
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (rule.mean, rule.std))
    pixels.sub_(mean).div_(std)
    return pixels if padding is None else pixels * ~padding[:, None]
