from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import panodetr
from panodetr.checkpoints.load import load_checkpoint
from panodetr.errors import ImageWarning, PanodetrError, UsageError
from panodetr.predict import Predictor
from panodetr.runtimes import exported
from panodetr.runtimes.convert import weights_digest
from panodetr.runtimes.torch import TorchRuntime


def test_results_are_the_same_whichever_runs(
    tiny_folder: Path, tiny_onnx: Path, tiny_openvino: Path
) -> None:
    spec, network = load_checkpoint(tiny_folder)
    cpu = torch.device("cpu")
    plain = Predictor(spec, TorchRuntime(network, spec.preprocessing, cpu, plain=True))
    others = [panodetr.load(model) for model in (tiny_folder, tiny_openvino, tiny_onnx)]
    others.append(panodetr.load(tiny_folder, runtime="openvino"))
    image = np.random.default_rng(3).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    whole = image[:64, :64]
    asked = [(image, 0.5), (image, 0.0), (whole, 0.0), (image, 1.0)]
    expected = [plain.segment(pixels, threshold=threshold) for pixels, threshold in asked]
    # Tiles that are joined, and one alone; several classes; nothing at all.
    assert [len(result.segments) for result in expected] == [9, 12, 5, 0]
    assert {segment.label for segment in expected[0].segments} == {"nucleus", "background"}
    images = [image, whole, image[:50, :40]]
    detected = plain.detect(images, threshold=0)
    for other in others:
        for a, b in zip(detected, other.detect(images, threshold=0), strict=True):
            assert [d.label for d in a.detections] == [d.label for d in b.detections]
            np.testing.assert_allclose(
                [d.box for d in a.detections], [d.box for d in b.detections], atol=1e-2
            )
        for (pixels, threshold), a in zip(asked, expected, strict=True):
            b = other.segment(pixels, threshold=threshold)
            assert np.mean(a.segment_ids != b.segment_ids) < 1e-3
            for mine, its in zip(a.segments, b.segments, strict=True):
                assert (mine.id, mine.category_id) == (its.id, its.category_id)
                assert (mine.label, mine.is_thing) == (its.label, its.is_thing)
                np.testing.assert_allclose(mine.box, its.box, atol=1)
                assert abs(mine.score - its.score) < 1e-4
                assert abs(mine.area - its.area) <= 10


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"runtime": "tensorflow"}, "expected one of torch, openvino, onnx, auto"),
        ({"device": "tpu"}, "device is 'tpu'; expected auto, cpu, cuda, cuda:N"),
        ({"device": "cuda:9"}, "device is cuda:9, but PyTorch sees"),
        ({"batch": 0}, "batch is 0; expected 1 image or tile, or more"),
        ({"precision": "float8"}, "expected one of float32, bfloat16"),
        ({"runtime": "onnx", "device": "cuda"}, "runs on the CPU"),
        ({"runtime": "onnx", "precision": "bfloat16"}, "is for runtime torch"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tiny_folder: Path, wanted: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        panodetr.load(tiny_folder, **wanted)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("asked", "missing", "taken"),
    [
        ({}, [], "openvino"),
        ({}, ["openvino"], "onnx"),
        ({}, ["openvino", "onnxruntime"], None),
        ({"precision": "bfloat16"}, [], None),
    ],
)
def test_runtime_auto_takes_an_export_of_the_same_weights_that_lies_beside(
    tiny_folder: Path,
    tiny_onnx: Path,
    tiny_openvino: Path,
    asked: dict[str, Any],
    missing: list[str],
    taken: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "model")
    assert isinstance(panodetr.load(copy, runtime="auto", device="cpu").runtime, TorchRuntime)
    shutil.copy(tiny_onnx, copy)
    shutil.copy(tiny_openvino, tmp_path / "model-openvino.zip")
    (tmp_path / "model.damaged").write_bytes(tiny_onnx.read_bytes()[:60])

    def find(name: str) -> str | None:
        return None if name in missing else name

    monkeypatch.setattr(exported, "find_spec", find)
    model = panodetr.load(copy, runtime="auto", device="cpu", **asked)
    assert isinstance(model.runtime, TorchRuntime) == (taken is None)
    assert ("" if taken is None else taken) in caplog.text
    other = load_checkpoint(copy)[1]
    with torch.no_grad():
        other.queries.weight += 1
    assert exported.find_exported(copy, weights_digest(other)) is None


@pytest.mark.usefixtures("one_stream")
def test_a_batch_that_memory_does_not_hold_is_halved_and_said_once(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = panodetr.load(tiny_folder, batch=4, device="cpu")
    image = np.random.default_rng(3).integers(0, 256, (100, 300, 3), dtype=np.uint8)
    expected = model.segment(image)
    assert isinstance(model.runtime, TorchRuntime)
    detect, seen = model.runtime.model.detect, list[int]()

    def full(pixels: torch.Tensor, padding: torch.Tensor | None) -> Any:
        seen.append(len(pixels))
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return detect(pixels, padding)

    monkeypatch.setattr(model.runtime.model, "detect", full)
    most = 1
    with pytest.warns(ImageWarning) as warned:
        found = model.segment(image)
    texts = [str(warning.message) for warning in warned]
    assert ["does not hold 4 images or tiles" in text for text in texts].count(True) == 1
    assert seen[:4] == [4, 2, 1, 1]
    assert np.mean(found.segment_ids != expected.segment_ids) < 1e-3
    most = 0
    with pytest.raises(PanodetrError, match="64x64 pixels; use smaller tiles"):
        model.segment(image)


def test_an_exported_file_runs_where_it_was_made_for(tiny_onnx: Path) -> None:
    assert panodetr.load(tiny_onnx, runtime="onnx").spec.name == "tiny"
    with pytest.raises(UsageError, match="was exported for onnx"):
        panodetr.load(tiny_onnx, runtime="openvino")
    with pytest.raises(UsageError, match="runs on the CPU"):
        panodetr.load(tiny_onnx, device="cuda")


@pytest.mark.slow
def test_onnx_runtime_takes_a_checkpoint(tiny_folder: Path, tiny_onnx: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    a = panodetr.load(tiny_folder, runtime="onnx").detect(image, threshold=0)
    b = panodetr.load(tiny_onnx).detect(image, threshold=0)
    assert a.to_dict() == b.to_dict()
