"""EoMT: a vision transformer that is a segmenter itself (Kerssies et al., 2025).

Queries join the patches' tokens before the last blocks of a plain transformer. After the last one a
linear layer classifies each query, and its mask is the dot product of its embedding with a map that
is made from the patches. In training each of those blocks may first let a query read only the
patches of its mask so far; later fewer queries do so, and at last none (mask annealing), so that
nothing of it is left at inference.

Letters: B images, H and W their size, Q queries, C classes, D channels, N masks, h and w rows and
columns of patches, K query blocks, y and x height and width of a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.model.config import EomtConfig
from panodetr.model.network import Found, Network
from panodetr.model.vit import EPS, Vit

STRIP = 16
"""Rows that are doubled at a time for masks: 20 MB of the large model's map."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EomtFound(Found):
    """Classes of a batch, and what masks are made from.

    Attributes:
        embeddings: (B, Q, D), of each query's mask.
        patches: (B, D, h, w), from which `Eomt.doublings` makes the map of masks.
    """

    embeddings: Tensor
    patches: Tensor


class Doubling(nn.Module):
    """Doubles a map's height and width, and lets neighbours mix."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.mix = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = nn.LayerNorm(dim, EPS)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, D, h, w) to (B, D, 2h, 2w)."""
        x = self.mix(F.gelu(self.enlarge(x)))
        tokens = self.norm(x.permute(0, 2, 3, 1).flatten(1, 2))  # OpenVINO is slow with maps here
        return tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class Eomt(Network):
    """The transformer, its queries and heads.

    Inference calls `detect`, and then `masks` for the queries that it keeps. Training calls
    `every_block` with how much is masked.
    """

    SOURCES = ("embeddings", "patches")
    config: EomtConfig
    backbone: Vit

    def __init__(self, config: EomtConfig) -> None:
        super().__init__()
        self.config = config  # pyright: ignore[reportIncompatibleVariableOverride]
        dim = config.backbone.hidden_dim
        self.backbone = Vit(config.backbone)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.queries = nn.Embedding(config.num_queries, dim)
        self.class_head = nn.Linear(dim, config.num_classes + 1)  # last: "no object"
        self.mask_embedding = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        self.doublings = nn.Sequential(*(Doubling(dim) for _ in range(config.upscales)))

    def detect(self, pixels: Tensor, padding: Tensor | None = None) -> EomtFound:
        """Classes of every query, and what masks are made from.

        Args:
            pixels: (B, 3, H, W) float, normalised.
            padding: not read: the network sees what is beside an image as a part of it.
        """
        return self.every_block(pixels)[-1]

    def every_block(self, pixels: Tensor, masked: Sequence[float] = ()) -> list[EomtFound]:
        """What the network would say before each of the query blocks, and what it says in the end.

        Args:
            pixels: (B, 3, H, W) float, normalised.
            masked: K, how likely each query is to read only the patches of its mask in a block;
                none where nothing is masked, and then only the end is wanted.

        Returns:
            K + 1, or 1.
        """
        x, size = self.backbone.embed(pixels)
        blocks, own = self.backbone.blocks, self.config.query_blocks
        for block in blocks[:-own]:
            x = block(x)
        x = torch.cat((self.queries.weight.expand(x.shape[0], -1, -1), x), 1)  # B, Q + N, D
        found: list[EomtFound] = []
        for number, block in enumerate(blocks[-own:]):
            hidden = None
            if masked:
                found.append(self._read(x, size))
                if masked[number] > 0:
                    hidden = self._hide(found[-1], x.shape[1], masked[number])
            x = block(x, hidden)
        return [*found, self._read(x, size)]

    def _read(self, x: Tensor, size: tuple[int, int]) -> EomtFound:
        """What tokens (B, Q + N, D) say, of which the last hw are the patches."""
        x = self.backbone.norm(x)
        queries, patches = x[:, : self.config.num_queries], x[:, -size[0] * size[1] :]
        return EomtFound(
            logits=self.class_head(queries),
            embeddings=self.mask_embedding(queries),
            patches=patches.transpose(1, 2).unflatten(-1, size),
        )

    @torch.no_grad()
    def _hide(self, found: EomtFound, tokens: int, likely: float) -> Tensor:
        """True (B, N, N) where a query may not read a patch: where its mask so far is not."""
        size = found.patches.shape[-2:]
        masks = F.interpolate(self.every_mask(found), size, mode="bilinear").flatten(2)  # B, Q, hw
        drawn = torch.rand(masks.shape[:2], device=masks.device) < likely  # B, Q
        hidden = torch.zeros(len(masks), tokens, tokens, dtype=torch.bool, device=masks.device)
        hidden[:, : masks.shape[1], -masks.shape[2] :] = (masks <= 0) & drawn[..., None]
        return hidden

    def every_mask(self, found: EomtFound) -> Tensor:
        """Mask logits (B, Q, y, x) of all queries."""
        return torch.einsum("bqd,bdyx->bqyx", found.embeddings, self.doublings(found.patches))

    def masks(self, found: EomtFound, image: Tensor, query: Tensor) -> Tensor:
        """See `Network`; the map is made strip by strip, for all of it is the most that is held."""
        counts = image.bincount(minlength=len(found.patches)).tolist()
        chosen = found.embeddings[image, query].split(counts)  # N, D of each image
        strips: list[Tensor] = []
        for strip in self._strips(found.patches):
            own = [part @ of for part, of in zip(chosen, strip.flatten(2), strict=True)]
            strips.append(torch.cat(own).unflatten(-1, strip.shape[-2:]))
        return torch.cat(strips, 1)

    def _strips(self, patches: Tensor) -> Iterator[Tensor]:
        """The map that masks are dot products with, in strips (B, D, rows, x) from the top on."""
        *before, last = self.doublings or [None]
        x = self.doublings[: len(before)](patches)
        if last is None:
            yield x
            return
        height = x.shape[2]
        for top in range(0, height, STRIP):
            bottom = min(height, top + STRIP)
            first = max(0, top - 1)  # neighbours mix, across the strip's edges too
            strip = last(x[:, :, first : bottom + 1])
            yield strip[:, :, 2 * (top - first) : 2 * (bottom - first)]

    def sources(self, found: EomtFound) -> tuple[Tensor, ...]:
        """See `Network`."""
        return found.embeddings, found.patches

    def mask_part(self) -> nn.Module:
        """See `Network`."""
        return _MasksOfOne(self.doublings)

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        """See `Network`: a quarter of the blocks each, and what is before and after them."""
        vit = self.backbone
        count = len(vit.blocks)
        edges = [count * quarter // 4 for quarter in range(5)]
        stages: list[list[nn.Module | nn.Parameter]] = [
            list(vit.blocks[low:high]) for low, high in pairwise(edges)
        ]
        stages[0] += [vit.patches, vit.class_token, vit.registers, vit.positions]
        stages[3].append(vit.norm)
        return stages

    def repeated(self) -> list[nn.Module]:
        """See `Network`."""
        return [*self.backbone.blocks, *self.doublings]


class _MasksOfOne(nn.Module):
    """Masks of one image, whose map is made here and never leaves."""

    def __init__(self, doublings: nn.Sequential) -> None:
        super().__init__()
        self.doublings = doublings

    def forward(self, embeddings: Tensor, patches: Tensor, query: Tensor) -> Tensor:
        """Mask logits (N, y, x) of the queries (N,) int64 from `Eomt.sources` of one image."""
        pixels = self.doublings(patches).permute(0, 2, 3, 1)  # 1, y, x, D
        chosen = embeddings[0].index_select(0, query)  # N, D
        return (pixels[0] @ chosen.t()).permute(2, 0, 1)
