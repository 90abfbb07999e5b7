"""Multi-head attention (paper, appendix A.1).

Letters: B images, N queries, M keys, D channels, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from panodetr.model.dropout import Dropout


class Attention(nn.Module):
    """Scaled dot-product attention with separate projections of queries, keys and values."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = Dropout(dropout)
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
        drops = self.training and self.dropout.p > 0
        if drops and q.device.type == "cpu" and q.dtype == torch.float32:
            # At large images weights are the largest tensors: they are made again, not kept.
            read = checkpoint(self._read, q, k, v, readable, use_reentrant=False)  # B, H, N, D/H
        else:
            dropout = self.dropout.p if drops else 0.0
            read = F.scaled_dot_product_attention(q, k, v, readable, dropout)  # B, H, N, D/H
        return self.out(read.transpose(1, 2).flatten(2))  # B, N, D

    def _read(self, q: Tensor, k: Tensor, v: Tensor, readable: Tensor | None) -> Tensor:
        read = self.dropout(attention_weights(q, k, readable)) @ v
        if readable is None:
            return read
        return read.masked_fill(~readable.any(-1, keepdim=True), 0.0)  # as in torch's attention

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B, H, N or M, D/H


def attention_weights(q: Tensor, k: Tensor, readable: Tensor | None) -> Tensor:
    """How much of each key every query reads: (B, H, N, M), summing to 1 over the keys.

    torch's attention takes the same steps where it drops out on a CPU in float32, and keeps three
    tensors of this size for the backward pass. `tests/model/test_transformer.py` holds both equal,
    and `benchmarks/training.py ours --size 992 --name large` measures a step without them.

    Args:
        q: (B, H, N, D/H).
        k: (B, H, M, D/H).
        readable: False at keys that nobody may read, of a shape that spreads to (B, H, N, M); None
            lets all be read.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if readable is not None:  # not minus infinity: a query without any key would read NaN
        scores = scores.masked_fill(~readable, torch.finfo(scores.dtype).min)
    return scores.softmax(-1)
