"""What a step learns from: images and their objects, as tensors.

Letters: B images, H and W their padded size, K objects of the whole batch, N chosen objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """The objects of a batch, one image after the other.

    Attributes:
        classes: (K,) int64, indexes of the model's classes.
        boxes: (K, 4), cxcywh in fractions of each unpadded image.
        counts: how many of the K each image has.
        index_map: (B, H, W) int16, 1 + the object's place within its image; 0 where there is no
            object. Masks are read from it a few at a time. None if no loss needs masks.
    """

    classes: Tensor
    boxes: Tensor
    counts: tuple[int, ...]
    index_map: Tensor | None

    @property
    def image(self) -> Tensor:
        """(K,), the image of each object."""
        counts = torch.tensor(self.counts, device=self.classes.device)
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)  # K

    @property
    def starts(self) -> Tensor:
        """(B,), where each image's objects begin among the K."""
        counts = torch.tensor(self.counts, device=self.classes.device)
        return counts.cumsum(0) - counts

    @property
    def place(self) -> Tensor:
        """(K,), the place of each object within its image, from 0."""
        return torch.arange(len(self.classes), device=self.classes.device) - self.starts[self.image]

    def masks(self, objects: Tensor) -> Tensor:
        """Masks (N, H, W) of the objects (N,), indexes into the K, as 0.0 and 1.0."""
        assert self.index_map is not None
        place = self.place[objects] + 1  # N
        return (self.index_map[self.image[objects]] == place[:, None, None]).to(self.boxes.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images and their objects.

    Attributes:
        pixels: (B, 3, H, W) float32, normalised, zeros at padding.
        padding: (B, H, W), True at padding; None if no image has any.
        targets: the objects.
        image_ids: the data set's ids, (B,); empty if nobody needs them.
    """

    pixels: Tensor
    padding: Tensor | None
    targets: Targets
    image_ids: tuple[int, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""

        def moved(one: Batch | Targets) -> dict[str, Tensor]:
            tensors = {n: value for n, value in vars(one).items() if isinstance(value, Tensor)}
            return {n: tensor.to(device, non_blocking=True) for n, tensor in tensors.items()}

        return replace(self, **moved(self), targets=replace(self.targets, **moved(self.targets)))


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What the losses of a step are divided by, counted over the whole step.

    Attributes:
        objects: of all images, at least 1: box and mask losses are means over objects.
        label_weight: of all queries in the class loss.
        images: in the step.
    """

    objects: float
    label_weight: float
    images: float


def count_totals(counts: Sequence[int], num_queries: int, no_object: float) -> Totals:
    """What the losses of images with so many objects each are divided by.

    Matching gives every object a query as long as there are queries, so the weights in the class
    loss are known before it: 1, and `no_object` for a query without an object.
    """
    matched = sum(min(count, num_queries) for count in counts)
    empty = len(counts) * num_queries - matched
    return Totals(
        objects=max(1, sum(counts)), label_weight=matched + no_object * empty, images=len(counts)
    )
