"""The mask head for a CPU, where passes over large maps cost more than products.

A convolution is linear, so the finer features' part is computed once an image. A 3x3 convolution of
a map that is enlarged twice is one transposed 4x4 convolution of the small map: 4 products a pixel,
not 9, and the map with the more channels is never enlarged. `tests/runtimes/test_cpu_masks.py`
holds the masks equal to the model's; row all-masks of `benchmarks/inference.py` measures it.

Letters: N masks, C channels in and O out, A attention heads, D the transformer's width, H and W the
coarsest map's height and width, h and w a finer one's.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.model.mask_head import MaskHead


class CpuMasks:
    """What `MaskHead.forward` gives, for the queries of one image."""

    def __init__(self, head: MaskHead, shared: tuple[Tensor, ...]) -> None:
        """Compute what the image's masks have in common.

        Args:
            head: stays as it is.
            shared: `MaskHead.share` of one image.
        """
        self.head = head
        self.first, *finer = shared
        convs = cast("list[nn.Conv2d]", list(head.convs[2:]))
        self.rest = [
            F.conv2d(fine, conv.weight, conv.bias, padding=1)
            for conv, fine in zip(convs, finer, strict=True)
        ]  # 1, O, h, w each
        self.kernels = [conv.weight for conv in convs]
        self.enlarging = [enlarging_kernel(conv.weight) for conv in convs]

    def refine(self, attention: Tensor) -> Tensor:
        """Mask logits (N, h, w) from where queries look (N, A, H, W)."""
        norms = self.head.norms
        first, second = cast("list[nn.Conv2d]", list(self.head.convs[:2]))
        own = F.conv2d(attention, first.weight[:, self.head.dim :], padding=1)  # N, D+A, H, W
        x = F.relu_(norms[0](own.add_(self.first)))  # N, D+A, H, W
        x = F.relu_(norms[1](second(x)))  # N, D/2, H, W
        parts = zip(self.kernels, self.enlarging, self.rest, norms[2:], strict=True)
        for kernel, enlarging, rest, norm in parts:
            x = F.relu_(norm(convolve_enlarged(x, kernel, enlarging, rest)))  # N, O, h, w
        return self.head.out(x)[:, 0]  # N, h, w


def convolve_enlarged(x: Tensor, kernel: Tensor, enlarging: Tensor, rest: Tensor) -> Tensor:
    """Convolve x (N, C, H, W), enlarged to the size of rest (1, O, h, w), and add rest.

    Args:
        x: enlarged by the nearest pixel.
        kernel: (O, C, 3, 3).
        enlarging: its `enlarging_kernel`.
        rest: not changed.
    """
    size = height, width = rest.shape[-2:]
    odd = [2 * small - large for small, large in zip(x.shape[-2:], size, strict=True)]
    if not set(odd) <= {0, 1}:  # not twice the size: a dilated backbone
        return F.conv2d(F.interpolate(x, size), kernel, padding=1).add_(rest)
    y = F.conv_transpose2d(x, enlarging, stride=2, padding=1)  # N, O, 2H, 2W
    if not any(odd):
        return y.add_(rest)
    y = y[..., :height, :width]
    # At an odd end the enlarged map stops after the first pixel of a pair; anew from there.
    if odd[0]:
        strip = F.interpolate(x[..., -2:, :], scale_factor=2.0)[..., :-1, :width]
        y[..., -1, :] = F.conv2d(strip, kernel, padding=1)[..., -1, :]
    if odd[1]:
        strip = F.interpolate(x[..., -2:], scale_factor=2.0)[..., :height, :-1]
        y[..., -1] = F.conv2d(strip, kernel, padding=1)[..., -1]
    return torch.add(y, rest)


def enlarging_kernel(kernel: Tensor) -> Tensor:
    """Give the transposed convolution (C, O, 4, 4) that enlarges twice before a 3x3 one.

    Enlarging is a transposed convolution with ones, 2x2, and stride 2; the kernel (O, C, 3, 3) is
    multiplied into it.
    """
    outputs, channels = kernel.shape[:2]
    flipped = kernel.flip(2, 3).reshape(-1, 1, 3, 3)
    both = F.conv2d(flipped, kernel.new_ones(1, 1, 2, 2), padding=1)  # OC, 1, 4, 4
    whole = both.view(outputs, channels, 4, 4).transpose(0, 1)  # C, O, 4, 4
    return whole.contiguous(memory_format=torch.channels_last)
