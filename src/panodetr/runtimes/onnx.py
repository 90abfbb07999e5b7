"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from panodetr.errors import MissingExtra

if TYPE_CHECKING:
    from panodetr.runtimes.graph_runtime import Arrays, Graph


def load_onnx(model: bytes) -> Graph:
    """Make a graph ready to run.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("running a model in ONNX Runtime", "onnx") from error
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(outputs, cast("list[Any]", session.run(None, inputs)), strict=True))

    return run
