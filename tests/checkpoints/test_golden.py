from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from panodetr.checkpoints.load import load_checkpoint
from panodetr.cli.main import main
from panodetr.model.detr import Detr


def golden_value(key: str, shape: list[int]) -> torch.Tensor:
    """The weight that follows from its name; the rule stands in the golden data's README."""
    seed = zlib.crc32(key.encode())
    r = np.random.RandomState(seed).standard_normal(shape).astype("float32")
    if len(shape) == 1:
        return torch.from_numpy(1 + 0.1 * r if key.endswith("weight") else 0.1 * r)
    if key.endswith("query_embed.weight"):
        return torch.from_numpy(2 * r)
    gain = 1.0
    if "encoder" in key and "out_proj" in key:
        gain = 0.3
    elif "multihead_attn.out_proj" in key:
        gain = 3.0
    elif "backbone" in key or "mask_head" in key:
        gain = 2**0.5
    elif "in_proj" in key or "bbox_attention" in key:
        gain = 3.0
    w = r * np.float32(gain / math.prod(shape[1:]) ** 0.5)
    if key.endswith("mask_head.lay1.weight"):
        w[:, 256:] *= 3000
    return torch.from_numpy(w)


def read_golden(golden: Path, name: str) -> dict[str, torch.Tensor]:
    """A whole state dict of the original implementation, by the model's name."""
    shapes: dict[str, list[int]] = json.loads((golden / f"{name}.keys.json").read_text())
    with np.load(golden / f"{name}.npz") as stored:
        return {
            key: torch.from_numpy(stored[key]) if key in stored else golden_value(key, shape)
            for key, shape in shapes.items()
        }


def golden_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """The golden data's two images in one padded batch, as its README has them."""
    random = np.random.RandomState(1)
    pixels = torch.zeros(2, 3, 160, 224)
    padding = torch.ones(2, 160, 224, dtype=torch.bool)
    for image, (height, width) in enumerate(((160, 192), (128, 224))):
        values = random.standard_normal((3, height, width)).astype("float32")
        pixels[image, :, :height, :width] = torch.from_numpy(values)
        padding[image, :height, :width] = False
    return pixels, padding


def gives_back(model: Detr, golden: Path) -> None:
    with np.load(golden) as stored, torch.inference_mode():
        found = model.detect(*golden_batch())
        pairs = [(found.logits, stored["pred_logits"]), (found.boxes, stored["pred_boxes"])]
        if model.config.masks:
            image = torch.arange(2).repeat_interleave(100)
            query = torch.arange(100).repeat(2)
            masks = model.masks(found.encoded, found.states, image, query)
            pairs.append((masks, stored["pred_masks"].reshape(masks.shape)))
        for here, there in pairs:
            reference = torch.from_numpy(there)
            limit = 1e-4 * max(1.0, reference.abs().max().item())
            torch.testing.assert_close(here, reference, atol=limit, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [("facebook-detr-r50-panoptic", []), ("facebook-detr-r50-dc5", ["--dilation"])],
)
def test_the_originals_outputs_come_back_through_every_format(
    golden: Path, tmp_path: Path, name: str, options: list[str]
) -> None:
    original = read_golden(golden, name)
    torch.save({"model": original}, tmp_path / "original.pth")
    steps = [
        ("original.pth", "ours", "panodetr", options),
        ("ours", "theirs", "huggingface", []),
        ("theirs", "again.pth", "facebook", []),
    ]
    for source, target, format, extra in steps:
        paths = [str(tmp_path / source), str(tmp_path / target)]
        assert main(["convert", *paths, "--to", format, *extra]) == 0
        gives_back(load_checkpoint(tmp_path / target)[1], golden / f"{name}.npz")
    state = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    assert state.keys() == original.keys()
    assert all(torch.equal(state[key], original[key]) for key in original)


@pytest.mark.slow
@pytest.mark.parity
def test_the_originals_outputs_come_back_through_transformers(golden: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    name = "facebook-detr-r50-panoptic"
    torch.save({"model": read_golden(golden, name)}, tmp_path / "original.pth")
    paths = [str(tmp_path / "original.pth"), str(tmp_path / "theirs")]
    assert main(["convert", *paths, "--to", "huggingface"]) == 0
    model = transformers.DetrForSegmentation.from_pretrained(tmp_path / "theirs").eval()
    pixels, padding = golden_batch()
    with np.load(golden / f"{name}.npz") as stored, torch.inference_mode():
        found = model(pixel_values=pixels, pixel_mask=(~padding).long())
        for here, there in (
            (found.logits, stored["pred_logits"]),
            (found.pred_boxes, stored["pred_boxes"]),
            (found.pred_masks, stored["pred_masks"]),
        ):
            reference = torch.from_numpy(there).view_as(here)
            limit = 1e-4 * max(1.0, reference.abs().max().item())
            torch.testing.assert_close(here, reference, atol=limit, rtol=0)
