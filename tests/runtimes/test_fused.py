from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from panodetr.checkpoints.spec import ModelSpec
from panodetr.model.backbone import FrozenBatchNorm
from panodetr.model.config import Norm, ResNetConfig
from panodetr.model.detr import Detr
from panodetr.runtimes import fused as module
from panodetr.runtimes import fused_masks
from panodetr.runtimes.folding import fold_norms
from panodetr.runtimes.fused import FusedCopy, can_fuse, fuse
from panodetr.runtimes.torch import TorchRuntime

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


def frozen_norms(model: Detr) -> list[FrozenBatchNorm]:
    return [module for module in model.modules() if isinstance(module, FrozenBatchNorm)]


def assert_close(got: Tensor, expected: Tensor) -> None:
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(got / scale, expected / scale, atol=1e-4, rtol=0)


@torch.inference_mode()
def assert_same(model: Detr, fused: Detr, pixels: Tensor, padding: Tensor | None) -> None:
    a, b = model.detect(pixels, padding), fused.detect(pixels, padding)
    assert_close(b.logits, a.logits)
    assert_close(b.boxes, a.boxes)
    for ours, theirs in zip(b.encoded.features, a.encoded.features, strict=True):
        assert_close(ours, theirs)
    count = len(pixels)
    image = torch.tensor([count - 1, 0, 0, count - 1, 0])
    query = torch.tensor([1, 2, 0, 4, 3])
    expected = model.masks(a.encoded, a.states, image, query)
    assert_close(fused.masks(b.encoded, b.states, image, query), expected)


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
@pytest.mark.parametrize("make", [fuse, folded])
def test_every_backbone_gives_the_models_answers(
    tiny_spec: ModelSpec, backbone: ResNetConfig, norm: Norm, make: Callable[[Detr], Detr]
) -> None:
    model = random_model(tiny_spec, replace(backbone, norm=norm))
    pixels = torch.randn(2, 3, 64, 72, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(2, 64, 72, dtype=torch.bool)
    padding[1, 40:] = True
    fused = make(model)
    assert_same(model, fused, pixels, padding)
    assert_same(model, fused, pixels[:1], None)


def test_no_frozen_norm_is_left_once_they_are_folded(tiny_spec: ModelSpec) -> None:
    model = random_model(tiny_spec, replace(BOTTLENECK, norm="frozen"))
    assert len(frozen_norms(model)) == 26
    assert not frozen_norms(folded(model))


@settings(max_examples=15)
@given(st.integers(1, 3), st.integers(33, 130), st.integers(33, 130))
def test_one_fused_model_serves_every_size(
    tiny_spec: ModelSpec, count: int, height: int, width: int
) -> None:
    model = random_model(tiny_spec, BASIC)
    fused = fuse(model)
    assert_same(model, fused, torch.randn(1, 3, 64, 64), None)  # weights are laid out for this
    assert_same(model, fused, torch.randn(count, 3, height, width), None)


@pytest.mark.parametrize(("at_once", "times"), [(1, 5), (2, 3), (3, 2)])
def test_masks_a_few_at_a_time_are_the_models(
    tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, at_once: int, times: int
) -> None:
    monkeypatch.setattr(fused_masks, "CACHED_PIXELS", at_once * 16 * 16)
    model = random_model(tiny_spec, BASIC)
    fused = fuse(model)
    assert fused.mask_head is not None
    batches: list[int] = []

    def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        batches.append(len(given[0]))

    fused.mask_head.out.register_forward_pre_hook(note)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert_same(model, fused, pixels, None)  # three masks of one image, two of the other
    assert len(batches) == times
    assert max(batches) == at_once


def test_no_masks_are_no_masks(tiny_spec: ModelSpec) -> None:
    fused = fuse(random_model(tiny_spec, BASIC))
    none = torch.zeros(0, dtype=torch.int64)
    with torch.inference_mode():
        found = fused.detect(torch.randn(1, 3, 64, 64))
        assert fused.masks(found.encoded, found.states, none, none).shape == (0, 16, 16)


def test_the_model_itself_is_left_alone(tiny_spec: ModelSpec) -> None:
    model = random_model(tiny_spec, BASIC)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fused = fuse(model)
    with torch.inference_mode():
        fused.detect(torch.randn(1, 3, 64, 64))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    "place",
    ["backbone.stem_conv.weight", "backbone.stages.0.0.norm1.running_var", "project.bias",
     "mask_head.adapters.1.weight"],
)  # fmt: skip
def test_a_copy_follows_its_model_however_weights_change(tiny_spec: ModelSpec, place: str) -> None:
    model = random_model(tiny_spec, BASIC)
    copy = FusedCopy(model)
    pixels = torch.randn(1, 3, 64, 64)
    first = copy.current()
    assert_same(model, first, pixels, None)
    assert copy.current() is first
    tensor = model.state_dict()[place]
    with torch.no_grad():
        tensor.mul_(3)  # counted by PyTorch
    assert_same(model, copy.current(), pixels, None)
    tensor.data.mul_(3)  # not counted
    second = copy.current()
    assert second is not first
    assert_same(model, second, pixels, None)
    assert copy.current() is second


def test_a_model_made_under_inference_mode_is_followed_too(tiny_spec: ModelSpec) -> None:
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        model = random_model(tiny_spec, BASIC)
        copy = FusedCopy(model)
        assert_same(model, copy.current(), pixels, None)
        model.project.weight.mul_(3)
        assert_same(model, copy.current(), pixels, None)


def test_without_onednn_it_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tiny_spec: ModelSpec
) -> None:
    module._tell_of_slowness.cache_clear()  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_fuse()
    model, cpu = random_model(tiny_spec, BASIC), torch.device("cpu")
    assert TorchRuntime(model, tiny_spec.preprocessing, cpu).model is model
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "without oneDNN" in caplog.text
