"""Norms with constants, folded into the convolutions before them, leave features as they are."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from panodetr.model.backbone import FrozenBatchNorm, ResNet
from panodetr.model.config import NormKind, ResNetConfig
from panodetr.runtimes.torch import fold_norms

BOTTLENECK = ResNetConfig(depths=(2, 1, 2, 2), widths=(8, 8, 16, 16), stem_width=8)
BASIC = ResNetConfig(block="basic", depths=(2, 1, 1, 1), widths=(8, 8, 16, 16), stem_width=8)


@pytest.mark.parametrize(
    "config",
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
@torch.no_grad()
def test_folded_backbones_give_the_same_features_and_have_no_norm_with_constants(
    config: ResNetConfig, norm: NormKind
) -> None:
    torch.manual_seed(0)
    backbone = ResNet(replace(config, norm=norm)).eval()
    for module in backbone.modules():  # no weight or statistic can be left out unseen
        if isinstance(module, FrozenBatchNorm | nn.BatchNorm2d | nn.GroupNorm):
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if name in ("weight", "running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif tensor.is_floating_point():
                    tensor.normal_(0, 0.2)
    folded = copy.deepcopy(backbone)
    fold_norms(folded)
    kinds = (FrozenBatchNorm, nn.BatchNorm2d)
    assert not [module for module in folded.modules() if isinstance(module, kinds)]
    pixels = torch.randn(2, 3, 64, 72)
    for found, expected in zip(folded(pixels), backbone(pixels), strict=True):
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found / scale, expected / scale, atol=1e-4, rtol=0)
