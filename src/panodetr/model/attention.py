"""Multi-head attention (paper, appendix A.1).

Letters: B images, N queries, M keys, D channels, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Scaled dot-product attention with separate projections of queries, keys and values."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None) -> Tensor:
        """What each of query (B, N, D) reads from key and value (B, M, D): (B, N, D).

        `padding` (B, M) is True at keys that nobody may read; None lets all be read.
        """
        q = self._split(self.query(query))  # B, H, N, D/H
        k = self._split(self.key(key))  # B, H, M, D/H
        v = self._split(self.value(value))  # B, H, M, D/H
        readable = None if padding is None else ~padding[:, None, None, :]  # B, 1, 1, M
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, readable, dropout)  # B, H, N, D/H
        return self.out(read.transpose(1, 2).flatten(2))  # B, N, D

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B, H, N or M, D/H
