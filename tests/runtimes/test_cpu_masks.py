"""Masks without enlarged maps are the model's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from panodetr.model.config import DetrConfig, ResNetConfig
from panodetr.model.mask_head import MaskHead
from panodetr.runtimes.cpu_masks import CpuMasks, convolve_enlarged, enlarging_kernel


@pytest.mark.parametrize("size", [(8, 10), (7, 10), (8, 9), (7, 9), (1, 2), (1, 1), (4, 5), (9, 9)])
def test_an_enlarged_map_is_convolved_without_enlarging_it(size: tuple[int, int]) -> None:
    """The last two sizes are not twice the small map's: it is then enlarged as ever."""
    small = (1, 1) if max(size) < 3 else (4, 5)
    x, rest = torch.randn(3, 6, *small).double(), torch.randn(1, 4, *size).double()
    kernel = torch.randn(4, 6, 3, 3).double()
    expected = F.conv2d(F.interpolate(x, size), kernel, padding=1) + rest
    found = convolve_enlarged(x, kernel, enlarging_kernel(kernel), rest)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("finest", [(16, 24), (13, 18)])
def test_a_mask_head_gives_the_same_masks(finest: tuple[int, int]) -> None:
    backbone = ResNetConfig(depths=(1, 1, 1, 1), widths=(8, 8, 16, 16), stem_width=8)
    config = DetrConfig(num_classes=2, hidden_dim=128, heads=8, backbone=backbone, masks=True)
    head = MaskHead(config).double().eval()
    for norm in head.norms:
        assert isinstance(norm, nn.GroupNorm)
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    sizes = [finest]
    for _ in range(3):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    channels = backbone.stage_channels
    features = [torch.randn(1, channels[i], *sizes[i]).double() for i in (2, 1, 0)]
    shared = head.share(torch.randn(1, 128, *sizes[3]).double(), tuple(features))
    attention = torch.rand(5, 8, *sizes[3]).double()
    with torch.no_grad():
        found = CpuMasks(head, shared).refine(attention)
        torch.testing.assert_close(found, head(shared, attention, None), rtol=0, atol=1e-9)
