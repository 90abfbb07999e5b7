"""OpenVINO on the CPU: fused kernels in float32, and int8 where the graph was quantised."""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from panodetr.errors import CheckpointError, MissingExtra
from panodetr.runtimes.graph_runtime import Graph
from panodetr.threads import omp_threads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    import openvino
    from numpy.typing import NDArray

    from panodetr.runtimes.graph_runtime import Arrays, Shape


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


@cache
def _core() -> Any:
    """OpenVINO itself, once for the process and for good.

    Its plugin for the CPU gives the thread that loads it another stack for signals, and hands the
    old one back when it is let go of. Of two, let go of in the order in which they came, the second
    hands back the first one's, which is gone by then: the next Ctrl-C would crash the process.
    `tests/runtimes/test_signals.py` shows it.
    """
    core = import_openvino().Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
    return core


def read_openvino(xml: bytes, weights: bytes) -> openvino.Model:
    """Read a graph from OpenVINO's two files.

    Raises:
        MissingExtra: OpenVINO is not installed.
        CheckpointError: the library does not take the graph.
    """
    library = import_openvino()
    try:
        tensor = library.Tensor(np.frombuffer(weights, np.uint8))
        return _core().read_model(xml, tensor)
    except RuntimeError as error:
        raise CheckpointError(f"OpenVINO does not take it: {error}") from error


def compile_openvino(model: openvino.Model) -> Graph:
    """Make a graph ready to run, in as many threads as `panodetr.threads` says.

    Raises:
        CheckpointError: the library does not take the graph, or an array of it has no name.
    """
    # Left to itself, OpenVINO takes bfloat16 on machines that are faster in it.
    config: dict[str, str | int] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": omp_threads() or 0,  # 0 is its own choice
    }
    try:
        inputs, outputs = _shapes(model.inputs), _shapes(model.outputs)
        compiled: Any = _core().compile_model(model, "CPU", config)
    except RuntimeError as error:
        raise CheckpointError(f"OpenVINO does not take it: {error}") from error
    lock = Lock()

    def run(inputs: Arrays) -> Arrays:
        with lock:  # a compiled model has one set of buffers
            found = compiled(inputs, share_inputs=True)
            arrays: list[NDArray[Any]] = [found[index] for index in range(len(compiled.outputs))]
        return dict(zip(outputs, arrays, strict=True))

    return Graph(run, inputs, outputs)


def _shapes(ports: Sequence[Any]) -> dict[str, Shape]:
    """Shapes by name, in the ports' order."""
    return {
        port.get_any_name(): tuple(
            size.get_length() if size.is_static else None for size in port.partial_shape
        )
        for port in ports
    }
