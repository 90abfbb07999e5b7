from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.objective.scene import ARCHITECTURE
from tests.shapes import detr_shape
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from panodetr.checkpoints.published import find_published
from panodetr.model.config import DetrConfig, detr_small
from panodetr.model.detr import Detr, shrink
from panodetr.model.mask_head import Norm

TINY = replace(ARCHITECTURE, num_classes=3, num_queries=5)


def tiny(**changes: object) -> Detr:
    torch.manual_seed(0)
    return Detr(replace(TINY, **changes)).eval()  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def model() -> Detr:
    return tiny()


def batch(*sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Random images of some sizes in one padded batch."""
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    random = torch.Generator().manual_seed(1)
    pixels = torch.zeros(len(sizes), 3, height, width)
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for image, (h, w) in enumerate(sizes):
        pixels[image, :, :h, :w] = torch.randn(3, h, w, generator=random)
        padding[image, :h, :w] = False
    return pixels, padding


def shapes(config: DetrConfig, height: int, width: int) -> tuple[tuple[int, ...], ...]:
    """Of logits, boxes, states, memory and seven masks of two images; nothing is computed."""
    with torch.device("meta"):
        model = Detr(config)
        padding = torch.empty(2, height, width, dtype=torch.bool)
        found = model.detect(torch.empty(2, 3, height, width), padding)
        given = [found.logits, found.boxes, found.states, found.encoded.memory]
        if config.masks:
            chosen = torch.zeros(7, dtype=torch.int64)
            given.append(model.masks(found, chosen, chosen))
    return tuple(tuple(each.shape) for each in given)


@pytest.mark.parametrize(
    ("name", "depths", "stride", "masks"),
    [
        ("50", (3, 4, 6, 3), 32, False),
        ("101", (3, 4, 23, 3), 32, False),
        ("50-dc5", (3, 4, 6, 3), 16, False),
        ("101-dc5", (3, 4, 23, 3), 16, False),
        ("50-panoptic", (3, 4, 6, 3), 32, True),
        ("101-panoptic", (3, 4, 23, 3), 32, True),
        ("50-dc5-panoptic", (3, 4, 6, 3), 16, True),
    ],
)
def test_published_models_have_the_papers_shapes(
    name: str, depths: tuple[int, ...], stride: int, masks: bool
) -> None:
    published = find_published(f"facebook/detr-resnet-{name}")
    assert published is not None
    config = detr_shape(published.architecture)
    assert config.backbone.depths == depths
    assert shapes(config, 128, 192) == (
        (2, 100, 251 if masks else 92),
        (2, 100, 4),
        (2, 100, 256),
        (2, 256, 128 // stride, 192 // stride),
        *([(7, 32, 48)] if masks else []),
    )


def test_the_small_model_sees_stride_8_and_draws_at_stride_2() -> None:
    config = detr_small(2)
    assert shapes(config, 128, 128)[3:] == ((2, 128, 16, 16), (7, 64, 64))
    assert sum(p.numel() for p in Detr(config).parameters()) < 3.5e6  # 15 MB as float32


def test_decode_gives_every_layer_and_detect_the_last(model: Detr) -> None:
    pixels, padding = batch((64, 96), (32, 64))
    encoded = model.encode(pixels, padding)
    states = model.decode(encoded)
    found = model.detect(pixels, padding)
    assert states.shape == (2, 2, 5, 128)
    assert_close(found.states, states[-1])
    assert_close(found.logits, model.class_head(states[-1]))
    assert 0 <= found.boxes.min() < found.boxes.max() <= 1  # fractions, and logits are not
    assert found.logits.min() < 0
    image = pixels[:1]
    given, none = model.detect(image, torch.zeros_like(padding[:1])), model.detect(image)
    assert_close((given.logits, given.boxes), (none.logits, none.boxes))


def test_padding_is_sampled_where_torch_samples() -> None:
    for size in range(1, 1334):  # 1333 pixels is the longest side that the original makes
        places = torch.arange(size)
        for small in {-(-size // stride) for stride in (2, 4, 8, 16, 32)}:
            expected = F.interpolate(places[None, None].float(), small)[0, 0].long()
            assert torch.equal(shrink(places[None, :, None], small, 1)[0, :, 0], expected)
            assert torch.equal(shrink(places[None, None], 1, small)[0, 0], expected)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), max_size=8))
def test_masks_do_not_depend_on_which_others_are_asked_for(
    model: Detr, chosen: list[tuple[int, int]]
) -> None:
    with torch.inference_mode():
        found = model.detect(*batch((64, 96), (32, 64)))
        image = torch.arange(2).repeat_interleave(5)
        every = model.masks(found, image, torch.arange(5).repeat(2))
        image, query = torch.tensor(chosen, dtype=torch.int64).reshape(-1, 2).T
        some = model.masks(found, image, query)
    assert some.shape == (len(chosen), *every.shape[1:])
    assert_close(some, every.view(2, 5, *every.shape[1:])[image, query], atol=1e-4, rtol=1e-4)


def test_attention_maps_sum_to_one_over_heads_and_pixels_and_skip_padding(model: Detr) -> None:
    found = model.detect(*batch((64, 96), (32, 64)))
    assert model.attention_maps is not None
    image, query = torch.tensor([0, 1]), torch.tensor([2, 2])
    maps = model.attention_maps(
        found.states, found.encoded.memory, found.encoded.padding, image, query
    )
    assert maps.shape == (2, 8, 2, 3)
    assert_close(maps.sum((1, 2, 3)), torch.ones(2))
    assert maps[1, :, 1:].max() == maps[1, :, :, 2:].max() == 0
    assert maps[1, :, :1, :2].min() > 0


class Patches(nn.Module):
    """A backbone that sees no pixel beyond its patch, and so no padding."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        pooled = F.avg_pool2d(pixels, 32)
        return (pooled.repeat(1, 6, 1, 1)[:, :16],)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_beyond_the_convolutions_padding_changes_nothing(pre_norm: bool) -> None:
    """So padded batches differ from single images through the backbone's borders alone."""
    model = tiny(masks=False, pre_norm=pre_norm)
    model.backbone = Patches()  # pyright: ignore[reportAttributeAccessIssue]
    sizes = ((64, 96), (96, 64), (32, 160))
    pixels, padding = batch(*sizes)
    together = model.detect(pixels, padding)
    for image, (height, width) in enumerate(sizes):
        alone = model.detect(pixels[image : image + 1, :, :height, :width])
        assert_close(together.logits[image : image + 1], alone.logits)
        assert_close(together.boxes[image : image + 1], alone.boxes)


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
@pytest.mark.parametrize("other", [{}, {"pre_norm": True}, {"conditional": True}])
def test_every_part_learns(norm: str, other: dict[str, bool]) -> None:
    backbone = replace(TINY.backbone, norm=norm)  # pyright: ignore[reportArgumentType]
    model = tiny(backbone=backbone, **other).train()
    found = model.detect(*batch((64, 96), (32, 64)))
    image, query = torch.tensor([0, 0, 1]), torch.tensor([0, 3, 3])
    masks = model.masks(found, image, query)
    total = found.logits.square().sum() + found.boxes.sum() + masks.square().sum()
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_boxes_of_conditional_queries_are_offsets_from_their_points() -> None:
    model = tiny(masks=False, conditional=True)
    last = model.box_head[-1]
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    boxes = model.detect(*batch((64, 96))).boxes[0]
    assert model.points is not None
    assert_close(boxes, F.pad(model.points.sigmoid(), (0, 2), value=0.5))


def test_a_single_value_is_normalised_alone_as_beside_others() -> None:
    norm, values = Norm(8, 8).eval(), torch.randn(2, 8, 1, 1)
    assert torch.equal(norm(values[:1]), norm(values)[:1])
    wide = torch.randn(2, 8, 3, 4)
    assert torch.equal(norm(wide), nn.GroupNorm(8, 8)(wide))


def test_a_detector_has_no_masks_and_needs_no_encoder() -> None:
    model = tiny(masks=False, encoder_layers=0)
    found = model.detect(*batch((64, 64)))
    nothing = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="no mask head; build it with masks=True"):
        model.masks(found, nothing, nothing)
    assert not [key for key in model.state_dict() if "mask" in key or "attention_maps" in key]
