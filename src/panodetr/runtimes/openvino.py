"""OpenVINO on the CPU: fused kernels in float32, and int8 where the graph was quantised."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from panodetr.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    import openvino
    from numpy.typing import NDArray

    from panodetr.runtimes.graph_runtime import Arrays, Graph


def import_openvino() -> ModuleType:
    """Import the library.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("running a model in OpenVINO", "openvino") from error
    return openvino


def read_openvino(xml: bytes, weights: bytes) -> openvino.Model:
    """Read a graph from OpenVINO's two files.

    Raises:
        MissingExtra: OpenVINO is not installed.
    """
    library = import_openvino()
    tensor = library.Tensor(np.frombuffer(weights, np.uint8))
    return library.Core().read_model(xml, tensor)


def compile_openvino(model: openvino.Model, outputs: Sequence[str]) -> Graph:
    """Make a graph ready to run; its outputs get names in their order."""
    library = import_openvino()
    # Left to itself, OpenVINO takes bfloat16 on machines that are faster in it.
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled: Any = library.Core().compile_model(model, "CPU", config)
    lock = Lock()

    def run(inputs: Arrays) -> Arrays:
        with lock:  # a compiled model has one set of buffers
            found = compiled(inputs, share_inputs=True)
            arrays: list[NDArray[Any]] = [found[index] for index in range(len(compiled.outputs))]
        return dict(zip(outputs, arrays, strict=False))

    return run
