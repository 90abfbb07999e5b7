from __future__ import annotations

import torch
from torch import nn

from panodetr.model.mask_head import Norm


def test_a_single_value_is_normalised_alone_as_beside_others() -> None:
    norm, values = Norm(8, 8).eval(), torch.randn(2, 8, 1, 1)
    assert torch.equal(norm(values[:1]), norm(values)[:1])
    wide = torch.randn(2, 8, 3, 4)
    assert torch.equal(norm(wide), nn.GroupNorm(8, 8)(wide))
