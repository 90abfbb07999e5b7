"""Outputs against transformers' own classes, from the folders that they save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from panodetr.compat import DetrForSegmentation, DetrImageProcessor

pytestmark = pytest.mark.parity


def their_model(kind: type[Any], *, layer: str = "basic", **options: Any) -> Any:
    """A small DETR of transformers whose batch norms do something."""
    torch.manual_seed(0)
    library: Any = transformers  # its configurations' options are untyped
    backbone = library.ResNetConfig(
        layer_type=layer,
        depths=[1, 2, 1, 1],
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64] if layer == "basic" else [64, 128, 192, 256],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = library.DetrConfig(
        backbone_config=backbone,
        num_labels=6,
        num_queries=9,
        d_model=128,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        **options,
    )
    model = kind(config).eval()
    with torch.no_grad():
        for name, value in model.named_buffers():
            if name.endswith(("running_mean", "bias")):
                value.copy_(torch.randn_like(value) * 0.1)
            elif name.endswith(("running_var", "weight")):
                value.copy_(torch.rand_like(value) + 0.5)
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.copy_(torch.randn_like(value) * 0.1)
        model.get_parameter(
            next(n for n, _ in model.named_parameters() if "query_position_embeddings" in n)
        ).mul_(2)
    return model


@pytest.fixture(scope="module", params=["basic", "bottleneck"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DetrForSegmentation, Any, Path]:
    theirs = their_model(transformers.DetrForSegmentation, layer=request.param)
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    return DetrForSegmentation.from_pretrained(folder), theirs, folder


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    atol = 1e-4 * max(1.0, float(theirs.abs().max()))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


NAMES = ("logits", "pred_masks", "last_hidden_state", "encoder_last_hidden_state")


def compare(ours: Any, theirs: Any) -> None:
    for name in NAMES:
        close(ours[name], theirs[name])
    torch.testing.assert_close(ours.pred_boxes, theirs.pred_boxes, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (97, 61), (129, 130)])
def test_outputs_of_one_size(pair: tuple[Any, Any, Path], size: tuple[int, int]) -> None:
    ours, theirs, _ = pair
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        compare(ours(pixels), theirs(pixels))


def test_outputs_of_a_padded_batch(pair: tuple[Any, Any, Path]) -> None:
    ours, theirs, _ = pair
    pixels, mask = torch.zeros(2, 3, 96, 128), torch.zeros(2, 96, 128, dtype=torch.int64)
    for index, (height, width) in enumerate(((96, 100), (70, 128))):
        pixels[index, :, :height, :width] = torch.randn(3, height, width)
        mask[index, :height, :width] = 1
    with torch.no_grad():
        compare(ours(pixels, mask), theirs(pixels, mask))


def test_an_official_image_gives_the_same_boxes_and_segments(
    pair: tuple[Any, Any, Path], official: Any
) -> None:
    ours, theirs, _ = pair
    processor = DetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    inputs = processor(Image.open(official.image), return_tensors="pt")
    with torch.no_grad():
        found, expected = ours(**inputs), theirs(**inputs)
    compare(found, expected)
