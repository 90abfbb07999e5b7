"""The panoptic mask head: where each query looks, refined to a mask (section 4.4, figure 8).

Letters: B images, Q queries, N masks asked for, D channels, A attention heads, H and W the feature
map's height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.model.config import DetrConfig

GROUPS = 8

ATTENTION_GAIN = 200.0
"""How much larger the first convolution's weights for attention start than those for features.

Attention sums to 1 over heads and pixels, so each value is about a thousandth, and features are
about 1. Without the gain the head ignores its query for thousands of steps."""


class AttentionMaps(nn.Module):
    """Where in the image each query looks: attention weights without values."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.key = nn.Linear(config.hidden_dim, config.hidden_dim)
        for linear in (self.query, self.key):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, states: Tensor, memory: Tensor, padding: Tensor | None, image: Tensor, query: Tensor
    ) -> Tensor:
        """Attention of chosen queries over their images.

        The softmax runs over heads and pixels jointly: published weights were trained so.

        Args:
            states: (B, Q, D), of the last decoder layer.
            memory: (B, D, H, W).
            padding: (B, H, W), True at padding, or None.
            image: (N,), the image of each mask asked for.
            query: (N,), its query.

        Returns:
            (N, A, H, W), non-negative, summing to 1 for each of N.
        """
        q = self.query(states).unflatten(-1, (self.heads, -1))  # B, Q, A, D/A
        k = self.key(memory.flatten(2).transpose(1, 2))  # B, HW, D
        k = k.unflatten(-1, (self.heads, -1))  # B, HW, A, D/A
        q = q.transpose(1, 2) * q.shape[-1] ** -0.5  # B, A, Q, D/A
        scores = q @ k.permute(0, 2, 3, 1)  # B, A, Q, HW
        chosen = scores[image, :, query]  # N, A, HW
        if padding is not None:
            hidden = padding.flatten(1)[image]  # N, HW
            chosen = chosen.masked_fill(hidden[:, None], float("-inf"))
        flat = chosen.reshape(chosen.shape[0], self.heads * chosen.shape[2]).softmax(-1)  # N, AHW
        return flat.view(chosen.shape[0], self.heads, *memory.shape[-2:])  # N, A, H, W


class Norm(nn.GroupNorm):
    """Group norm that also accepts one value for each channel, which torch's module refuses."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class MaskHead(nn.Module):
    """Convolutions from the coarsest features up to the finest, one mask for each query.

    Queries do not see each other here, so a mask is the same whichever others are asked for. What
    all queries of an image share is computed once an image: the feature part of the first
    convolution, which is linear before its norm, and the projections of the finer features.
    """

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.dim = config.hidden_dim
        wide, a, b, c, d = config.mask_widths
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1)
            for i, o in ((wide, wide), (wide, a), (a, b), (b, c), (c, d))
        )
        self.norms = nn.ModuleList(Norm(min(GROUPS, n), n) for n in (wide, a, b, c, d))
        fine, finer, finest = (config.backbone.stage_channels[s] for s in config.mask_stages)
        self.adapters = nn.ModuleList(
            (nn.Conv2d(fine, a, 1), nn.Conv2d(finer, b, 1), nn.Conv2d(finest, c, 1))
        )
        self.out = nn.Conv2d(d, 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.convs[0].get_parameter("weight")[:, self.dim :] *= ATTENTION_GAIN

    def share(self, projected: Tensor, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What all queries of an image have in common, coarsest first.

        Args:
            projected: (B, D, H, W), the transformer's input.
            features: three maps (B, C, h, w) of the backbone, coarsest first.

        Returns:
            The features' part of the first convolution (B, D+A, H, W), and the projected features,
            (B, D/2, h, w), (B, D/4, h, w) and (B, D/8, h, w) of the three.
        """
        conv = self.convs[0]
        assert isinstance(conv, nn.Conv2d)
        first = F.conv2d(projected, conv.weight[:, : self.dim], conv.bias, padding=1)
        finer = (adapter(map_) for adapter, map_ in zip(self.adapters, features, strict=True))
        return first, *finer

    def forward(
        self, shared: tuple[Tensor, ...], attention: Tensor, image: Tensor | None
    ) -> Tensor:
        """Mask logits at the finest features' resolution.

        Args:
            shared: from `share`.
            attention: (N, A, H, W), where each query looks.
            image: (N,), the image of each query; None where there is one image for all.

        Returns:
            (N, h, w) of the finest map; a pixel belongs to the query where its logit is above 0.
        """

        def of_query(maps: Tensor) -> Tensor:
            return maps if image is None else maps.index_select(0, image)  # N (or 1), C, h, w

        first, *finer = shared
        conv = self.convs[0]
        assert isinstance(conv, nn.Conv2d)
        own = F.conv2d(attention, conv.weight[:, self.dim :], padding=1)  # N, D+A, H, W
        x = F.relu_(self.norms[0](own.add_(of_query(first))))  # N, D+A, H, W
        x = F.relu_(self.norms[1](self.convs[1](x)))  # N, D/2, H, W
        for fine, conv, norm in zip(finer, self.convs[2:], self.norms[2:], strict=True):
            enlarged = F.interpolate(x, fine.shape[-2:], mode="nearest")  # N, C, h, w
            x = F.relu_(norm(conv(enlarged.add_(of_query(fine)))))  # N, C/2, h, w
        return self.out(x)[:, 0]  # N, h, w
