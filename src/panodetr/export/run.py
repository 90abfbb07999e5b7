"""From a model to a file for another runtime."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from panodetr.checkpoints.load import load_checkpoint
from panodetr.errors import UsageError
from panodetr.export.int8 import quantize
from panodetr.export.verify import check_equal, measure_agreement
from panodetr.images.read import find_images
from panodetr.images.views import read_photo, view_batches
from panodetr.runtimes.exported import ExportFormat, ExportInfo, run_graphs, write_exported
from panodetr.runtimes.lower import OnnxGraphs, OpenVinoGraphs, to_onnx, to_openvino
from panodetr.runtimes.openvino import import_openvino
from panodetr.runtimes.torch import TorchRuntime

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.model.detr import Detr

CALIBRATION_VIEWS = 64
"""Photos, or tiles of them, that activations are measured on; more hardly change their ranges."""

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
        calibration: a folder of photos; the file is quantised to int8 with them. None exports
            float32.

    Returns:
        What the file says of itself, with how far it is from the model.

    Raises:
        CheckpointError: the model cannot be loaded, or what was exported differs from it.
        ImageError: there is no photo to calibrate with, or one cannot be read.
        UsageError: int8 was asked for ONNX.
        MissingExtra: a library is not installed.
        PanodetrError: the file cannot be written.
    """
    if calibration is not None and format != "openvino":
        raise UsageError(f"int8 is for --format openvino; format is {format}")
    spec, network = load_checkpoint(model)
    digest = weights_digest(network)
    batches = None if calibration is None else calibration_batches(calibration, spec)
    if format == "onnx":
        files = _onnx_files(to_onnx(network, spec.preprocessing))
    else:
        models = to_openvino(network, spec.preprocessing)
        files = _openvino_files(models if batches is None else quantize(models, spec, batches))
    exported = run_graphs(format, spec, files)
    reference = TorchRuntime(network, spec.preprocessing, torch.device("cpu"), plain=True)
    if batches is None:
        checked = vars(check_equal(reference, exported, masks=spec.architecture.masks))
    else:
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
    """Views (1, H, W, 3) of a folder's photos as the model is fed them, spread over the photos.

    Raises:
        ImageError: there is no photo, or one cannot be read.
    """
    files = find_images([folder])
    step = max(1, len(files) // CALIBRATION_VIEWS)
    photos = [read_photo(path, spec.preprocessing) for path in files[::step][:CALIBRATION_VIEWS]]
    views = [view for batch in view_batches(photos, spec.preprocessing) for view in batch]
    chosen = np.linspace(0, len(views) - 1, min(len(views), CALIBRATION_VIEWS)).round().astype(int)
    return [views[index].pixels[None] for index in chosen]


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
    library = import_openvino()
    files: dict[str, bytes] = {}
    with TemporaryDirectory() as folder:
        for name, graph in (("detect", graphs.detect), ("masks", graphs.masks)):
            if graph is not None:
                xml = Path(folder, f"{name}.xml")
                library.serialize(graph, xml)
                for path in (xml, xml.with_suffix(".bin")):
                    files[path.name] = path.read_bytes()
    return files


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
