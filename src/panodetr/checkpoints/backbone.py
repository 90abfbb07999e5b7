"""The backbone alone, from a classifier trained on ImageNet or from any DETR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from panodetr.checkpoints.load import locate
from panodetr.checkpoints.names import (
    FACEBOOK,
    TORCHVISION,
    TRANSFORMERS_CLASSIFIER,
    TRANSFORMERS_TABLES,
    best_table,
)
from panodetr.checkpoints.weights import check_shapes, find_weights, open_weights, shapes_of
from panodetr.errors import CheckpointError
from panodetr.model.backbone import ResNet

if TYPE_CHECKING:
    from panodetr.checkpoints.weights import State
    from panodetr.model.config import ResNetConfig

_TABLES = (TORCHVISION, TRANSFORMERS_CLASSIFIER, FACEBOOK, *TRANSFORMERS_TABLES)
_CLASSIFIERS = ("fc.", "classifier.")  # the layer behind the backbone, which a DETR has no use for
_COUNTER = ".num_batches_tracked"
_PREFIX = "backbone."


def load_backbone(source: str | Path, config: ResNetConfig) -> State:
    """Read the weights of a backbone, under the names that it has in a `ResNet`.

    Args:
        source: torchvision's file (`resnet50-0676ba61.pth` and the like), another file, a folder,
            a bundled model's name, an id on the hub or a file there (`owner/name/file.pth`): a
            ResNet classifier as torchvision, timm or transformers writes it, or a DETR of any kind,
            whose backbone is taken.
        config: the backbone to be.

    Raises:
        CheckpointError: there is no such file, it holds no ResNet, or one of another shape.
    """
    if config.norm == "group":
        raise CheckpointError(
            f"{source} has batch norms, and the backbone is to have group norms; "
            "set spec.architecture.backbone.norm to frozen or batch"
        )
    place = locate(source)
    file = place if place.is_file() else find_weights(place)
    state = {
        key: tensor
        for key, tensor in open_weights(file).read().items()
        if not key.startswith(_CLASSIFIERS) and not key.endswith(_COUNTER)
    }
    ours = {
        key.removeprefix(_PREFIX): tensor.float()
        for key, tensor in _renamed(file, state).items()
        if key.startswith(_PREFIX)
    }
    with torch.device("meta"):
        expected = shapes_of(ResNet(config).state_dict())
    check_shapes(
        file, shapes_of(ours), {key: s for key, s in expected.items() if not key.endswith(_COUNTER)}
    )
    return ours


def _renamed(file: Path, state: State) -> State:
    """Give weights our names, whoever wrote them."""
    if any(key.startswith("backbone.stages.") for key in state):
        return state  # our own
    table = best_table(_TABLES, state)
    if table is None:
        first = next(iter(state), "nothing")
        raise CheckpointError(f"{file} holds no ResNet: its weights begin with {first!r}")
    try:
        return table.to_ours(state)
    except CheckpointError as error:
        raise CheckpointError(f"{file} {error}") from error
