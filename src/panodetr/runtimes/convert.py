"""From a model to graphs of other libraries; torch writes them, and is not needed to run them.

`DetectGraph` runs once a batch. `Network.mask_part` runs for the queries that are kept, on what the
first has computed for all of them together. Two graphs and not one: how many queries are kept is
only known in between, and where none is, the second one need not run at all. Both are recorded in
one run of the model; the number of images, their sizes and the number of masks stay open.

Letters: B images, H and W their padded size, Q queries, C classes, D channels, N masks, A attention
heads, h and w the feature map's height and width.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from panodetr.errors import import_extra
from panodetr.images.preprocess import Preprocessing
from panodetr.model.detr import Detr
from panodetr.model.network import Network
from panodetr.runtimes.graphs import (
    BOX_OUTPUTS,
    DETECT_INPUTS,
    MASKS_OUTPUTS,
    QUERY,
    GraphRuntime,
    compile_openvino,
    load_onnx,
)
from panodetr.runtimes.torch import normalize_images

if TYPE_CHECKING:
    import openvino

_Graph: TypeAlias = tuple[str, nn.Module, tuple[Tensor, ...], Sequence[str], Sequence[str]]
"""What is recorded: its name, a part of the model, an example, and the names of its inputs and
outputs."""


class DetectGraph(nn.Module):
    """Images to classes and boxes, and to what masks are made from."""

    def __init__(self, model: Network, rule: Preprocessing) -> None:
        super().__init__()
        self.model, self.rule = model, rule
        self.eval()

    def forward(self, images: Tensor, padding: Tensor) -> tuple[Tensor, ...]:
        """Detect, in the order that the graph of a model names its outputs in.

        Args:
            images: (B, H, W, 3) uint8, RGB.
            padding: (B, H, W) bool, True beside the images.

        Returns:
            Logits (B, Q, C + 1), boxes (B, Q, 4) if the model gives any, and if it has masks
            `Network.sources`.
        """
        pixels = normalize_images(images, padding, self.rule)
        found = self.model.detect(pixels, padding)
        boxes = () if found.boxes is None else (found.boxes,)
        sources = self.model.sources(found) if self.model.config.masks else ()
        return found.logits, *boxes, *sources


def require(runtime: Literal["onnx", "openvino"]) -> None:
    """Make sure of what conversion and the converted model need, before either takes its time.

    Raises:
        MissingExtra: a library is not installed.
    """
    # torch's exporter would ask for onnxscript, with a traceback
    for library in ("openvino",) if runtime == "openvino" else ("onnxruntime", "onnxscript"):
        import_extra(library)


def convert(
    model: Network, rule: Preprocessing, runtime: Literal["onnx", "openvino"]
) -> GraphRuntime:
    """Convert a model and make it ready to run; `require` says beforehand whether that can be."""
    if runtime == "onnx":
        return GraphRuntime(*map(load_onnx, to_onnx(model, rule).values()))
    return GraphRuntime(*map(compile_openvino, to_openvino(model, rule).values()))


def to_openvino(model: Network, rule: Preprocessing) -> dict[str, openvino.Model]:
    """Convert a model, on the CPU and in float32, to `detect` and, where it has masks, `masks`."""
    # `openvino.convert_model` does the same, and reports its use to the maker.
    import_extra("openvino")
    from openvino.frontend.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    models: dict[str, openvino.Model] = {}
    with _recording():
        for name, graph, example, inputs, outputs in _graphs(model, rule):
            recorded = TorchScriptPythonDecoder(graph, example_input=example)
            converted = frontend.convert(frontend.load(recorded))
            ports = [*converted.inputs, *converted.outputs]
            for port, array in zip(ports, [*inputs, *outputs], strict=True):
                port.get_tensor().set_names({array})
            models[name] = converted
    return models


def to_onnx(model: Network, rule: Preprocessing) -> dict[str, bytes]:
    """Convert a model to ONNX's files, as `to_openvino` does."""
    files: dict[str, bytes] = {}
    with _recording(), _HeadByHead() if isinstance(model, Detr) else nullcontext():
        for name, graph, example, inputs, outputs in _graphs(model, rule):
            program = torch.onnx.export(
                graph, example, dynamo=True, external_data=False, verbose=False, opset_version=18,
                input_names=inputs, output_names=outputs,
                dynamic_shapes=tuple(_OPEN_SIZES[array] for array in inputs),
            )  # fmt: skip
            assert program is not None
            file = io.BytesIO()
            program.save(cast("Any", file))
            files[name] = file.getvalue()
    return files


class _HeadByHead(TorchFunctionMode):
    """Attends one head at a time: ONNX Runtime keeps several tables of queries by keys at once.

    An image of 4 megapixels took four times as much with the tables of all heads
    (`tests/runtimes/test_process.py`).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, of attention with one head (B, 1, N, D) after another."""
        options = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **options)
        *each, readable, dropout = args
        heads = zip(*(part.split(1, dim=1) for part in each), strict=True)
        return torch.cat([func(*head, readable, dropout, **options) for head in heads], dim=1)


def _graphs(model: Network, rule: Preprocessing) -> list[_Graph]:
    images = torch.arange(2 * 160 * 192 * 3).view(2, 160, 192, 3).to(torch.uint8)
    padding = torch.zeros(2, 160, 192, dtype=torch.bool)
    padding[1, 100:] = True  # two images of different sizes
    detect = DetectGraph(model, rule)
    found = detect(images, padding)
    sources = model.SOURCES if model.config.masks else ()
    given = len(found) - len(sources)  # logits, and boxes if there are any
    graphs: list[_Graph] = [
        ("detect", detect, (images, padding), DETECT_INPUTS, (*BOX_OUTPUTS[:given], *sources))
    ]
    if sources:
        queries = torch.tensor([1, 0, 2]) % found[0].shape[1]
        chosen = *(array[:1].contiguous() for array in found[given:]), queries  # of one image
        part = model.mask_part().eval()
        graphs.append(("masks", part, chosen, (*sources, QUERY), MASKS_OUTPUTS))
    return graphs


_AUTO = torch.export.Dim.AUTO
_OPEN_SIZES = {
    "images": {0: _AUTO, 1: _AUTO, 2: _AUTO},
    "padding": {0: _AUTO, 1: _AUTO, 2: _AUTO},
    "states": {},
    "embeddings": {},
    "small_padding": {1: _AUTO, 2: _AUTO},
    "query": {0: _AUTO},
    **{
        name: {2: _AUTO, 3: _AUTO}
        for name in ("memory", "coarse", "fine", "finer", "finest", "patches")
    },
}
"""Which sizes of an input vary: height and width, images in detect, queries in masks."""


@contextmanager
def _recording() -> Generator[None]:
    """Keep the recorders' talk about themselves away from the user."""
    before = logging.root.manager.disable
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def weights_digest(model: Network) -> str:
    """Give the SHA-256 of a model's weights under their names, as `ExportInfo.weights` has it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
