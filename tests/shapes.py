"""For tests that know which kind of network they have."""

from __future__ import annotations

from panodetr.model.config import Architecture, DetrConfig
from panodetr.model.detr import Detr
from panodetr.model.network import Network


def detr_shape(shape: Architecture) -> DetrConfig:
    assert isinstance(shape, DetrConfig)
    return shape


def as_detr(model: Network) -> Detr:
    assert isinstance(model, Detr)
    return model
