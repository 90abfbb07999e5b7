"""The same network in fewer passes over memory, for inference in float32 on the CPU.

The model's definition says what is computed; this says how, from the same weights:
- Normalisation with constants is folded into the convolution before it (`folding.py`).
- A convolution's sum with the residual and its ReLU happen while its result is still in the cache
  (oneDNN's post-operations), and its weights are laid out once as oneDNN wants them.
  `panodetr bench fused` measures all of this together.
- The mask head has a file of its own, `fused_masks.py`.

`tests/runtimes/test_fused.py` holds it equal to the model. PyTorch keeps these operators for its
own compiler; their names are safe here because the version is pinned
(`docs/decisions/001-torch-pin.md`).

Letters: B images, C channels, H and W height and width, S the stride.
"""

from __future__ import annotations

import copy
import logging
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from panodetr.model.backbone import BasicBlock, Bottleneck, ResNet
from panodetr.runtimes.folding import fold

if TYPE_CHECKING:
    from panodetr.model.detr import Detr


def fuse(model: Detr) -> Detr:
    """Give a model for inference that computes the same, faster; the two share no convolutions.

    The weights are those of the moment: what is learned afterwards does not reach the copy. It is
    in evaluation mode, takes float32 on the CPU, and records no gradients.
    """
    from panodetr.runtimes.fused_masks import FusedMaskHead

    fused = copy.copy(model)
    # `copy` shares the table of parts, and two of them are about to be replaced.
    fused._modules = dict(model._modules)  # pyright: ignore[reportPrivateUsage]
    fused.add_module("backbone", FusedResNet(model.backbone))
    fused.add_module("project", FusedConv(model.project))
    if model.mask_head is not None:
        fused.add_module("mask_head", FusedMaskHead(model.mask_head))
    return fused


class FusedCopy:
    """A fused copy that follows its model: it is made anew when a weight has changed."""

    def __init__(self, model: Detr) -> None:
        self._model = model
        self._copy: Detr | None = None
        self._seen: list[tuple[int, int, float]] = []

    def current(self) -> Detr:
        """The copy, with the model's weights of now."""
        seen = _marks(self._model)
        if self._copy is None or seen != self._seen:
            self._copy, self._seen = fuse(self._model), seen
        return self._copy


@torch.no_grad()
def _marks(model: Detr) -> list[tuple[int, int, float]]:
    """What tells every weight that a fused copy holds from itself before a change.

    Place and version tell of most changes, but PyTorch counts none through `.data`, and none at all
    of tensors made under `torch.inference_mode()`. So their sums are compared, too: for a
    ResNet-101 17 ms of one core, where the fastest call takes 2 s.
    """
    parts = (model.backbone, model.project, model.mask_head)
    tensors = [
        tensor
        for part in parts
        if part is not None
        for tensor in (*part.parameters(), *part.buffers())
        if tensor.is_floating_point()
    ]
    sums: list[float] = torch.stack([tensor.sum() for tensor in tensors]).tolist()
    return [
        (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version, total)
        for tensor, total in zip(tensors, sums, strict=True)
    ]


def can_fuse() -> bool:
    """Whether PyTorch was built with oneDNN here; where it was not, a warning says so once."""
    if not torch.backends.mkldnn.is_available():
        _tell_of_slowness()
        return False
    return True


@cache
def _tell_of_slowness() -> None:
    logging.getLogger(__name__).warning(
        "this PyTorch was built without oneDNN: the model runs nearly as it is defined, "
        "and takes longer on the CPU; the values are the same"
    )


class FusedConv(nn.Module):
    """A convolution, with the normalisation, residual and ReLU that follow it."""

    def __init__(
        self, conv: nn.Conv2d, norm: nn.Module | None = None, *, relu: bool = False
    ) -> None:
        super().__init__()
        folded = None if norm is None else fold(conv, norm)
        weight, bias = (conv.weight, conv.bias) if folded is None else folded
        self.bias = None if bias is None else bias.detach().clone()
        self.norm = norm if folded is None else None
        self.relu = relu
        padding, stride, dilation = conv.padding, conv.stride, conv.dilation
        assert not isinstance(padding, str)
        self.geometry = padding, stride, dilation, conv.groups
        self._plain: Tensor | None = weight.detach()
        self._packed: Tensor | None = None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve x (B, C, H, W); the residual is added before the ReLU, and overwritten."""
        weight = self._weight(x)
        if self.norm is not None:
            y = self.norm(_convolve(x, weight, self.bias, *self.geometry, "none", [], ""))
            y = y if residual is None else y.add_(residual)
            return y.relu_() if self.relu else y
        act = "relu" if self.relu else "none"
        if residual is None:
            return _convolve(x, weight, self.bias, *self.geometry, act, [], "")
        sum_ = ("add", 1.0, "relu" if self.relu else None, [], None)
        return _convolve_onto(residual, x, weight, self.bias, *self.geometry, *sum_)

    def _weight(self, x: Tensor) -> Tensor:
        """The weights as oneDNN wants them for inputs like the first."""
        if self._packed is None:
            assert self._plain is not None
            self._packed = cast(
                "Tensor",
                torch._C._nn.mkldnn_reorder_conv2d_weight(  # pyright: ignore
                    self._plain.contiguous().to_mkldnn(), *self.geometry, tuple(x.shape)
                ),
            )
            self._plain = None
        return self._packed


class FusedResNet(nn.Module):
    """The backbone: from pixels to the features of four stages."""

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        self.stem = FusedConv(backbone.stem_conv, backbone.stem_norm, relu=True)
        self.pool = backbone.stem_pool
        self.stages = nn.ModuleList(
            nn.ModuleList(FusedBlock(cast("BasicBlock | Bottleneck", block)) for block in stage)
            for stage in cast("list[nn.Sequential]", backbone.stages)
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """From normalised pixels (B, 3, H, W) to four maps (B, C, H/S, W/S), finest first."""
        x = self.pool(self.stem(pixels))
        features: list[Tensor] = []
        for stage in cast("list[nn.ModuleList]", self.stages):
            for index, block in enumerate(stage):
                # A block without a shortcut adds onto its input, which the stage before may keep.
                x = block(x.clone() if index == 0 and features and not block.shortcut else x)
            features.append(x)
        return tuple(features)


class FusedBlock(nn.Module):
    """A residual block."""

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        pairs = [(block.conv1, block.norm1), (block.conv2, block.norm2)]
        if isinstance(block, Bottleneck):
            pairs.append((block.conv3, block.norm3))
        self.convs = nn.ModuleList(FusedConv(conv, norm, relu=True) for conv, norm in pairs)
        self.shortcut: FusedConv | None = None
        if block.shortcut is not None:
            conv, norm = block.shortcut
            self.shortcut = FusedConv(cast("nn.Conv2d", conv), norm)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, C', H/S, W/S); without a shortcut x is overwritten."""
        y = x
        for conv in self.convs[:-1]:
            y = conv(y)
        return self.convs[-1](y, x if self.shortcut is None else self.shortcut(x))


def with_weight(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """The same convolution with other weights."""
    other = copy.copy(conv)
    parameters = cast("dict[str, Any]", {"weight": weight, "bias": bias})
    other._parameters = parameters  # pyright: ignore[reportPrivateUsage]
    return other


_convolve = torch.ops.mkldnn._convolution_pointwise  # pyright: ignore
_convolve_onto = torch.ops.mkldnn._convolution_pointwise_.binary  # pyright: ignore
