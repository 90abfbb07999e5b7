from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from panodetr.cli.main import main


def test_an_exported_file_segments_photos(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.ov"
    assert main(["export", str(tiny_folder), "--format", "openvino", "--out", str(file)]) == 0
    said = capsys.readouterr().out
    assert "tiny for openvino, float32" in said
    assert "largest differences from the model: logits" in said
    photo = tmp_path / "photo.png"
    Image.new("RGB", (70, 64)).save(photo)
    out = tmp_path / "out"
    assert main(["segment", str(photo), "--model", str(file), "--out", str(out)]) == 0
    assert len(list(out.iterdir())) == 3


def test_int8_without_photos_cannot_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "nuclei", "--format", "openvino", "--out", str(tmp_path / "x"), "--int8"]
    assert main(arguments) == 2
    assert "--calibration FOLDER belong together" in capsys.readouterr().err
