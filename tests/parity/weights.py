"""Weights that follow from their names in the original, and a padded batch to feed."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from panodetr.checkpoints.facebook import FACEBOOK
from panodetr.images.batch import pad
from panodetr.model.config import DetrConfig
from panodetr.model.detr import Detr


def value(key: str, shape: torch.Size) -> NDArray[np.float32]:
    """The weights that the golden files' README gives to a name of the original's."""
    random = np.random.RandomState(zlib.crc32(key.encode()))
    r = random.standard_normal(shape).astype("float32")
    if len(shape) == 1:
        return 1 + np.float32(0.1) * r if key.endswith("weight") else np.float32(0.1) * r
    if key.endswith("query_embed.weight"):
        return 2 * r
    gain = 1.0
    if "encoder" in key and "out_proj" in key:
        gain = 0.3
    elif "multihead_attn.out_proj" in key:
        gain = 3.0
    elif "backbone" in key or "mask_head" in key:
        gain = 2**0.5
    elif "in_proj" in key or "bbox_attention" in key:
        gain = 3.0
    w = r * np.float32(gain / math.prod(shape[1:]) ** 0.5)
    if key.endswith("mask_head.lay1.weight"):
        w[:, 256:] *= 3000
    return w


def build(config: DetrConfig) -> Detr:
    """A model without weights: shapes alone."""
    with torch.device("meta"):
        return Detr(config).eval()


def named_weights(
    config: DetrConfig, given: Mapping[str, NDArray[np.float32]] | None = None
) -> dict[str, Tensor]:
    """A model's weights, under our names: those given under the original's, and else the rule's."""
    shapes = {key: t.shape for key, t in FACEBOOK.from_ours(build(config).state_dict()).items()}
    arrays = {key: value(key, shape) for key, shape in shapes.items()} | {
        key: array for key, array in (given or {}).items() if key in shapes
    }
    return FACEBOOK.to_ours({key: torch.from_numpy(array) for key, array in arrays.items()})


def measure_statistics(config: DetrConfig, weights: dict[str, Tensor], pixels: Tensor) -> None:
    """Put in a batch's own batch-norm statistics: not 0 and 1, and features stay in bounds."""
    live = build(replace(config, backbone=replace(config.backbone, norm="batch"))).backbone
    own = {key: weights.get(f"backbone.{key}", torch.tensor(0)) for key in live.state_dict()}
    live.load_state_dict(own, assign=True)
    for module in live.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches: there is one
    with torch.no_grad():
        live(pixels)
    measured = ("running_mean", "running_var")
    weights |= {f"backbone.{k}": t for k, t in live.state_dict().items() if k.endswith(measured)}


def padded_batch() -> tuple[Tensor, Tensor]:
    """Two images of different sizes, as the golden files' README makes them."""
    random = np.random.RandomState(1)
    images = [random.standard_normal(s).astype("float32") for s in ((3, 160, 192), (3, 128, 224))]
    pixels, padding = pad(images)
    return torch.from_numpy(pixels), torch.from_numpy(padding)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Within the tolerance, or where the largest value is more than 1, within that part of it."""
    atol = tolerance * max(1.0, expected.abs().max().item())  # boxes never are more than 1
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
