from __future__ import annotations

import pytest

from panodetr.bench.rows import Scale
from panodetr.images.preprocess import Preprocessing
from panodetr.model.config import DetrConfig, ResNetConfig


@pytest.fixture(scope="session")
def tiny_scale() -> Scale:
    """Work of the same kinds as the real one, done in milliseconds."""
    backbone = ResNetConfig(
        block="basic", depths=(1, 1, 1, 1), widths=(16, 16, 24, 32), stem_width=16
    )
    detector = DetrConfig(
        backbone=backbone, num_classes=6, num_queries=9, hidden_dim=128, ffn_dim=64,
        encoder_layers=2, decoder_layers=2,
    )  # fmt: skip
    segmenter = DetrConfig(
        backbone=backbone, num_classes=6, num_queries=9, hidden_dim=128, ffn_dim=64,
        encoder_layers=2, decoder_layers=2, masks=True,
    )  # fmt: skip
    return Scale(
        segmenter=segmenter,
        detector=detector,
        kept=3,
        rule=Preprocessing(short_side=96, long_side=160),
        fed=(96, 128),
        large=(300, 400),
        saved=(120, 160),
    )
