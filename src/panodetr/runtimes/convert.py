"""From a model to graphs of other libraries; torch writes them, and is not needed to run them.

`DetectGraph` runs once a batch. `MasksGraph` runs for the queries that are kept, on what the first
has computed for all of them together. Two graphs and not one: how many queries are kept is only
known in between, and where none is, the second one need not run at all. Both are recorded in one
run of the model; the number of images, their sizes and the number of masks stay open.

Letters: B images, H and W their padded size, Q queries, C classes, D channels, N masks, A attention
heads, h and w the feature map's height and width.
"""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from panodetr.runtimes.graphs import (
    BOX_OUTPUTS,
    DETECT_INPUTS,
    DETECT_OUTPUTS,
    MASKS_INPUTS,
    MASKS_OUTPUTS,
    import_extra,
    import_onnxruntime,
    import_openvino,
)
from panodetr.runtimes.torch import normalize_images

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    import openvino

    from panodetr.images.preprocess import Preprocessing
    from panodetr.model.detr import Detr


class DetectGraph(nn.Module):
    """Images to classes and boxes, and to what masks are made from."""

    def __init__(self, model: Detr, rule: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.rule = rule
        self.eval()

    def forward(self, images: Tensor, padding: Tensor) -> tuple[Tensor, ...]:
        """Detect, in the order of `panodetr.runtimes.graphs.DETECT_OUTPUTS`.

        Args:
            images: (B, H, W, 3) uint8, RGB.
            padding: (B, H, W) bool, True beside the images.

        Returns:
            Logits (B, Q, C + 1) and boxes (B, Q, 4); of a model with a mask head also the queries'
            states (B, Q, D), memory (B, D, h, w), its padding (B, h, w), and the four maps of
            `MaskHead.share`.
        """
        pixels = normalize_images(images, padding, self.rule)
        found = self.model.detect(pixels, padding)
        if self.model.mask_head is None:
            return found.logits, found.boxes
        encoded = found.encoded
        assert encoded.padding is not None
        shared = self.model.share(encoded)
        return found.logits, found.boxes, found.states, encoded.memory, encoded.padding, *shared


class MasksGraph(nn.Module):
    """Masks of chosen queries of one image: what they share need not be copied for each of them."""

    def __init__(self, model: Detr) -> None:
        super().__init__()
        assert model.attention_maps is not None
        assert model.mask_head is not None
        self.attention_maps = model.attention_maps
        self.mask_head = model.mask_head
        self.eval()

    def forward(
        self,
        states: Tensor,
        memory: Tensor,
        small_padding: Tensor,
        coarse: Tensor,
        fine: Tensor,
        finer: Tensor,
        finest: Tensor,
        query: Tensor,
    ) -> Tensor:
        """Mask logits (N, h, w) of the queries (N,) int64.

        The other arguments are what the detect graph gave out, of one image, under their names
        there.
        """
        image = torch.zeros_like(query)
        attention = self.attention_maps(states, memory, small_padding, image, query)
        return self.mask_head((coarse, fine, finer, finest), attention, None)


def detect_example() -> tuple[Tensor, Tensor]:
    """Two images of different sizes, to record the detect graph with."""
    images = torch.arange(2 * 160 * 192 * 3).view(2, 160, 192, 3).to(torch.uint8)
    padding = torch.zeros(2, 160, 192, dtype=torch.bool)
    padding[1, 100:] = True
    return images, padding


def masks_example(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Three queries of what the detect graph found in the first image of its example."""
    return *(array[:1] for array in found[2:]), torch.tensor([1, 0, 2]) % found[0].shape[1]


def require(runtime: Literal["onnx", "openvino"]) -> None:
    """Make sure of what conversion and the converted model need, before either takes its time.

    Raises:
        MissingExtra: a library is not installed.
    """
    if runtime == "openvino":
        import_openvino()
        return
    import_onnxruntime()
    # torch's exporter would ask for it, with a traceback
    import_extra("onnxscript", "writing a model for ONNX Runtime", "onnx")


def to_openvino(model: Detr, rule: Preprocessing) -> dict[str, openvino.Model]:
    """Convert a model, on the CPU and in float32, to `detect` and, if it has a mask head, `masks`.

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
        ports = [*converted.inputs, *converted.outputs]
        for port, name in zip(ports, [*inputs, *outputs], strict=True):
            port.get_tensor().set_names({name})
        return converted

    return _convert(model, rule, convert)


def to_onnx(model: Detr, rule: Preprocessing) -> dict[str, bytes]:
    """Convert a model to ONNX's files, as `to_openvino` does.

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

    return _convert(model, rule, convert)


Converted = TypeVar("Converted")


def _convert(
    model: Detr,
    rule: Preprocessing,
    convert: Callable[[nn.Module, tuple[Tensor, ...], Sequence[str], Sequence[str]], Converted],
) -> dict[str, Converted]:
    """Record a model's graphs on an example and convert them, by their names."""
    detect, example = DetectGraph(model, rule), detect_example()
    with _recording():
        if model.mask_head is None:
            return {"detect": convert(detect, example, DETECT_INPUTS, BOX_OUTPUTS)}
        whole = convert(detect, example, DETECT_INPUTS, DETECT_OUTPUTS)
        chosen = masks_example(detect(*example))
        masks = convert(MasksGraph(model), chosen, MASKS_INPUTS, MASKS_OUTPUTS)
        return {"detect": whole, "masks": masks}


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
