"""What the network gives out.

Letters: B images, Q queries, C classes, D channels, L decoder layers, h and w of a feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A batch after backbone and encoder.

    Attributes:
        features: four maps (B, channels, h, w) of the backbone, finest first.
        projected: (B, D, h, w), the last of them at the transformer's width.
        memory: (B, D, h, w), the encoder's output.
        positions: (B, D, h, w).
        padding: (B, h, w), True at padding; None where there is none.
    """

    features: tuple[Tensor, ...]
    projected: Tensor
    memory: Tensor
    positions: Tensor
    padding: Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """Classes and boxes of a batch, and what masks are made from.

    Attributes:
        logits: (B, Q, C + 1), the last being "no object".
        boxes: (B, Q, 4), cxcywh in fractions of the unpadded image.
        states: (B, Q, D), of the last decoder layer.
        encoded: the batch after the encoder.
    """

    logits: Tensor
    boxes: Tensor
    states: Tensor
    encoded: Encoded
