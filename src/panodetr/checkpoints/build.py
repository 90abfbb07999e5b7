"""A model with its weights, from a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panodetr.checkpoints.native import load_weights, read_spec
from panodetr.model.detr import Detr

if TYPE_CHECKING:
    from pathlib import Path

    from panodetr.checkpoints.spec import ModelSpec


def load_model(folder: Path) -> tuple[ModelSpec, Detr]:
    """Build the model that a checkpoint describes, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit the other.
    """
    spec = read_spec(folder)
    model = Detr(spec.architecture)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    model.load_state_dict(load_weights(folder, shapes))
    return spec, model.eval()
