from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from panodetr.model.config import DetrConfig, ResNetConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (3, 4, 0, 3)}, r"depths is \(3, 4, 0, 3\); \[2\]: expected int >= 1"),
        ({"widths": (64, 128, 256)}, r"widths is \(64, 128, 256\); expected array of length 4"),
        ({"strides": (1, 2, 2, -2)}, r"strides is .*; \[3\]: expected int >= 1"),
        ({"stem_width": 0}, "stem_width is 0; expected int >= 1"),
        ({"stem_stride": 3}, "stem_stride is 3; invalid enum value 3"),
        ({"block": "basic", "dilate_last": True}, r"backbone\.dilate_last \(DC5\) needs bottlen"),
        ({"norm": "group", "widths": (12, 16, 16, 16)}, r"widths \(12, 16, 16, 16\) must divide"),
        ({"num_classes": 0}, "num_classes is 0; expected int >= 1"),
        ({"num_queries": 0}, "num_queries is 0; expected int >= 1"),
        ({"decoder_layers": 0}, "decoder_layers is 0; expected int >= 1"),
        ({"encoder_layers": -1}, "encoder_layers is -1"),
        ({"dropout": 1.0}, r"dropout is 1\.0; expected float < 1"),
        ({"hidden_dim": 250}, r"hidden_dim is 250; it must divide by heads \(8\)"),
        ({"heads": 3}, r"must divide by heads \(3\)"),
        ({"hidden_dim": 6, "heads": 1}, "and 4"),
        ({"masks": True, "hidden_dim": 96}, "hidden_dim is 96 and heads 8; the mask head"),
        ({"block": "basic", "outputs": (1, 2, 3, 4)}, r"backbone\.outputs is for bottleneck"),
        ({"masks": True, "heads": 4}, "hidden_dim is 256 and heads 4; the mask head"),
    ],
)
def test_shapes_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    make = ResNetConfig if change.keys() <= {f.name for f in fields(ResNetConfig)} else DetrConfig
    given: dict[str, Any] = change if make is ResNetConfig else {"num_classes": 3, **change}
    with pytest.raises(ValueError, match=message):
        make(**given)
