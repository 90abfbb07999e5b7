"""Golden outputs of the original, a padded batch to feed, and how near outputs must come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.weights import value
from panodetr.images.preprocess import pad
from panodetr.model.config import RESNET50, DetrConfig
from panodetr.model.detr import Detr

ORIGINALS = {
    "facebook-detr-r50-panoptic": DetrConfig(num_classes=250, masks=True),
    "facebook-detr-r50-dc5": DetrConfig(
        backbone=replace(RESNET50, dilate_last=True), num_classes=91
    ),
}
"""The models of the golden outputs, by the names of their files."""


class GoldenModel:
    """A model of the original, and what it gave in float64.

    Attributes:
        state: the original's weights, under its names.
        outputs: `pred_logits`, `pred_boxes`, and `pred_masks` where there are masks.
    """

    def __init__(self, folder: Path, name: str) -> None:
        shapes: dict[str, list[int]] = json.loads((folder / f"{name}.keys.json").read_text())
        with np.load(folder / f"{name}.float64.npz") as stored:
            given = dict(stored)
        self.outputs = {
            key: torch.from_numpy(given.pop(key)) for key in list(given) if key.startswith("pred_")
        }
        self.state = {
            key: torch.from_numpy(given[key] if key in given else value(key, torch.Size(shape)))
            for key, shape in shapes.items()
        }

    def check(self, found: Mapping[str, Tensor], tolerance: float = 1e-6) -> None:
        """Hold the outputs of a model in double to a part of the largest value."""
        assert found.keys() == self.outputs.keys()
        for key, tensor in found.items():
            assert tensor.dtype == torch.float64
            assert_close(tensor.float(), self.outputs[key], tolerance)


def outputs_of(model: Detr) -> dict[str, Tensor]:
    """All outputs for the padded batch, under the original's names; the model runs in double."""
    pixels, padding = padded_batch()
    with torch.inference_mode():
        found = model.double().detect(pixels.double(), padding)
        outputs = {"pred_logits": found.logits, "pred_boxes": found.boxes}
        if model.config.masks:
            image, query = torch.arange(2).repeat_interleave(100), torch.arange(100).repeat(2)
            masks = model.masks(found, image, query)
            outputs["pred_masks"] = masks.unflatten(0, (2, 100))  # B, Q, h, w
    return outputs


def padded_batch() -> tuple[Tensor, Tensor]:
    """Two images of different sizes, as the golden files' README makes them."""
    random = np.random.RandomState(1)
    images = [random.standard_normal(s).astype("float32") for s in ((3, 160, 192), (3, 128, 224))]
    pixels, padding = pad(images)
    return torch.from_numpy(pixels), torch.from_numpy(padding)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Within the tolerance, or where the largest value is more than 1, within that part of it."""
    atol = tolerance * max(1.0, expected.abs().max().item())  # boxes never are more than 1
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
