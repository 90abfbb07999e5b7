"""Outputs of images of odd sizes against transformers' own classes, from the folders they save."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from tests.peers import pairs

from panodetr.compat import DetrImageProcessor

pytestmark = pytest.mark.parity

SIZES = {"basic": [16, 32, 48, 64], "bottleneck": [64, 128, 192, 256]}


@pytest.fixture(scope="module", params=SIZES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any]:
    return pairs.pair(
        tmp_path_factory.mktemp("theirs"),
        layer_type=request.param,
        hidden_sizes=SIZES[request.param],
        out_features=["stage1", "stage2", "stage3", "stage4"],
        d_model=128,
        decoder_layers=3,
    )


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
def test_outputs_of_one_size(pair: tuple[Any, Any], size: tuple[int, int]) -> None:
    ours, theirs = pair
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        compare(ours(pixels), theirs(pixels))


def test_outputs_of_a_padded_batch(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    pixels, mask = torch.zeros(2, 3, 96, 128), torch.zeros(2, 96, 128, dtype=torch.int64)
    for index, (height, width) in enumerate(((96, 100), (70, 128))):
        pixels[index, :, :height, :width] = torch.randn(3, height, width)
        mask[index, :height, :width] = 1
    with torch.no_grad():
        compare(ours(pixels, mask), theirs(pixels, mask))


def test_an_official_image_gives_the_same_boxes_and_segments(
    pair: tuple[Any, Any], official: Any
) -> None:
    ours, theirs = pair
    processor = DetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    inputs = processor(Image.open(official.image), return_tensors="pt")
    with torch.no_grad():
        compare(ours(**inputs), theirs(**inputs))
