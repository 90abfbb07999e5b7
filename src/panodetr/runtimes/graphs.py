"""A model as two graphs, which other runtimes can take over: arrays in, arrays out.

`DetectGraph` runs once a batch. `MasksGraph` runs for the queries that are kept, on what the first
has computed for all of them together. Two graphs and not one: how many queries are kept is only
known in between, and where none is, the second one need not run at all.

Letters: B images, H and W their padded size, Q queries, C classes, D channels, N masks, A attention
heads, h and w the feature map's height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from panodetr.runtimes.pixels import normalize_images

if TYPE_CHECKING:
    from panodetr.images.preprocess import Preprocessing
    from panodetr.model.detr import Detr


class DetectGraph(nn.Module):
    """Images to classes and boxes, and to what masks are made from."""

    def __init__(self, model: Detr, rule: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.rule = rule
        self.eval()

    def forward(self, images: Tensor, padding: Tensor) -> tuple[Tensor, ...]:
        """Detect, in the order of `panodetr.runtimes.exported.DETECT_OUTPUTS`.

        Args:
            images: (B, H, W, 3) uint8, RGB.
            padding: (B, H, W) bool, True beside the images.

        Returns:
            Logits (B, Q, C + 1) and boxes (B, Q, 4); of a model with a mask head also the queries'
            states (B, Q, D), memory (B, D, h, w), its padding (B, h, w), and the four maps of
            `MaskHead.share`.
        """
        pixels = normalize_images(images, padding, self.rule)
        found = self.model.detect(pixels, padding)
        if self.model.mask_head is None:
            return found.logits, found.boxes
        encoded = found.encoded
        assert encoded.padding is not None
        shared = self.model.share(encoded)
        return found.logits, found.boxes, found.states, encoded.memory, encoded.padding, *shared


class MasksGraph(nn.Module):
    """Masks of chosen queries of one image: what they share need not be copied for each of them."""

    def __init__(self, model: Detr) -> None:
        super().__init__()
        assert model.attention_maps is not None
        assert model.mask_head is not None
        self.attention_maps = model.attention_maps
        self.mask_head = model.mask_head
        self.eval()

    def forward(
        self,
        states: Tensor,
        memory: Tensor,
        small_padding: Tensor,
        coarse: Tensor,
        fine: Tensor,
        finer: Tensor,
        finest: Tensor,
        query: Tensor,
    ) -> Tensor:
        """Mask logits (N, h, w) of the queries (N,) int64.

        The other arguments are what the detect graph gave out, of one image, under their names
        there.
        """
        image = torch.zeros_like(query)
        attention = self.attention_maps(states, memory, small_padding, image, query)
        return self.mask_head((coarse, fine, finer, finest), attention, None)


def detect_example() -> tuple[Tensor, Tensor]:
    """Two images of different sizes, to record the detect graph with."""
    images = torch.arange(2 * 160 * 192 * 3).view(2, 160, 192, 3).to(torch.uint8)
    padding = torch.zeros(2, 160, 192, dtype=torch.bool)
    padding[1, 100:] = True
    return images, padding


def masks_example(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Three queries of what the detect graph found in the first image of its example."""
    return *(array[:1] for array in found[2:]), torch.tensor([1, 0, 2]) % found[0].shape[1]
