"""Against `transformers`, with the same weights and a padded batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.parity.weights import assert_close, padded_batch
from torch import Tensor

from harness.weights import build, measure_statistics, named_weights
from panodetr.checkpoints.names import RESNET_5
from panodetr.model.config import RESNET18, RESNET101, DetrConfig

pytestmark = pytest.mark.parity

CONFIGS = {
    "r18": DetrConfig(backbone=RESNET18, num_classes=91),
    "r18-learned-positions": DetrConfig(backbone=RESNET18, num_classes=91, positions="learned"),
    "r50": DetrConfig(num_classes=91),
    "r101": DetrConfig(backbone=RESNET101, num_classes=91),
    "r50-panoptic": DetrConfig(num_classes=250, masks=True),
    "r101-panoptic": DetrConfig(backbone=RESNET101, num_classes=250, masks=True),
}


def build_theirs(config: DetrConfig, weights: dict[str, Tensor]) -> Any:
    """Their model of the same shape with the same weights, every one of them."""
    transformers = pytest.importorskip("transformers")
    backbone = transformers.ResNetConfig(
        layer_type=config.backbone.block,
        depths=list(config.backbone.depths),
        hidden_sizes=list(config.backbone.stage_channels),
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    theirs = transformers.DetrConfig(
        backbone_config=backbone,
        num_labels=config.num_classes,
        position_embedding_type=config.positions,
    )
    kind = "DetrForSegmentation" if config.masks else "DetrForObjectDetection"
    with torch.device("meta"):
        model = getattr(transformers, kind)(theirs)
    model.load_state_dict(RESNET_5.from_ours(weights), assign=True)
    assert not [name for name, buffer in model.named_buffers() if buffer.is_meta]
    return model.eval()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_outputs_are_those_of_transformers(config: DetrConfig) -> None:
    pixels, padding = padded_batch()
    weights = named_weights(config)
    measure_statistics(config, weights, pixels)
    model = build(config)
    model.load_state_dict(weights, assign=True)
    with torch.inference_mode():
        theirs = build_theirs(config, weights)(pixels, pixel_mask=(~padding).long())
        found = model.detect(pixels, padding)
        assert_close(found.boxes, theirs.pred_boxes)
        assert found.boxes.std(1).min() > 1e-3  # queries differ, else this would say little
        assert_close(found.logits, theirs.logits)
        if config.masks:
            image = torch.arange(2).repeat_interleave(100)
            masks = model.masks(found, image, torch.arange(100).repeat(2))
            assert_close(masks.unflatten(0, (2, 100)), theirs.pred_masks)
