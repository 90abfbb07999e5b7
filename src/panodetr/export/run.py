"""From a model to a file for another runtime."""

from __future__ import annotations

import hashlib
import logging
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from panodetr.checkpoints.load import load_checkpoint
from panodetr.errors import PanodetrError, UsageError
from panodetr.export.int8 import import_nncf, quantize
from panodetr.export.verify import check_equal, check_sound, measure_agreement
from panodetr.files import check_writable
from panodetr.images.read import find_images, read_size
from panodetr.images.views import cut_view, lay_tiles, read_tiled
from panodetr.runtimes.convert import (
    OnnxGraphs,
    OpenVinoGraphs,
    require,
    run_openvino,
    to_onnx,
    to_openvino,
)
from panodetr.runtimes.exported import (
    ExportFormat,
    ExportInfo,
    is_exported,
    run_graphs,
    write_exported,
)
from panodetr.runtimes.openvino import import_openvino
from panodetr.runtimes.torch import TorchRuntime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.images.preprocess import Preprocessing
    from panodetr.model.detr import Detr
    from panodetr.results.types import Box

CALIBRATION_VIEWS = 64
"""Images, or tiles of them, that activations are measured on; more hardly change their ranges."""

FEW_VIEWS = 16
"""With less, one odd image decides what an activation's range is."""

Item = TypeVar("Item")

_LOG = logging.getLogger(__name__)

LIBRARIES = ("panodetr", "torch", "openvino", "nncf", "onnx", "onnxscript", "onnxruntime")


def export(
    model: str | Path,
    out: Path,
    *,
    format: ExportFormat,
    calibration: Path | None = None,
) -> ExportInfo:
    """Write a model as one file that `panodetr.load` takes, checked against the model.

    Args:
        model: whatever `panodetr.load` takes, but an exported file.
        out: the file.
        format: the runtime that it is for.
        calibration: a folder of images; the file is quantised to int8 with them. None exports
            float32.

    Returns:
        What the file says of itself, with how far it is from the model.

    Raises:
        CheckpointError: the model cannot be loaded, or what was exported differs from it.
        ImageError: there is no image to calibrate with, or one cannot be read.
        UsageError: int8 was asked for ONNX, or the model is an exported file.
        MissingExtra: a library is not installed.
        PanodetrError: the file cannot be written.
    """
    if calibration is not None and format != "openvino":
        raise UsageError(f"int8 is for --format openvino; format is {format}")
    if Path(model).is_file() and is_exported(Path(model)):
        raise UsageError(f"{model} is exported already; export the checkpoint it was made from")
    # What would be refused at the end is refused before the work.
    require(format)
    if calibration is not None:
        import_nncf()
    check_writable(out)
    spec, network = load_checkpoint(model)
    digest = weights_digest(network)
    batches = None if calibration is None else calibration_batches(calibration, spec)
    masks = spec.architecture.masks
    reference = TorchRuntime(network, spec.preprocessing, torch.device("cpu"), plain=True)
    if format == "onnx":
        files = _onnx_files(to_onnx(network, spec.preprocessing))
    else:
        graphs = to_openvino(network, spec.preprocessing)
        if batches is not None:
            check_equal(reference, run_openvino(graphs), masks=masks)
            graphs = quantize(graphs, spec, batches)
        files = _openvino_files(graphs)
    exported = run_graphs(format, spec, files)
    if batches is None:
        checked = vars(check_equal(reference, exported, masks=masks))
    else:
        check_sound(reference, exported, masks=masks)
        checked = vars(measure_agreement(reference, exported, spec, batches))
    info = ExportInfo(
        spec=spec,
        format=format,
        precision="float32" if batches is None else "int8",
        weights=digest,
        versions={name: found for name in LIBRARIES if (found := _version(name))},
        checked=checked,
    )
    write_exported(out, info, files)
    return info


def calibration_batches(folder: Path, spec: ModelSpec) -> list[NDArray[np.uint8]]:
    """Views (1, H, W, 3) of a folder's images as the model is fed them, spread over the images.

    Where there are few of them, a warning says so. Which they are is chosen by the sizes in the
    files' headers, and one image at a time is decoded.

    Raises:
        ImageError: there is no image, or one cannot be read.
    """
    files = find_images([folder])
    rule = spec.preprocessing
    views = [(path, box) for path in _spread(files) for box in lay_tiles(read_size(path), rule)]
    if len(views) < FEW_VIEWS:
        _LOG.warning(
            "%s has %d images (or tiles of images) to calibrate with, and int8 may be far from the "
            "model: give %d or more, as different as those that it will see",
            folder, len(views), FEW_VIEWS,
        )  # fmt: skip
    by_image = groupby(_spread(views), key=itemgetter(0))
    return [batch for path, own in by_image for batch in _cut(path, [box for _, box in own], rule)]


def _spread(items: Sequence[Item]) -> list[Item]:
    """Pick as many as are calibrated with, evenly from the first to the last."""
    count = min(len(items), CALIBRATION_VIEWS)
    return [items[index] for index in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _cut(path: Path, boxes: list[Box], rule: Preprocessing) -> list[NDArray[np.uint8]]:
    """Give some of an image's views, each (1, H, W, 3); the image itself is not kept."""
    image = read_tiled(path, rule)
    return [np.stack([cut_view(image, box, rule).pixels]) for box in boxes]


def weights_digest(model: Detr) -> str:
    """SHA-256 of a model's weights under their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _onnx_files(graphs: OnnxGraphs) -> dict[str, bytes]:
    masks = {} if graphs.masks is None else {"masks.onnx": graphs.masks}
    return {"detect.onnx": graphs.detect} | masks


def _openvino_files(graphs: OpenVinoGraphs) -> dict[str, bytes]:
    """Let OpenVINO write its files, which it does only to a disk, and read them.

    Raises:
        PanodetrError: the folder for temporary files took no more.
    """
    library = import_openvino()
    files: dict[str, bytes] = {}
    try:
        with TemporaryDirectory() as folder:
            for name, graph in (("detect", graphs.detect), ("masks", graphs.masks)):
                if graph is not None:
                    xml = Path(folder, f"{name}.xml")
                    library.serialize(graph, xml)
                    for path in (xml, xml.with_suffix(".bin")):
                        files[path.name] = path.read_bytes()
    except (OSError, RuntimeError) as error:
        raise PanodetrError(
            f"cannot write the graphs to {gettempdir()}: {' '.join(str(error).split())}; make room "
            "there, or set TMPDIR to a folder with more"
        ) from error
    return files


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
