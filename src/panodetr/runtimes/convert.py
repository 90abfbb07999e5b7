"""From a model to graphs of other libraries; torch writes them, and is not needed to run them.

Both ways record one run of the model. The number of images, their sizes and the number of masks
stay open.
"""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from panodetr.errors import MissingExtra
from panodetr.runtimes.graph_runtime import (
    BOX_OUTPUTS,
    DETECT_INPUTS,
    DETECT_OUTPUTS,
    MASKS_INPUTS,
    MASKS_OUTPUTS,
    GraphRuntime,
)
from panodetr.runtimes.graphs import DetectGraph, MasksGraph, detect_example, masks_example
from panodetr.runtimes.onnx import import_onnxruntime, load_onnx
from panodetr.runtimes.openvino import compile_openvino, import_openvino

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import openvino

    from panodetr.images.preprocess import Preprocessing
    from panodetr.model.detr import Detr


@dataclass(frozen=True)
class OpenVinoGraphs:
    """A model in OpenVINO; `masks` is None where it has no mask head."""

    detect: openvino.Model
    masks: openvino.Model | None


@dataclass(frozen=True)
class OnnxGraphs:
    """A model in ONNX's files; `masks` is None where it has no mask head."""

    detect: bytes
    masks: bytes | None


def require(runtime: Literal["onnx", "openvino"]) -> None:
    """Make sure of what conversion and the converted model need, before either takes its time.

    Raises:
        MissingExtra: a library is not installed.
    """
    if runtime == "openvino":
        import_openvino()
        return
    import_onnxruntime()
    try:
        import_module("onnxscript")  # torch's exporter would ask for it, with a traceback
    except ImportError as error:
        raise MissingExtra("writing a model for ONNX Runtime", "onnx") from error


def run_openvino(graphs: OpenVinoGraphs) -> GraphRuntime:
    """Make graphs in memory ready to run."""
    masks = None if graphs.masks is None else compile_openvino(graphs.masks)
    return GraphRuntime(compile_openvino(graphs.detect), masks)


def run_onnx(graphs: OnnxGraphs) -> GraphRuntime:
    """Make graphs in memory ready to run."""
    masks = None if graphs.masks is None else load_onnx(graphs.masks)
    return GraphRuntime(load_onnx(graphs.detect), masks)


def to_openvino(model: Detr, rule: Preprocessing) -> OpenVinoGraphs:
    """Convert a model, on the CPU and in float32.

    Raises:
        MissingExtra: OpenVINO is not installed.
    """
    require("openvino")
    # `openvino.convert_model` does the same, and reports its use to the maker.
    from openvino.frontend.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")

    def convert(
        graph: nn.Module, example: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str]
    ) -> openvino.Model:
        recorded = TorchScriptPythonDecoder(graph, example_input=example)
        converted = frontend.convert(frontend.load(recorded))
        for port, name in zip(converted.inputs, inputs, strict=True):
            port.get_tensor().set_names({name})
        for port, name in zip(converted.outputs, outputs, strict=True):
            port.get_tensor().set_names({name})
        return converted

    detect = DetectGraph(model, rule)
    with _recording():
        example = detect_example()
        if model.mask_head is None:
            return OpenVinoGraphs(convert(detect, example, DETECT_INPUTS, BOX_OUTPUTS), None)
        whole = convert(detect, example, DETECT_INPUTS, DETECT_OUTPUTS)
        chosen = masks_example(detect(*example))
        return OpenVinoGraphs(
            whole, convert(MasksGraph(model), chosen, MASKS_INPUTS, MASKS_OUTPUTS)
        )


def to_onnx(model: Detr, rule: Preprocessing) -> OnnxGraphs:
    """Convert a model, on the CPU and in float32.

    Raises:
        MissingExtra: the ONNX libraries are not installed.
    """
    require("onnx")

    def convert(
        graph: nn.Module, example: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str]
    ) -> bytes:
        program = torch.onnx.export(
            graph, example, dynamo=True, external_data=False, verbose=False, opset_version=18,
            input_names=inputs, output_names=outputs,
            dynamic_shapes=tuple(_open_sizes(name) for name in inputs),
        )  # fmt: skip
        assert program is not None
        file = io.BytesIO()
        program.save(cast("Any", file))
        return file.getvalue()

    detect = DetectGraph(model, rule)
    with _recording():
        example = detect_example()
        if model.mask_head is None:
            return OnnxGraphs(convert(detect, example, DETECT_INPUTS, BOX_OUTPUTS), None)
        whole = convert(detect, example, DETECT_INPUTS, DETECT_OUTPUTS)
        chosen = masks_example(detect(*example))
        return OnnxGraphs(whole, convert(MasksGraph(model), chosen, MASKS_INPUTS, MASKS_OUTPUTS))


def _open_sizes(name: str) -> dict[int, Any]:
    """Which sizes of an input vary: height and width, images in detect, queries in masks."""
    auto = torch.export.Dim.AUTO
    match name:
        case "images" | "padding":
            return {0: auto, 1: auto, 2: auto}
        case "query":
            return {0: auto}
        case "states":
            return {}
        case "small_padding":
            return {1: auto, 2: auto}
        case _:
            return {2: auto, 3: auto}


@contextmanager
def _recording() -> Generator[None]:
    """Keep the recorders' talk about themselves away from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
