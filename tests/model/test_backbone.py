from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.objective.scene import ARCHITECTURE
from torch import Tensor, nn
from torch.testing import assert_close

from panodetr.model.backbone import Bottleneck, FrozenBatchNorm, ResNet
from panodetr.model.config import RESNET18, RESNET34, RESNET50, RESNET101, Norm, ResNetConfig

SMALL = ARCHITECTURE.backbone


def shapes_of(config: ResNetConfig, height: int, width: int) -> list[tuple[int, ...]]:
    """Of the features, without computing any."""
    with torch.device("meta"):
        features = ResNet(config)(torch.empty(1, 3, height, width))
    return [tuple(f.shape[1:]) for f in features]


@pytest.mark.parametrize("config", [RESNET18, RESNET34, RESNET50, RESNET101])
def test_stages_have_strides_4_to_32(config: ResNetConfig) -> None:
    sizes = [(24, 40), (12, 20), (6, 10), (3, 5)]
    expected = [(c, *s) for c, s in zip(config.stage_channels, sizes, strict=True)]
    assert shapes_of(config, 96, 160) == expected


def test_odd_sizes_round_up() -> None:
    assert [s[1:] for s in shapes_of(RESNET18, 97, 33)] == [(25, 9), (13, 5), (7, 3), (4, 2)]


def test_dc5_keeps_the_last_stages_size_and_dilates_all_but_its_first_block() -> None:
    config = replace(RESNET50, dilate_last=True)
    assert [s[1:] for s in shapes_of(config, 96, 160)][2:] == [(6, 10), (6, 10)]
    with torch.device("meta"):
        network = ResNet(config)
    blocks = [m for m in network.modules() if isinstance(m, Bottleneck)]
    assert [block.conv2.dilation for block in blocks] == [(1, 1)] * 14 + [(2, 2)] * 2
    assert [block.conv2.stride for block in blocks[-3:]] == [(1, 1)] * 3


def test_a_stem_for_small_objects_keeps_the_resolution() -> None:
    config = replace(SMALL, stem_stride=1, stem_pool=False, strides=(1, 2, 2, 1))
    assert [s[1:] for s in shapes_of(config, 32, 48)] == [(32, 48), (16, 24), (8, 12), (8, 12)]


def features_twice(norm: Norm) -> tuple[Tensor, Tensor, ResNet]:
    """The last features in train and then in eval mode, with statistics that are not 0 and 1."""
    torch.manual_seed(0)
    network = ResNet(replace(SMALL, norm=norm))
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + 0.5 * (not name.endswith("mean")))
    pixels = torch.randn(2, 3, 64, 64)
    return network.train()(pixels)[-1], network.eval()(pixels)[-1], network


def test_frozen_batch_norm_is_constant() -> None:
    learning, resting, network = features_twice("frozen")
    assert_close(learning, resting, rtol=0, atol=0)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    learning.sum().backward()
    assert_close(network.state_dict(), before, rtol=0, atol=0)
    learned = [name for name, _ in network.named_parameters()]
    assert learned
    assert not [name for name in learned if "norm" in name or "shortcut.1" in name]


def test_frozen_batch_norm_is_batch_norm_at_rest() -> None:
    torch.manual_seed(0)
    frozen, live = FrozenBatchNorm(4), nn.BatchNorm2d(4).eval()
    state = {k: torch.rand(4) + 0.2 for k in frozen.state_dict()}
    frozen.load_state_dict(state)
    live.load_state_dict(state | {"num_batches_tracked": torch.tensor(0)})
    x = torch.randn(2, 4, 5, 6)
    assert_close(frozen(x), live(x))


def test_live_batch_norm_follows_the_batch() -> None:
    learning, resting, network = features_twice("batch")
    assert not torch.allclose(learning, resting)
    assert network.stem_norm.get_buffer("num_batches_tracked").item() == 1
    assert network.stem_norm.get_parameter("weight").requires_grad


def test_group_norm_sees_each_image_alone() -> None:
    learning, resting, network = features_twice("group")
    assert_close(learning, resting, rtol=0, atol=0)
    assert not list(network.buffers())
    pixels = torch.randn(2, 3, 64, 64)
    assert_close(network(pixels)[-1][:1], network(pixels[:1])[-1])
