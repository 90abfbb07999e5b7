from __future__ import annotations

import pytest

from panodetr.checkpoints.spec import ModelSpec
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import DetrConfig, ResNetConfig
from panodetr.results.types import Category


@pytest.fixture(scope="session")
def tiny_spec() -> ModelSpec:
    """A whole DETR with masks, of about half a million weights."""
    backbone = ResNetConfig(
        block="basic", depths=(1, 1, 1, 1), widths=(8, 8, 16, 16), stem_width=8, norm="batch"
    )
    return ModelSpec(
        name="tiny",
        architecture=DetrConfig(
            backbone=backbone,
            num_classes=3,
            num_queries=5,
            hidden_dim=128,
            ffn_dim=32,
            encoder_layers=1,
            decoder_layers=1,
            masks=True,
        ),
        categories=(
            Category(index=0, id=7, name="nucleus", is_thing=True, color=(220, 20, 60)),
            Category(index=2, id=9, name="background", is_thing=False, color=(0, 0, 0)),
        ),
        preprocessing=Preprocessing(short_side=None, long_side=None, tile=64, tile_overlap=16),
        threshold=0.5,
    )
