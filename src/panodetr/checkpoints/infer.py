"""The shape of a network, read off its weights: all that an original `.pth` says of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from panodetr.model.config import (
    RESNET18,
    RESNET34,
    RESNET50,
    RESNET101,
    DetrConfig,
    ResNetConfig,
)

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

RESNETS = {
    "resnet18": RESNET18,
    "resnet34": RESNET34,
    "resnet50": RESNET50,
    "resnet101": RESNET101,
    "resnet152": ResNetConfig(depths=(3, 8, 36, 3)),
}
"""By the names that torchvision, timm and the original share."""


def infer_architecture(shapes: Shapes, *, dilation: bool, heads: int = 8) -> DetrConfig:
    """Find the configuration that has weights of these names and shapes.

    Args:
        shapes: by our names.
        dilation: whether the backbone is dilated (DC5), which no shape shows.
        heads: attention heads, which only a mask head shows; the paper's 8.

    Raises:
        ValueError: a weight is missing that every DETR has, or the backbone is no known ResNet.
    """
    classes, hidden_dim = _shape(shapes, "class_head.weight", 2)
    masks = "mask_head.out.weight" in shapes
    if masks:
        heads = _shape(shapes, "mask_head.convs.0.weight", 4)[0] - hidden_dim
    return DetrConfig(
        backbone=replace(_backbone(shapes), dilate_last=dilation),
        num_classes=classes - 1,
        num_queries=_shape(shapes, "queries.weight", 2)[0],
        hidden_dim=hidden_dim,
        heads=heads,
        ffn_dim=_shape(shapes, "decoder.layers.0.ffn.0.weight", 2)[0],
        encoder_layers=_count(shapes, r"encoder\.layers\.(\d+)\..*"),
        decoder_layers=_count(shapes, r"decoder\.layers\.(\d+)\..*"),
        pre_norm="encoder.norm.weight" in shapes,
        positions="learned" if "positions.rows.weight" in shapes else "sine",
        masks=masks,
    )


def _backbone(shapes: Shapes) -> ResNetConfig:
    depths = tuple(_count(shapes, rf"backbone\.stages\.{s}\.(\d+)\..*") for s in range(4))
    block = "bottleneck" if "backbone.stages.0.0.conv3.weight" in shapes else "basic"
    for resnet in RESNETS.values():
        if (resnet.block, resnet.depths) == (block, depths):
            return resnet
    raise ValueError(
        f"the backbone has {depths} {block} blocks; expected one of {', '.join(RESNETS)}"
    )


def _shape(shapes: Shapes, key: str, dimensions: int) -> tuple[int, ...]:
    if len(shapes.get(key, ())) != dimensions:
        raise ValueError(f"our {key!r} is missing or has not {dimensions} dimensions; is it whole?")
    return shapes[key]


def _count(shapes: Shapes, pattern: str) -> int:
    """Count the numbered parts whose keys match, taking the highest number at its word."""
    found = (re.fullmatch(pattern, key) for key in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)
