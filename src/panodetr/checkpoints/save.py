"""A model into a checkpoint, in this package's format or in others'."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from safetensors.torch import save

from panodetr.checkpoints.facebook import FACEBOOK
from panodetr.checkpoints.huggingface import RESNET_4, RESNET_5_FILES, TIMM_5_FILES
from panodetr.checkpoints.huggingface_config import resnet_name, uses_timm, write_huggingface
from panodetr.checkpoints.native import (
    CONFIG_FILE,
    refuse_other_files,
    save_checkpoint,
    stored_tensor,
)
from panodetr.checkpoints.weights import PREPROCESSOR_FILE, SAFETENSORS
from panodetr.errors import CheckpointError
from panodetr.files import atomic_folder, atomic_write, write_bytes, write_json

if TYPE_CHECKING:
    from panodetr.checkpoints.spec import ModelSpec
    from panodetr.model.detr import Detr

Format: TypeAlias = Literal["panodetr", "huggingface", "facebook"]
FORMATS: tuple[Format, ...] = get_args(Format)
FACEBOOK_FILE = "model.pth"


def save_pretrained(
    path: str | Path, spec: ModelSpec, model: Detr, *, format: Format = "panodetr"
) -> Path:
    """Write a model whole or not at all.

    - "panodetr": a folder of this package.
    - "huggingface": a folder that transformers opens with `from_pretrained`, version 4 and 5; a
      dilated backbone (DC5) needs timm there. Batch norms become frozen, as every DETR's there.
    - "facebook": one file, `{"model": state_dict, "args": {…}}`, under the original's names; names
      of classes and preprocessing have no place in it. A path that does not end in `.pth` is a
      folder, and the file is `model.pth` in it.

    Returns:
        The folder or the file.

    Raises:
        CheckpointError: the format has no place for this model, a weight is not finite, or a folder
            holds other files.
        PanodetrError: the system refused to write.
    """
    target = Path(path)
    state = model.state_dict()
    if format == "panodetr":
        save_checkpoint(target, spec, state)
        return target
    try:
        if format == "huggingface":
            return _save_huggingface(target, spec, state)
        return _save_facebook(target, spec, state)
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{spec.name} cannot be saved as {format}: {error}") from error


def _save_huggingface(folder: Path, spec: ModelSpec, state: Mapping[str, torch.Tensor]) -> Path:
    config, preprocessor = write_huggingface(spec)
    shape = spec.architecture
    if shape.pre_norm:
        table = RESNET_4  # version 5 kept the old places in the Table Transformer
    else:
        table = TIMM_5_FILES if uses_timm(shape.backbone) else RESNET_5_FILES
    tensors = _stored(table.from_ours(state))
    refuse_other_files(folder, (CONFIG_FILE, PREPROCESSOR_FILE, SAFETENSORS))
    with atomic_folder(folder) as temporary:
        write_json(temporary / CONFIG_FILE, config)
        write_json(temporary / PREPROCESSOR_FILE, preprocessor)
        write_bytes(temporary / SAFETENSORS, save(tensors, metadata={"format": "pt"}))
    return folder


def _save_facebook(path: Path, spec: ModelSpec, state: Mapping[str, torch.Tensor]) -> Path:
    shape = spec.architecture
    name = resnet_name(shape.backbone)
    # Plain values, where the original keeps a Namespace: any `torch.load` accepts them.
    arguments = {
        "backbone": name,
        "dilation": shape.backbone.dilate_last,
        "nheads": shape.heads,
        "masks": shape.masks,
        "pre_norm": shape.pre_norm,
    }
    file = path if path.suffix == ".pth" else path / FACEBOOK_FILE
    whole = {"model": _stored(FACEBOOK.from_ours(state)), "args": arguments}
    with atomic_write(file) as temporary:
        torch.save(whole, temporary)
    return file


def _stored(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: stored_tensor(key, tensor, torch.float32) for key, tensor in state.items()}
