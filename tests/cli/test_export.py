from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panodetr.cli.main import main


def test_an_exported_file_segments_images(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.ov"
    assert main(["export", str(tiny_folder), "--format", "openvino", "--out", str(file)]) == 0
    said = capsys.readouterr().out
    assert "tiny for openvino, float32" in said
    assert "largest differences from the model: logits" in said
    image = tmp_path / "image.png"
    Image.new("RGB", (70, 64)).save(image)
    out = tmp_path / "out"
    assert main(["segment", str(image), "--model", str(file), "--out", str(out)]) == 0
    assert len(list(out.iterdir())) == 3


@pytest.mark.parametrize("runtime", ["openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_another_runtime_finds_the_same_segments(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str], runtime: str
) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    image = tmp_path / "image.png"
    Image.fromarray(noise[:64, :64]).save(image)
    order = ["segment", str(image), "--model", str(tiny_folder), "--json"]
    answers: list[dict[str, Any]] = []
    for name in ("torch", runtime):
        assert main([*order, "--runtime", name, "--out", str(tmp_path / name)]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    a, b = (answer["segments_info"] for answer in answers)
    assert len(a) == 5
    assert [segment["category_id"] for segment in a] == [segment["category_id"] for segment in b]
    for mine, its in zip(a, b, strict=True):
        assert abs(mine["score"] - its["score"]) < 1e-4
        assert abs(mine["area"] - its["area"]) <= 10


def test_an_exported_file_runs_where_it_was_made_for_alone(
    tmp_path: Path, tiny_openvino: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    order = ["segment", str(tmp_path / "image.png"), "--model", str(tiny_openvino)]
    assert main([*order, "--runtime", "onnx", "--out", str(tmp_path / "out")]) == 2
    assert "was exported for openvino" in capsys.readouterr().err


def test_int8_without_images_cannot_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "nuclei", "--format", "openvino", "--out", str(tmp_path / "x"), "--int8"]
    assert main(arguments) == 2
    assert "--calibration FOLDER belong together" in capsys.readouterr().err
