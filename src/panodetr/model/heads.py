"""From a query's state to a class and a box (paper, section 3.2, "Prediction FFNs")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from panodetr.model.config import DetrConfig


class ClassHead(nn.Linear):
    """Logits of the real classes and, last, of "no object"."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config.hidden_dim, config.num_classes + 1)


class BoxHead(nn.Sequential):
    """Three linear layers with ReLU between them.

    The box is cxcywh in fractions of the unpadded image.
    """

    def __init__(self, config: DetrConfig) -> None:
        dim = config.hidden_dim
        super().__init__(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4)
        )

    def forward(self, input: Tensor) -> Tensor:
        """From states (..., D) to boxes (..., 4), each number from 0 to 1."""
        return super().forward(input).sigmoid()
