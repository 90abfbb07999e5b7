"""The checkpoint of this package: a folder with `config.json` and `model.safetensors`.

`config.json` says everything that is needed to build the model, feed it and read its answers; the
weights are plain tensors under the model's own names. Loading runs no code from the file.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from panodetr.checkpoints.names import preview
from panodetr.checkpoints.spec import ModelSpec
from panodetr.checkpoints.spec_json import spec_from_json, spec_to_json
from panodetr.checkpoints.weights import SAFETENSORS, Shapes, check_shapes, open_weights
from panodetr.errors import CheckpointError
from panodetr.files import atomic_folder, write_bytes, write_json

CONFIG_FILE = "config.json"
WEIGHTS_FILE = SAFETENSORS
METRICS_FILE = "metrics.json"  # may lie beside them: what the model reached, and on what

_OWN_FILES = {CONFIG_FILE, WEIGHTS_FILE, METRICS_FILE}


def save_checkpoint(
    folder: Path,
    spec: ModelSpec,
    state: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint whole or not at all, over an older one where there is one.

    Args:
        folder: where; made with the folders above it.
        spec: what the model says of itself.
        state: the model's state dict, on any device.
        dtype: how floating-point matrices and kernels are stored; `torch.float16` halves the file.
            Vectors (biases, norms and their statistics, which can leave float16's range) are always
            stored as float32, and integers as they are.

    Raises:
        CheckpointError: a weight is not finite, or the folder holds other files, which would be
            lost.
        PanodetrError: the system refused to write.
    """
    refuse_other_files(folder, _OWN_FILES)
    tensors = {key: stored_tensor(key, tensor, dtype) for key, tensor in state.items()}
    with atomic_folder(folder) as temporary:
        write_json(temporary / CONFIG_FILE, spec_to_json(spec))
        write_bytes(temporary / WEIGHTS_FILE, save(tensors))


def read_spec(folder: Path) -> ModelSpec:
    """Read a checkpoint's `config.json`.

    Raises:
        CheckpointError: the file is missing, is not a panodetr configuration, is of a newer
            version, or lacks a key or holds an unknown or meaningless one, which is named.
    """
    file = folder / CONFIG_FILE
    value = read_json(file)
    try:
        return spec_from_json(value)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error


def load_weights(folder: Path, expected: Shapes) -> dict[str, torch.Tensor]:
    """Read a checkpoint's weights: CPU tensors, floating-point ones as float32.

    Args:
        folder: the checkpoint.
        expected: the shape of every tensor that the model has, by name.

    Raises:
        CheckpointError: the file is missing, truncated or damaged, or its tensors are not the
            expected ones.
    """
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise CheckpointError(_absent(file))
    weights = open_weights(file)
    check_shapes(file, weights.shapes, expected)
    return {key: t.float() if t.is_floating_point() else t for key, t in weights.read().items()}


def refuse_other_files(folder: Path, own: Collection[str]) -> None:
    """Keep a folder of other things from being replaced by a checkpoint.

    Raises:
        CheckpointError: the folder holds files of other names than `own`.
    """
    if folder.is_dir():
        others = sorted(entry.name for entry in folder.iterdir() if entry.name not in own)
        if others:
            raise CheckpointError(
                f"{folder} holds files that are no part of a checkpoint ({preview(others)}); "
                "choose another folder"
            )


def stored_tensor(key: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Give a tensor the form that it has in a file: on the CPU, contiguous, sharing nothing.

    Raises:
        CheckpointError: it is not finite.
    """
    if not tensor.is_floating_point():
        return tensor.detach().cpu().clone().contiguous()
    kind = dtype if tensor.ndim > 1 else torch.float32
    # A copy of its own: safetensors refuses tensors that share memory.
    copy = tensor.detach().to("cpu", kind, copy=True).contiguous()
    if not copy.isfinite().all():
        raise CheckpointError(
            f"weight {key!r} is not finite as {kind}; the checkpoint is not saved"
        )
    return copy


def read_json(file: Path) -> object:
    """Parse a JSON file.

    Raises:
        CheckpointError: there is none, or it is not JSON.
    """
    try:
        return json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(_absent(file)) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error


def _absent(file: Path) -> str:
    """Say that a checkpoint's file is not there."""
    return f"{file} is not there; a checkpoint is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
