"""The examples in `deploy/`, called as CVAT's Nuclio and Label Studio's backend call them."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle

import panodetr

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PANODETR_MODEL", str(tiny_model))
    return tiny_model


def example(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("example", ROOT / "deploy" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cvat_gets_the_masks_of_the_model(model: Path, images: Path) -> None:
    function = example("cvat/main.py")
    context = SimpleNamespace(user_data=SimpleNamespace(), Response=SimpleNamespace)
    function.init_context(context)
    body = {"image": base64.b64encode((images / "a.png").read_bytes()).decode(), "threshold": 0}
    answer = function.handler(context, SimpleNamespace(body=body))
    expected = panodetr.load(model).segment(images / "a.png", threshold=0, task="instances")
    found = json.loads(answer.body)
    assert [entry["label"] for entry in found] == [segment.label for segment in expected.segments]
    for entry, segment in zip(found, expected.segments, strict=True):
        *pixels, x0, y0, x1, y1 = entry["mask"]
        mask = np.array(pixels, bool).reshape(y1 - y0 + 1, x1 - x0 + 1)
        assert np.array_equal(mask, segment.mask[y0 : y1 + 1, x0 : x1 + 1])
        assert mask.sum() == segment.area


def test_label_studio_gets_the_masks_of_the_model(
    model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Label Studio's backend is not on PyPI in a version that installs here: its base stands in."""

    class LabelStudioMLBase:
        def get_local_path(self, url: str, task_id: int) -> str:
            return url

    package = ModuleType("label_studio_ml.model")
    monkeypatch.setattr(package, "LabelStudioMLBase", LabelStudioMLBase, raising=False)
    monkeypatch.setitem(sys.modules, "label_studio_ml", ModuleType("label_studio_ml"))
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", package)
    backend = example("label_studio/model.py").Backend()
    [prediction] = backend.predict([{"id": 1, "data": {"image": str(images / "a.png")}}])
    expected = panodetr.load(model).segment(images / "a.png", task="instances")
    assert len(prediction["result"]) == len(expected.segments)
    for entry, mask in zip(prediction["result"], expected.masks, strict=True):
        read = np.asarray(decode_rle(entry["value"]["rle"])).reshape(*mask.shape, 4)[..., 3] > 0
        assert np.array_equal(read, mask)
