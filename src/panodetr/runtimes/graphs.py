"""A model as two graphs, which ONNX Runtime or OpenVINO runs on the CPU. No torch in here.

Letters: B images, H and W their padded size, N masks, h and w a mask's size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from panodetr.errors import CheckpointError, import_extra, reason_of
from panodetr.results.masks import Masks, NumpyMasks
from panodetr.runtimes.base import Runtime
from panodetr.threads import omp_threads, refuse_fork

if TYPE_CHECKING:
    import openvino

Arrays = dict[str, NDArray[np.generic]]
Shape = tuple[int | None, ...]
"""Of an array that a graph gives out; None is a size that is open."""

DETECT_INPUTS = ("images", "padding")
BOX_OUTPUTS = ("logits", "boxes")
"""What the detect graph gives out, the latter only of a model that has boxes of its own. Besides it
gives what the masks graph takes, of one image at a time; with "finest", if it is there, masks have
one size."""

QUERY = "query"
"""What else the masks graph takes."""

MASKS_OUTPUTS = ("masks",)


LONGEST_REASON = 300
"""Characters of a library's own message that an error repeats."""

CACHED_PIXELS = 270_000
"""Pixels of the finest map that the masks graph works on at a time: five masks of an image of 800
by 1066. Fewer, and what they share is laid out anew too often; more, and they push each other's
activations out of the cache."""


@dataclass(frozen=True)
class Graph:
    """Named arrays in, named arrays out.

    Attributes:
        run: computes.
        inputs: the names of what it takes.
        outputs: the shapes of what it gives out, by name.
    """

    run: Callable[[Arrays], Arrays]
    inputs: Sequence[str]
    outputs: Mapping[str, Shape]


class GraphRuntime(Runtime):
    """A detect graph, and a masks graph where the model has masks."""

    def __init__(self, detect: Graph, masks: Graph | None = None) -> None:
        """Take graphs over.

        Raises:
            ValueError: a graph takes or gives out other arrays than it should.
        """
        sources = [] if masks is None else mask_sources(masks)
        given = BOX_OUTPUTS if masks is None or "boxes" in detect.outputs else BOX_OUTPUTS[:1]
        _check("detect", detect, DETECT_INPUTS, (*given, *sources))
        if masks is not None:
            _check("masks", masks, {*masks.inputs, QUERY}, MASKS_OUTPUTS)
        self._detect, self._masks = detect, masks

    def detect(
        self, images: NDArray[np.uint8], padding: NDArray[np.bool_] | None
    ) -> GraphPrediction:
        """Run on images (B, H, W, 3) in RGB, resized; padding (B, H, W) is True beside them."""
        if padding is None:
            padding = np.zeros(images.shape[:3], np.bool_)
        found = self._detect.run({"images": images, "padding": padding})
        return GraphPrediction(found, self._masks)


def mask_sources(masks: Graph) -> list[str]:
    """List what the masks graph takes from the detect graph."""
    return [name for name in masks.inputs if name != QUERY]


def _check(part: str, graph: Graph, inputs: Collection[str], outputs: Collection[str]) -> None:
    for verb, found, names in (("takes", graph.inputs, inputs), ("gives", graph.outputs, outputs)):
        if set(found) != set(names):
            raise ValueError(
                f"the {part} graph {verb} {', '.join(found)}; expected {', '.join(names)}"
            )


