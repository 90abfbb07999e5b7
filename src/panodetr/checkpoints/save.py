"""A model into a checkpoint, in this package's format or in others'.

This package's is a folder with `config.json`, which has all that is needed to build the model, feed
it and read its outputs, and `model.safetensors`, plain tensors under the model's own names. Loading
runs no code from it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from safetensors.torch import save

from panodetr.checkpoints.eomt import write_eomt
from panodetr.checkpoints.huggingface import resnet_name, write_huggingface
from panodetr.checkpoints.names import (
    EOMT_ORIGINAL,
    EOMT_TRANSFORMERS,
    FACEBOOK,
    RESNET_4,
    RESNET_5_FILES,
    TIMM_5_FILES,
    State,
    without_counters,
)
from panodetr.checkpoints.spec import (
    CONFIG_FILE,
    METRICS_FILE,
    PREPROCESSOR_FILE,
    SAFETENSORS,
    ModelSpec,
    spec_to_json,
)
from panodetr.errors import CheckpointError, preview
from panodetr.files import atomic_folder, json_bytes, write_bytes
from panodetr.model.config import Architecture, DetrConfig, EomtConfig
from panodetr.model.network import Network

Format: TypeAlias = Literal["panodetr", "huggingface", "facebook"]
FORMATS: tuple[Format, ...] = get_args(Format)
FACEBOOK_FILE = "model.pth"
EOMT_NO_OBJECT = 0.1
"""Weight of "no object" in the loss of the published EoMT models."""


def save_checkpoint(
    folder: Path,
    spec: ModelSpec,
    state: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint of this package, atomically, over an older one where there is one.

    Args:
        folder: where; made with the folders above it.
        spec: the model's specification.
        state: the model's state dict, on any device.
        dtype: how floating-point matrices and kernels are stored; `torch.float16` halves the file.
            Vectors (biases, norms and their statistics, which can leave float16's range) are always
            stored as float32, and integers as they are.

    Raises:
        CheckpointError: a weight is not finite, or the folder holds other files, which would be
            lost.
        PanodetrError: the system refused to write.
    """
    files = {CONFIG_FILE: json_bytes(spec_to_json(spec)), SAFETENSORS: save(_stored(state, dtype))}
    _write_folder(folder, files)


def save_pretrained(
    path: str | Path, spec: ModelSpec, model: Network, *, format: Format = "panodetr"
) -> Path:
    """Write a model, atomically.

    - "panodetr": a folder of this package.
    - "huggingface": a folder that transformers opens with `from_pretrained`, version 4 and 5; a
      dilated backbone (DC5) needs timm there. Batch norms become frozen, as every DETR's there.
    - "facebook": one file under the original's names, of DETR `{"model": state_dict, "args": {…}}`
      and of EoMT `{"state_dict": state_dict}`; names of classes and preprocessing have no place in
      it. A path that does not end in `.pth` is a folder, and the file is `model.pth` in it.

    Returns:
        The folder or the file.

    Raises:
        CheckpointError: the format has no place for this model, a weight is not finite, or a folder
            holds other files.
        PanodetrError: the system refused to write.
    """
    target, state = Path(path), model.state_dict()
    if format == "panodetr":
        save_checkpoint(target, spec, state)
        return target
    try:
        shape = spec.architecture
        for name in ("position_input", "conditional", "sigmoid"):
            if getattr(shape, name, False):
                raise ValueError(f"architecture.{name} is true, which has no place there")
        write = _save_huggingface if format == "huggingface" else _save_facebook
        return write(target, spec, without_counters(state))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{spec.name} cannot be saved as {format}: {error}") from error


def _save_huggingface(folder: Path, spec: ModelSpec, state: State) -> Path:
    shape = spec.architecture
    if isinstance(shape, DetrConfig):
        config, preprocessor = write_huggingface(spec)
        table = TIMM_5_FILES if shape.backbone.dilate_last else RESNET_5_FILES
        if shape.pre_norm:
            table = RESNET_4  # version 5 kept the old places in the Table Transformer
        named = table.from_ours(state)
    else:
        config, preprocessor = write_eomt(spec)
        named = EOMT_TRANSFORMERS.from_ours(state) | _eomt_constants(shape)
    files = {
        CONFIG_FILE: json_bytes(config),
        PREPROCESSOR_FILE: json_bytes(preprocessor),
        SAFETENSORS: save(_stored(named), metadata={"format": "pt"}),
    }
    _write_folder(folder, files)
    return folder


def _save_facebook(path: Path, spec: ModelSpec, state: State) -> Path:
    shape = spec.architecture
    if not isinstance(shape, DetrConfig):
        named = EOMT_ORIGINAL.from_ours(state) | _eomt_constants(shape)
        return _save_file(path, {"state_dict": _stored(named)})
    usual = DetrConfig(num_classes=1)
    for name in ("normed_states", "activation", "decoder_heads", "decoder_ffn_dim"):
        if (value := getattr(shape, name)) != getattr(usual, name):
            raise ValueError(f"architecture.{name} is {value!r}, which has no place there")
    # Plain values, where the original keeps a Namespace: any `torch.load` accepts them.
    arguments = {
        "backbone": resnet_name(shape.backbone),
        "dilation": shape.backbone.dilate_last,
        "nheads": shape.heads,
        "masks": shape.masks,
        "pre_norm": shape.pre_norm,
    }
    return _save_file(path, {"model": _stored(FACEBOOK.from_ours(state)), "args": arguments})


def _eomt_constants(shape: Architecture) -> State:
    """What both transformers and the original keep beside the weights, under their names.

    No query's attention is masked at inference: without these zeros it would be there.
    """
    assert isinstance(shape, EomtConfig)
    weights = torch.ones(shape.num_classes + 1)
    weights[-1] = EOMT_NO_OBJECT
    return {
        "attn_mask_probs": torch.zeros(shape.query_blocks),
        "criterion.empty_weight": weights,
    }


def _save_file(path: Path, whole: Mapping[str, object]) -> Path:
    file = path if path.suffix == ".pth" else path / FACEBOOK_FILE
    contents = io.BytesIO()  # where a disk is full, torch raises what is no OSError
    torch.save(whole, contents)
    write_bytes(file, contents.getvalue())
    return file


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a checkpoint's files in place of an older one's, but of no others."""
    if folder.is_dir():
        names = sorted(entry.name for entry in folder.iterdir())
        others = [name for name in names if name not in (METRICS_FILE, *files)]
        if others:
            raise CheckpointError(
                f"{folder} holds files that are no part of a checkpoint ({preview(others)}); "
                "choose another folder"
            )
    with atomic_folder(folder) as temporary:
        for name, contents in files.items():
            (temporary / name).write_bytes(contents)


def _stored(state: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> State:
    """Give tensors the form that they have in a file: on the CPU, contiguous, sharing nothing."""
    stored: State = {}
    for key, tensor in state.items():
        kind = tensor.dtype
        if tensor.is_floating_point():
            kind = dtype if tensor.ndim > 1 else torch.float32
        # A copy of its own: safetensors refuses tensors that share memory.
        stored[key] = tensor.detach().to("cpu", kind, copy=True).contiguous()
        if not stored[key].isfinite().all():
            raise CheckpointError(
                f"weight {key!r} is not finite as {kind}; the checkpoint is not saved"
            )
    return stored
