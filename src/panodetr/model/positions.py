"""Where a feature lies: encodings added to queries and keys (paper, section 3.2 and appendix A.4).

Letters: B images, D channels, H and W height and width of the feature map.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from panodetr.model.config import DetrConfig


class SinePositions(nn.Module):
    """Sines and cosines of the row and the column, each as a fraction of the unpadded image.

    Temperature 10000, scale 2 pi; the first half of the channels tells the row, the second the
    column.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, padding: Tensor) -> Tensor:
        """Encodings (B, D, H, W) for a padding mask (B, H, W), True at padding."""
        real = (~padding).float()
        rows, columns = real.cumsum(1), real.cumsum(2)  # B, H, W: counted from 1
        rows = rows / (rows[:, -1:, :] + 1e-6) * (2 * math.pi)
        columns = columns / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)
        waves = torch.cat((self._waves(rows), self._waves(columns)), dim=-1)  # B, H, W, D
        return waves.permute(0, 3, 1, 2)  # B, D, H, W

    def _waves(self, angle: Tensor) -> Tensor:
        half = self.dim // 2
        steps = torch.arange(half // 2, dtype=torch.float32, device=angle.device)
        scaled = angle[..., None] / 10000 ** (2 * steps / half)  # B, H, W, D/4
        return torch.stack((scaled.sin(), scaled.cos()), dim=-1).flatten(-2)  # B, H, W, D/2


class LearnedPositions(nn.Module):
    """A learned vector for each of 50 columns and rows of the feature map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(50, dim // 2)
        self.columns = nn.Embedding(50, dim // 2)
        nn.init.uniform_(self.rows.weight)
        nn.init.uniform_(self.columns.weight)

    def forward(self, padding: Tensor) -> Tensor:
        """Encodings (B, D, H, W) for a padding mask (B, H, W), of which only the shape counts.

        Raises:
            ValueError: the feature map has more rows or columns than there are vectors.
        """
        batch, height, width = padding.shape
        if max(height, width) > self.rows.num_embeddings:
            raise ValueError(
                f"a feature map of {height}x{width} is larger than the {self.rows.num_embeddings} "
                "learned positions a side; use smaller images or sine positions"
            )
        columns = self.columns.weight[None, :width].expand(height, -1, -1)  # H, W, D/2
        rows = self.rows.weight[:height, None].expand(-1, width, -1)  # H, W, D/2
        both = torch.cat((columns, rows), dim=-1).permute(2, 0, 1)  # D, H, W
        return both[None].expand(batch, -1, -1, -1)  # B, D, H, W


def make_positions(config: DetrConfig) -> nn.Module:
    """The position encoding that a configuration names."""
    if config.positions == "sine":
        return SinePositions(config.hidden_dim)
    return LearnedPositions(config.hidden_dim)
