from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import Program


def test_an_exported_file_segments_images(
    panodetr: Program, tmp_path: Path, tiny_folder: Path, images: Path
) -> None:
    done = panodetr("export", tiny_folder, "--format", "openvino", "--out", "tiny.ov")
    assert done.returncode == 0, done.stderr
    assert "tiny for openvino, float32" in done.stdout
    assert "largest differences from the model: logits" in done.stdout
    done = panodetr("segment", images / "a.png", "--model", "tiny.ov", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("runtime", ["openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_another_runtime_finds_the_same_segments(
    panodetr: Program, tmp_path: Path, tiny_folder: Path, runtime: str
) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    Image.fromarray(noise[:64, :64]).save(tmp_path / "image.png")
    answers: list[list[dict[str, Any]]] = []
    for name in ("torch", runtime):
        done = panodetr("segment", "image.png", "--model", tiny_folder, "--json", "--runtime", name)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout)["segments_info"])
    a, b = answers
    assert len(a) == 5
    assert [segment["category_id"] for segment in a] == [segment["category_id"] for segment in b]
    for mine, its in zip(a, b, strict=True):
        assert abs(mine["score"] - its["score"]) < 1e-4
        assert abs(mine["area"] - its["area"]) <= 10


def test_arguments_that_contradict_each_other_are_refused(
    panodetr: Program, tiny_openvino: Path, images: Path
) -> None:
    done = panodetr("segment", images, "--model", tiny_openvino, "--runtime", "onnx")
    assert done.returncode == 2
    assert "was exported for openvino" in done.stderr
    done = panodetr("export", "nuclei", "--format", "openvino", "--out", "x", "--int8")
    assert done.returncode == 2
    assert "--calibration FOLDER belong together" in done.stderr
