"""The encoder-decoder transformer (paper, section 3.2 and figure 10).

Position encodings are added to queries and keys at every attention, never to values.
Letters: B images, M tokens of the feature map, N object queries, D channels, G query groups, L
decoder layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from panodetr.model.attention import Attention
from panodetr.model.dropout import Dropout

if TYPE_CHECKING:
    from collections.abc import Callable

    from panodetr.model.config import DetrConfig


class Residual(nn.Module):
    """x + dropout(sublayer(x)), normalised after the sum, or before the sublayer (`pre_norm`)."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """From (B, N, D) to (B, N, D)."""
        if self.pre_norm:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))


def make_ffn(config: DetrConfig) -> nn.Sequential:
    """The feed-forward sublayer: two linear layers, a ReLU between them, each token alone.

    Dropout comes before the ReLU, which makes no difference to what comes out, and leaves one large
    tensor less for the backward pass.
    """
    return nn.Sequential(
        nn.Linear(config.hidden_dim, config.ffn_dim),
        Dropout(config.dropout),
        nn.ReLU(inplace=True),
        nn.Linear(config.ffn_dim, config.hidden_dim),
    )


class EncoderLayer(nn.Module):
    """Every token of the image reads every other."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.attention = Attention(config.hidden_dim, config.heads, config.dropout)
        self.attention_residual = Residual(config)
        self.ffn = make_ffn(config)
        self.ffn_residual = Residual(config)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        """From tokens (B, M, D) with positions (B, M, D) and padding (B, M) to (B, M, D)."""

        def read(x: Tensor) -> Tensor:
            return self.attention(x + positions, x + positions, x, padding)

        x = self.attention_residual(x, read)
        return self.ffn_residual(x, self.ffn)


class DecoderLayer(nn.Module):
    """Every query reads the other queries of its group, then the image."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config.hidden_dim, config.heads, config.dropout)
        self.self_residual = Residual(config)
        self.cross_attention = Attention(config.hidden_dim, config.heads, config.dropout)
        self.cross_residual = Residual(config)
        self.ffn = make_ffn(config)
        self.ffn_residual = Residual(config)

    def forward(
        self,
        x: Tensor,
        queries: Tensor,
        keys: Tensor,
        memory: Tensor,
        padding: Tensor | None,
        absent: Tensor | None = None,
    ) -> Tensor:
        """One layer for groups of queries that see the image but not each other.

        Args:
            x: (B, G, N, D), what each query knows so far.
            queries: (G, N, D), the query embeddings, or (B, G, N, D).
            keys: (B, M, D), memory with its positions.
            memory: (B, M, D), the encoder's output.
            padding: (B, M), True at padding, or None.
            absent: (BG, N), True at queries that no other may read, or None.

        Returns:
            (B, G, N, D).
        """

        def read_queries(x: Tensor) -> Tensor:
            placed = (x + queries).flatten(0, 1)  # BG, N, D
            return self.self_attention(placed, placed, x.flatten(0, 1), absent).view_as(x)

        def read_image(x: Tensor) -> Tensor:
            placed = (x + queries).flatten(1, 2)  # B, GN, D
            return self.cross_attention(placed, keys, memory, padding).view_as(x)

        x = self.self_residual(x, read_queries)
        x = self.cross_residual(x, read_image)
        return self.ffn_residual(x, self.ffn)


class Encoder(nn.Module):
    """The encoder's layers, and with pre-norm a last normalisation."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.position_input = config.position_input
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.hidden_dim) if config.pre_norm else nn.Identity()

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        """From tokens (B, M, D) to memory (B, M, D)."""
        if self.position_input:
            x = x + positions
        for layer in self.layers:
            x = layer(x, positions, padding)
        return self.norm(x)


class Decoder(nn.Module):
    """The decoder's layers, and one normalisation that makes their outputs fit for the heads."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.position_input = config.position_input
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_dim)

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        positions: Tensor,
        padding: Tensor | None,
        absent: Tensor | None = None,
    ) -> Tensor:
        """What the queries found, after every layer.

        The next layer reads what a layer gave out before that normalisation, as in the original
        (`transformers` feeds the normalised one on when its auxiliary loss is asked for).

        Args:
            queries: (G, N, D), the same for all images, or (B, G, N, D); at inference there is one
                group.
            memory: (B, M, D).
            positions: (B, M, D).
            padding: (B, M), True at padding, or None.
            absent: (B, N), True at places without a query in each of an image's groups, or None.

        Returns:
            (L, B, GN, D), the last layer last.
        """
        keys = memory + positions  # B, M, D
        x = queries.expand(memory.shape[0], *queries.shape[-3:])  # B, G, N, D
        if absent is not None:
            absent = absent.repeat_interleave(x.shape[1], 0)  # BG, N
        if not self.position_input:
            x = torch.zeros_like(x)
        states: list[Tensor] = []
        for layer in self.layers:
            x = layer(x, queries, keys, memory, padding, absent)
            states.append(self.norm(x).flatten(1, 2))  # B, GN, D
        return torch.stack(states)  # L, B, GN, D
