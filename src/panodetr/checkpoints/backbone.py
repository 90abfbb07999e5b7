"""The backbone alone, from a classifier trained on ImageNet or from any DETR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from panodetr.checkpoints.load import find_table, locate
from panodetr.checkpoints.names import (
    FACEBOOK,
    TORCHVISION,
    TRANSFORMERS_CLASSIFIER,
    TRANSFORMERS_TABLES,
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
    weights = open_weights(place if place.is_file() else find_weights(place))
    state = {
        key: tensor
        for key, tensor in weights.read().items()
        if not key.startswith(_CLASSIFIERS) and not key.endswith(_COUNTER)
    }
    if not any(key.startswith("backbone.stages.") for key in state):  # they are not our own
        state = find_table(weights, _TABLES, "ResNet").to_ours(state, weights.file)
    ours = {
        key.removeprefix(_PREFIX): tensor.float()
        for key, tensor in state.items()
        if key.startswith(_PREFIX)
    }
    with torch.device("meta"):
        expected = shapes_of(ResNet(config).state_dict())
    expected = {key: shape for key, shape in expected.items() if not key.endswith(_COUNTER)}
    check_shapes(weights.file, shapes_of(ours), expected)
    return ours
