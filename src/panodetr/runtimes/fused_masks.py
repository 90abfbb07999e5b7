"""The mask head in fewer operations, for inference in float32 on the CPU.

- It works on so few masks at a time that their activations stay in the cache.
- A convolution is linear, so that of (enlarged masks + projected features) is the sum of two, and
  the features' part is computed once an image.
- Maps are never enlarged: four kernels of 2x2 on the small map (`four_kernels`) do what one of 3x3
  does on the large one, which is written once instead of three times.

`tests/runtimes/test_fused.py` holds it equal to the model; `benchmarks/inference.py` measures it.

Letters: B images, N masks, C channels in and O out, D the transformer's width, A attention heads, H
and W height and width, h and w those of the smaller map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panodetr.runtimes.fused import FusedConv, with_weight

if TYPE_CHECKING:
    from panodetr.model.mask_head import MaskHead

CACHED_PIXELS = 50_000
"""Pixels of the finest map that are worked on at a time: one mask of an image of 800 by 1066, a
dozen of a tile of 128. More would push each other's activations out of the cache."""


class FusedMaskHead(nn.Module):
    """Stands for a `MaskHead`."""

    def __init__(self, head: MaskHead) -> None:
        super().__init__()
        first, second, *rest = cast("list[nn.Conv2d]", head.convs)
        features, attention = first.weight.split([head.dim, first.in_channels - head.dim], dim=1)
        self.features = FusedConv(with_weight(first, features, first.bias))
        self.attention = FusedConv(with_weight(first, attention, None))
        self.second = FusedConv(second)
        self.adapters = nn.ModuleList(
            FusedConv(conv) for conv in cast("list[nn.Conv2d]", head.adapters)
        )
        self.adapted = nn.ModuleList(FusedConv(conv) for conv in rest)
        self.enlarged = nn.ModuleList(EnlargedConv(conv) for conv in rest)
        self.norms = head.norms
        self.out = FusedConv(head.out)

    def share(self, projected: Tensor, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What all queries of an image have in common, one convolution further than `MaskHead`'s.

        Takes what `MaskHead.share` does, and gives what only `forward` understands.
        """
        parts = zip(self.adapters, self.adapted, features, strict=True)
        return self.features(projected), *(conv(adapter(map_)) for adapter, conv, map_ in parts)

    def forward(self, shared: tuple[Tensor, ...], attention: Tensor, image: Tensor) -> Tensor:
        """As `MaskHead.forward`."""
        height, width = shared[-1].shape[-2:]
        masks = attention.new_empty(len(image), height, width)  # N, h, w
        at_once = max(1, CACHED_PIXELS // (height * width))
        for number in image.unique().tolist():
            own = [map_[number : number + 1] for map_ in shared]
            for chosen in (image == number).nonzero()[:, 0].split(at_once):
                masks[chosen] = self._refine(own, attention[chosen])
        return masks

    def _refine(self, shared: list[Tensor], attention: Tensor) -> Tensor:
        """Masks (N, H, W) of queries of one image."""
        first, *finer = shared
        x = self.attention(attention.contiguous(memory_format=torch.channels_last))
        x = self._normalise(0, x.add_(first))  # N, D+A, h, w
        x = self._normalise(1, self.second(x))  # N, D/2, h, w
        for index, fine in enumerate(finer):
            x = self._normalise(index + 2, self.enlarged[index](x, fine))  # N, C, H, W
        return self.out(x)[:, 0]  # N, H, W

    def _normalise(self, index: int, x: Tensor) -> Tensor:
        return self.norms[index](x).relu_()


class EnlargedConv(nn.Module):
    """A 3x3 convolution of a map that is enlarged by the nearest pixel, without enlarging it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight.detach()  # O, C, 3, 3
        self.plain = FusedConv(with_weight(conv, conv.weight, None))
        four = with_weight(conv, four_kernels(self.weight), None)
        four.padding = (1, 1)
        self.four = FusedConv(four)

    def forward(self, x: Tensor, rest: Tensor) -> Tensor:
        """Convolve x (N, C, h, w), enlarged to the size of rest, and add rest (1, O, H, W)."""
        height, width = x.shape[-2:]
        large = rest.shape[-2:]
        odd = [2 * small - big for small, big in zip((height, width), large, strict=True)]
        if min(height, width) < 2 or not set(odd) <= {0, 1}:  # not twice the size
            return self.plain(F.interpolate(x, large, mode="nearest")).add_(rest)
        small = self.four(x)  # N, 4O, h+1, w+1
        y = x.new_empty((len(x), *rest.shape[1:])).contiguous(memory_format=torch.channels_last)
        for place, part in enumerate(small.chunk(4, dim=1)):  # N, O, h+1, w+1
            down, right = divmod(place, 2)
            to = rest[..., down::2, right::2]  # 1, O, about h, about w
            rows, columns = slice(down, down + to.shape[2]), slice(right, right + to.shape[3])
            torch.add(part[..., rows, columns], to, out=y[..., down::2, right::2])
        # At an odd end the kernel reaches over the rim, where there is nothing, and not, as above,
        # once more into the last pixel.
        if odd[0]:
            strip = F.pad(x[..., -2:, :].repeat_interleave(2, 3)[..., : large[1]], (1, 1, 0, 1))
            y[..., -1:, :] = F.conv2d(strip, self.weight)[..., -1:, :] + rest[..., -1:, :]
        if odd[1]:
            strip = F.pad(x[..., -2:].repeat_interleave(2, 2)[..., : large[0], :], (0, 1, 1, 1))
            y[..., -1:] = F.conv2d(strip, self.weight)[..., -1:] + rest[..., -1:]
        return y


def four_kernels(weight: Tensor) -> Tensor:
    """Kernels (4O, C, 2, 2) that see a small map as kernels (O, C, 3, 3) see it at double size.

    Enlarged by the nearest pixel, a map shows a 3x3 kernel only 2x2 different pixels, in four ways:
    upper left, upper right, lower left and lower right of a doubled pixel. In an upper row the
    kernel's first row falls on the pixel above and the other two on the pixel itself; in a lower
    row the first two on itself and the last on the pixel below. Columns likewise. These need 16
    products where those need 36.
    """
    first, second, third = weight.unbind(2)  # O, C, 3
    rows = (torch.stack((first, second + third), 2), torch.stack((first + second, third), 2))
    kernels: list[Tensor] = []
    for row in rows:
        left, middle, right = row.unbind(3)  # O, C, 2
        kernels.append(torch.stack((left, middle + right), 3))
        kernels.append(torch.stack((left + middle, right), 3))
    return torch.cat(kernels)  # 4O, C, 2, 2
