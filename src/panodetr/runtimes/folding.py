"""Normalisation with constants as a part of the convolution before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from panodetr.model.backbone import BasicBlock, Bottleneck, FrozenBatchNorm

if TYPE_CHECKING:
    from panodetr.model.backbone import ResNet


def fold(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The weight and bias of a convolution with the normalisation behind it.

    Returns:
        None where the normalisation depends on its input.
    """
    if not isinstance(norm, FrozenBatchNorm | nn.BatchNorm2d):
        return None
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight * (variance + norm.eps).rsqrt()  # C
    bias = norm.bias - mean * scale  # C
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    return conv.weight * scale[:, None, None, None], bias


@torch.no_grad()
def fold_norms(backbone: ResNet) -> None:
    """Leave a backbone without the norms that can be folded; for inference, on any device.

    A frozen norm is seven operations, each of which a GPU has to be told of, and two of which go
    over the whole map. `tests/runtimes/test_fused.py` holds the outputs equal.
    """
    _fold_pair(backbone, "stem_conv", "stem_norm")
    for block in backbone.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            for number in (1, 2, 3) if isinstance(block, Bottleneck) else (1, 2):
                _fold_pair(block, f"conv{number}", f"norm{number}")
            if block.shortcut is not None:
                _fold_pair(block.shortcut, "0", "1")


def _fold_pair(owner: nn.Module, conv_name: str, norm_name: str) -> None:
    conv = cast("nn.Conv2d", owner.get_submodule(conv_name))
    folded = fold(conv, owner.get_submodule(norm_name))
    if folded is None:
        return
    conv.weight, conv.bias = (nn.Parameter(tensor, requires_grad=False) for tensor in folded)
    setattr(owner, norm_name, nn.Identity())
