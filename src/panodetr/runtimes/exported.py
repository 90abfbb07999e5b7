"""An exported model: one file that holds graphs and everything that is needed to use them.

It is a ZIP archive, not compressed, with `model.json` (what the model is, how images are fed, the
arrays' names, and how it was checked) and the graphs: `detect.onnx` and `masks.onnx`, or
`detect.xml`, `detect.bin`, `masks.xml` and `masks.bin`. No torch in here, and none is needed.
"""

from __future__ import annotations

import glob
import json
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import msgspec

from panodetr.checkpoints.spec import ModelSpec, spec_from_json
from panodetr.errors import CheckpointError, MissingExtra, UsageError, reason_of
from panodetr.files import atomic_write
from panodetr.model.config import EomtConfig
from panodetr.runtimes.graphs import (
    LONGEST_REASON,
    Graph,
    GraphRuntime,
    compile_openvino,
    load_onnx,
    read_openvino,
)
from panodetr.validation import MOST_OF_CHECKPOINT, check, decode_json, is_bomb

FORMAT_VERSION = 1
DESCRIPTION = "model.json"

ExportFormat = Literal["onnx", "openvino"]
ExportPrecision = Literal["float32", "int8"]


class ExportInfo(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="format",
    tag="panodetr-exported",
    rename={"format": "graphs", "weights": "weights_sha256", "files": "files_sha256"},
):
    """What an exported file says of itself, in its `model.json`.

    Attributes:
        format_version: of the description.
        format: what its graphs are for.
        precision: "float32" or "int8".
        weights: SHA-256 of the weights that it was made from, under their names.
        versions: of the libraries that made it.
        checked: how far it was from the model when it was written.
        files: SHA-256 of each of its other files.
        model: the model's specification as JSON.
    """

    format_version: int
    format: ExportFormat
    precision: ExportPrecision
    weights: str
    versions: dict[str, str]
    checked: dict[str, float]
    files: dict[str, str]
    model: dict[str, Any]

    @property
    def spec(self) -> ModelSpec:
        """Classes, resize rule, thresholds.

        Raises:
            CheckpointError: `model` is no specification.
        """
        return spec_from_json(self.model)


def write_exported(path: Path, info: ExportInfo, graphs: Mapping[str, bytes]) -> None:
    """Write a file whole or not at all; `graphs` by their names in it.

    Raises:
        PanodetrError: the system refused to write.
    """
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(DESCRIPTION, json.dumps(msgspec.to_builtins(info), indent=2))
        for name, data in graphs.items():
            archive.writestr(name, data)


def is_exported(path: Path) -> bool:
    """Tell an exported model from other files, also one that was cut off or is damaged.

    It begins with its description; one that was packed anew has it somewhere in its list.
    """
    try:
        if not path.stat().st_size:  # a pipe would never end
            return False
        with path.open("rb") as file:
            start = file.read(30 + len(DESCRIPTION))  # an entry's name is 30 bytes behind its start
        if start.startswith(b"PK\x03\x04") and start.endswith(DESCRIPTION.encode()):
            return True
        with zipfile.ZipFile(path) as archive:
            return DESCRIPTION in archive.namelist()
    except Exception:  # a damaged archive raises whatever its numbers run into
        return False


def read_exported(path: Path) -> tuple[ExportInfo, GraphRuntime]:
    """Read a file and make it ready to run.

    Raises:
        CheckpointError: the file is damaged, or of a newer version.
        MissingExtra: what its graphs are for is not installed.
        UsageError: this process was forked after OpenVINO had been loaded.
    """
    try:
        files: dict[str, bytes] = {}
        with zipfile.ZipFile(path) as archive:
            info = _read_description(archive)
            for entry in archive.infolist():
                if entry.filename != DESCRIPTION:
                    files[entry.filename] = _unpack(archive, entry)
        for name, digest in info.files.items():
            if sha256(files[name]).hexdigest() != digest:
                raise ValueError(f"{name} is not what was written")
        if extra := files.keys() - info.files.keys():
            raise ValueError(f"{', '.join(sorted(extra))} is not in its list of files")
        return info, run_graphs(info.format, info.spec, files, info.precision)
    except (MissingExtra, UsageError):
        raise
    except Exception as error:  # as above
        reason = f"{error} is missing" if isinstance(error, KeyError) else reason_of(error)
        raise CheckpointError(
            f"{path} is damaged or no exported model: {reason[:LONGEST_REASON]}; export it again"
        ) from error


