from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.objective.scene import ARCHITECTURE
from torch import nn
from torch.testing import assert_close

from panodetr.model.backbone import Bottleneck, FrozenBatchNorm, ResNet
from panodetr.model.config import RESNET18, RESNET34, RESNET50, RESNET101, NormKind, ResNetConfig

SMALL = ARCHITECTURE.backbone
DC5 = replace(RESNET50, dilate_last=True)
FINE = replace(SMALL, stem_stride=1, stem_pool=False, strides=(1, 2, 2, 1))
STRIDES_4_TO_32 = ((24, 40), (12, 20), (6, 10), (3, 5))


@pytest.mark.parametrize(
    ("config", "image", "sizes"),
    [
        (RESNET18, (96, 160), STRIDES_4_TO_32),
        (RESNET34, (96, 160), STRIDES_4_TO_32),
        (RESNET50, (96, 160), STRIDES_4_TO_32),
        (RESNET101, (96, 160), STRIDES_4_TO_32),
        (RESNET18, (97, 33), ((25, 9), (13, 5), (7, 3), (4, 2))),  # odd sizes round up
        (DC5, (96, 160), (*STRIDES_4_TO_32[:3], (6, 10))),
        (FINE, (32, 48), ((32, 48), (16, 24), (8, 12), (8, 12))),  # a stem for small objects
    ],
)
def test_features_have_the_channels_and_strides_of_their_stages(
    config: ResNetConfig, image: tuple[int, int], sizes: tuple[tuple[int, int], ...]
) -> None:
    with torch.device("meta"):  # shapes alone: nothing is computed
        features = ResNet(config)(torch.empty(1, 3, *image))
    expected = [(c, *size) for c, size in zip(config.stage_channels, sizes, strict=True)]
    assert [tuple(each.shape[1:]) for each in features] == expected


def test_dc5_dilates_all_blocks_of_the_last_stage_but_its_first() -> None:
    with torch.device("meta"):
        blocks = [m for m in ResNet(DC5).modules() if isinstance(m, Bottleneck)]
    assert [block.conv2.dilation for block in blocks] == [(1, 1)] * 14 + [(2, 2)] * 2
    assert [block.conv2.stride for block in blocks[-3:]] == [(1, 1)] * 3


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_norms_in_training_and_at_rest(norm: NormKind) -> None:
    """Frozen norms are constants, live ones follow the batch, and group norm has no statistics."""
    torch.manual_seed(0)
    network = ResNet(replace(SMALL, norm=norm))
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point():  # statistics that are not 0 and 1
            buffer.copy_(torch.rand_like(buffer) + 0.5 * (not name.endswith("mean")))
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    pixels = torch.randn(2, 3, 64, 64)
    learning, resting = network.train()(pixels)[-1], network.eval()(pixels)[-1]
    assert torch.equal(learning, resting) == (norm != "batch")
    learning.sum().backward()
    learned = [name for name, _ in network.named_parameters()]
    assert any("norm" in name for name in learned) == (norm != "frozen")
    if norm == "frozen":
        assert not [name for name in learned if "shortcut.1" in name]
        assert_close(dict(network.named_buffers()), before, rtol=0, atol=0)
    elif norm == "batch":
        assert network.stem_norm.get_buffer("num_batches_tracked").item() == 1
    else:
        assert not before
        assert_close(resting[:1], network(pixels[:1])[-1])  # each image is seen alone


def test_frozen_batch_norm_is_batch_norm_at_rest() -> None:
    torch.manual_seed(0)
    frozen, live = FrozenBatchNorm(4), nn.BatchNorm2d(4).eval()
    state = {k: torch.rand(4) + 0.2 for k in frozen.state_dict()}
    frozen.load_state_dict(state)
    live.load_state_dict(state | {"num_batches_tracked": torch.tensor(0)})
    x = torch.randn(2, 4, 5, 6)
    assert_close(frozen(x), live(x))
