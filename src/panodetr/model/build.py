"""From the shape of a network to the network."""

from __future__ import annotations

from panodetr.model.config import Architecture, EomtConfig
from panodetr.model.detr import Detr
from panodetr.model.eomt import Eomt
from panodetr.model.network import Network


def build(config: Architecture) -> Network:
    """Make a network of the kind and shape that is asked for, with random weights."""
    return Eomt(config) if isinstance(config, EomtConfig) else Detr(config)