def find_exported(place: Path, weights: str) -> Path | None:
    """Find a float32 file that was exported from a model and lies beside it, and can run here.

    Args:
        place: the checkpoint's folder, or its file. Files count that lie in the folder, or beside
            it and begin with its name, without a suffix.
        weights: of the model, as `ExportInfo.weights`.
    """
    found: dict[str, Path] = {}
    files = list(place.parent.glob(f"{glob.escape(place.stem)}*"))
    for path in sorted([*files, *(place.iterdir() if place.is_dir() else ())]):
        if path.is_file() and is_exported(path):
            with suppress(ValueError, KeyError, OSError, zipfile.BadZipFile):  # damaged
                with zipfile.ZipFile(path) as archive:
                    info = _read_description(archive)
                library = {"onnx": "onnxruntime", "openvino": "openvino"}[info.format]
                same = (info.precision, info.weights) == ("float32", weights)
                if same and find_spec(library) is not None:
                    found.setdefault(info.format, path)
    return found.get("openvino") or found.get("onnx")  # the quicker one first


def run_graphs(
    format: ExportFormat, spec: ModelSpec, files: Mapping[str, bytes], precision: ExportPrecision
) -> GraphRuntime:
    """Make a model's graphs ready to run.

    Args:
        format: what they are for.
        spec: of the model.
        files: by their names in an exported file.
        precision: of the graphs. Beside int8 the rest of an EoMT is computed in bfloat16, where
            the machine is faster in that: much of its attention is no int8 (decision 077).

    Raises:
        KeyError: a file is missing.
        CheckpointError: a library does not take its graph.
        ValueError: a graph is not of such a model.
        MissingExtra: what they are for is not installed.
    """
    shape = spec.architecture
    half = precision == "int8" and isinstance(shape, EomtConfig)
    graphs: list[Graph] = []
    for part in ("detect", "masks") if shape.masks else ("detect",):
        try:
            if format == "onnx":
                graphs.append(load_onnx(files[f"{part}.onnx"]))
            else:
                model = read_openvino(files[f"{part}.xml"], files[f"{part}.bin"])
                graphs.append(compile_openvino(model, half=half))
        except CheckpointError as error:
            raise CheckpointError(f"{part}: {error}") from error
    runtime = GraphRuntime(*graphs)
    *_, queries, scores = graphs[0].outputs["logits"]
    for found, expected, what in (
        (queries, shape.num_queries, "queries"),
        (scores, shape.num_logits, "logits a query"),
    ):
        if found not in (None, expected):
            raise ValueError(f"its graphs have {found} {what}; {DESCRIPTION} says {expected}")
    return runtime


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Read a file of an archive, if its size is plausible."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is compressed by method {entry.compress_type}")
    if is_bomb(entry.compress_size, entry.file_size):
        raise ValueError(f"{entry.filename} would unpack to {entry.file_size:,} bytes")
    return archive.read(entry)


def _read_description(archive: zipfile.ZipFile) -> ExportInfo:
    entry = archive.NameToInfo[DESCRIPTION]
    if entry.file_size > MOST_OF_CHECKPOINT:
        raise CheckpointError(f"{DESCRIPTION} has {entry.file_size:,} bytes")
    contents = _unpack(archive, entry)
    described = decode_json(contents, dict[str, Any], DESCRIPTION, CheckpointError)
    version = described.get("format_version")
    if version not in (None, FORMAT_VERSION):
        raise CheckpointError(
            f"format_version is {version!r}; expected {FORMAT_VERSION}; upgrade panodetr if it is "
            "newer"
        )
    return check(described, ExportInfo, DESCRIPTION, CheckpointError)
