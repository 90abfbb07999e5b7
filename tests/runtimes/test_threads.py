"""OpenVINO and ONNX Runtime take as many threads as PyTorch is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import openvino
import pytest

import panodetr


def test_openvino_is_told(tiny_openvino: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    make: Any = openvino.Core.compile_model

    def spied(*arguments: Any) -> Any:
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(openvino.Core, "compile_model", spied)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    panodetr.load(tiny_openvino)
    assert [model.get_property("INFERENCE_NUM_THREADS") for model in made] == [1, 1]


@pytest.mark.parametrize("number", [1, 3])
def test_onnx_runtime_is_told(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    made: list[Any] = []
    make: Any = onnxruntime.InferenceSession

    def spied(*arguments: Any, **options: Any) -> Any:
        made.append(make(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(onnxruntime, "InferenceSession", spied)
    monkeypatch.setenv("OMP_NUM_THREADS", str(number))
    panodetr.load(tiny_onnx)
    counts = [session.get_session_options().intra_op_num_threads for session in made]
    assert counts == [number] * 2
