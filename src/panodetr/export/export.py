"""From a model to a file for another runtime, compared with the model before it is kept.

Letters: B images, H and W their size, Q queries, N masks, h and w a mask's size.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from panodetr.checkpoints.load import load_checkpoint
from panodetr.checkpoints.spec import ModelSpec, spec_to_json
from panodetr.errors import CheckpointError, PanodetrError, UsageError, import_extra, reason_of
from panodetr.export.quantize import calibration_batches, import_nncf, quantize
from panodetr.files import check_writable
from panodetr.results.decode import best_classes, keep_queries, paired_box_iou, paired_mask_iou
from panodetr.runtimes.base import Runtime
from panodetr.runtimes.convert import require, to_onnx, to_openvino, weights_digest
from panodetr.runtimes.exported import (
    FORMAT_VERSION,
    ExportFormat,
    ExportInfo,
    ExportPrecision,
    is_exported,
    run_graphs,
    write_exported,
)
from panodetr.runtimes.graphs import GraphRuntime, compile_openvino
from panodetr.runtimes.torch import TorchRuntime

if TYPE_CHECKING:
    import openvino

TOLERANCE = 1e-4
"""Largest difference of boxes; of logits and masks, times their largest value where that is over
1."""

SIZES = (
    (1, 128, 160, 128, 160),
    (2, 150, 97, 112, 64),
    (3, 64, 64, 48, 42),
    (1, 224, 320, 224, 320),
    (3, 140, 171, 56, 171),
)
"""Images, height and width, and the row and column that padding of the last image begins at: even
and odd, one and several, none of them the recorded one. In the last one padding begins at a row
that the feature map samples: 2/5 of 140 is 56, or just below in another order of operations."""

LEAST_AGREEMENT = 0.5
"""Less of the same classes, boxes or masks than this means that quantising went wrong."""

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
        converted = to_onnx(network, spec.preprocessing)
        files = {f"{name}.onnx": graph for name, graph in converted.items()}
    else:
        graphs = to_openvino(network, spec.preprocessing)
        if batches is not None:
            unquantised = GraphRuntime(*map(compile_openvino, graphs.values()))
            check_outputs(reference, unquantised, masks=masks)
            graphs = quantize(graphs, spec, batches)
        files = _openvino_files(graphs)
    precision: ExportPrecision = "float32" if batches is None else "int8"
    exported = run_graphs(format, spec, files, precision)
    checked = check_outputs(
        reference, exported, masks=masks, tolerance=TOLERANCE if batches is None else inf
    )
    if batches is not None:
        checked = measure_agreement(reference, exported, spec, batches)
    versions: dict[str, str] = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    info = ExportInfo(
        format_version=FORMAT_VERSION,
        format=format,
        precision=precision,
        weights=digest,
        versions=versions,
        checked=checked,
        files={name: sha256(contents).hexdigest() for name, contents in files.items()},
        model=spec_to_json(spec),
    )
    write_exported(out, info, files)
    return info


def _openvino_files(graphs: Mapping[str, openvino.Model]) -> dict[str, bytes]:
    """Let OpenVINO write its files, which it does only to a disk, and read them."""
    library = import_extra("openvino")
    files: dict[str, bytes] = {}
    try:
        with TemporaryDirectory() as folder:
            for name, graph in graphs.items():
                xml = Path(folder, f"{name}.xml")
                library.serialize(graph, xml)
                for path in (xml, xml.with_suffix(".bin")):
                    files[path.name] = path.read_bytes()
    except (OSError, RuntimeError) as error:
        raise PanodetrError(
            f"cannot write the graphs to {gettempdir()}: {reason_of(error)}; make room there, or "
            "set TMPDIR to a folder with more"
        ) from error
    return files


def check_outputs(
    model: Runtime, exported: Runtime, *, masks: bool, tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Compare on noise at several sizes and numbers of images, with padding and without.

    Args:
        model: what is exported.
        exported: the same for another library.
        masks: whether it has a mask head.
        tolerance: the largest difference; infinity, for int8, asks for as many finite numbers.

    Returns:
        The largest difference of logits, boxes and masks, measured as `TOLERANCE` is.

    Raises:
        CheckpointError: they differ by more; the message has the numbers.
    """
    worst = {"logits": 0.0, "boxes": 0.0, "masks": 0.0}
    for size, name, expected, got in _outputs(model, exported, masks=masks):
        if not np.isfinite(got).all():
            raise CheckpointError(
                f"the exported model gives {name} with NaN or infinity at {size}; nothing was "
                "written: give --int8 more images, or leave it out"
            )
        scale = 1.0 if name == "boxes" else max(1.0, float(np.abs(expected).max()))
        difference = float(np.abs(expected - got).max()) / scale
        if difference > tolerance:
            raise CheckpointError(
                f"the exported model is not the model: {name} differ by {difference:.1e} of "
                f"{scale:.1f} at {size}, allowed {tolerance:.0e}; "
                "nothing was written: please report this with the model"
            )
        worst[name] = max(worst[name], difference)
    return worst


