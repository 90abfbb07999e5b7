"""What libraries do to the process: threads they take, and what they leave of its signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import openvino
import pytest

import panodetr

SCRIPT = """
import faulthandler, gc, signal, sys
import panodetr

faulthandler.enable()  # as pytest does
first, second = (panodetr.load(sys.argv[1], runtime=sys.argv[2]) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
signal.raise_signal(signal.SIGINT)
print(heard)
"""


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_a_signal_is_heard_after_models_are_gone(tiny_folder: Path, runtime: str) -> None:
    order = [sys.executable, "-c", SCRIPT, str(tiny_folder), runtime]
    done = subprocess.run(order, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[1]\n"), done.stderr


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
