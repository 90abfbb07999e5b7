"""The specification in a folder: of this package, or of a model of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from panodetr.checkpoints.eomt import read_dinov2, read_eomt
from panodetr.checkpoints.huggingface import read_huggingface
from panodetr.checkpoints.spec import (
    CONFIG_FILE,
    FORMAT,
    PREPROCESSOR_FILE,
    SAFETENSORS,
    ModelSpec,
    spec_from_json,
)
from panodetr.errors import CheckpointError
from panodetr.validation import read_json

_READERS = {
    "detr": read_huggingface,
    "table-transformer": read_huggingface,
    "eomt": read_eomt,
    "dinov2_with_registers": read_dinov2,
}
"""By what transformers calls a kind of model."""


def read_folder(folder: Path, name: str) -> ModelSpec:
    """Read the specification in a folder of this package or of transformers.

    Args:
        folder: has a `config.json`.
        name: what to call a model of transformers, which has no name of its own.

    Raises:
        CheckpointError: there is no configuration, it is another model's, or it is broken.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{file} is not there; a checkpoint is a folder with {CONFIG_FILE} and {SAFETENSORS}"
        )
    config = read_json(file, dict[str, Any], CheckpointError)
    if config.get("format") == FORMAT:
        return spec_from_json(config, str(file))
    read = _READERS.get(str(config.get("model_type")))
    if read is None:
        raise CheckpointError(
            f"{file} is neither a panodetr configuration nor one of a DETR or EoMT in "
            f"transformers; its model_type is {config.get('model_type')!r}"
        )
    extra = folder / PREPROCESSOR_FILE
    preprocessor = read_json(extra, dict[str, Any], CheckpointError) if extra.is_file() else {}
    try:
        return read(config, preprocessor, name)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
