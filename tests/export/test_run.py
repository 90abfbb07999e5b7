from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import panodetr
from panodetr.checkpoints.spec import ModelSpec
from panodetr.errors import CheckpointError, ImageError, UsageError
from panodetr.export.run import export
from panodetr.export.verify import check_equal
from panodetr.model.detr import Detr
from panodetr.runtimes.torch import TorchRuntime

SAMPLES = Path(panodetr.__file__).parent / "assets" / "samples"


def assert_is_the_model(file: Path, folder: Path) -> None:
    model, exported = panodetr.load(folder), panodetr.load(file)
    assert exported.spec == model.spec
    photo = np.random.default_rng(0).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    for threshold in (0.0, 1.0):  # everything, and nothing at all
        a, b = (m.segment(photo, threshold=threshold) for m in (model, exported))
        assert [s.category_id for s in a.segments] == [s.category_id for s in b.segments]
        assert np.mean(a.segment_ids != b.segment_ids) < 1e-3
    with zipfile.ZipFile(file) as archive:
        described = json.loads(archive.read("model.json"))
    assert [c["name"] for c in described["model"]["categories"]] == ["nucleus", "background"]
    assert described["model"]["preprocessing"]["tile"] == 64
    assert len(described["weights_sha256"]) == 64
    assert set(described["checked"]) == {"logits", "boxes", "masks"}
    assert all(0 <= value <= 1e-4 for value in described["checked"].values())


def test_a_file_for_onnx_is_the_model(tiny_folder: Path, tiny_onnx: Path) -> None:
    assert_is_the_model(tiny_onnx, tiny_folder)


def test_a_file_for_openvino_is_the_model(tiny_folder: Path, tmp_path: Path) -> None:
    export(tiny_folder, tmp_path / "file", format="openvino")
    assert_is_the_model(tmp_path / "file", tiny_folder)


def test_an_exported_file_runs_without_torch(tiny_folder: Path, tmp_path: Path) -> None:
    export(tiny_folder, tmp_path / "out.file", format="openvino")
    Image.new("RGB", (70, 64)).save(tmp_path / "photo.png")
    code = (
        "import sys; sys.modules['torch'] = None; import panodetr; "
        f"m = panodetr.load({str(tmp_path / 'out.file')!r}); "
        f"r = m.segment({str(tmp_path / 'photo.png')!r}, threshold=0); "
        f"r.save({str(tmp_path / 'results')!r}); print(r.segment_ids.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout == "(64, 70)\n"


def test_a_model_that_differs_is_not_written(tiny_spec: ModelSpec) -> None:
    cpu = torch.device("cpu")
    torch.manual_seed(0)
    one = TorchRuntime(Detr(tiny_spec.architecture), tiny_spec.preprocessing, cpu)
    other = TorchRuntime(Detr(tiny_spec.architecture), tiny_spec.preprocessing, cpu)
    assert check_equal(one, one, masks=True).logits == 0
    with pytest.raises(CheckpointError, match=r"logits differ by .* at 1x128x160"):
        check_equal(one, other, masks=True)


@pytest.mark.slow
def test_int8_reports_how_far_it_agrees(tmp_path: Path) -> None:
    info = export("nuclei", tmp_path / "int8", format="openvino", calibration=SAMPLES)
    assert info.precision == "int8"
    assert info.checked["queries"] > 50
    assert info.checked["same_class"] > 0.95
    assert info.checked["box_iou"] > 0.9
    assert info.checked["mask_iou"] > 0.9
    whole = Path(panodetr.__file__).parent / "assets" / "models" / "nuclei" / "model.safetensors"
    assert (tmp_path / "int8").stat().st_size < 2 * whole.stat().st_size  # which has float16
    photo = SAMPLES / "fluorescence-large.png"
    a, b = panodetr.load().segment(photo), panodetr.load(tmp_path / "int8").segment(photo)
    assert abs(len(a.segments) - len(b.segments)) <= 4
    background = (a.segment_ids == 1) == (b.segment_ids == 1)
    assert background.mean() > 0.9


def test_what_cannot_be_meant_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8 is for --format openvino"):
        export(tiny_folder, tmp_path / "x", format="onnx", calibration=SAMPLES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty"):
        export(tiny_folder, tmp_path / "x", format="openvino", calibration=tmp_path / "empty")
    assert not (tmp_path / "x").exists()
