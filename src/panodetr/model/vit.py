"""A vision transformer as DINOv2 has it (Oquab et al., 2023), with registers (Darcet et al., 2023).

Letters: B images, H and W their size, D channels, N tokens, h and w the patches' rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.model.config import VitConfig
from panodetr.model.transformer import Attention

EPS = 1e-6
"""Of every norm."""


class SwiGlu(nn.Module):
    """Two linear layers side by side, one of which gates the other (Shazeer, 2020)."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_dim, config.ffn_dim)
        self.up = nn.Linear(config.hidden_dim, config.ffn_dim)
        self.down = nn.Linear(config.ffn_dim, config.hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, N, D) to (B, N, D)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention among all tokens, then a feed-forward layer; each is normed before, scaled after.

    The scales (LayerScale, Touvron et al., 2021) are one factor a channel.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.attention_norm = nn.LayerNorm(dim, EPS)
        self.attention = Attention(dim, config.heads, dropout=0.0)
        self.attention_scale = nn.Parameter(torch.ones(dim))
        self.ffn_norm = nn.LayerNorm(dim, EPS)
        self.ffn = (
            SwiGlu(config)
            if config.swiglu
            else nn.Sequential(
                nn.Linear(dim, config.ffn_dim), nn.GELU(), nn.Linear(config.ffn_dim, dim)
            )
        )
        self.ffn_scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """From (B, N, D) to (B, N, D); hidden (B, N, N) is True where one may not read another."""
        y = self.attention_norm(x)
        x = torch.addcmul(x, self.attention_scale, self.attention(y, y, y, hidden))
        return torch.addcmul(x, self.ffn_scale, self.ffn(self.ffn_norm(x)))


class Vit(nn.Module):
    """Patches, tokens before them, and blocks, which the caller runs: other tokens may join."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.config = config
        self.patches = nn.Conv2d(3, dim, config.patch, config.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.registers = nn.Parameter(torch.zeros(1, config.registers, dim))
        self.positions = nn.Parameter(torch.zeros(config.grid**2, dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim, EPS)
        for start in (self.class_token, self.registers, self.positions):
            nn.init.normal_(start, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def embed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, 1 + registers + hw, D) of pixels (B, 3, H, W), and h and w.

        What is left at the right and below of whole patches is not seen. Positions are
        interpolated where there are more or fewer patches than they were learned for.
        """
        x = self.patches(pixels)  # B, D, h, w
        size = x.shape[-2:]
        grid = self.positions.unflatten(0, (self.config.grid, -1)).permute(2, 0, 1)  # D, grid, grid
        placed = F.interpolate(grid[None], size, mode="bicubic").to(x.dtype)  # 1, D, h, w
        tokens = (x + placed).flatten(2).transpose(1, 2)  # B, hw, D
        first = torch.cat((self.class_token, self.registers), 1).expand(x.shape[0], -1, -1)
        return torch.cat((first, tokens), 1), size
