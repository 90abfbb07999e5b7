"""An exported model: one file that holds graphs and everything that is needed to use them.

It is a ZIP archive, not compressed, with `model.json` (what the model is, how photos are fed, the
arrays' names, and how it was checked) and the graphs: `detect.onnx` and `masks.onnx`, or
`detect.xml`, `detect.bin`, `masks.xml` and `masks.bin`. No torch in here, and none is needed.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from panodetr.checkpoints.spec_json import spec_from_json, spec_to_json
from panodetr.errors import CheckpointError
from panodetr.files import written_whole
from panodetr.runtimes.graph_runtime import DETECT_OUTPUTS, MASKS_OUTPUTS, GraphRuntime
from panodetr.runtimes.onnx import load_onnx
from panodetr.runtimes.openvino import compile_openvino, read_openvino

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.runtimes.graph_runtime import Graph

FORMAT = "panodetr-exported"
FORMAT_VERSION = 1
DESCRIPTION = "model.json"

ExportFormat = Literal["onnx", "openvino"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """What an exported file says of itself.

    Attributes:
        spec: classes, resize rule, thresholds.
        format: what its graphs are for.
        precision: "float32" or "int8".
        weights: SHA-256 of the weights that it was made from, under their names.
        versions: of the libraries that made it.
        checked: how far it was from the model when it was written.
    """

    spec: ModelSpec
    format: ExportFormat
    precision: str
    weights: str
    versions: Mapping[str, str]
    checked: Mapping[str, float]


def write_exported(path: Path, info: ExportInfo, graphs: Mapping[str, bytes]) -> None:
    """Write a file whole or not at all; `graphs` by their names in it.

    Raises:
        PanodetrError: the system refused to write.
    """
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "graphs": info.format,
        "precision": info.precision,
        "weights_sha256": info.weights,
        "versions": dict(info.versions),
        "checked": dict(info.checked),
        "files_sha256": {n: hashlib.sha256(data).hexdigest() for n, data in graphs.items()},
        "model": spec_to_json(info.spec),
    }
    with written_whole(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(DESCRIPTION, json.dumps(description, indent=2))
        for name, data in graphs.items():
            archive.writestr(name, data)


def is_exported(path: Path) -> bool:
    """Tell an exported model from other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            return DESCRIPTION in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def read_exported(path: Path) -> tuple[ExportInfo, GraphRuntime]:
    """Read a file and make it ready to run.

    Raises:
        CheckpointError: the file is damaged, or of a newer version.
        MissingExtra: what its graphs are for is not installed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        described = cast("dict[str, Any]", json.loads(files[DESCRIPTION]))
        info = _read_info(described)
        for name, digest in described["files_sha256"].items():
            if hashlib.sha256(files[name]).hexdigest() != digest:
                raise ValueError(f"{name} is not what was written")
    except (OSError, KeyError, TypeError, AttributeError, ValueError, zipfile.BadZipFile) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{path} is damaged or no exported model: {reason}; export it again"
        ) from error
    return info, run_graphs(info.format, files)


def run_graphs(format: ExportFormat, files: Mapping[str, bytes]) -> GraphRuntime:
    """Make graphs, by their names in an exported file, ready to run.

    Raises:
        MissingExtra: what they are for is not installed.
    """
    if format == "onnx":
        masks = load_onnx(files["masks.onnx"]) if "masks.onnx" in files else None
        return GraphRuntime(load_onnx(files["detect.onnx"]), masks)
    masks = _openvino(files, "masks", MASKS_OUTPUTS) if "masks.xml" in files else None
    return GraphRuntime(_openvino(files, "detect", DETECT_OUTPUTS), masks)


def _openvino(files: Mapping[str, bytes], name: str, outputs: tuple[str, ...]) -> Graph:
    return compile_openvino(read_openvino(files[f"{name}.xml"], files[f"{name}.bin"]), outputs)


def _read_info(described: dict[str, Any]) -> ExportInfo:
    """Read the description.

    Raises:
        KeyError: a field is missing.
        ValueError: a field has no meaning.
    """
    if described["format"] != FORMAT:
        raise ValueError(f"its format is {described['format']!r}, not {FORMAT!r}")
    if described["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"it was made by a newer panodetr (format_version {described['format_version']}, this "
            f"one reads {FORMAT_VERSION}); upgrade panodetr"
        )
    if described["graphs"] not in EXPORT_FORMATS:
        raise ValueError(f"graphs are for {described['graphs']!r}")
    return ExportInfo(
        spec=spec_from_json(described["model"]),
        format=described["graphs"],
        precision=str(described["precision"]),
        weights=str(described["weights_sha256"]),
        versions=dict(described["versions"]),
        checked=dict(described["checked"]),
    )
