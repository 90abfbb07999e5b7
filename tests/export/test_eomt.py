"""Exported EoMTs are the model, in every library, and so is what they answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import panodetr
from panodetr.export.export import export


def images(folder: Path, count: int) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).resize((84, 60)).save(path)
    return paths


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_file_is_the_model_and_answers_as_it_does(
    eomt_folder: Path, tmp_path: Path, format: Any
) -> None:
    info = export(eomt_folder, tmp_path / "file", format=format)
    assert info.checked["logits"] < 1e-4
    assert info.checked["masks"] < 1e-4
    assert info.checked["boxes"] == 0
    (image,) = images(tmp_path, 1)
    exported, model = panodetr.load(tmp_path / "file"), panodetr.load(eomt_folder)
    assert exported.spec == model.spec
    found, expected = exported.segment(image), model.segment(image)
    assert [s.label for s in found.segments] == [s.label for s in expected.segments]
    assert (found.segment_ids == expected.segment_ids).mean() > 0.999
    boxes = [d.box for d in exported.detect(image, threshold=0.2).detections]
    own = [d.box for d in model.detect(image, threshold=0.2).detections]
    np.testing.assert_allclose(boxes, own, atol=2)


@pytest.mark.slow
def test_int8_is_near_the_model(eomt_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "calibration").mkdir()
    images(tmp_path / "calibration", 16)
    info = export(
        eomt_folder, tmp_path / "int8", format="openvino", calibration=tmp_path / "calibration"
    )
    assert info.precision == "int8"
    assert info.checked["queries"] > 10
    assert info.checked["same_class"] > 0.8
    assert info.checked["mask_iou"] > 0.8
