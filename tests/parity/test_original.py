"""Against outputs of the original implementation in float64, which any CPU reproduces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.parity.weights import GoldenModel, outputs_of

from harness.weights import build
from panodetr.checkpoints.names import FACEBOOK
from panodetr.model.config import (
    COCO_CLASSES,
    COCO_PANOPTIC_CLASSES,
    RESNET50,
    DetrConfig,
)

MODELS = {
    "facebook-detr-r50-panoptic": DetrConfig(num_classes=COCO_PANOPTIC_CLASSES, masks=True),
    "facebook-detr-r50-dc5": DetrConfig(
        backbone=replace(RESNET50, dilate_last=True), num_classes=COCO_CLASSES
    ),
}


@pytest.mark.parity
@pytest.mark.parametrize(("name", "config"), MODELS.items(), ids=MODELS)
def test_tensors_and_outputs_are_the_originals(golden: Path, name: str, config: DetrConfig) -> None:
    original, model = GoldenModel(golden, name), build(config)
    found = FACEBOOK.from_ours(model.state_dict())
    assert {key: t.shape for key, t in found.items()} == {
        key: t.shape for key, t in original.state.items()
    }
    model.load_state_dict(FACEBOOK.to_ours(original.state, model.state_dict()), assign=True)
    original.check(outputs_of(model))
