"""The encoder-decoder transformer (paper, section 3.2, figure 10 and appendix A.3).

Positions are added to queries and keys at every attention, never to values.

Letters: B images, M tokens of the feature map, N object queries, D channels, A attention heads, L
decoder layers, H and W height and width of the feature map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.model.config import DetrConfig


class SinePositions(nn.Module):
    """Sines and cosines of the row and the column, each as a fraction of the unpadded image.

    Temperature 10000, scale 2 pi (appendix A.4). The first half of the channels encodes the row,
    the second half the column.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, padding: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Encodings (B, D, H, W), computed in a type, for padding (B, H, W), True at padding."""
        real = (~padding).to(dtype)
        rows, columns = real.cumsum(1), real.cumsum(2)  # B, H, W: counted from 1
        rows = rows / (rows[:, -1:, :] + 1e-6) * (2 * math.pi)
        columns = columns / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)
        both = torch.cat([sine_waves(each, self.dim // 2) for each in (rows, columns)], dim=-1)
        return both.permute(0, 3, 1, 2)  # B, D, H, W


def sine_waves(angle: Tensor, channels: int) -> Tensor:
    """Sines and cosines (..., channels) in turn of angles (...), at falling frequencies."""
    steps = torch.arange(channels // 2, dtype=angle.dtype, device=angle.device)
    scaled = angle[..., None] / 10000 ** (2 * steps / channels)  # ..., channels/2
    return torch.stack((scaled.sin(), scaled.cos()), dim=-1).flatten(-2)  # ..., channels


class LearnedPositions(nn.Module):
    """A learned vector for each of 50 columns and rows of the feature map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(50, dim // 2)
        self.columns = nn.Embedding(50, dim // 2)
        nn.init.uniform_(self.rows.weight)
        nn.init.uniform_(self.columns.weight)

    def forward(self, padding: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Encodings (B, D, H, W) for padding (B, H, W); only its shape matters.

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


class Attention(nn.Module):
    """Multi-head attention with separate projections of queries, keys and values (appendix A.1)."""

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

        `padding` is True at keys that nobody (B, M), or one of the queries (B, N, M), may not read;
        None lets all be read.
        """
        q, k, v = (
            given.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B, A, N or M, D/A
            for given in (self.query(query), self.key(key), self.value(value))
        )
        readable = None
        if padding is not None:  # B, 1, 1 or N, M
            readable = ~(padding[:, None] if padding.dim() == 3 else padding[:, None, None, :])
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, readable, dropout)  # B, A, N, D/A
        return self.out(read.transpose(1, 2).flatten(2))  # B, N, D


class ConditionalAttention(nn.Module):
    """Attention of conditional queries (Meng et al., 2021), with projections of places.

    Args:
        dim: channels.
        heads: attention heads.
        dropout: of attention weights.
        placed: whether places are added to queries and keys: among queries, and where they first
            read the image.
        near: whether places are compared with each other, too, beside content with content: where
            queries read the image.
    """

    def __init__(self, dim: int, heads: int, dropout: float, *, placed: bool, near: bool) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.query_place = nn.Linear(dim, dim) if placed else None
        self.query_near = nn.Linear(dim, dim) if near else None
        self.key = nn.Linear(dim, dim)
        self.key_place = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, query: Tensor, queries: Tensor, near: Tensor | None, key: Tensor, positions: Tensor,
        padding: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """What each of query (B, N, D) reads from key (B, M, D): (B, N, D).

        Args:
            query: (B, N, D), content.
            queries: (N, D), the query embeddings.
            near: (B, N, D) or (N, D), positions to look near to; None among queries.
            key: (B, M, D), content, and what is read.
            positions: (B, M, D) or (M, D), of the keys.
            padding: (B, M), True at keys that nobody may read; None lets all be read.
        """

        def split(given: Tensor) -> Tensor:  # B, A, N or M, D/A
            return given.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

        q, k, place = self.query(query), self.key(key), self.key_place(positions)
        if self.query_place is not None:
            q, k = q + self.query_place(queries), k + place
        q, k = split(q), split(k)
        if self.query_near is not None:
            assert near is not None
            q = torch.cat((q, split(self.query_near(near)).expand_as(q)), dim=-1)  # B, A, N, 2D/A
            k = torch.cat((k, split(place)), dim=-1)  # B, A, M, 2D/A
        readable = None if padding is None else ~padding[:, None, None, :]  # B, 1, 1, M
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, split(self.value(key)), readable, dropout)
        return self.out(read.transpose(1, 2).flatten(2))  # B, N, D


class Residual(nn.Module):
    """x + dropout(sublayer(x)), normalised after the sum, or before the sublayer (`pre_norm`)."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """From (B, N, D) to (B, N, D)."""
        if self.pre_norm:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_new": partial(nn.GELU, "tanh"),
    "silu": nn.SiLU,
}


def make_ffn(config: DetrConfig, width: int) -> nn.Sequential:
    """The feed-forward sublayer of each token: two linear layers, and in the paper a ReLU."""
    return nn.Sequential(
        nn.Linear(config.hidden_dim, width),
        ACTIVATIONS[config.activation](),
        nn.Dropout(config.dropout),
        nn.Linear(width, config.hidden_dim),
    )


class EncoderLayer(nn.Module):
    """Every token of the image reads every other."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.attention = Attention(config.hidden_dim, config.heads, config.dropout)
        self.attention_residual = Residual(config)
        self.ffn = make_ffn(config, config.ffn_dim)
        self.ffn_residual = Residual(config)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        """From tokens (B, M, D) with positions (B, M, D) and padding (B, M) to (B, M, D)."""

        def read(x: Tensor) -> Tensor:
            return self.attention(x + positions, x + positions, x, padding)

        x = self.attention_residual(x, read)
        return self.ffn_residual(x, self.ffn)


class DecoderLayer(nn.Module):
    """Every query reads the other queries, then the image."""

    def __init__(self, config: DetrConfig, *, first: bool) -> None:
        super().__init__()
        dim, heads = config.hidden_dim, config.decoder_heads or config.heads
        if config.conditional:
            conditional = partial(ConditionalAttention, dim, heads, config.dropout)
            self.self_attention = conditional(placed=True, near=False)
            self.cross_attention = conditional(placed=first, near=True)
        else:
            self.self_attention = Attention(dim, heads, config.dropout)
            self.cross_attention = Attention(dim, heads, config.dropout)
        self.self_residual = Residual(config)
        self.cross_residual = Residual(config)
        self.ffn = make_ffn(config, config.decoder_ffn_dim or config.ffn_dim)
        self.ffn_residual = Residual(config)

    def forward(
        self,
        x: Tensor,
        queries: Tensor,
        positions: Tensor,
        memory: Tensor,
        padding: Tensor | None,
        absent: Tensor | None = None,
        near: Tensor | None = None,
    ) -> Tensor:
        """One layer.

        Args:
            x: (B, N, D), what each query knows so far.
            queries: (N, D), the query embeddings.
            positions: (B, M, D), of memory.
            memory: (B, M, D), the encoder's output.
            padding: (B, M), True at padding, or None.
            absent: (B, N), True at queries that no other may read, or None.
            near: (B, N, D) or (N, D), positions that conditional queries look near to; otherwise
                None.

        Returns:
            (B, N, D).
        """

        def read_queries(x: Tensor) -> Tensor:
            if near is not None:
                return self.self_attention(x, queries, None, x, queries, absent)
            return self.self_attention(x + queries, x + queries, x, absent)

        def read_image(x: Tensor) -> Tensor:
            if near is not None:
                return self.cross_attention(x, queries, near, memory, positions, padding)
            return self.cross_attention(x + queries, memory + positions, memory, padding)

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
    """The decoder's layers, and one normalisation of all their outputs for the heads."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.position_input = config.position_input
        self.normed_states = config.normed_states
        self.layers = nn.ModuleList(
            DecoderLayer(config, first=not number) for number in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.stretch = None
        if config.conditional:
            dim = config.hidden_dim
            self.stretch = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
            nn.init.ones_(self.stretch.get_parameter("2.bias"))  # places begin about as they are

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        positions: Tensor,
        padding: Tensor | None,
        absent: Tensor | None = None,
        *,
        start: Tensor | None = None,
        points: Tensor | None = None,
    ) -> Tensor:
        """What the queries found, after every layer.

        The next layer reads what a layer gave out before that normalisation, as in the original.
        With `DetrConfig.normed_states` it reads what was normalised, and the last layer's output is
        normalised twice, as in transformers.

        Args:
            queries: (N, D).
            memory: (B, M, D).
            positions: (B, M, D).
            padding: (B, M), True at padding, or None.
            absent: (B, N), True at queries that are left out, or None.
            start: (B, N, D), what the queries know at first; None is nothing, or the queries
                themselves (`DetrConfig.position_input`).
            points: (N, 2), the x and y of conditional queries in fractions of the image; otherwise
                None.

        Returns:
            (L, B, N, D), the last layer last.
        """
        x = queries.expand(memory.shape[0], *queries.shape) if start is None else start  # B, N, D
        if start is None and not self.position_input:
            x = torch.zeros_like(x)
        places = None
        if points is not None:  # as `SinePositions` has it: the row's waves first
            waves = sine_waves(2 * math.pi * points.flip(-1), queries.shape[-1] // 2)
            places = waves.flatten(-2)  # N, D
        near = places
        states: list[Tensor] = []
        for layer in self.layers:
            if self.stretch is not None and places is not None and states:
                near = places * self.stretch(x)  # B, N, D
            x = layer(x, queries, positions, memory, padding, absent, near)
            states.append(self.norm(x))  # B, N, D
            x = states[-1] if self.normed_states else x
        if self.normed_states:
            states[-1] = self.norm(x)
        return torch.stack(states)  # L, B, N, D
