"""Norms with constants, folded into the convolutions before them, leave the answers as they are."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from panodetr.checkpoints.spec import ModelSpec
from panodetr.model.backbone import FrozenBatchNorm
from panodetr.model.config import NormKind, ResNetConfig
from panodetr.model.detr import Detr
from panodetr.runtimes.torch import fold_norms

BOTTLENECK = ResNetConfig(depths=(2, 1, 2, 2), widths=(8, 8, 16, 16), stem_width=8)
BASIC = ResNetConfig(block="basic", depths=(2, 1, 1, 1), widths=(8, 8, 16, 16), stem_width=8)


def random_model(spec: ModelSpec, backbone: ResNetConfig) -> Detr:
    """Every weight and statistic random, so that none can be left out unseen."""
    torch.manual_seed(0)
    model = Detr(replace(spec.architecture, backbone=backbone))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, FrozenBatchNorm | nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                    if name in ("weight", "running_var"):
                        tensor.uniform_(0.5, 1.5)
                    elif tensor.is_floating_point():
                        tensor.normal_(0, 0.2)
    return model.eval()


def folded(model: Detr) -> Detr:
    model = copy.deepcopy(model)
    fold_norms(model.backbone)
    return model


def assert_close(got: Tensor, expected: Tensor) -> None:
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(got / scale, expected / scale, atol=1e-4, rtol=0)


@torch.inference_mode()
def assert_same(model: Detr, other: Detr, pixels: Tensor, padding: Tensor | None) -> None:
    a, b = model.detect(pixels, padding), other.detect(pixels, padding)
    assert_close(b.logits, a.logits)
    assert_close(b.boxes, a.boxes)
    for ours, theirs in zip(b.encoded.features, a.encoded.features, strict=True):
        assert_close(ours, theirs)
    count = len(pixels)
    image = torch.tensor([count - 1, 0, 0, count - 1, 0])
    query = torch.tensor([1, 2, 0, 4, 3])
    expected = model.masks(a.encoded, a.states, image, query)
    assert_close(other.masks(b.encoded, b.states, image, query), expected)


@pytest.mark.parametrize(
    "backbone",
    [
        BOTTLENECK,
        BASIC,
        replace(BOTTLENECK, dilate_last=True),
        replace(BASIC, stem_pool=False, stem_stride=1),
        # A stage whose first block has no shortcut: it must not write over the stage before.
        replace(BASIC, widths=(8, 8, 8, 16), strides=(1, 1, 2, 2)),
    ],
    ids=["bottleneck", "basic", "dilated", "no pool", "no shortcut"],
)
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_every_backbone_gives_the_models_answers_and_no_frozen_norm_is_left(
    tiny_spec: ModelSpec, backbone: ResNetConfig, norm: NormKind
) -> None:
    model = random_model(tiny_spec, replace(backbone, norm=norm))
    pixels = torch.randn(2, 3, 64, 72, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(2, 64, 72, dtype=torch.bool)
    padding[1, 40:] = True
    other = folded(model)
    assert not [module for module in other.modules() if isinstance(module, FrozenBatchNorm)]
    assert_same(model, other, pixels, padding)
    assert_same(model, other, pixels[:1], None)
