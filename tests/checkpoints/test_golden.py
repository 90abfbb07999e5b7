"""The original's files through every format, by their outputs in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.weights import GoldenModel, outputs_of, padded_batch
from tests.shapes import as_detr

from panodetr.checkpoints.load import load_checkpoint
from panodetr.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.parity]


def original_file(golden: Path, name: str, folder: Path) -> GoldenModel:
    """Write `original.pth` as the original implementation would, and give what is in it."""
    original = GoldenModel(golden, name)
    torch.save({"model": original.state, "epoch": 24}, folder / "original.pth")
    return original


@pytest.mark.parametrize(
    ("name", "options"),
    [("facebook-detr-r50-panoptic", []), ("facebook-detr-r50-dc5", ["--dilation"])],
)
def test_the_outputs_and_weights_come_back_through_every_format(
    golden: Path, tmp_path: Path, name: str, options: list[str]
) -> None:
    original = original_file(golden, name, tmp_path)
    steps = [
        ("original.pth", "ours", "panodetr", options),
        ("ours", "theirs", "huggingface", []),
        ("theirs", "again.pth", "facebook", []),
    ]
    for source, target, format, extra in steps:
        paths = [str(tmp_path / source), str(tmp_path / target)]
        assert main(["convert", *paths, "--to", format, *extra]) == 0
        model = load_checkpoint(tmp_path / target)[1]
        original.check(outputs_of(as_detr(model)))
    state = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    assert state.keys() == original.state.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in original.state.items())


def test_the_outputs_come_back_from_transformers(golden: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    name = "facebook-detr-r50-panoptic"
    original = original_file(golden, name, tmp_path)
    paths = [str(tmp_path / "original.pth"), str(tmp_path / "theirs")]
    assert main(["convert", *paths, "--to", "huggingface"]) == 0
    model: Any = (
        transformers.DetrForSegmentation.from_pretrained(tmp_path / "theirs").eval().double()
    )
    pixels, padding = padded_batch()
    with torch.inference_mode():
        found = model(pixel_values=pixels.double(), pixel_mask=(~padding).long())
    answers = {key: found[key] for key in ("pred_boxes", "pred_masks")}
    # Their positions are float32 in a double model, too, and rounded differently.
    original.check({**answers, "pred_logits": found.logits}, 1e-5)
