"""The model's input, made where the model runs: photos travel as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from panodetr.images.preprocess import Preprocessing


def normalize_photos(photos: Tensor, padding: Tensor | None, rule: Preprocessing) -> Tensor:
    """Pixels (B, 3, H, W) from photos (B, H, W, 3) uint8, zero at padding (B, H, W).

    The values are those of `panodetr.images.batch.normalize`, to the bit. Channels stay last in
    memory, where photos have them and convolutions want them.
    """
    pixels = photos.float().div_(255)  # B, H, W, 3
    pixels.sub_(pixels.new_tensor(rule.mean)).div_(pixels.new_tensor(rule.std))
    if padding is not None:
        pixels = pixels * ~padding[..., None]
    return pixels.permute(0, 3, 1, 2)  # B, 3, H, W
