"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from panodetr.errors import CheckpointError, MissingExtra
from panodetr.runtimes.graph_runtime import Graph
from panodetr.threads import omp_threads

if TYPE_CHECKING:
    from types import ModuleType

    from panodetr.runtimes.graph_runtime import Arrays, Shape


def import_onnxruntime() -> ModuleType:
    """Import the library.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("running a model in ONNX Runtime", "onnx") from error
    return onnxruntime


def load_onnx(model: bytes) -> Graph:
    """Make a graph ready to run, in as many threads as `panodetr.threads` says.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        CheckpointError: the library does not take the graph.
    """
    library: Any = import_onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads = omp_threads() or 0  # 0 is its own choice
    try:
        session = library.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base of their own
        raise CheckpointError(f"ONNX Runtime does not take it: {error}") from error
    outputs = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(outputs, cast("list[Any]", session.run(None, inputs)), strict=True))

    return Graph(run, _shapes(session.get_inputs()), _shapes(session.get_outputs()))


def _shapes(arrays: list[Any]) -> dict[str, Shape]:
    """Shapes by name; open sizes are names there."""
    return {
        array.name: tuple(size if isinstance(size, int) else None for size in array.shape)
        for array in arrays
    }
