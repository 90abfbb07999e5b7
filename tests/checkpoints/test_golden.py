"""The original's files through every format, by their outputs.

The outputs come back to 1e-4 only from the arithmetic that they were made with: two threads and
AVX-512 (`tests/parity/test_original.py` says why).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity.weights import assert_close, padded_batch

from harness.weights import value
from panodetr.checkpoints.load import load_checkpoint
from panodetr.cli.main import main
from panodetr.model.detr import Detr

pytestmark = [pytest.mark.slow, pytest.mark.parity]


@pytest.fixture(autouse=True)
def tolerance() -> Iterator[float]:
    """How near outputs have to be, of the largest value; puts the number of threads right."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 1e-4 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 1e-2
    torch.set_num_threads(threads)


def original_file(golden: Path, name: str, folder: Path) -> dict[str, torch.Tensor]:
    """Write `original.pth` as the original implementation would, and give what is in it."""
    shapes: dict[str, list[int]] = json.loads((golden / f"{name}.keys.json").read_text())
    with np.load(golden / f"{name}.npz") as stored:
        state = {
            key: torch.from_numpy(stored[key] if key in stored else value(key, torch.Size(shape)))
            for key, shape in shapes.items()
        }
    torch.save({"model": state, "epoch": 24}, folder / "original.pth")
    return state


def outputs(model: Detr) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        found = model.detect(*padded_batch())
        answers = {"pred_logits": found.logits, "pred_boxes": found.boxes}
        if model.config.masks:
            image, query = torch.arange(2).repeat_interleave(100), torch.arange(100).repeat(2)
            masks = model.masks(found.encoded, found.states, image, query)
            answers["pred_masks"] = masks.unflatten(0, (2, 100))
    return answers


def check(answers: dict[str, torch.Tensor], golden: Path, tolerance: float) -> None:
    with np.load(golden) as stored:
        assert {key for key in stored if key.startswith("pred_")} == answers.keys()
        for key, answer in answers.items():
            assert_close(answer, torch.from_numpy(stored[key]).view_as(answer), tolerance)


@pytest.mark.parametrize(
    ("name", "options"),
    [("facebook-detr-r50-panoptic", []), ("facebook-detr-r50-dc5", ["--dilation"])],
)
def test_the_outputs_and_weights_come_back_through_every_format(
    golden: Path, tmp_path: Path, tolerance: float, name: str, options: list[str]
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
        check(outputs(model), golden / f"{name}.npz", tolerance)
    state = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    assert state.keys() == original.keys()
    assert all(torch.equal(state[key], original[key]) for key in original)


def test_the_outputs_come_back_from_transformers(
    golden: Path, tmp_path: Path, tolerance: float
) -> None:
    transformers = pytest.importorskip("transformers")
    name = "facebook-detr-r50-panoptic"
    original_file(golden, name, tmp_path)
    paths = [str(tmp_path / "original.pth"), str(tmp_path / "theirs")]
    assert main(["convert", *paths, "--to", "huggingface"]) == 0
    model: Any = transformers.DetrForSegmentation.from_pretrained(tmp_path / "theirs").eval()
    pixels, padding = padded_batch()
    with torch.inference_mode():
        found = model(pixel_values=pixels, pixel_mask=(~padding).long())
    answers = {key: found[key] for key in ("pred_boxes", "pred_masks")}
    check({**answers, "pred_logits": found.logits}, golden / f"{name}.npz", tolerance)