class GraphPrediction:
    """What the detect graph gave out; see `panodetr.runtimes.base.Prediction`."""

    def __init__(self, outputs: Arrays, masks: Graph | None) -> None:
        self.logits: NDArray[np.float32] = outputs["logits"].astype(np.float32, copy=False)
        self.boxes: NDArray[np.float32] | None = None
        if "boxes" in outputs:
            self.boxes = outputs["boxes"].astype(np.float32, copy=False)
        self._outputs, self._masks = outputs, masks

    def masks(self, queries: Sequence[NDArray[np.intp]]) -> list[Masks]:
        """Compute the masks of some queries (N,) of each image.

        Raises:
            ValueError: the model has no mask head.
        """
        if self._masks is None:
            raise ValueError("this model has no mask head; export one that has")
        found: list[Masks] = []
        for number, own in enumerate(queries):
            sources = {
                name: self._outputs[name][number : number + 1] for name in mask_sources(self._masks)
            }
            finest = sources.get("finest")
            if finest is None:  # the graph makes it, once for all, and only then is its size known
                asked = own if len(own) else np.zeros(1, np.intp)
                values = self._run(sources, asked)[: len(own)]
            else:
                height, width = finest.shape[-2:]
                values = np.empty((len(own), height, width), np.float32)
                at_once = max(1, CACHED_PIXELS // (height * width))
                for start in range(0, len(own), at_once):
                    part = slice(start, start + at_once)
                    values[part] = self._run(sources, own[part])
            found.append(NumpyMasks(values))
        return found

    def _run(self, sources: Arrays, query: NDArray[np.intp]) -> NDArray[np.float32]:
        assert self._masks is not None
        found = self._masks.run(sources | {QUERY: query.astype(np.int64)})["masks"]
        return found.astype(np.float32, copy=False)


def load_onnx(model: bytes) -> Graph:
    """Make a graph ready to run, in as many threads as `panodetr.threads` says.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        CheckpointError: the library does not take the graph.
    """
    library = import_extra("onnxruntime")
    refuse_fork("ONNX Runtime")
    options = library.SessionOptions()
    options.intra_op_num_threads = omp_threads() or 0  # 0 is its own choice
    options.log_severity_level = 4  # errors are raised, too
    try:
        session = library.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base of their own
        raise CheckpointError(f"ONNX Runtime does not take it: {error}") from error
    inputs = [array.name for array in session.get_inputs()]
    # Open sizes are names there.
    outputs = {
        array.name: tuple(size if isinstance(size, int) else None for size in array.shape)
        for array in session.get_outputs()
    }

    def run(arrays: Arrays) -> Arrays:
        refuse_fork("ONNX Runtime")
        try:
            found = cast("list[Any]", session.run(None, arrays))
        except Exception as error:  # as above
            raise _failure("ONNX Runtime", error) from error
        return dict(zip(outputs, found, strict=True))

    return Graph(run, inputs, outputs)


def _failure(library: str, error: Exception) -> Exception:
    """Give the error of a graph that does not run: its machine's memory ended, or it is broken."""
    reason = reason_of(error)[:LONGEST_REASON]
    if "alloc" in reason:
        return MemoryError(reason)
    return CheckpointError(f"{library} cannot run this model: {reason}; export it again")


def _core() -> Any:
    """The process's one OpenVINO core; raises a `UsageError` in a forked process."""
    refuse_fork("OpenVINO")
    return _first_core()


@cache
def _first_core() -> Any:
    """Make the OpenVINO core, which is never released.

    Its CPU plugin gives the thread that loads it another signal stack, and restores the old one
    on release. If two cores are released in the order of their creation, the second restores
    the first one's stack, which is freed by then: the next Ctrl-C would crash the process.
    `tests/runtimes/test_process.py` shows it.
    """
    core = import_extra("openvino").Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
    return core


def read_openvino(xml: bytes, weights: bytes) -> openvino.Model:
    """Read a graph from OpenVINO's two files.

    Raises:
        MissingExtra: OpenVINO is not installed.
        CheckpointError: the library does not take the graph.
    """
    library = import_extra("openvino")
    try:
        tensor = library.Tensor(np.frombuffer(weights, np.uint8))
        return _core().read_model(xml, tensor)
    except RuntimeError as error:
        raise CheckpointError(f"OpenVINO does not take it: {error}") from error


def compile_openvino(model: openvino.Model, *, half: bool = False) -> Graph:
    """Make a graph ready to run, in as many threads as `panodetr.threads` says.

    Args:
        model: the graph.
        half: what is float32 in it is computed in bfloat16, where the machine is faster in that.

    Raises:
        CheckpointError: the library does not take the graph, or an array of it has no name.
    """
    config: dict[str, str | int] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": omp_threads() or 0,  # 0 is its own choice
    }
    if not half:  # left to itself, OpenVINO takes bfloat16 on machines that are faster in it
        config["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        inputs = [port.get_any_name() for port in model.inputs]
        outputs = {
            port.get_any_name(): tuple(
                size.get_length() if size.is_static else None for size in port.partial_shape
            )
            for port in cast("list[Any]", model.outputs)
        }
        compiled: Any = _core().compile_model(model, "CPU", config)
    except RuntimeError as error:
        raise CheckpointError(f"OpenVINO does not take it: {error}") from error
    lock = Lock()

    def run(arrays: Arrays) -> Arrays:
        _core()
        with lock:  # a compiled model has one set of buffers
            try:
                found = compiled(arrays, share_inputs=True)
            except RuntimeError as error:
                raise _failure("OpenVINO", error) from error
            return {name: found[index] for index, name in enumerate(outputs)}

    return Graph(run, inputs, outputs)
