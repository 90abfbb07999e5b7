"""OpenVINO and ONNX Runtime take as many threads as PyTorch is told to."""

from __future__ import annotations

from typing import Any

import onnxruntime
import openvino
import pytest

import panodetr


@pytest.mark.parametrize(
    ("format", "owner", "name", "number"),
    [
        ("openvino", openvino.Core, "compile_model", 1),  # it takes no more than there are cores
        ("onnx", onnxruntime, "InferenceSession", 1),
        ("onnx", onnxruntime, "InferenceSession", 3),
    ],
)
def test_a_runtime_takes_the_threads_of_the_environment(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    owner: Any,
    name: str,
    number: int,
) -> None:
    made: list[Any] = []
    make = getattr(owner, name)

    def spied(*arguments: Any, **options: Any) -> Any:
        made.append(make(*arguments, **options))
        return made[-1]

    file = request.getfixturevalue(f"tiny_{format}")
    monkeypatch.setattr(owner, name, spied)
    monkeypatch.setenv("OMP_NUM_THREADS", str(number))
    panodetr.load(file)
    counts = [
        one.get_property("INFERENCE_NUM_THREADS")
        if format == "openvino"
        else one.get_session_options().intra_op_num_threads
        for one in made
    ]
    assert counts == [number] * 2
