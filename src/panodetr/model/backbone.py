"""Residual networks in torchvision's v1.5 layout, the features of all stages (section 3.2).

Letters: B images, C channels, H and W height and width, S the stride.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.model.config import NormKind, ResNetConfig


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics and affine parameters are constants.

    Small batches cannot improve on those that a pretrained backbone comes with.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift each channel of x (B, C, H, W)."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()  # C
        shift = self.bias - self.running_mean * scale  # C
        # Not torch.addcmul: its other rounding grows to a visible difference behind fifty layers.
        return (x * scale[:, None, None]).add_(shift[:, None, None])  # B, C, H, W


def make_norm(kind: NormKind, channels: int) -> nn.Module:
    """The norm of a kind, for (B, channels, H, W)."""
    match kind:
        case "frozen":
            return FrozenBatchNorm(channels)
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            return nn.GroupNorm(8, channels)


def conv3x3(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, but for its stride."""
    return nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)


def make_shortcut(norm: NormKind, inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The projection beside a block that changes size or width; None where it changes neither."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride, bias=False), make_norm(norm, outputs)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and -34)."""

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, dilation: int, norm: NormKind
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, width, stride, dilation)
        self.norm1 = make_norm(norm, width)
        self.conv2 = conv3x3(width, outputs)
        self.norm2 = make_norm(norm, outputs)
        self.shortcut = make_shortcut(norm, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, H, W) to (B, outputs, H/S, W/S)."""
        y = F.relu_(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu_(y.add_(x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (ResNet-50 and -101).

    The stride sits on the 3x3.
    """

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, dilation: int, norm: NormKind
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = make_norm(norm, width)
        self.conv2 = conv3x3(width, width, stride, dilation)
        self.norm2 = make_norm(norm, width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = make_norm(norm, outputs)
        self.shortcut = make_shortcut(norm, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, H, W) to (B, outputs, H/S, W/S)."""
        y = F.relu_(self.norm1(self.conv1(x)))
        y = F.relu_(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return F.relu_(y.add_(x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """The backbone: an image's features at four resolutions."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        stride, channels = config.stem_stride, config.stem_width
        size = 7 if stride == 2 else 3
        self.stem_conv = nn.Conv2d(config.inputs, channels, size, stride, size // 2, bias=False)
        self.stem_norm = make_norm(config.norm, channels)
        self.stem_pool = nn.MaxPool2d(3, 2, 1) if config.stem_pool else nn.Identity()
        block = BasicBlock if config.block == "basic" else Bottleneck
        self.stages = nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            # DC5: the last stage keeps its size, and all its blocks but the first are dilated.
            dilate = config.dilate_last and stage == 3
            blocks = nn.Sequential()
            for place in range(depth):
                stride = config.strides[stage] if place == 0 and not dilate else 1
                dilation = 2 if place > 0 and dilate else 1
                outputs = config.stage_channels[stage]
                blocks.append(block(channels, width, outputs, stride, dilation, config.norm))
                channels = outputs
            self.stages.append(blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """From normalised pixels (B, 3, H, W) to four maps (B, C, H/S, W/S), finest first."""
        x = self.stem_pool(F.relu_(self.stem_norm(self.stem_conv(pixels))))
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return tuple(features)
