"""What a step learns from: images and their objects, as tensors.

Letters: B images, H and W their padded size, K objects of the whole batch, N chosen objects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


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

    def masks(self, objects: Tensor) -> Tensor:
        """Masks (N, H, W) of the objects (N,), indexes into the K, as 0.0 and 1.0."""
        assert self.index_map is not None
        image = self.image[objects]
        place = objects - self.starts[image] + 1  # N: counted from 1 within the image
        return (self.index_map[image] == place[:, None, None]).to(self.boxes.dtype)

    def repeat(self, groups: int) -> Targets:
        """The targets of B * groups images, each image repeated; the index map stays as it is."""
        image = self.image
        order = torch.cat(
            [(image == b).nonzero()[:, 0].repeat(groups) for b in range(len(self.counts))]
        )  # K * groups
        return Targets(
            classes=self.classes[order],
            boxes=self.boxes[order],
            counts=tuple(count for count in self.counts for _ in range(groups)),
            index_map=self.index_map,
        )


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
        t = self.targets
        return Batch(
            pixels=self.pixels.to(device, non_blocking=True),
            padding=None if self.padding is None else self.padding.to(device, non_blocking=True),
            targets=Targets(
                classes=t.classes.to(device),
                boxes=t.boxes.to(device),
                counts=t.counts,
                index_map=None if t.index_map is None else t.index_map.to(device),
            ),
            image_ids=self.image_ids,
        )


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

    def times(self, groups: int) -> Totals:
        """The totals if every query and object occurs once in each group."""
        return replace(self, objects=self.objects * groups, label_weight=self.label_weight * groups)


def count_totals(counts: Sequence[int], num_queries: int, no_object: float) -> Totals:
    """What the losses of some images are divided by.

    Matching gives every object a query as long as there are queries, so the weights in the class
    loss are known before it.

    Args:
        counts: objects of each image.
        num_queries: of an image.
        no_object: weight of a query without an object in the class loss.
    """
    matched = sum(min(count, num_queries) for count in counts)
    empty = len(counts) * num_queries - matched
    return Totals(
        objects=max(1, sum(counts)), label_weight=matched + no_object * empty, images=len(counts)
    )
