"""OpenVINO and ONNX Runtime take as many threads as PyTorch is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import openvino
import pytest

import panodetr
from panodetr.runtimes.threads import threads


@pytest.mark.parametrize(
    ("told", "number"),
    [("3", 3), ("4,2", 4), (" 2 ", 2), ("", None), ("0", None), ("-1", None), ("many", None)],
)
def test_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, told: str, number: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert threads() == number


def test_without_a_number_libraries_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads() is None


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