def _outputs(
    model: Runtime, exported: Runtime, *, masks: bool
) -> Generator[tuple[str, str, NDArray[np.float32], NDArray[np.float32]]]:
    """Ask both at every size: the size, what the array is, the model's and the other's."""
    for seed, (count, height, width, *edge) in enumerate(SIZES):
        # Coarse noise; the last image is padded from a row and a column on.
        random, coarse = np.random.default_rng(seed), (count, -(-height // 8), -(-width // 8), 3)
        images = random.integers(0, 256, coarse, np.uint8).repeat(8, axis=1).repeat(8, axis=2)
        images = np.ascontiguousarray(images[:, :height, :width])
        padding = np.zeros((count, height, width), np.bool_)
        padding[-1, edge[0] :] = padding[-1, :, edge[1] :] = True
        a, b = model.detect(images, padding), exported.detect(images, padding)
        pairs = {"logits": (a.logits, b.logits)}
        if a.boxes is not None and b.boxes is not None:
            pairs["boxes"] = a.boxes, b.boxes
        if masks:  # two of the first image, one of the last, none of others
            chosen = [np.arange(0)] * count
            chosen[0] = np.arange(2) % a.logits.shape[1]
            chosen[-1] = np.append(chosen[-1], 2 % a.logits.shape[1])
            expected, got = (
                np.concatenate([own.logits() for own in found.masks(chosen)]) for found in (a, b)
            )
            pairs["masks"] = expected, got
        size = f"{count}x{height}x{width}"
        for name, (expected, got) in pairs.items():
            if got.shape != expected.shape:
                raise CheckpointError(
                    f"the exported model is not the model: {name} are {got.shape}, not "
                    f"{expected.shape}, at {size}; nothing was written: please report this"
                )
            if expected.size:
                yield size, name, expected, got


def measure_agreement(
    model: Runtime, exported: Runtime, spec: ModelSpec, batches: Iterable[NDArray[np.uint8]]
) -> dict[str, float]:
    """Compare the answers to images (B, H, W, 3) for the queries that the model would keep.

    Returns:
        `queries`, how many those are; `same_class`, the share of them for which the other's
        likeliest class is the same; `box_iou` and `mask_iou`, the mean overlap of their boxes and
        of their masks, 1 for a model without any.

    Raises:
        CheckpointError: they have little to do with each other.
    """
    same: list[float] = []
    boxes: list[float] = []
    masks: list[float] = []
    for batch in batches:
        a, b = model.detect(batch, None), exported.detect(batch, None)
        kept = [_keep(logits, spec) for logits in a.logits]
        for number, (queries, _, classes) in enumerate(kept):
            same += (b.logits[number, queries].argmax(-1) == classes).astype(float).tolist()
            if a.boxes is not None and b.boxes is not None:
                own, other = a.boxes[number, queries], b.boxes[number, queries]
                boxes += paired_box_iou(own, other).tolist()
        if spec.architecture.masks:
            chosen = [queries for queries, _, _ in kept]
            for own, other in zip(a.masks(chosen), b.masks(chosen), strict=True):
                masks += paired_mask_iou(own.logits(), other.logits()).tolist()
    if not same:
        raise CheckpointError(
            "the model finds nothing in the images to calibrate with, so int8 cannot be judged; "
            "give images of what the model knows"
        )
    found = {
        "same_class": float(np.mean(same)),
        "box_iou": float(np.mean(boxes)) if boxes else 1.0,
        "mask_iou": float(np.mean(masks)) if masks else 1.0,
    }
    if min(found.values()) < LEAST_AGREEMENT:
        raise CheckpointError(
            f"the int8 model is not the model: of {len(same)} segments {found['same_class']:.0%} "
            f"have the same class, boxes overlap by {found['box_iou']:.0%} and masks by "
            f"{found['mask_iou']:.0%}; nothing was written: give more images, or leave out --int8"
        )
    return {"queries": len(same), **found}


def _keep(
    logits: NDArray[np.float32], spec: ModelSpec
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.intp]]:
    """Find what a prediction would hold: queries, scores and classes, each (N,)."""
    shape = spec.architecture
    if shape.num_logits > shape.num_classes:
        return keep_queries(logits, spec.threshold)
    queries, scores, classes = best_classes(logits, apart=True)
    above = scores > spec.threshold
    return queries[above], scores[above], classes[above]
