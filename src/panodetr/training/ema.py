"""A moving average of the weights, which often is a better model than any of them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from panodetr.model.detr import Detr


class WeightAverage:
    """The exponential moving average (EMA) of a model's weights and running statistics.

    The decay begins low and rises to its own with the steps, since the first weights are random
    and should soon be forgotten.

    Attributes:
        model: the average, a model of its own in eval mode.
    """

    def __init__(self, model: Detr, decay: float) -> None:
        """Start at the model as it is.

        Args:
            model: whose weights; not yet changed by `recompute_activations`.
            decay: the part of the average that a step leaves, 0 to 1.
        """
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def update(self, model: Detr, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = model.state_dict()
        for name, mean in self.model.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(now[name], 1 - decay)
            else:
                mean.copy_(now[name])
