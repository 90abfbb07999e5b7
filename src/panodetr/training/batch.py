"""What one training step is fed.

Letters: B images, H and W their padded size, K objects of the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from panodetr.boxes import xyxy_to_cxcywh
from panodetr.images.batch import normalize, pad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from panodetr.data.targets import Target
    from panodetr.images.preprocess import Preprocessing


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """The objects of a batch, one image after the other.

    Attributes:
        classes: (K,) int64.
        boxes: (K, 4), cxcywh in fractions of each unpadded image.
        counts: how many of the K each image has.
        index_map: (B, H, W) int16, 1 + the object's place within its image; 0 where there is none.
            Masks are read from it one by one, so that they never lie in memory all at once.
    """

    classes: Tensor
    boxes: Tensor
    counts: tuple[int, ...]
    index_map: Tensor

    @property
    def image(self) -> Tensor:
        """(K,), the image of each object."""
        counts = torch.tensor(self.counts, device=self.classes.device)
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)

    @property
    def starts(self) -> Tensor:
        """(B,), where each image's objects begin among the K."""
        counts = torch.tensor(self.counts, device=self.classes.device)
        return counts.cumsum(0) - counts

    def masks(self, objects: Tensor) -> Tensor:
        """Masks (N, H, W) of the objects (N,), indexes into the K, as 0.0 and 1.0."""
        image = self.image[objects]
        place = objects - self.starts[image] + 1  # N: counted from 1 within the image
        return (self.index_map[image] == place[:, None, None]).to(self.boxes.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images and their objects.

    Attributes:
        pixels: (B, 3, H, W) float32, normalised, zeros at padding.
        padding: (B, H, W), True at padding; None where no image has any.
        targets: the objects.
    """

    pixels: Tensor
    padding: Tensor | None
    targets: Targets

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        t = self.targets
        return Batch(
            pixels=self.pixels.to(device, non_blocking=True),
            padding=None if self.padding is None else self.padding.to(device, non_blocking=True),
            targets=Targets(
                classes=t.classes.to(device),
                boxes=t.boxes.to(device),
                counts=t.counts,
                index_map=t.index_map.to(device),
            ),
        )


def collate(
    photos: Sequence[NDArray[np.uint8]], targets: Sequence[Target], rule: Preprocessing
) -> Batch:
    """Normalise, pad and stack photos (h, w, 3) and their targets."""
    pixels, padding = pad([normalize(photo, rule.mean, rule.std) for photo in photos])
    index_map = np.zeros(padding.shape, dtype=np.int16)
    boxes: list[NDArray[np.float32]] = []
    for place, target in zip(index_map, targets, strict=True):
        height, width = target.ids.shape
        place[:height, :width] = _places(target)
        boxes.append(target.boxes / np.array([width, height, width, height], dtype=np.float32))
    return Batch(
        pixels=torch.from_numpy(pixels),
        padding=torch.from_numpy(padding) if padding.any() else None,
        targets=Targets(
            classes=torch.from_numpy(np.concatenate([t.classes for t in targets])),
            boxes=xyxy_to_cxcywh(torch.from_numpy(np.concatenate(boxes))),
            counts=tuple(len(t.classes) for t in targets),
            index_map=torch.from_numpy(index_map),
        ),
    )


def _places(target: Target) -> NDArray[np.int16]:
    """(h, w), 1 + the place of each pixel's object among the target's, 0 where there is none."""
    if target.segment_ids.size == 0:
        return np.zeros(target.ids.shape, dtype=np.int16)
    place = np.searchsorted(target.segment_ids, target.ids).clip(max=target.segment_ids.size - 1)
    found = target.segment_ids[place] == target.ids
    return np.where(found, place + 1, 0).astype(np.int16)
