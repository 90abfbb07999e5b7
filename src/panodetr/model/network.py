"""What every network offers, so that nothing that runs one needs to know of which kind it is.

Letters: B images, H and W their size, Q queries, C classes, N masks, h and w a mask's size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from panodetr.model.config import Architecture


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a network says of a batch; each kind adds what its masks are made from.

    Attributes:
        logits: (B, Q, C + 1), the last being "no object"; (B, Q, C) where there is none
            (`DetrConfig.sigmoid`).
        boxes: (B, Q, 4), cxcywh in fractions of the unpadded image; None where only masks say where
            an object is.
    """

    logits: Tensor
    boxes: Tensor | None = None


class Network(nn.Module, ABC):
    """A network that finds a set of objects in an image.

    Attributes:
        SOURCES: names of what the masks of an image are made from.
        config: its shape.
        backbone: what is usually trained before, on other data.
        queries: an embedding each.
        class_head: its last class is "no object", but for `DetrConfig.sigmoid`.
    """

    SOURCES: ClassVar[tuple[str, ...]]
    config: Architecture
    backbone: nn.Module
    queries: nn.Embedding
    class_head: nn.Linear

    @abstractmethod
    def detect(self, pixels: Tensor, padding: Tensor | None = None) -> Found:
        """Classes of every query, and what says where they are.

        Args:
            pixels: (B, 3, H, W) float, normalised.
            padding: (B, H, W), True beside the images; None where there is none.
        """

    @abstractmethod
    def masks(self, found: Any, image: Tensor, query: Tensor) -> Tensor:
        """Mask logits (N, h, w) of chosen queries; a pixel is the query's where it is above 0.

        Args:
            found: from `detect`.
            image: (N,) int64, rising, the image of each mask.
            query: (N,) int64, its query.

        Raises:
            ValueError: the model has no mask head.
        """

    @abstractmethod
    def sources(self, found: Any) -> tuple[Tensor, ...]:
        """What masks are made from, each (B, ...), in the order of `SOURCES`."""

    @abstractmethod
    def mask_part(self) -> nn.Module:
        """From the sources of one image, and queries (N,) int64, to mask logits (N, h, w)."""

    @abstractmethod
    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        """The backbone in four stages, from the pixels on; a run may freeze the first ones."""

    @abstractmethod
    def repeated(self) -> list[nn.Module]:
        """The parts whose activations are worth computing again in the backward pass."""
